"""``caffe.proto.caffe_pb2``: Caffe's protobuf messages, made from the schema that ships with this library.

They live in a pool of their own, so a real ``caffe_pb2`` may be imported in the same process.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from google.protobuf.internal import enum_type_wrapper

from ..schema import load_schema

__all__ = ["caffe_pb2"]


def _module() -> Any:
    """The messages and top-level enums of BVLC's ``caffe.proto`` as the generated module would have them."""
    schema = load_schema()
    module = ModuleType("caffe.proto.caffe_pb2", "Caffe's protobuf messages (BVLC schema).")
    for name in schema.file.messages:
        if "." not in name:
            setattr(module, name, schema.message(name))
    descriptor = schema.message("NetParameter").DESCRIPTOR.file
    for name, enum in descriptor.enum_types_by_name.items():
        setattr(module, name, enum_type_wrapper.EnumTypeWrapper(enum))
        for value in enum.values:
            setattr(module, value.name, value.number)
    module.DESCRIPTOR = descriptor  # type: ignore[attr-defined]
    return module


caffe_pb2: Any = _module()
