"""Protobuf's text format -> a tree of fields with their places, with no schema involved.

Covers what real prototxt files contain: comments, both quotes, adjacent strings, lists in brackets, ``:`` before
braces, ``<>`` for ``{}``, separators, a byte-order mark, extension names. Words may hold ``$``, so that templates with
``$NAME`` in place of a value can be read and reported.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal, NoReturn

from ..errors import PrototxtError

__all__ = ["Field", "TextTree", "Value", "parse_text"]

# Deeper than any network, shallower than protobuf's own limit of 100 with room for what wraps a message.
MAX_DEPTH = 90

# Blanks and comments, then a token of one of four kinds. A comment takes its line's end: the token cannot begin in it.
_SPACE = r"[ \t\r\n\f\v\ufeff\u00a0]*"
_BLANK = rf"{_SPACE}(?:\#[^\n]*(?:\n|\Z){_SPACE})*"
_TOKEN = re.compile(
    rf"""{_BLANK}(?:
    (?P<name>[A-Za-z_$][\w$]*)
  | (?P<number>[0-9](?:[eE][+-]|[\w.])*|\.[0-9](?:[eE][+-]|\w)*)
  | (?P<string>"[^"\\\n]*(?:\\.[^"\\\n]*)*"|'[^'\\\n]*(?:\\.[^'\\\n]*)*')
  | (?P<mark>[{{}}<>\[\]:;,\-])
    )""",
    re.VERBOSE,
)
_BLANKS = re.compile(_BLANK)
# What nearly all of a text is, each in one piece: a name with a word, a number, a string or the brace that opens a
# message, and the brace that closes one.
_PLAIN = re.compile(
    rf"""{_BLANK}(?:([A-Za-z_$][\w$]*){_SPACE}(?::{_SPACE}(?:
    ([A-Za-z_$][\w$]*)
  | ([0-9](?:[eE][+-]|[\w.])*)
  | ("[^"\\\n]*"|'[^'\\\n]*')
    )|:?{_SPACE}(\{{))|(\}}))""",
    re.VERBOSE,
)
_WORD, _NUMBER, _STRING, _OPEN, _CLOSE = range(2, 7)
_CLOSER = {"{": "}", "<": ">"}
_ESCAPES = {"n": 10, "t": 9, "r": 13, "a": 7, "b": 8, "f": 12, "v": 11, "\\": 92, "'": 39, '"': 34, "?": 63}
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)


@dataclass(slots=True)
class Value:
    """One value: a scalar as written (strings unescaped), or a message's fields. ``at`` is its offset in the text."""

    kind: Literal["name", "number", "string", "message"]
    text: str
    fields: list[Field]
    at: int


@dataclass(slots=True)
class Field:
    """``name: value``; a bracketed list becomes one Field per element. ``at`` is the name's offset in the text."""

    name: str
    value: Value
    at: int


class TextTree:
    """The fields at the top of a text, and the way from an offset to a line and column."""

    def __init__(self, text: str, path: str | None) -> None:
        self.text, self.path = text, path
        self.fields: list[Field] = []
        self.warnings: list[str] = []
        self._line_starts: list[int] = []

    def place(self, at: int) -> tuple[int, int]:
        """(line, column) of offset ``at``, both counted from 1."""
        if not self._line_starts:
            self._line_starts = [0, *(m.end() for m in re.finditer("\n", self.text))]
        line = bisect_right(self._line_starts, at)
        return line, at - self._line_starts[line - 1] + 1

    def error(self, message: str, at: int) -> PrototxtError:
        line, column = self.place(at)
        return PrototxtError(message, path=self.path, line=line, column=column)


def parse_text(text: str, path: str | None = None) -> TextTree:
    """Parse ``text`` without recursion, in time linear in its length.

    Raises:
        PrototxtError: with line, column, what was found and what was expected.
    """
    return _Parser(text, path).parse()


class _Parser:
    def __init__(self, text: str, path: str | None) -> None:
        self.tree = TextTree(text, path)
        self.text = text
        self.kind = ""  # of the token in hand: name, number, string, mark, or "" at the end
        self.token = ""
        self.at = 0
        self.end = 0
        self.advance()

    def advance(self) -> None:
        match = _TOKEN.match(self.text, self.end)
        if match is not None:
            kind = match.lastgroup
            assert kind is not None  # one of four
            self.kind, self.token, self.at, self.end = kind, match[kind], match.start(kind), match.end()
            return
        start = _BLANKS.match(self.text, self.end).end()  # type: ignore[union-attr]  # an empty match is a match
        self.at = start
        if start == len(self.text):
            self.kind, self.token = "", ""
        elif self.text[start] in "\"'":
            raise self.tree.error("a string that does not end on its line", start)
        else:
            raise self.tree.error(f"unexpected character {self.text[start]!r}", start)

    def fail(self, expected: str) -> NoReturn:
        found = repr(self.token) if self.token else "the end of the text"
        raise self.tree.error(f"expected {expected}, found {found}", self.at)

    def parse(self) -> TextTree:
        fields = self.tree.fields
        open_messages: list[tuple[list[Field], str, str, int]] = []  # (outer fields, closer, name, offset)
        in_list: list[bool] = []  # whether each open message is an element of a bracketed list
        while True:
            if self.kind == "mark" and open_messages and self.token == open_messages[-1][1]:
                fields = open_messages.pop()[0]
                was_listed = in_list.pop()
                self.advance()
                if was_listed and not self.list_goes_on():
                    was_listed = False
                elif was_listed:
                    opened = self.open_listed(fields, open_messages, in_list)
                    fields = opened
                    continue
                self.skip_separator()
                continue
            if not self.kind:
                if open_messages:
                    _, closer, name, at = open_messages[-1]
                    line, column = self.tree.place(at)
                    self.fail(f"{closer!r} that closes {name!r} opened at line {line}, column {column}")
                return self.tree
            plain = self.plain_fields(fields, open_messages, in_list) if self.kind == "name" else None
            if plain is not None:
                fields = plain
                continue
            name, at = self.field_name()
            had_colon = self.token == ":" and self.kind == "mark"
            if had_colon:
                self.advance()
            if self.kind == "mark" and self.token in _CLOSER:
                fields = self.open_message(fields, open_messages, in_list, name, at, listed=False)
            elif self.kind == "mark" and self.token == "[":
                self.advance()
                if self.kind == "mark" and self.token == "]":
                    self.advance()
                    self.skip_separator()
                elif self.kind == "mark" and self.token in _CLOSER:
                    fields = self.open_message(fields, open_messages, in_list, name, at, listed=True)
                else:
                    while True:
                        fields.append(Field(name, self.scalar(), at))
                        if not self.list_goes_on():
                            break
                    self.skip_separator()
            elif had_colon:
                fields.append(Field(name, self.scalar(), at))
                self.skip_separator()
            else:
                self.fail(f"':' or '{{' after {name!r}")

    def plain_fields(
        self, fields: list[Field], open_messages: list[tuple[list[Field], str, str, int]], in_list: list[bool]
    ) -> list[Field] | None:
        """Take what is written plainly, as far as it goes; the fields to fill from there on, or None if nothing is.

        The short way to what the steps of :meth:`parse` come to: most of a network is so.
        """
        text, end, last = self.text, self.at, None
        while (match := _PLAIN.match(text, end)) is not None:
            which = match.lastindex
            assert which is not None  # one of the kinds
            if which == _CLOSE:
                if not open_messages or in_list[-1] or open_messages[-1][1] != "}":
                    break
                fields = open_messages.pop()[0]
                in_list.pop()
            elif which == _OPEN:
                if len(open_messages) >= MAX_DEPTH:
                    break
                name, at = match[1], match.start(1)
                value = Value("message", "", [], match.start(_OPEN))
                fields.append(Field(name, value, at))
                open_messages.append((fields, "}", name, at))
                in_list.append(False)
                fields = value.fields
            else:
                name, written = match.group(1, which)
                at = match.start(which)
                if which == _STRING:
                    written = written[1:-1]
                    value = Value("string", written if written.isascii() else self.unescaped([written], at), [], at)
                else:
                    value = Value("name" if which == _WORD else "number", written, [], at)
                fields.append(Field(name, value, match.start(1)))
            last, end = match, match.end()
        if last is None:
            return None
        self.end = end
        self.advance()
        if self.kind == "string" and last.lastindex == _STRING:  # it goes on in a second pair of quotes
            fields.pop()
            self.end = last.start(1)
            self.advance()
            name, at = self.field_name()
            self.advance()  # the colon
            fields.append(Field(name, self.scalar(), at))
        if last.lastindex != _OPEN:
            self.skip_separator()
        return fields

    def open_message(
        self,
        fields: list[Field],
        open_messages: list[tuple[list[Field], str, str, int]],
        in_list: list[bool],
        name: str,
        at: int,
        *,
        listed: bool,
    ) -> list[Field]:
        """Enter a message; the fields to fill from here on are returned."""
        if len(open_messages) >= MAX_DEPTH:
            raise self.tree.error(f"messages nested deeper than {MAX_DEPTH}", self.at)
        value = Value("message", "", [], self.at)
        fields.append(Field(name, value, at))
        open_messages.append((fields, _CLOSER[self.token], name, at))
        in_list.append(listed)
        self.advance()
        return value.fields

    def open_listed(
        self, fields: list[Field], open_messages: list[tuple[list[Field], str, str, int]], in_list: list[bool]
    ) -> list[Field]:
        """The next message of a bracketed list, under the name of the one before."""
        if self.kind != "mark" or self.token not in _CLOSER:
            self.fail("'{' for the next message of the list")
        return self.open_message(fields, open_messages, in_list, fields[-1].name, fields[-1].at, listed=True)

    def list_goes_on(self) -> bool:
        """Take the ',' or the ']' after a list's element; True after a ','."""
        if self.kind != "mark" or self.token not in ",]":
            self.fail("',' or ']' in a list")
        goes_on = self.token == ","
        self.advance()
        return goes_on

    def skip_separator(self) -> None:
        if self.kind == "mark" and self.token in ",;":
            self.advance()

    def field_name(self) -> tuple[str, int]:
        at = self.at
        if self.kind == "name":
            name = self.token
            self.advance()
            return name, at
        if self.kind == "mark" and self.token == "[":
            close = self.text.find("]", at)
            name = self.text[at + 1 : close].strip() if close > 0 else ""
            if re.fullmatch(r"[A-Za-z_][\w./]*", name):
                self.end = close + 1
                self.advance()
                return f"[{name}]", at
        return self.fail("a field name")

    def scalar(self) -> Value:
        at = self.at
        if self.kind == "string":
            parts = []
            while self.kind == "string":
                parts.append(self.token[1:-1])
                self.advance()
            return Value("string", self.unescaped(parts, at), [], at)
        sign = ""
        if self.kind == "mark" and self.token == "-":
            sign = "-"
            self.advance()
        if self.kind in ("number", "name"):
            value = Value("number" if sign else self.kind, sign + self.token, [], at)  # type: ignore[arg-type]
            self.advance()
            return value
        return self.fail("a value")

    def unescaped(self, parts: list[str], at: int) -> str:
        """The text of adjacent strings: no escape goes on in the next one, but a character of several bytes may."""
        text = "".join(parts)
        if "\\" not in text and text.isascii():
            return text
        # Bytes that are no UTF-8 came in as lone surrogates; a string has to be text, so they are read as Latin-1.
        encoded = [part.encode("utf-8", "surrogateescape") for part in parts]
        data = b"".join([_ESCAPE.sub(lambda m: self.escaped(m, at), part) for part in encoded])
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return data.decode("latin-1")

    def escaped(self, match: re.Match[bytes], at: int) -> bytes:
        octal, hexadecimal, short, long, char = match.groups()
        if octal is not None:
            return bytes([int(octal, 8) & 0xFF])
        if hexadecimal is not None:
            return bytes([int(hexadecimal, 16)])
        if short is not None or long is not None:
            code = int(short or long, 16)
            if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                raise self.tree.error(f"\\u{code:x} is no character", at)
            return chr(code).encode()
        letter = char.decode("latin-1")
        if letter not in _ESCAPES:
            line = self.tree.place(at)[0]
            self.tree.warnings.append(f"line {line}: Caffe refuses \\{letter} in a string; both characters are kept")
            return b"\\" + char
        return bytes([_ESCAPES[letter]])
