"""``caffe.proto.caffe_pb2``: Caffe's protobuf messages, made from the schemas that ship with this library.

They live in a pool of their own, so a real ``caffe_pb2`` may be imported in the same process.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from google.protobuf.internal import enum_type_wrapper

from ..schema import BVLC, dialect_names, load_schema, read_dialect

__all__ = ["caffe_pb2", "use_dialect"]

caffe_pb2: Any = ModuleType("caffe.proto.caffe_pb2")


def use_dialect(name: str) -> None:
    """Give ``caffe_pb2`` the messages and top-level enums of a fork's ``caffe.proto``, as if generated from it.

    Args:
        name: of a dialect, or the path of a ``.proto`` file.

    Raises:
        DialectError: no such dialect. FileError, PrototxtError: the file cannot be read.
    """
    schema = load_schema(name)
    vars(caffe_pb2).clear()
    caffe_pb2.__init__("caffe.proto.caffe_pb2", f"Caffe's protobuf messages ({schema.name}).")
    caffe_pb2.__file__ = __file__
    caffe_pb2.__getattr__ = _missing
    for message in schema.file.messages:
        if "." not in message:
            setattr(caffe_pb2, message, schema.message(message))
    caffe_pb2.DESCRIPTOR = schema.message("NetParameter").DESCRIPTOR.file
    for enum_name, enum in caffe_pb2.DESCRIPTOR.enum_types_by_name.items():
        setattr(caffe_pb2, enum_name, enum_type_wrapper.EnumTypeWrapper(enum))
        for value in enum.values:
            setattr(caffe_pb2, value.name, value.number)


def _missing(name: str) -> Any:
    text = f"module 'caffe.proto.caffe_pb2' has no attribute {name!r}"
    if not name.startswith("_"):
        forks = [fork for fork in dialect_names() if fork != BVLC and name in read_dialect(fork)[0].messages]
        if forks:
            more = f" and {len(forks) - 3} more" if len(forks) > 3 else ""
            text += (
                f"; forks of Caffe have it ({', '.join(forks[:3])}{more}): name yours with `python -m "
                f"caffe_compat.pycaffe --dialect {forks[0]} script.py` or install(dialect={forks[0]!r})"
            )
    raise AttributeError(text)


use_dialect(BVLC)
