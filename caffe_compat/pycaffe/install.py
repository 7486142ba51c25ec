"""``import caffe`` shall mean this package."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

from ..errors import UsageError
from .runtime import runtime

__all__ = ["install"]

_SUBMODULES = ("classifier", "coord_map", "detector", "draw", "io", "net_spec", "proto")


def install(*, allow_python_layers: bool = False) -> ModuleType:
    """Let ``import caffe``, and of its modules, mean this package in this process; the package.

        import caffe_compat.pycaffe
        caffe_compat.pycaffe.install()
        import caffe

    Args:
        allow_python_layers: let networks import modules for their ``Python`` layers, which runs the code in them.
            Classes in modules that are imported already are used in any case.

    Raises:
        UsageError: another ``caffe`` has been imported already.
    """
    package = sys.modules[__package__]
    found = sys.modules.get("caffe")
    if found is not None and found is not package:
        where = getattr(found, "__file__", None) or "somewhere"
        raise UsageError(f"another caffe is imported already, from {where}; start anew and install before importing it")
    runtime.allow_python = allow_python_layers
    sys.modules["caffe"] = package
    for name in _SUBMODULES:
        sys.modules[f"caffe.{name}"] = import_module(f"{__package__}.{name}")
    sys.modules["caffe.pycaffe"] = import_module(f"{__package__}.net")
    sys.modules["caffe._caffe"] = package
    sys.modules["caffe.proto.caffe_pb2"] = sys.modules["caffe.proto"].caffe_pb2
    return package
