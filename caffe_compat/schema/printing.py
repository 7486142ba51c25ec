"""protobuf messages -> prototxt text."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from ..formats.textformat import Value
from . import is_repeated
from .messages import Message, MessageField
from .unknown import unknown_fields_of

__all__ = ["format_message", "format_value", "format_written", "quoted"]

_ESCAPED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def format_message(message: Message) -> str:
    """Prototxt text of ``message``, fields in the order of their numbers, unknown fields of a text included."""
    return "\n".join(_lines(message, "")) + "\n"


def format_value(descriptor: MessageField, value: Any) -> str:
    """Prototxt text of one value of a field, on one line."""
    if descriptor.message_type is None:
        return _scalar_text(descriptor, value)
    return " ".join(["{", *(line.lstrip(" ") for line in _lines(value, "")), "}"])


def _lines(message: Message, indent: str) -> Iterator[str]:
    for descriptor, value in message.ListFields():
        values = value if is_repeated(descriptor) else (value,)
        for item in values:
            if descriptor.message_type is None:
                yield f"{indent}{descriptor.name}: {_scalar_text(descriptor, item)}"
                continue
            yield f"{indent}{descriptor.name} {{"
            yield from _lines(item, indent + "  ")
            yield f"{indent}}}"
    for unknown in unknown_fields_of(message):
        if unknown.name:
            colon = "" if unknown.text.startswith("{") else ":"
            yield f"{indent}{unknown.name}{colon} {unknown.text}"


def _scalar_text(descriptor: MessageField, value: Any) -> str:
    kind = descriptor.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return quoted(value if isinstance(value, str) else value.decode("latin-1"))
    if descriptor.enum_type is not None:
        named = descriptor.enum_type.values_by_number.get(value)
        return named.name if named else str(value)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return "true" if value else "false"
    if kind == FieldDescriptor.CPPTYPE_FLOAT:
        return _shortest_float32(value)
    return repr(value) if kind == FieldDescriptor.CPPTYPE_DOUBLE else str(value)


def _shortest_float32(value: float) -> str:
    """The shortest decimal that reads back as the same float32."""
    if not math.isfinite(value):
        return str(value)
    for digits in (6, 7, 8, 9):
        text = f"{value:.{digits}g}"
        if _to_float32(float(text)) == value:
            break
    return text


def _to_float32(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.inf


def quoted(text: str) -> str:
    """``text`` as a string of a prototxt, on one line and without anything that does something to a terminal."""
    plain = text.isprintable() and '"' not in text and "\\" not in text
    return f'"{text}"' if plain else '"' + "".join(map(_escaped, text)) + '"'


def _escaped(letter: str) -> str:
    if letter in _ESCAPED:
        return _ESCAPED[letter]
    if letter.isprintable() or "\ud800" <= letter <= "\udfff":
        return letter
    return "".join(f"\\{byte:03o}" for byte in letter.encode())


def format_written(value: Value) -> str:
    """A value of the tree as prototxt on one line."""
    if value.kind == "string":
        return quoted(value.text)
    if value.kind != "message":
        return value.text
    parts = [f"{f.name}{'' if f.value.kind == 'message' else ':'} {format_written(f.value)}" for f in value.fields]
    return "{ " + " ".join(parts) + " }" if parts else "{ }"
