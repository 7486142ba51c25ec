"""Fields that a schema does not know, kept inside the protobuf messages they stood in.

In binary files protobuf keeps them by number. Fields of a text have no number, so they ride along as entries of one
reserved field number; copying or serialising a message carries both kinds.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from google.protobuf import unknown_fields

from ..display import brief
from ..formats.varint import varint
from . import is_repeated
from .messages import Message

__all__ = [
    "DOUBT_FIELD",
    "TEXT_FIELD",
    "Kind",
    "Unknown",
    "keep_bytes",
    "keep_unknown_text",
    "near_name",
    "unknown_fields_of",
    "wrong_values_in",
]

# The largest numbers protobuf allows; no fork of Caffe comes near them. The second is of :mod:`.doubt`.
TEXT_FIELD = 536_870_911
DOUBT_FIELD = 536_870_910

# What a name in a prototxt looks like: a field's, or an extension's in brackets.
_NAME = re.compile(r"[A-Za-z_$][\w$]*|\[[\w./]+\]")
_NUMBER = re.compile(r"[0-9]{1,12}", re.ASCII)


class Kind(Enum):
    """In what an unknown field is unknown."""

    FIELD = "field"  # the message has no field of this name
    VALUE = "value"  # a value of another kind than the field's: a placeholder, or a fork's other use of the name
    ENUM_VALUE = "enum value"  # the field's enum has no value of this name
    NUMBER = "number"  # a binary message's field of which only the number is known


@dataclass(frozen=True)
class Unknown:
    """An unknown field of a message.

    Attributes:
        where: the message that has no such field or value, ``LayerParameter``; the enum of an ``ENUM_VALUE``.
        name, text: the field and its value as the text has them. line, column: where it stands, from 1, or 0.
        expected: what a ``VALUE`` should have been, in words; of an ``ENUM_VALUE``, names that the enum has.
        number: of a ``NUMBER``, else 0.
    """

    kind: Kind
    where: str
    name: str
    text: str
    expected: str = ""
    line: int = 0
    column: int = 0
    number: int = 0

    @property
    def is_wrong_value(self) -> bool:
        """Whether the schema has the field, and only the value does not fit: then what the file means is not known."""
        return self.kind in (Kind.VALUE, Kind.ENUM_VALUE)

    @property
    def reason(self) -> str:
        """What is unknown about it, in words."""
        value = brief(self.text if self.text.startswith('"') else repr(self.text))
        return {
            Kind.FIELD: f"no such field in {self.where}",
            Kind.VALUE: f"value {value} is not {self.expected} in {self.where}",
            Kind.ENUM_VALUE: f"value {value} is none of {self.where}" + (f": {self.expected}" if self.expected else ""),
            Kind.NUMBER: "not in the schema",
        }[self.kind]

    def __str__(self) -> str:
        if self.kind is Kind.NUMBER:
            return f"field number {self.number}"
        place = f"line {self.line}, column {self.column}: " if self.line else ""
        return f"{place}{self.name} ({self.reason})"


def near_name(name: str, message: Message) -> str:
    """``; did you mean momentum?``, or nothing where ``message`` has no field with a name like ``name``."""
    close = difflib.get_close_matches(name, list(message.DESCRIPTOR.fields_by_name), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def keep_unknown_text(message: Message, unknown: Unknown) -> None:
    """Add a field of a text to ``message``."""
    place = (str(unknown.line), str(unknown.column))
    parts = (unknown.kind.value, unknown.where, unknown.name, unknown.text, unknown.expected, *place)
    keep_bytes(message, TEXT_FIELD, "\0".join(parts).encode())


def keep_bytes(message: Message, number: int, payload: bytes) -> None:
    """Add an unknown field with ``number`` to ``message``."""
    message.MergeFromString(varint(number << 3 | 2) + varint(len(payload)) + payload)


def unknown_fields_of(message: Message) -> list[Unknown]:
    """What ``message`` itself (not its submessages) holds that its schema does not know."""
    found = []
    for entry in unknown_fields.UnknownFieldSet(message):
        kept = _kept(entry.data) if entry.field_number == TEXT_FIELD else None
        if entry.field_number != DOUBT_FIELD:
            found.append(kept or Unknown(Kind.NUMBER, "", "", "", number=entry.field_number))
    return found


def wrong_values_in(message: Message, name: str) -> Iterator[Unknown]:
    """Values that do not fit their fields, in field ``name`` of ``message`` and below, if that holds messages."""
    descriptor = message.DESCRIPTOR.fields_by_name[name]
    if descriptor.message_type is None:
        return
    value = getattr(message, name)
    for inside in value if is_repeated(descriptor) else (value,):
        yield from (unknown for unknown in unknown_fields_of(inside) if unknown.is_wrong_value)
        for field, _ in inside.ListFields():
            yield from wrong_values_in(inside, field.name)


def _kept(payload: object) -> Unknown | None:
    """What :func:`keep_unknown_text` wrote; None for anything else that a binary file has under that number."""
    if not isinstance(payload, bytes):
        return None
    try:
        kind, where, name, text, expected, line, column = payload.decode().split("\0")
        known = Kind(kind)
    except ValueError:  # a UnicodeDecodeError is one, too
        return None
    if not (_NAME.fullmatch(name) and text.isprintable() and _NUMBER.fullmatch(line) and _NUMBER.fullmatch(column)):
        return None
    return Unknown(known, where, name, text, expected, int(line), int(column))
