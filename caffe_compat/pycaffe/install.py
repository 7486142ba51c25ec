"""``import caffe`` shall mean this package."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

from ..errors import UsageError
from ..schema import BVLC
from .forks import ForkModules
from .net_spec import follow_caffe_pb2
from .proto import use_dialect
from .runtime import runtime

__all__ = ["install"]

_SUBMODULES = ("_caffe", "classifier", "coord_map", "detector", "draw", "io", "net_spec", "proto", "pycaffe")


def install(*, allow_python_layers: bool = False, dialect: str | None = None) -> ModuleType:
    """Let ``import caffe``, and of its modules, mean this package in this process; the package.

        import caffe_compat.pycaffe
        caffe_compat.pycaffe.install()
        import caffe

    Args:
        allow_python_layers: let networks import modules for their ``Python`` layers, which runs the code in them.
            Classes in modules that are imported already are used in any case.
        dialect: the fork of Caffe that the script is for, by name or as the path of its ``caffe.proto``: ``caffe_pb2``
            and ``layers`` know its messages, and files are read as its own. By default ``caffe_pb2`` is BVLC's, and
            each file is read as what it looks like. What the fork's pycaffe adds is there too (:mod:`.forks`).

    Raises:
        UsageError: another ``caffe`` has been imported already. DialectError: no such dialect. FileError,
            PrototxtError: its file cannot be read.
    """
    package = sys.modules[__package__]
    found = sys.modules.get("caffe")
    if found is not None and found is not package:
        where = getattr(found, "__file__", None) or "somewhere"
        raise UsageError(f"another caffe is imported already, from {where}; start anew and install before importing it")
    if dialect != runtime.dialect:
        use_dialect(dialect or BVLC)
        follow_caffe_pb2()
    runtime.allow_python, runtime.dialect = allow_python_layers, dialect
    sys.modules["caffe"] = package
    for name in _SUBMODULES:
        sys.modules[f"caffe.{name}"] = import_module(f"{__package__}.{name}")
    sys.modules["caffe.proto.caffe_pb2"] = sys.modules["caffe.proto"].caffe_pb2
    if not any(isinstance(finder, ForkModules) for finder in sys.meta_path):
        sys.meta_path.append(ForkModules(package))
    return package
