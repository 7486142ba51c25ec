"""The schema of BVLC Caffe and of its forks, as protobuf message classes in private descriptor pools.

Nothing is generated and nothing is registered globally, so a foreign ``caffe_pb2`` may live in the same process.
A dialect is one file in ``dialects/``; adding a file adds a dialect.
"""

from __future__ import annotations

import copyreg
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal, overload

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from ..errors import DialectError, first_line
from ..formats.files import read_file
from ..formats.limits import PROTOTXT
from ..formats.sniff import decode_text
from .messages import (
    BlobProto,
    Datum,
    LayerParameter,
    Message,
    MessageField,
    NetParameter,
    SolverParameter,
    V1LayerParameter,
)
from .protofile import ProtoFile, parse_proto

__all__ = [
    "BVLC",
    "Schema",
    "dialect_names",
    "dialects_mentioning",
    "is_repeated",
    "keep_dialect",
    "load_schema",
    "merged_file",
    "own_dialect",
    "portable_dialect",
    "read_dialect",
    "ships",
    "split_dialect",
    "told_layer_types",
]

BVLC = "bvlc"
_SCALARS = {
    name: getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{name.upper()}")
    for name in (
        *("double", "float", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64"),
        *("sfixed32", "sfixed64", "bool", "string", "bytes"),
    )
}


class Schema:
    """The message classes of BVLC Caffe with zero or more dialects laid over it.

    Attributes:
        name: ``bvlc``, a dialect's name, or several joined by ``+``.
        layer_types: the layer types that the schema's code registers, with the parameter messages each one reads.
    """

    def __init__(self, name: str, file: ProtoFile, layer_types: dict[str, tuple[str, ...]]) -> None:
        self.name = name
        self.file = file
        self.layer_types = layer_types
        pool = descriptor_pool.DescriptorPool()
        try:
            pool.AddSerializedFile(_descriptor(file).SerializeToString())
        except (TypeError, ValueError) as error:  # how protobuf refuses numbers and defaults, only in a user's own file
            raise DialectError(f"{name} defines no valid schema: {first_line(error)}") from error
        # All classes are made now and kept: protobuf 4 frees those that nobody holds, and crashes where a message that
        # is alive then needs one of them for its submessages.
        self._classes: dict[str, type[Message]] = {
            name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in file.messages
        }
        # No import leads to these classes, so pickle has to be told how to find them.
        for kind in self._classes.values():
            copyreg.pickle(kind, self._reduce)

    @overload
    def message(self, name: Literal["NetParameter"]) -> type[NetParameter]: ...
    @overload
    def message(self, name: Literal["LayerParameter"]) -> type[LayerParameter]: ...
    @overload
    def message(self, name: Literal["V1LayerParameter"]) -> type[V1LayerParameter]: ...
    @overload
    def message(self, name: Literal["SolverParameter"]) -> type[SolverParameter]: ...
    @overload
    def message(self, name: Literal["BlobProto"]) -> type[BlobProto]: ...
    @overload
    def message(self, name: Literal["Datum"]) -> type[Datum]: ...
    @overload
    def message(self, name: str) -> type[Message]: ...
    def message(self, name: str) -> type[Message]:
        """The class of message ``name`` (``NetParameter``, ``LayerParameter`` ...)."""
        return self._classes[name]

    def _reduce(self, message: Message) -> tuple[Callable[..., Message], tuple[object, ...]]:
        kind = message.DESCRIPTOR.full_name.removeprefix("caffe.")
        return _restored_message, (*portable_dialect(self.name), kind, message.SerializePartialToString())

    def __repr__(self) -> str:
        return f"Schema({self.name!r})"


def _restored_message(dialect: str, text: str | None, kind: str, content: bytes) -> Message:
    if text is not None:
        dialect = keep_dialect(dialect, text)
    message = load_schema(*split_dialect(dialect)).message(kind)()
    message.MergeFromString(content)
    return message


# The property came with protobuf 6.31 and replaced ``label``, which protobuf 7 lacks.
_HAS_IS_REPEATED = hasattr(descriptor_pb2.FieldDescriptorProto.DESCRIPTOR.fields[0], "is_repeated")


def is_repeated(field: MessageField) -> bool:
    """Whether a field is repeated, under every protobuf from 4 on."""
    return field.is_repeated if _HAS_IS_REPEATED else field.label == field.LABEL_REPEATED


def _descriptor(file: ProtoFile) -> descriptor_pb2.FileDescriptorProto:
    """The protobuf descriptor of ``file``. Enums stay closed (proto2), so a value outside them is never taken."""
    out = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    made: dict[str, descriptor_pb2.DescriptorProto] = {}

    def place(name: str) -> descriptor_pb2.DescriptorProto:
        if name not in made:
            outer, _, own = name.rpartition(".")
            made[name] = place(outer).nested_type.add(name=own) if outer else out.message_type.add(name=own)
        return made[name]

    for name, fields in file.messages.items():
        message = place(name)
        for f in fields.values():
            entry = message.field.add(name=f.name, number=f.number)
            entry.label = getattr(descriptor_pb2.FieldDescriptorProto, f"LABEL_{f.label.upper()}")
            if f.type in _SCALARS:
                entry.type = _SCALARS[f.type]
            elif f.type in file.enums:
                entry.type = descriptor_pb2.FieldDescriptorProto.TYPE_ENUM
                entry.type_name = f".caffe.{f.type}"
            elif f.type in file.messages:
                entry.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
                entry.type_name = f".caffe.{f.type}"
            else:
                raise ValueError(f"message {name}, field {f.name}: type {f.type} is not defined")
            if f.default is not None:
                entry.default_value = f.default
            if f.packed:
                entry.options.packed = True
    for name, enum in file.enums.items():
        outer, _, own = name.rpartition(".")
        target = place(outer).enum_type.add(name=own) if outer else out.enum_type.add(name=own)
        for value_name, number in enum.values.items():
            target.value.add(name=value_name, number=number)
        if len(set(enum.values.values())) < len(enum.values):
            target.options.allow_alias = True
    return out


@lru_cache(maxsize=1)
def _dialect_texts() -> dict[str, str]:
    """Text of every shipped dialect by its name, best known first."""
    ranked = []
    for entry in resources.files(__package__).joinpath("dialects").iterdir():
        if entry.name.endswith(".proto"):
            text = entry.read_text(encoding="utf-8")
            name = re.search(r'^option dialect = "([^"]+)";', text, re.MULTILINE)
            rank = re.search(r"^option rank = (\d+);", text, re.MULTILINE)
            if name is None:
                raise DialectError('no line `option dialect = "name";`', path=entry.name)
            ranked.append((int(rank[1]) if rank else 1_000_000, name[1], text))
    return {name: text for _, name, text in sorted(ranked)}


def dialect_names() -> tuple[str, ...]:
    """Names of the dialects that ship, best known first; ``bvlc`` leads."""
    return (BVLC, *_dialect_texts())


def dialects_mentioning(words: Iterable[str]) -> list[str]:
    """Dialects whose file has at least one of ``words`` as a whole word (names or numbers), best known first."""
    wanted = sorted({word for word in words if len(word) <= _LONGEST_WORD})
    if len(wanted) > _MANY_WORDS:
        return [name for name, text in _dialect_texts().items() if not _words_in(text).isdisjoint(wanted)]
    whole = re.compile(rf"\b(?:{'|'.join(map(re.escape, wanted))})\b") if wanted else None
    # Most texts have none of the words, which a search for substrings tells faster than one for whole words.
    return [
        name
        for name, text in _dialect_texts().items()
        if whole is not None and any(word in text for word in wanted) and whole.search(text)
    ]


# No dialect has a longer one. A file may have one of millions of letters, or millions of them.
_LONGEST_WORD, _MANY_WORDS = 200, 50


@lru_cache(maxsize=256)
def _words_in(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text))


@lru_cache(maxsize=1)
def _bvlc_file() -> ProtoFile:
    return parse_proto(_bvlc_text(), "bvlc.proto")


def _bvlc_text() -> str:
    return resources.files(__package__).joinpath("bvlc.proto").read_text(encoding="utf-8")


def load_schema(*dialects: str) -> Schema:
    """The schema of BVLC Caffe with ``dialects`` laid over it, the first on top.

    A dialect is a name from :func:`dialect_names` or the path of a ``.proto`` file (a fork's own ``caffe.proto``).

    Raises:
        DialectError: no such dialect. FileError, PrototxtError: the file cannot be read.
    """
    return _schema(*(name for name in dialects if name != BVLC))


@cache
def _schema(*dialects: str) -> Schema:
    return Schema("+".join(dialects) or BVLC, *merged_file(*dialects))


@lru_cache(maxsize=256)
def merged_file(*dialects: str) -> tuple[ProtoFile, dict[str, tuple[str, ...]]]:
    """What :func:`load_schema` makes classes of: the fields and enums, and the layer types with their parameters."""
    file = _bvlc_file()
    layer_types = _parse_layer_types(file.options["layer_types"])
    for name in reversed([name for name in dialects if name != BVLC]):
        added, added_types = read_dialect(name)
        file = file.merged_with(added)
        layer_types = {**layer_types, **added_types}
    return file.merged_with(_places_for_v1(file)), layer_types


# What V1 layers have and current ones hold in another way (schema.upgrade_v1).
_V1_ALONE = ("layer", "type", "param", "blob_share_mode", "blobs_lr", "weight_decay")
# No file has fields of such numbers.
_FIRST_OF_V1 = 500_000_000


def _places_for_v1(file: ProtoFile) -> ProtoFile:
    """Fields for what only V1 layers of ``file`` have: an upgraded layer holds it, where a fork's own tools lose it."""
    current = file.messages["LayerParameter"]
    fields = {
        name: replace(field, number=_FIRST_OF_V1 + field.number)
        for name, field in file.messages["V1LayerParameter"].items()
        if name not in current and name not in _V1_ALONE
    }
    return ProtoFile({"LayerParameter": fields} if fields else {}, {}, {})


@lru_cache(maxsize=256)
def read_dialect(name: str) -> tuple[ProtoFile, dict[str, tuple[str, ...]]]:
    """What one dialect adds to the BVLC schema, and the layer types it registers with their parameter messages."""
    if name in _dialect_texts():
        file = parse_proto(_dialect_texts()[name], name)
        return file, _parse_layer_types(file.options.get("layer_types", ""))
    text = own_dialect(name)
    if text is not None:
        return parse_proto(text, name), {}
    raise DialectError(f"no dialect {name!r}. {_suggest(name, dialect_names())}")


@lru_cache(maxsize=256)
def told_layer_types(name: str) -> dict[str, tuple[str, ...]]:
    """The layer types that BVLC or one dialect says it registers, as :func:`read_dialect` gives them.

    Of a dialect that ships, its messages are not read for it: what forks mean by a type is asked for most of them when
    the layers are registered.

    Raises:
        DialectError: no such dialect. FileError, PrototxtError: the file cannot be read.
    """
    if name != BVLC and name not in _dialect_texts():
        return read_dialect(name)[1]
    text = _bvlc_text() if name == BVLC else _dialect_texts()[name]
    option = re.search(r'^option layer_types =((?:\s*"[^"\n]*")+);', text, re.MULTILINE)
    return _parse_layer_types("".join(re.findall(r'"([^"]*)"', option[1])) if option else "")


# Text of every user's own .proto file that is in use, by its path or by the name that keep_dialect gave it. What a name
# stands for never changes while the process lives: nets that were built with it must stay readable.
_own_texts: dict[str, str] = {}


def own_dialect(name: str) -> str | None:
    """The text of a dialect that is a user's own ``.proto`` file; None if ``name`` cannot be one.

    Raises:
        FileError: the file cannot be read.
    """
    if name in _own_texts or not name.endswith(".proto") or ships(name):
        return _own_texts.get(name)
    return _own_texts.setdefault(name, decode_text(read_file(name, PROTOTXT), name, replace=True))


def keep_dialect(name: str, text: str) -> str:
    """Make ``text`` of a ``.proto`` file known without the file, and give the name that it goes by from now on.

    The name depends on the text, so that two files of the same name never stand in for each other.
    """
    stem, _, _ = Path(name).stem.partition("@")
    own = f"{stem}@{hashlib.sha256(text.encode()).hexdigest()[:8]}.proto"
    _own_texts[own] = text
    return own


def portable_dialect(name: str) -> tuple[str, str | None]:
    """A name that holds in other processes and on other machines, with its text if it is a user's own ``.proto`` file.

    Where there is a text, :func:`keep_dialect` makes it known over there.

    Raises:
        DialectError: it is joined of several, one of which is a file of the user's.
    """
    text = own_dialect(name)
    if text is None and not ships(name):
        raise DialectError(f"dialect {name} cannot be kept: a .proto file is kept alone, not joined to others by '+'")
    return (name, None) if text is None else (keep_dialect(name, text), text)


def ships(name: str) -> bool:
    """Whether ``name`` is that of a dialect that ships, or several such joined by ``+``."""
    return all(part in (BVLC, *_dialect_texts()) for part in name.split("+"))


def split_dialect(name: str) -> tuple[str, ...]:
    """The arguments of :func:`load_schema` that :attr:`Schema.name` was made of; a path may hold a ``+`` itself."""
    return (name,) if name.endswith(".proto") and not ships(name) else tuple(name.split("+"))


def _suggest(name: str, known: Sequence[str]) -> str:
    close = [k for k in known if name.lower() in k.lower()][:5]
    found = f"Did you mean {', '.join(close)}? " if close else ""
    return f"{found}`caffe-compat dialects` lists them; the path of a fork's caffe.proto works too"


def _parse_layer_types(text: str) -> dict[str, tuple[str, ...]]:
    """``"Mask(mask_param) DummyForward"`` -> ``{"Mask": ("mask_param",), "DummyForward": ()}``."""
    return {m[1]: tuple(m[2].split(",")) if m[2] else () for m in re.finditer(r"([^\s(]+)(?:\(([^)]*)\))?", text)}
