"""Fields of messages handled by name, and moved from a message of one generation to one of another."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.unknown_fields import UnknownFieldSet

from . import is_repeated
from .messages import Message, MessageField, NetParameter
from .printing import quoted
from .unknown import DOUBT_FIELD, TEXT_FIELD, Kind, Unknown, keep_bytes, keep_unknown_text, unknown_fields_of

__all__ = ["carry_unknown", "put", "replace", "same_kind"]


def put(message: Message, name: str, value: object) -> None:
    """Set a field, whatever its kind; a single value is appended to a repeated field."""
    descriptor = message.DESCRIPTOR.fields_by_name[name]
    if is_repeated(descriptor):
        many = hasattr(value, "__len__") and not isinstance(value, (str, bytes))
        target = getattr(message, name)
        target.extend(value if many else [value])
    elif descriptor.message_type is not None:
        getattr(message, name).CopyFrom(value)
    else:
        setattr(message, name, value)


def replace(net: NetParameter, name: str, layers: Sequence[Message]) -> None:
    """Fill the field ``name`` with ``layers``, some of which may be its own."""
    holder = type(net)()
    getattr(holder, name).extend(layers)
    net.ClearField(name)
    getattr(net, name).extend(getattr(holder, name))


def same_kind(one: MessageField, other: MessageField) -> bool:
    """Whether two fields (their descriptors) hold values of one kind."""
    if one.message_type is not None or other.message_type is not None:
        return one.message_type is other.message_type and is_repeated(one) == is_repeated(other)
    return one.cpp_type == other.cpp_type and is_repeated(one) == is_repeated(other)


def carry_unknown(old: Message, new: Message, generation: str, without: str = "") -> None:
    """Keep the unknown fields of ``old``, less the one named ``without``, in ``new``.

    A number would mean another field there, so it becomes a name.
    """
    for unknown in unknown_fields_of(old):
        if unknown.name and unknown.name != without:
            keep_unknown_text(new, unknown)
    left_out = old.DESCRIPTOR.fields_by_name[without].number if without else 0
    for entry in UnknownFieldSet(old):
        if entry.field_number == DOUBT_FIELD:
            keep_bytes(new, DOUBT_FIELD, entry.data)
        elif entry.field_number not in (TEXT_FIELD, left_out):
            value = quoted(entry.data.decode("latin-1")) if isinstance(entry.data, bytes) else str(entry.data)
            keep_unknown_text(new, Unknown(Kind.FIELD, generation, f"[{generation}.{entry.field_number}]", value))
