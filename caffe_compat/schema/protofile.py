"""Read the subset of the .proto language that Caffe schemas use, and merge schemas.

A dialect is a .proto file that lists what one fork of Caffe adds to the BVLC schema. The same reader takes a fork's
complete ``caffe.proto``, so people can bring their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from ..errors import PrototxtError

__all__ = ["EnumDef", "FieldDef", "ProtoFile", "parse_proto"]

_TOKEN = re.compile(
    r"""
    (?P<skip>\s+|//[^\n]*|/\*.*?\*/)
  | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
  | (?P<word>[A-Za-z_.][\w.]*|-?[0-9][\w.+-]*|-inf|-nan|-\.[0-9][\w+-]*)
  | (?P<mark>[{}\[\]()=;,<>])
    """,
    re.VERBOSE | re.DOTALL,
)
_LABELS = ("optional", "repeated", "required")
# Where the numbers begin of fields whose own number a dialect uses for another field.
DISPLACED = 100_000_000


@dataclass(frozen=True)
class FieldDef:
    """One field. ``type`` is a scalar type's name, or a message's or enum's name relative to the package."""

    name: str
    number: int
    type: str
    label: str = "optional"
    default: str | None = None
    packed: bool = False


@dataclass
class EnumDef:
    """An enum's values by name; several names may share a number."""

    values: dict[str, int] = field(default_factory=dict)


@dataclass
class ProtoFile:
    """Messages and enums by their dotted name within the package, and the file-level options."""

    messages: dict[str, dict[str, FieldDef]] = field(default_factory=dict)
    enums: dict[str, EnumDef] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)

    def merged_with(self, other: ProtoFile) -> ProtoFile:
        """This schema with ``other`` laid over it: where names or numbers meet, ``other`` wins.

        A field of this schema that loses its number keeps its name under a number that no file uses, so that a text may
        name it and code may ask for it whatever the dialect. A field repeated in either is repeated.
        """
        messages = dict(self.messages)
        for name, fields in _with_v1_names(other).messages.items():
            taken = {f.number for f in fields.values()}
            base = messages.get(name, {})
            kept = {n: f for n, f in base.items() if n not in fields}
            for n, f in kept.items():
                if f.number in taken:
                    free = max(DISPLACED, *(k.number + 1 for k in kept.values()))
                    kept[n] = replace(f, number=free)
            added = {
                n: replace(f, label="repeated", default=None) if n in base and base[n].label == "repeated" else f
                for n, f in fields.items()
            }
            messages[name] = {**kept, **added}
        enums = dict(self.enums)
        for name, enum in _with_v1_names(other).enums.items():
            values = enums[name].values if name in enums else {}
            left = {n: v for n, v in values.items() if n not in enum.values and v not in enum.values.values()}
            enums[name] = EnumDef({**left, **enum.values})
        return ProtoFile(messages, enums, {**self.options, **other.options})


def _with_v1_names(file: ProtoFile) -> ProtoFile:
    """Before 2014 the message behind ``NetParameter.layers`` was called LayerParameter; now it is V1LayerParameter."""
    layers = file.messages.get("NetParameter", {}).get("layers")
    if layers is None or layers.type != "LayerParameter":
        return file

    def renamed(name: str) -> str:
        return re.sub(r"^LayerParameter\b", "V1LayerParameter", name)

    messages = {
        renamed(name): {n: replace(f, type=renamed(f.type)) for n, f in fields.items()}
        for name, fields in file.messages.items()
    }
    return ProtoFile(messages, {renamed(n): e for n, e in file.enums.items()}, file.options)


def parse_proto(text: str, path: str | None = None) -> ProtoFile:
    """Parse .proto text.

    Raises:
        PrototxtError: where the text leaves the subset, with line and column.
    """
    return _Reader(text, path).file()


class _Reader:
    def __init__(self, text: str, path: str | None) -> None:
        self.text, self.path = text, path
        self.tokens: list[tuple[str, str, int]] = []
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise self.error(f"unexpected character {text[at]!r}", at)
            if match.lastgroup != "skip":
                self.tokens.append((match.lastgroup or "", match.group(), at))
            at = match.end()
        self.next = 0

    def error(self, message: str, at: int | None = None) -> PrototxtError:
        if at is None:
            at = self.tokens[self.next][2] if self.next < len(self.tokens) else len(self.text)
        line = self.text.count("\n", 0, at) + 1
        column = at - (self.text.rfind("\n", 0, at) + 1) + 1
        return PrototxtError(message, path=self.path, line=line, column=column)

    def peek(self) -> str:
        return self.tokens[self.next][1] if self.next < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> str:
        found = self.peek()
        if not found or (expected is not None and found != expected):
            raise self.error(f"expected {expected or 'more'}, found {found or 'the end of the file'}")
        self.next += 1
        return found

    def skip_statement(self) -> None:
        """Pass over a statement that says nothing about fields: up to its semicolon or its closing brace."""
        depth = 0
        while True:
            mark = self.take()
            depth += mark == "{"
            depth -= mark == "}"
            if depth == 0 and mark in (";", "}"):
                return

    def file(self) -> ProtoFile:
        out = ProtoFile()
        while self.peek():
            word = self.peek()
            if word == "message":
                self.message("", out)
            elif word == "enum":
                self.enum("", out)
            elif word == "option":
                self.take()
                name = self.take()
                self.take("=")
                out.options[name] = self.constant()
                self.take(";")
            elif word in ("syntax", "package", "import", "extend", "service"):
                self.skip_statement()
            elif word == ";":
                self.take()
            else:
                raise self.error(f"expected a message, an enum or an option, found {word!r}")
        return _resolved(out)

    def constant(self) -> str:
        """A word, or adjacent strings joined."""
        if self.peek()[:1] not in "\"'":
            return self.take()
        parts = []
        while self.peek()[:1] in ("'", '"'):
            quoted = self.take()[1:-1].encode("latin-1", "backslashreplace")
            try:
                parts.append(quoted.decode("unicode_escape"))
            except UnicodeDecodeError as error:
                self.next -= 1
                raise self.error(f"a string with a damaged escape: {error.reason}") from None
        return "".join(parts)

    def message(self, scope: str, out: ProtoFile) -> None:
        self.take("message")
        name = scope + self.take()
        fields = out.messages.setdefault(name, {})
        self.take("{")
        while self.peek() != "}":
            word = self.peek()
            if word == "message":
                self.message(name + ".", out)
            elif word == "enum":
                self.enum(name + ".", out)
            elif word in ("extensions", "reserved", "option", "extend"):
                self.skip_statement()
            elif word == "oneof":
                self.take()
                self.take()
                self.take("{")
                while self.peek() != "}":
                    self.field("optional", fields)
                self.take("}")
            elif word == ";":
                self.take()
            else:
                label = self.take() if word in _LABELS else "optional"
                self.field(label, fields)
        self.take("}")

    def field(self, label: str, fields: dict[str, FieldDef]) -> None:
        type_name = self.take()
        name = self.take()
        self.take("=")
        number = self.integer()
        default, packed = None, False
        if self.peek() == "[":
            self.take()
            while True:
                option = self.take()
                self.take("=")
                value = self.constant()
                if option == "default":
                    default = value
                elif option == "packed":
                    packed = value == "true"
                if self.take() == "]":
                    break
        self.take(";")
        fields[name] = FieldDef(name, number, type_name, label, default, packed)

    def enum(self, scope: str, out: ProtoFile) -> None:
        self.take("enum")
        enum = out.enums.setdefault(scope + self.take(), EnumDef())
        self.take("{")
        while self.peek() != "}":
            if self.peek() in ("option", "reserved"):
                self.skip_statement()
                continue
            name = self.take()
            self.take("=")
            enum.values[name] = self.integer()
            if self.peek() == "[":
                while self.take() != "]":
                    pass
            self.take(";")
        self.take("}")

    def integer(self) -> int:
        word = self.take()
        try:
            return int(word, 0)
        except ValueError:
            self.next -= 1
            raise self.error(f"expected a number, found {word!r}") from None


def _resolved(file: ProtoFile) -> ProtoFile:
    """Write every type as its full dotted name: the innermost scope that has it wins, as in protobuf."""
    known = file.messages.keys() | file.enums.keys()
    for scope, fields in file.messages.items():
        for name, f in fields.items():
            type_name = f.type.removeprefix(".").removeprefix("caffe.")
            outer = scope
            while outer and f"{outer}.{type_name}" not in known:
                outer = outer.rpartition(".")[0]
            if outer:
                type_name = f"{outer}.{type_name}"
            fields[name] = FieldDef(f.name, f.number, type_name, f.label, f.default, f.packed)
    return file
