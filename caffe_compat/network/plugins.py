"""Layers of one's own, from Python files that are not installed."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import CaffeCompatError, UsageError

__all__ = ["PREFIX", "load_plugins"]

# What the names of plugins' modules begin with.
PREFIX = "caffe_compat_plugin_"


def load_plugins(paths: Sequence[str]) -> None:
    """Run each file, so that the layers in it are registered.

    Raises:
        UsageError: no such file, or it fails.
    """
    for path in paths:
        name = f"{PREFIX}{Path(path).stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not os.path.isfile(path):
            raise UsageError(f"--plugin {path}: a Python file was expected")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except CaffeCompatError:
            raise
        except Exception as error:
            raise UsageError(f"--plugin {path}: {type(error).__name__}: {error}") from error
