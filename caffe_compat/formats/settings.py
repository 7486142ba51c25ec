"""Settings as text: the ``param_str`` of Python layers, and the configurations of the programs that they come from.

Such texts are YAML, JSON or Python literals, by what the program that reads them calls; this is one reader for what
the three have in common and what they are used for. It makes mappings, lists, tuples, texts, numbers, truth values and
None, and runs nothing. What it does not know, as YAML's anchors, block texts and objects, is an error.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import FileError

__all__ = ["Setting", "named_settings", "read_settings"]

Setting: TypeAlias = "bool | int | float | str | list[Setting] | tuple[Setting, ...] | dict[Setting, Setting] | None"

MAX_DEPTH = 20
# More than any number needs, and Python itself refuses some thousands.
_MOST_DIGITS = 1000

_WORDS = {
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", "None", ""), None),
}
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_INFINITE = {".inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}
_TUPLE = "!!python/tuple"
_CLOSING = {"{": "}", "[": "]", "(": ")"}


def read_settings(text: str, path: str | None = None) -> Setting:
    """What ``text`` says; None if it says nothing.

    >>> read_settings("'feat_stride': 16 \\n'scales': !!python/tuple [4, 8]")
    {'feat_stride': 16, 'scales': (4, 8)}
    >>> read_settings("{'seed': 1337, 'mean': (104.0, 117.5), 'split': 'train'}")
    {'seed': 1337, 'mean': (104.0, 117.5), 'split': 'train'}
    >>> read_settings("TRAIN:\\n  HAS_RPN: True\\n  SCALES: [600]\\nEXP_DIR: end2end  # where to")
    {'TRAIN': {'HAS_RPN': True, 'SCALES': [600]}, 'EXP_DIR': 'end2end'}

    Args:
        path: the file, for messages.

    Raises:
        FileError: what this reader does not know, or that makes no sense, with its line.
    """
    lines = _lines(text, path)
    if lines and lines[0].text == "---":
        lines = lines[1:]
    if not lines:
        return None
    value, rest = _block(lines, 0, path, 0)
    if rest < len(lines):
        raise lines[rest].error("is indented less than what it belongs to", path)
    return value


@dataclass(frozen=True)
class _Line:
    """A line without its comment. ``number`` counts from 1; brackets that stay open take in the lines that follow."""

    number: int
    indent: int
    text: str

    def error(self, problem: str, path: str | None) -> FileError:
        return FileError(f"{problem}: {self.text[:60]!r}", path=path, line=self.number)


def _lines(text: str, path: str | None) -> list[_Line]:
    """The lines that say something; what stands in brackets is one line."""
    found: list[_Line] = []
    open_brackets = 0
    for number, raw in enumerate(text.splitlines(), 1):
        bare, opened = _without_comment(raw)
        if open_brackets > 0 and found:
            last = found.pop()
            found.append(_Line(last.number, last.indent, f"{last.text} {bare.strip()}"))
        elif bare.strip():
            spaces = bare[: len(bare) - len(bare.lstrip())]
            line = _Line(number, len(spaces), bare.strip())
            if "\t" in spaces:
                raise line.error("is indented with a tab", path)
            found.append(line)
        else:
            continue
        open_brackets += opened
    if open_brackets > 0:
        raise found[-1].error("a bracket stays open", path)
    return found


def _without_comment(line: str) -> tuple[str, int]:
    """``line`` up to its comment, and how many more brackets open in it than close."""
    quote, opened = "", 0
    for i, char in enumerate(line):
        if quote:
            if char == quote and not (quote == '"' and _escaped(line, i)):
                quote = ""
        elif char in "'\"" and _begins_a_value(line[:i]):
            quote = char
        elif char == "#" and (i == 0 or line[i - 1] in " \t"):
            return line[:i].rstrip(), opened
        else:
            opened += (char in "{[(") - (char in "}])")
    return line.rstrip(), opened


def _begins_a_value(before: str) -> bool:
    """Whether a quotation mark behind ``before`` opens a text: in the middle of a word it is a part of it."""
    return not before.strip() or before[-1] in " \t{[(,:"


def _escaped(line: str, i: int) -> bool:
    before = line[:i]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def named_settings(found: Setting) -> dict[str, Setting] | None:
    """What was read, if it is a mapping and all its keys are texts."""
    if not isinstance(found, dict):
        return None
    named = {key: value for key, value in found.items() if isinstance(key, str)}
    return named if len(named) == len(found) else None


def _block(lines: list[_Line], start: int, path: str | None, depth: int) -> tuple[Setting, int]:
    """The mapping, list or single value that begins with line ``start``, and the line behind it."""
    first = lines[start]
    if depth > MAX_DEPTH:
        raise first.error(f"lies more than {MAX_DEPTH} levels deep", path)
    if first.text == "-" or first.text.startswith("- "):
        return _block_list(lines, start, path, depth)
    if _key_of(first, path) is not None:
        return _block_mapping(lines, start, path, depth)
    return _Inline(first, first.text, path).whole(), start + 1


def _block_list(lines: list[_Line], start: int, path: str | None, depth: int) -> tuple[list[Setting], int]:
    indent, values, i = lines[start].indent, [], start
    while i < len(lines) and lines[i].indent == indent and re.match(r"-( |$)", lines[i].text):
        value, i = _value(lines, i, lines[i].text[1:].strip(), path, depth)
        values.append(value)
    if i < len(lines) and lines[i].indent > indent:
        raise lines[i].error("is indented more than the list that it follows", path)
    return values, i


def _block_mapping(lines: list[_Line], start: int, path: str | None, depth: int) -> tuple[dict[Setting, Setting], int]:
    indent, i = lines[start].indent, start
    found: dict[Setting, Setting] = {}
    while i < len(lines) and lines[i].indent == indent:
        line = lines[i]
        key = _key_of(line, path)
        if key is None:
            raise line.error("is no 'key: value'", path)
        name, rest = key
        if name in found:
            raise line.error(f"says {name!r} a second time", path)
        found[name], i = _value(lines, i, rest, path, depth)
    if i < len(lines) and lines[i].indent > indent:
        raise lines[i].error("is indented more than what it follows", path)
    return found, i


def _value(lines: list[_Line], i: int, rest: str, path: str | None, depth: int) -> tuple[Setting, int]:
    """What stands behind a key or a dash of line ``i``, on it or indented below it, and the line behind that."""
    if rest:
        return _Inline(lines[i], rest, path).whole(), i + 1
    below = i + 1
    if below < len(lines):
        deeper = lines[below].indent > lines[i].indent
        listed = lines[below].indent == lines[i].indent and lines[below].text.startswith("- ")
        if deeper or (listed and not lines[i].text.startswith("-")):
            return _block(lines, below, path, depth + 1)
    return None, below


def _key_of(line: _Line, path: str | None) -> tuple[Setting, str] | None:
    """The key of ``key: value`` and the value's text; None if the line is something else."""
    if line.text[0] in "{[(":
        return None
    if line.text[0] in "'\"":
        reader = _Inline(line, line.text, path)
        key, rest = reader.quoted(), line.text[reader.at :].lstrip()
        return (key, rest[1:].strip()) if rest.startswith(":") else None
    matched = re.match(r"([^:]+):(\s+(.*))?$", line.text)
    return (_scalar(line, matched[1].strip(), path), (matched[3] or "").strip()) if matched else None


class _Inline:
    """What stands on one line: a number, a text, or brackets with values in them."""

    def __init__(self, line: _Line, text: str, path: str | None) -> None:
        self.line, self.text, self.path = line, text, path
        self.at = 0

    def whole(self) -> Setting:
        """The line's only value."""
        if self.text[0] not in "{[('\"!":
            return _scalar(self.line, self.text, self.path)
        value = self._value(0)
        self._skip()
        if self.at < len(self.text):
            raise self._error(f"{self.text[self.at :][:20]!r} stands behind a value")
        return value

    def quoted(self) -> str:
        """The text in quotation marks that begins here. In double ones, a backslash escapes as in JSON."""
        quote, start = self.text[self.at], self.at
        self.at += 1
        parts: list[str] = []
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == quote and self.text[self.at : self.at + 2] == "''":
                self.at += 1  # two of them stand for one
            elif char == quote:
                self.at += 1
                return "".join(parts) if quote == "'" else self._unescaped(self.text[start : self.at])
            elif char == "\\" and quote == '"':
                self.at += 1
            parts.append(char)
            self.at += 1
        raise self._error("a text does not end")

    def _unescaped(self, text: str) -> str:
        try:
            return str(json.loads(text, strict=False))
        except ValueError:
            raise self._error(f"{text[:40]} has an escape that is not known") from None

    def _value(self, depth: int) -> Setting:
        self._skip()
        if depth > MAX_DEPTH:
            raise self._error(f"lies more than {MAX_DEPTH} levels deep")
        char = self.text[self.at : self.at + 1]
        if char in ("'", '"'):
            return self.quoted()
        if char == "{":
            return self._mapping(depth)
        if char in ("[", "("):
            return self._sequence(depth)
        if self.text.startswith(_TUPLE, self.at):
            self.at += len(_TUPLE)
            self._skip()
            if self.text[self.at : self.at + 1] != "[":
                raise self._error(f"{_TUPLE} stands before a list in brackets only")
            return tuple(self._items(depth)[0])
        matched = re.compile(r"[^,:{}\[\]()]*(:[^\s,{}\[\]()][^,:{}\[\]()]*)*").match(self.text, self.at)
        word = matched[0] if matched else ""
        self.at += len(word)
        return _scalar(self.line, word.strip(), self.path)

    def _items(self, depth: int) -> tuple[list[Setting], int]:
        """What stands between two brackets, and how many commas."""
        closing = _CLOSING[self.text[self.at]]
        values: list[Setting] = []
        commas = 0
        self.at += 1
        while not self._closes(closing):
            values.append(self._value(depth + 1))
            commas += self._comma(closing)
        return values, commas

    def _sequence(self, depth: int) -> Setting:
        opening = self.text[self.at]
        values, commas = self._items(depth)
        if opening == "[":
            return values
        return values[0] if len(values) == 1 and not commas else tuple(values)

    def _mapping(self, depth: int) -> dict[Setting, Setting]:
        found: dict[Setting, Setting] = {}
        self.at += 1
        while not self._closes("}"):
            key = self._value(depth + 1)
            self._skip()
            if self.text[self.at : self.at + 1] != ":":
                raise self._error(f"{key!r} has no value in a mapping")
            self.at += 1
            if isinstance(key, dict | list | tuple):
                raise self._error(f"{key!r} cannot be a key")
            if key in found:
                raise self._error(f"says {key!r} twice")
            found[key] = self._value(depth + 1)
            self._comma("}")
        return found

    def _closes(self, bracket: str) -> bool:
        self._skip()
        if self.text[self.at : self.at + 1] != bracket:
            return False
        self.at += 1
        return True

    def _comma(self, bracket: str) -> bool:
        """Whether a comma follows; else the bracket has to."""
        self._skip()
        if self.text[self.at : self.at + 1] == ",":
            self.at += 1
            return True
        if self.text[self.at : self.at + 1] != bracket:
            raise self._error(f"a comma or {bracket} was expected at {self.text[self.at :][:20]!r}")
        return False

    def _skip(self) -> None:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1

    def _error(self, problem: str) -> FileError:
        return self.line.error(problem, self.path)


def _scalar(line: _Line, word: str, path: str | None) -> Setting:
    """A word without quotation marks."""
    if word in _WORDS:
        return _WORDS[word]
    if _WHOLE.fullmatch(word):
        if len(word) > _MOST_DIGITS:
            raise line.error(f"a number of {len(word)} digits; {_MOST_DIGITS} are the most that are read", path)
        return int(word.replace("_", ""))
    if re.fullmatch(r"[-+]?0[0-9]+", word):
        raise line.error(f"{word} is another number in YAML than elsewhere; quote it, or leave out its zeros", path)
    if _NUMBER.fullmatch(word):
        return float(word)
    if word.lower() in _INFINITE:
        return _INFINITE[word.lower()]
    if ": " in word or word.endswith(":"):
        raise line.error("a mapping was not expected here; give it lines of its own", path)
    if word[0] in "&*!|>%@`?":
        raise line.error(f"{word[0]!r} begins what is not read here", path)
    return word
