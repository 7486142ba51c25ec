"""prototxt text -> protobuf messages.

Text is first read into a tree, then bound to the schema. What the BVLC schema does not know decides which dialect is
laid over it. What still stays unknown is kept in the message and reported: only a layer that is built may object.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Generic, Literal, TypeVar, overload

from google.protobuf.descriptor import FieldDescriptor

from ..display import brief
from ..errors import FileError, PrototxtError
from ..formats.files import read_file
from ..formats.limits import PROTOTXT
from ..formats.sniff import HEAD_BYTES, FileKind, decode_text, kind_of_head, nul_in_text, refusal
from ..formats.textformat import Field, TextTree, Value, parse_text
from . import Schema, is_repeated, load_schema, split_dialect
from .choice import NETS_IN_SOLVER, BlobCounts, doubt_under, is_misread, mark_doubts, may_come_from, settle, uses_of
from .infer_text import Missing, covering, fewest_misfits, is_bvlcs, knowing, listed, reading, taking_several, together
from .messages import Descriptor, EnumDescriptor, Message, MessageField, NetParameter, Scalar, SolverParameter
from .printing import format_written
from .unknown import Kind, Unknown, keep_unknown_text

__all__ = [
    "ParsedText",
    "bind_tree",
    "parse_message",
    "read_message",
    "read_text",
]

_M_co = TypeVar("_M_co", bound=Message, covariant=True)

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_FLOATS = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)
_LARGEST_FLOAT32 = 3.4028235677973366e38  # what is above rounds to infinity
_NAMED_FLOATS = {"inf": math.inf, "infinity": math.inf, "inff": math.inf, "nan": math.nan, "nanf": math.nan}
MOST_NAMED = 12  # names of an enum, in an error; V1's layer types are 40
_TRUE = {"true", "True", "t", "1"}
_FALSE = {"false", "False", "f", "0"}


@dataclass
class ParsedText(Generic[_M_co]):
    """A message read from text.

    Attributes:
        message: the protobuf message; unknown fields are inside (see :mod:`caffe_compat.schema.unknown`).
        schema: the schema it is bound to.
        dialect_reason: why that schema was chosen, in words.
        warnings: what Caffe's own parser would refuse, or what two dialects disagree on.
        unknown: fields that no schema chosen knows, with their places.
        refusals: what Caffe's parser says of fields that are given again where the schema takes one value, and of those
            that must be given and are not.
    """

    message: _M_co
    schema: Schema
    dialect_reason: str
    warnings: list[str] = field(default_factory=list)
    unknown: list[Unknown] = field(default_factory=list)
    refusals: list[PrototxtError] = field(default_factory=list)


@overload
def read_message(
    path: str | Path,
    name: Literal["NetParameter"] = "NetParameter",
    dialect: str | None = None,
    *,
    blobs: BlobCounts | None = None,
) -> ParsedText[NetParameter]: ...
@overload
def read_message(
    path: str | Path, name: Literal["SolverParameter"], dialect: str | None = None
) -> ParsedText[SolverParameter]: ...
@overload
def read_message(path: str | Path, name: str, dialect: str | None = None) -> ParsedText[Message]: ...
def read_message(
    path: str | Path, name: str = "NetParameter", dialect: str | None = None, *, blobs: BlobCounts | None = None
) -> ParsedText[Message]:
    """Read a prototxt file as message ``name``. See :func:`parse_message`.

    Raises:
        FileError: the file cannot be read or is no text. PrototxtError: with line and column.
    """
    return bind_tree(parse_text(read_text(path), str(path)), name, dialect, blobs=blobs)


def read_text(path: str | Path) -> str:
    """The text of a prototxt, in UTF-8 or UTF-16; bytes that are neither become surrogates.

    Raises:
        FileError: the file cannot be read, is too large or is no text. PrototxtError: text with a NUL byte.
    """
    name = str(path)
    data = read_file(name, PROTOTXT)
    kind = kind_of_head(data[:HEAD_BYTES])
    if kind not in (FileKind.EMPTY, FileKind.TEXT, FileKind.UTF16, FileKind.BINARY, FileKind.HDF5, FileKind.ZIP):
        raise FileError(refusal(data[:HEAD_BYTES], "a prototxt"), path=name)
    if kind is not FileKind.UTF16 and (place := nul_in_text(data)) is not None:
        raise PrototxtError("a NUL byte, which no text has; delete it", path=name, line=place[0], column=place[1])
    if kind is not FileKind.UTF16 and b"\0" in data[:HEAD_BYTES]:
        raise FileError("is a binary file, not a prototxt; pass weights as the caffemodel argument", path=name)
    return decode_text(data, name)


@overload
def parse_message(
    text: str,
    name: Literal["NetParameter"] = "NetParameter",
    dialect: str | None = None,
    *,
    path: str | None = None,
    blobs: BlobCounts | None = None,
) -> ParsedText[NetParameter]: ...
@overload
def parse_message(
    text: str, name: Literal["SolverParameter"], dialect: str | None = None, *, path: str | None = None
) -> ParsedText[SolverParameter]: ...
@overload
def parse_message(
    text: str, name: str, dialect: str | None = None, *, path: str | None = None
) -> ParsedText[Message]: ...
def parse_message(
    text: str,
    name: str = "NetParameter",
    dialect: str | None = None,
    *,
    path: str | None = None,
    blobs: BlobCounts | None = None,
) -> ParsedText[Message]:
    """Parse prototxt ``text`` as message ``name``.

    Args:
        dialect: name of a dialect or path of a ``.proto`` file; None chooses by the fields and layer types in the text.
        blobs: how many blobs the weights hold for each layer, where weights are at hand; some forks differ in that.

    Raises:
        PrototxtError: the text is malformed, a number does not fit its field, a field that takes one value is given
            again, or one that must be given is not.
    """
    return bind_tree(parse_text(text, path), name, dialect, blobs=blobs)


@overload
def bind_tree(
    tree: TextTree,
    name: Literal["NetParameter"] = "NetParameter",
    dialect: str | None = None,
    *,
    blobs: BlobCounts | None = None,
) -> ParsedText[NetParameter]: ...
@overload
def bind_tree(
    tree: TextTree, name: str, dialect: str | None = None, *, blobs: BlobCounts | None = None
) -> ParsedText[Message]: ...
def bind_tree(
    tree: TextTree, name: str = "NetParameter", dialect: str | None = None, *, blobs: BlobCounts | None = None
) -> ParsedText[Message]:
    """What :func:`parse_message` does after the text has been parsed into ``tree``."""
    if not tree.fields:
        raise PrototxtError("holds no fields; a prototxt was expected", path=tree.path)
    bound = _under_dialect(tree, name, dialect, blobs)
    if bound.refusals:
        raise bound.refusals[0]
    return bound


def _under_dialect(tree: TextTree, name: str, dialect: str | None, blobs: BlobCounts | None) -> ParsedText:
    if dialect is not None:
        schema = load_schema(*split_dialect(dialect))
        return _bound(tree, schema, name, "asked for")
    bound = _bound(tree, load_schema(), name, "every field and layer type is BVLC's")
    missing = _missing_from(bound.unknown, tree, bound.schema)
    if not missing:
        return bound
    candidates = fewest_misfits(covering(missing), name, tree.fields)
    if candidates:
        return _bound_to_one(tree, name, missing, candidates, blobs)
    chosen, reason = together(missing)
    if not chosen:
        bound.dialect_reason = f"no dialect knows {listed(sorted({item.name for item in missing}))}"
        return bound
    return _bound_to_several(tree, name, chosen, reason, blobs)


def _bound_to_one(
    tree: TextTree, name: str, missing: list[Missing], candidates: list[str], blobs: BlobCounts | None
) -> ParsedText[Message]:
    """Bind to the best of the dialects that each know all of the text."""
    bound = _bound(tree, load_schema(candidates[0]), name, "")
    uses = uses_of(bound.message, blobs)
    left, doubts = settle(uses, candidates)
    reason = knowing(left[0], missing, len(left) - 1)
    lodgers = [use for use in uses if is_misread(use, left[0])]
    hosts = list(dict.fromkeys(host for use in lodgers for host in reading(use) if may_come_from(use, host)))
    if hosts:
        rest = settle([use for use in uses if use not in lodgers], candidates)[0]
        reason = f"{hosts[0]} has {listed(sorted({use.type for use in lodgers}))} as used here"
        reason += f"; {knowing(rest[0], missing, len(rest) - 1)}"
        return _bound_to_several(tree, name, [hosts[0], rest[0]], reason, blobs)
    if left[0] != candidates[0]:
        bound = _bound(tree, load_schema(left[0]), name, "")
    bound.dialect_reason = reason
    mark_doubts(bound.message, doubts)
    return bound


def _bound_to_several(
    tree: TextTree, name: str, chosen: list[str], reason: str, blobs: BlobCounts | None
) -> ParsedText[Message]:
    """Bind to dialects laid one over the other: no fork that is known wrote the text, so each layer is told alone."""
    bound = _bound(tree, load_schema(*chosen), name, reason)
    doubts = {}
    for use in uses_of(bound.message, blobs):
        # A layer that BVLC has as well is no mark of yet another fork.
        readers = () if is_bvlcs(use) else reading(use)
        doubt = doubt_under(chosen, use, list(dict.fromkeys((*chosen, *readers))))
        if doubt is not None:
            doubts[use.where] = doubt
    mark_doubts(bound.message, doubts)
    return bound


def _bound(tree: TextTree, schema: Schema, name: str, reason: str) -> ParsedText[Message]:
    binder = _Binder(tree)
    message = schema.message(name)()
    binder.fill(message, tree.fields)
    refusals = binder.refusals + list(_left_out(message, tree))
    return ParsedText(message, schema, reason, tree.warnings, binder.unknown, refusals)


def _left_out(message: Message, tree: TextTree) -> Iterator[PrototxtError]:
    """Errors for the fields that must be given and are not."""
    if message.IsInitialized():
        return
    for path in message.FindInitializationErrors():
        fields, at = tree.fields, 0
        *outer, name = path.split(".")  # layer[3].clip_param.max
        for step in outer:
            step_name, _, index = step.rstrip("]").partition("[")
            found = [f for f in fields if f.name == step_name][int(index or -1)]
            fields, at = found.value.fields, found.at
        if not any(f.name == name for f in fields):  # else it has a value that the schema does not know
            where = outer[-1].partition("[")[0] if outer else "the file"
            yield tree.error(f"{where} leaves out {name}, and Caffe refuses a file without it; give {name} a value", at)


# Which dialect does a text speak?


def _missing_from(unknown: list[Unknown], tree: TextTree, schema: Schema) -> list[Missing]:
    """What the schema lacks."""
    missing = set()
    for u in unknown:
        if u.kind is Kind.ENUM_VALUE:
            missing.add(Missing(u.where, u.text))
        elif u.kind is Kind.FIELD:
            inner = _inner_names(parse_text(f"x {u.text}").fields[0].value) if u.text.startswith("{") else ()
            missing.add(Missing(u.where, u.name, frozenset(inner)))
    for layer in _layers_in(tree.fields):
        for f in layer.value.fields:
            if f.name == "type" and f.value.kind == "string" and f.value.text not in schema.layer_types:
                missing.add(Missing("type", f.value.text))
    return sorted(missing, key=lambda item: (item.where, item.name, sorted(item.inner)))


def _layers_in(fields: Sequence[Field]) -> Iterator[Field]:
    """The layers of a network, or of the networks in a solver."""
    for f in fields:
        if f.name == "layer":
            yield f
        elif f.name in NETS_IN_SOLVER:
            yield from _layers_in(f.value.fields)


def _inner_names(value: Value, prefix: str = "") -> Iterator[str]:
    """Dotted names of the fields inside a message."""
    for f in value.fields:
        yield prefix + f.name
        yield from _inner_names(f.value, f"{prefix}{f.name}.")


# Tree -> message


@lru_cache(maxsize=4096)
def _fields_of(descriptor: Descriptor) -> dict[str, MessageField]:
    return dict(descriptor.fields_by_name)


class _Binder:
    def __init__(self, tree: TextTree) -> None:
        self.tree = tree
        self.unknown: list[Unknown] = []
        self.refusals: list[PrototxtError] = []

    def fill(self, message: Message, fields: list[Field]) -> None:
        known = _fields_of(message.DESCRIPTOR)
        seen: dict[str, int] = {}
        for f in fields:
            descriptor = known.get(f.name)
            if descriptor is None:
                self.keep(message, f, Kind.FIELD, message.DESCRIPTOR)
                continue
            if is_repeated(descriptor):
                if descriptor.message_type is not None:
                    self.fill_message(f, getattr(message, f.name).add)
                else:
                    scalar = self.scalar(message, f, descriptor)
                    if scalar is not None:
                        getattr(message, f.name).append(scalar)
                continue
            if f.name in seen:
                self.twice(f, seen[f.name], message.DESCRIPTOR)
                message.ClearField(f.name)
            seen[f.name] = f.at
            if descriptor.message_type is not None:
                self.fill_message(f, partial(_present, message, f.name))
            else:
                scalar = self.scalar(message, f, descriptor)
                if scalar is not None:
                    setattr(message, f.name, scalar)

    def fill_message(self, f: Field, make: Callable[[], Message]) -> None:
        if f.value.kind != "message":
            raise self.tree.error(f"{f.name} takes a message in braces, found {brief(f.value.text)!r}", f.value.at)
        self.fill(make(), f.value.fields)

    def twice(self, f: Field, first: int, where: Descriptor) -> None:
        """``f`` is given again: Caffe's parser refuses that; it neither takes the last value nor merges messages."""
        line, column = self.tree.place(first)
        detail = f"{f.name} is given again, after line {line}, column {column}, and Caffe refuses a file with both; "
        detail += "put what is in them into one" if f.value.kind == "message" else "keep one of them"
        forks = taking_several(_name_of(where), f.name)
        if forks:
            detail += f", or pass --dialect {forks[0]}, which takes several"
        self.refusals.append(self.tree.error(detail, f.at))

    def keep(
        self, message: Message, f: Field, kind: Kind, where: Descriptor | EnumDescriptor, expected: str = ""
    ) -> None:
        """Keep field ``f`` in ``message``; the message or enum of descriptor ``where`` does not have it so."""
        unknown = Unknown(kind, _name_of(where), f.name, format_written(f.value), expected, *self.tree.place(f.at))
        keep_unknown_text(message, unknown)
        self.unknown.append(unknown)

    def scalar(self, message: Message, f: Field, descriptor: MessageField) -> Scalar | None:
        """The value in Python, or None where it was kept as unknown."""
        value, kind = f.value, descriptor.cpp_type
        if value.kind == "message":
            raise self.tree.error(f"{f.name} takes one value, found a message", value.at)
        if descriptor.enum_type is not None:
            return self.enum(message, f, descriptor.enum_type)
        if kind == FieldDescriptor.CPPTYPE_STRING:
            if value.kind != "string":
                self.misfit(message, f, "a string in quotes")
                return None
            is_text = descriptor.type == FieldDescriptor.TYPE_STRING
            return value.text if is_text else value.text.encode("latin-1", "replace")
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            if value.kind != "string" and value.text in _TRUE | _FALSE:
                return value.text in _TRUE
            self.misfit(message, f, "true or false")
            return None
        if value.kind == "string":
            self.misfit(message, f, "a number")
            return None
        if kind in _FLOATS:
            return self.within_range(f, self.float(message, f), kind)
        return self.integer(message, f, *_INTEGERS[kind])

    def misfit(self, message: Message, f: Field, expected: str) -> None:
        """Keep a value of another kind than its field: a template's placeholder, or a fork's other use of the name."""
        self.keep(message, f, Kind.VALUE, message.DESCRIPTOR, expected)

    def enum(self, message: Message, f: Field, enum_type: EnumDescriptor) -> int | None:
        text = f.value.text
        known = enum_type.values_by_name.get(text)
        if known is not None and f.value.kind == "name":
            return known.number
        if f.value.kind == "number" and _is_integer(text):
            low, high = _INTEGERS[FieldDescriptor.CPPTYPE_INT32]
            # Protobuf raises where it is asked for a number that no enum can have.
            if low <= int(text[:20]) <= high and int(text) in enum_type.values_by_number:
                return int(text)
        self.keep(message, f, Kind.ENUM_VALUE, enum_type, ", ".join(list(enum_type.values_by_name)[:MOST_NAMED]))
        return None

    def within_range(self, f: Field, number: float | None, kind: int) -> float | None:
        """``number``, which a float32 must be able to hold: Caffe's parser makes infinity of more, or stops."""
        if number is None or f.value.text.lstrip("-").lower() in _NAMED_FLOATS:
            return number
        if abs(number) > (_LARGEST_FLOAT32 if kind == FieldDescriptor.CPPTYPE_FLOAT else sys.float_info.max):
            raise self.tree.error(
                f"{f.name} is too small a field for {brief(f.value.text)}; the largest float is 3.4e38", f.value.at
            )
        return number

    def float(self, message: Message, f: Field) -> float | None:
        text = f.value.text
        bare = text.lstrip("-").lower()
        if bare in _NAMED_FLOATS:
            return -_NAMED_FLOATS[bare] if text.startswith("-") else _NAMED_FLOATS[bare]
        if f.value.kind == "name":
            self.misfit(message, f, "a number")
            return None
        try:
            if not _is_plain(text):
                raise ValueError
            if bare.startswith("0x"):
                return float(int(text, 16))
            if _begins_octal(bare):
                detail = f"{f.name} takes a number, found {brief(text)}; leave out the 0 that it begins with"
                raise self.tree.error(f"{detail}: Caffe refuses it, or reads octal", f.value.at)
            return float(text[:-1] if text[-1] in "fF" else text)
        except (ValueError, OverflowError):
            raise self.tree.error(f"{f.name} takes a number, found {brief(text)!r}", f.value.at) from None

    def integer(self, message: Message, f: Field, low: int, high: int) -> int | None:
        text = f.value.text
        if f.value.kind == "name":
            self.misfit(message, f, "a whole number")
            return None
        digits = text.lstrip("-")
        octal = len(digits) > 1 and digits[0] == "0" and digits.isdigit()
        try:
            if not _is_plain(text):
                raise ValueError
            number = int(text, 8) if octal else int(text, 0)
        except ValueError:
            raise self.tree.error(f"{f.name} takes a whole number, found {brief(text)!r}", f.value.at) from None
        if not low <= number <= high:
            raise self.tree.error(f"{f.name} takes a number from {low} to {high}, found {brief(text)}", f.value.at)
        return number


def _present(message: Message, name: str) -> Message:
    inside: Message = getattr(message, name)
    inside.SetInParent()
    return inside


def _name_of(descriptor: Descriptor | EnumDescriptor) -> str:
    return descriptor.full_name.removeprefix("caffe.")


def _is_integer(text: str) -> bool:
    return text.isascii() and text.lstrip("-").isdigit()


def _begins_octal(bare: str) -> bool:
    """Whether protobuf takes the number without its sign for an octal one: ``010``, and the beginning of ``00.5``."""
    return len(bare) > 1 and bare[0] == "0" and bare[1].isdigit()


def _is_plain(text: str) -> bool:
    """Without what Python takes in numbers and protobuf does not: ``1_000``, other scripts' digits."""
    return text.isascii() and "_" not in text
