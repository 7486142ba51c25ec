"""Which forks of Caffe fit a binary network?

There are only numbers in it, and forks use the same ones for different messages. So each candidate has to explain every
layer type and every field of the file: it knows the number, the bytes parse as its message (right wire types, known
enum values, printable strings), and the message is one that the layer type reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..errors import DialectError, WireError
from ..formats.caffemodel import NET_LAYER, NET_V1_LAYERS
from ..formats.wire import BYTES, FIXED32, FIXED64, VARINT, Source
from . import BVLC, Schema, dialect_names, dialects_mentioning, load_schema, merged_file
from .binary import network_message
from .choice import BlobCounts, is_read_by, settle, uses_of
from .doubt import Doubt
from .infer_text import listed
from .protofile import FieldDef
from .v1_types import V1_TYPES, plain

__all__ = ["Inferred", "infer_binary"]


@dataclass(frozen=True)
class Inferred:
    """The schema that fits a binary network, why, and the other dialects that fit as well.

    ``doubts`` has the layers, by their place in the network, that do not mean the same under all of them.
    """

    schema: Schema
    reason: str
    alternatives: list[str] = field(default_factory=list)
    doubts: dict[tuple[str | int, ...], Doubt] = field(default_factory=dict)


def infer_binary(structure: bytes, path: str | None = None, *, blobs: BlobCounts | None = None) -> Inferred:
    """The best known dialect that explains ``structure``, a binary NetParameter without its blobs.

    If none explains all of it, the one that explains most; the reason says what is left.

    Args:
        path: for messages. blobs: as :func:`.prototxt.parse_message` takes it.

    Raises:
        DialectError: several dialects fit and disagree on what a field is. WireError: the bytes are no NetParameter.
    """
    items = _items(structure, path)
    bvlc = _Reading(BVLC, items)
    if not bvlc.failed and not bvlc.odd:
        return Inferred(load_schema(), "every layer type and field is BVLC's")

    # Only a dialect that explains something better than BVLC's schema can win.
    open_items = [*bvlc.failed, *bvlc.odd]
    types = {item.type for item in bvlc.failed if item.is_type and isinstance(item.type, str)}
    names = dialects_mentioning(types)
    readings = _readings(names, open_items)
    if not readings or min(r.score for r in readings) > (0, 0):
        numbers = {str(n) for item in open_items for n in (item.number, *bvlc.misread.get(item, ())) if n}
        more = [n for n in dialects_mentioning(numbers) if n not in names]
        readings += _readings(more, open_items)
    fewest = min([bvlc.score, *(r.score for r in readings)])
    candidates = [_Reading(r.name, items) for r in readings if r.score == fewest]
    candidates.append(bvlc)
    order = {name: i for i, name in enumerate(dialect_names())}
    candidates.sort(key=lambda r: (r.score, order[r.name]))
    best, *others = [r for r in candidates if r.score == candidates[0].score]
    _refuse_disagreement(best, others, path)

    explained = sorted({str(i) for i in open_items if i not in best.failed and i not in best.odd})
    reason = f"knows {listed(explained)}" if explained else "no dialect knows more than BVLC's schema"
    if best.score > (0, 0):
        reason += f"; not known: {listed(sorted({str(i) for i in (*best.failed, *best.odd)}))}"
    message = network_message(load_schema(best.name), structure, path)
    left, doubts = settle(uses_of(message, blobs), [best.name, *(r.name for r in others)])
    return Inferred(load_schema(left[0]), reason, left[1:], doubts)


@dataclass(frozen=True)
class _Item:
    """A field of a layer (or, with type "", of the network) as it lies in the file; ``number`` 0 is the type itself.

    Layers that agree in all this but their name are one item.
    """

    message: str
    type: str | int
    number: int
    wire: int
    payload: bytes
    value: int

    @property
    def is_type(self) -> bool:
        return self.number == 0

    def __str__(self) -> str:
        kind = f"V1 type {self.type}" if isinstance(self.type, int) else self.type
        if self.is_type:
            return f"layer type {kind}" if isinstance(self.type, str) else kind
        return f"field {self.number} of {kind} layers" if kind else f"field {self.number} of the network"


# Fields of a layer that say nothing of a dialect: names, bottoms and tops.
_LAYER_SKIP = {"LayerParameter": {1, 2, 3, 4}, "V1LayerParameter": {2, 3, 4, 5}}


def _items(structure: bytes, path: str | None) -> list[_Item]:
    """The distinct items of a network, in order of appearance."""
    source = Source(structure)
    source.path = path or source.path
    items: dict[_Item, None] = {}
    for number, wire, value, end in _fields(source, 0, source.size):
        if number not in (NET_LAYER, NET_V1_LAYERS) or wire != BYTES:
            if number != 1:
                payload = source.bytes(value, end) if wire != VARINT else b""
                items[_Item("NetParameter", "", number, wire, payload, value if wire == VARINT else 0)] = None
            continue
        message = "LayerParameter" if number == NET_LAYER else "V1LayerParameter"
        kind: str | int = ""
        inner = list(_fields(source, value, end))
        for n, w, v, e in inner:
            if message == "LayerParameter" and n == 2 and w == BYTES:
                kind = source.text(v, e)
            elif message == "V1LayerParameter" and n == 5 and w == VARINT:
                kind = v
        if kind != "":
            items[_Item(message, kind, 0, 0, b"", 0)] = None
        for n, w, v, e in inner:
            if n not in _LAYER_SKIP[message]:
                payload = source.bytes(v, e) if w != VARINT else b""
                items[_Item(message, kind, n, w, payload, v if w == VARINT else 0)] = None
    return list(items)


def _fields(source: Source, start: int, end: int) -> Iterable[tuple[int, int, int, int]]:
    position = start
    while position < end:
        number, wire, value, position = source.field(position, end)
        yield number, wire, value, position


_VARINTS = {"int32", "int64", "uint32", "uint64", "sint32", "sint64", "bool"}
_FIXED = {"float": (FIXED32, 4), "fixed32": (FIXED32, 4), "sfixed32": (FIXED32, 4)}
_FIXED |= {"double": (FIXED64, 8), "fixed64": (FIXED64, 8), "sfixed64": (FIXED64, 8)}
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_MAX_DEPTH = 20


@dataclass(frozen=True)
class _Meaning:
    """What a schema takes a field for; ``inner`` are the fields inside that the file holds."""

    field: FieldDef
    inner: tuple[_Meaning, ...] = ()
    value: str = ""


class _Misread(Exception):
    """The bytes are not what the schema says; ``number`` is the innermost field concerned."""

    def __init__(self, number: int) -> None:
        self.number = number


class _Reading:
    """What one dialect makes of the items: which it cannot explain, and which it explains by an unlikely message."""

    def __init__(self, name: str, items: Iterable[_Item]) -> None:
        self.name = name
        self.file, self.layer_types = merged_file(name)
        self.by_number: dict[str, dict[int, FieldDef]] = {}
        self.meanings: dict[_Item, _Meaning | str] = {}
        self.failed: list[_Item] = []
        self.odd: list[_Item] = []
        self.misread: dict[_Item, tuple[int, ...]] = {}
        for item in items:
            try:
                self.meanings[item] = self.read_item(item)
            except _Misread as error:
                self.failed.append(item)
                self.misread[item] = (error.number,)
            else:
                if not self.is_likely(item):
                    self.odd.append(item)

    @property
    def score(self) -> tuple[int, int]:
        """Kinds of items not explained well, and of those the ones explained badly; less is better."""
        return len({str(i) for i in (*self.failed, *self.odd)}), len({str(i) for i in self.odd})

    def field(self, message: str, number: int) -> FieldDef:
        if message not in self.by_number:
            self.by_number[message] = {f.number: f for f in self.file.messages[message].values()}
        try:
            return self.by_number[message][number]
        except KeyError:
            raise _Misread(number) from None

    def read_item(self, item: _Item) -> _Meaning | str:
        if not item.is_type:
            field = self.field(item.message, item.number)
            if item.wire == VARINT:
                return self.read_varint(field, item.value)
            if not item.payload:
                return self.read_bytes(field, None, 0, 0, 0)
            return self.read(field, item.wire, Source(item.payload), 0, len(item.payload), 0)
        if isinstance(item.type, int):
            return self.v1_type(item.type)
        if item.type not in self.layer_types:
            raise _Misread(0)
        return item.type

    def v1_type(self, number: int) -> str:
        for name, value in self.file.enums[V1_TYPES].values.items():
            if value == number:
                return name
        raise _Misread(number)

    def read(self, field: FieldDef, wire: int, source: Source, start: int, end: int, depth: int) -> _Meaning:
        if wire == BYTES:
            return self.read_bytes(field, source, start, end, depth)
        if _FIXED.get(field.type, (None,))[0] != wire:
            raise _Misread(field.number)
        return _Meaning(field)

    def read_varint(self, field: FieldDef, value: int) -> _Meaning:
        if field.type in self.file.enums:
            for name, number in self.file.enums[field.type].values.items():
                if number == value:
                    return _Meaning(field, value=name)
            raise _Misread(field.number)
        if field.type not in _VARINTS or (field.type == "bool" and value > 1):
            raise _Misread(field.number)
        return _Meaning(field)

    def read_bytes(self, field: FieldDef, source: Source | None, start: int, end: int, depth: int) -> _Meaning:
        """A string, a message, or packed numbers; ``source`` is None where there are no bytes."""
        if field.type in self.file.messages:
            inner: dict[tuple[int, str], _Meaning] = {}
            if source is not None:
                if depth > _MAX_DEPTH:
                    raise _Misread(field.number)
                try:
                    for number, wire, value, position in _fields(source, start, end):
                        child = self.field(field.type, number)
                        if wire == VARINT:
                            meaning = self.read_varint(child, value)
                        else:
                            meaning = self.read(child, wire, source, value, position, depth + 1)
                        inner[number, meaning.value] = meaning
                except WireError:
                    raise _Misread(field.number) from None
            given = {meaning.field.name for meaning in inner.values()}
            for needed in self.file.messages[field.type].values():
                if needed.label == "required" and needed.name not in given:
                    raise _Misread(needed.number)
            return _Meaning(field, tuple(inner[key] for key in sorted(inner)))
        data = b"" if source is None else source.bytes(start, end)
        if field.type == "bytes":
            return _Meaning(field)
        if field.type == "string":
            if _CONTROL.search(data):
                raise _Misread(field.number)
            return _Meaning(field)
        if field.label != "repeated":
            raise _Misread(field.number)
        if field.type in _FIXED:
            if len(data) % _FIXED[field.type][1]:
                raise _Misread(field.number)
        elif field.type not in _VARINTS and field.type not in self.file.enums:
            raise _Misread(field.number)
        return _Meaning(field)

    def is_likely(self, item: _Item) -> bool:
        """Whether layers of this type read this field: by the dialect's own code, or by their names."""
        meaning = self.meanings[item]
        if isinstance(meaning, str) or not item.type or meaning.field.type not in self.file.messages:
            return True
        if isinstance(item.type, str):
            kind = item.type
        else:
            try:
                kind = self.v1_type(item.type)
            except _Misread:
                return False
        return is_read_by(kind, meaning.field, self.layer_types, self.file)


def _readings(names: Iterable[str], items: list[_Item]) -> list[_Reading]:
    return [_Reading(name, items) for name in names]


def _refuse_disagreement(best: _Reading, others: list[_Reading], path: str | None) -> None:
    """Raise if another dialect that fits as well takes an item for something else."""
    for item, meaning in best.meanings.items():
        differing = [r for r in others if item in r.meanings and _differ(meaning, r.meanings[item])]
        if differing:
            readings = "; ".join(f"{r.name} reads {_said(r.meanings[item])}" for r in (best, *differing[:4]))
            more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
            raise DialectError(
                f"{item} fits several forks of Caffe, which disagree: {readings}{more}. "
                f"Say which one wrote the file, for example `--dialect {best.name}`",
                path=path,
            )


def _said(meaning: _Meaning | str) -> str:
    if isinstance(meaning, str):
        return meaning
    inner = ", ".join(m.field.name + (f": {m.value}" if m.value else "") for m in meaning.inner)
    return f"{meaning.field.name} ({inner})" if inner else meaning.field.name


def _differ(one: _Meaning | str, other: _Meaning | str) -> bool:
    """Whether two readings of one item are different things.

    The outer field may go by another name (norm_param, normalize_param) as long as what is inside has the same names.
    """
    if isinstance(one, str) or isinstance(other, str):
        return one != other
    if not one.inner and not other.inner and plain(one.field.name) != plain(other.field.name):
        return one.field.type != other.field.type
    return _inner_differ(one, other)


def _inner_differ(one: _Meaning, other: _Meaning) -> bool:
    if one.value != other.value or len(one.inner) != len(other.inner):
        return True
    pairs = zip(one.inner, other.inner, strict=True)
    return any(a.field.name != b.field.name or _inner_differ(a, b) for a, b in pairs)
