"""Fields that hold one of an enum's values: protobuf has their numbers, files and people their names."""

from __future__ import annotations

from .messages import EnumDescriptor, Message

__all__ = ["enum_name", "enum_number", "enum_of"]


def enum_of(message: Message, field: str) -> EnumDescriptor:
    """The enum of a field, which must be one of that kind."""
    enum = message.DESCRIPTOR.fields_by_name[field].enum_type
    assert enum is not None
    return enum


def enum_name(message: Message, field: str) -> str:
    """Name of the value that a field holds; of its default if it is not set."""
    return enum_of(message, field).values_by_number[getattr(message, field)].name


def enum_number(message: Message, field: str, name: str) -> int:
    """What to set a field to for the value called ``name``."""
    return enum_of(message, field).values_by_name[name].number
