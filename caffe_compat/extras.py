"""Packages that only some commands need."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from .errors import MissingExtraError

__all__ = ["require"]


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, which the optional dependency ``extra`` of this package installs.

    Raises:
        MissingExtraError: it is not installed; the message has the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f'this needs the package {module!r} ({error}); install it with: pip install "caffe-compat[{extra}]"'
        ) from error
