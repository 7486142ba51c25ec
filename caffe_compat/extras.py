"""Packages that only some commands need."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from .errors import MissingExtraError

__all__ = ["require"]

# Packages that report what is done with them to those who made them, and the variable and value that forbid it.
_VARIABLES = {"onnxruntime": ("ORT_DISABLE_TELEMETRY", "1"), "ray": ("RAY_USAGE_STATS_ENABLED", "0")}
# One that knows no such variable, and by which package it does so when it is imported. It can do without.
_REPORTERS = {"openvino": "openvino_telemetry"}


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, which the optional dependency ``extra`` of this package installs.

    What is done here is nobody else's business: packages that would report it are kept from that, unless the variable
    of their own is set to something else.

    Raises:
        MissingExtraError: it is not installed; the message has the command that installs it.
    """
    if module in _VARIABLES:
        os.environ.setdefault(*_VARIABLES[module])
    try:
        with _hidden(_REPORTERS.get(module)):
            return import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f'this needs the package {module!r} ({error}); install it with: pip install "caffe-compat[{extra}]"'
        ) from error


@contextmanager
def _hidden(module: str | None) -> Iterator[None]:
    """Within, ``module`` is as good as not installed, unless somebody has imported it already."""
    if module is None or module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # what makes an import fail
    try:
        yield
    finally:
        del sys.modules[module]
