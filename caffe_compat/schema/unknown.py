"""Fields that a schema does not know, kept inside the protobuf messages they stood in.

In binary files protobuf keeps them by number. Fields of a text have no number, so they ride along as entries of one
reserved field number; copying or serialising a message carries both kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf import unknown_fields

__all__ = ["TEXT_FIELD", "Unknown", "keep_unknown_text", "unknown_fields_of"]

# The largest number protobuf allows; no fork of Caffe comes near it.
TEXT_FIELD = 536_870_911


@dataclass(frozen=True)
class Unknown:
    """An unknown field: ``name`` and ``text`` as written and where, or a binary field's ``number``."""

    name: str
    text: str
    reason: str = ""
    line: int = 0
    column: int = 0
    number: int = 0

    def __str__(self) -> str:
        if self.number:
            return f"field number {self.number}"
        place = f"line {self.line}, column {self.column}: " if self.line else ""
        return f"{place}{self.name} ({self.reason})"


def keep_unknown_text(message: Any, unknown: Unknown) -> None:
    """Add a field of a text to ``message``."""
    parts = (unknown.name, unknown.text, unknown.reason, str(unknown.line), str(unknown.column))
    payload = "\0".join(parts).encode()
    message.MergeFromString(_varint(TEXT_FIELD << 3 | 2) + _varint(len(payload)) + payload)


def unknown_fields_of(message: Any) -> list[Unknown]:
    """What ``message`` itself (not its submessages) holds that its schema does not know."""
    found = []
    for entry in unknown_fields.UnknownFieldSet(message):
        if entry.field_number == TEXT_FIELD:
            name, text, reason, line, column = entry.data.decode().split("\0")
            found.append(Unknown(name, text, reason, int(line), int(column)))
        else:
            found.append(Unknown("", "", "not in the schema", number=entry.field_number))
    return found


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
