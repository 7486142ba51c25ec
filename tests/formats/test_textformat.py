"""Fields that are read in one piece are what they are read as token by token."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format

from caffe_compat.errors import PrototxtError
from caffe_compat.formats import textformat
from caffe_compat.formats.textformat import Field, parse_text
from caffe_compat.schema import load_schema

ROOT = Path(__file__).parents[2]
FILES = sorted((*(ROOT / "reference_outputs").rglob("*.prototxt"), *(ROOT / "tests" / "hostile").glob("*.prototxt")))


def outcome(text: str) -> tuple[list[Field] | str, list[str]]:
    """The tree with all places, or the error with its line and column; and the warnings."""
    try:
        tree = parse_text(text)
    except PrototxtError as error:
        return str(error), []
    return tree.fields, tree.warnings


@pytest.mark.parametrize(
    "text",
    [
        "a: 1 b: c d: 'e' f: \"g\"",
        "a: 1, b: 2; c: 3;; d: 4",
        "a:1b:2",
        "a: 1.5e-3x b: .5 c: -1 d: - 2 e: 0x1F f: 1e+5",
        "a: 'x' 'y' b: 1",
        "a: 'x'\n# a comment\n\"y\" b: 'z'",
        "a: 'x' b: 'y' 'z'",
        "a: 'é' b: 'x\\x41' c: 'x\\q'",
        "a: 'it\"s' b: \"it's\"",
        "a: # a comment\n 1 b # another\n: 2",
        "a { b: 1 c: 2 } d: [1, 2, e] f: 3",
        "a: $NAME b: c.d",
        "a: 1 b: 'x",
        "a: 1 b: c: 2",
        "a: 1 'x'",
        "a: 1 }",
        "a: 1 b",
        "a: 1 b:",
        "a: 1 : 2",
        "\ufeffa: 1\u00a0b: 2",
    ],
)
def test_plain_fields(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = outcome(text)
    monkeypatch.setattr(textformat._Parser, "plain_fields", lambda self, *state: None)
    assert found == outcome(text)


def test_plain_fields_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [path.read_text("utf-8", "surrogateescape") for path in FILES]
    assert len(texts) > 20
    found = [outcome(text) for text in texts]
    monkeypatch.setattr(textformat._Parser, "plain_fields", lambda self, *state: None)
    assert found == [outcome(text) for text in texts]


@pytest.mark.parametrize(
    "written",
    [r'"\x4" "1"', r'"\1" "01"', r'"\xc3" "\xa9"', r"""'\x4' "1" '2'""", r'"a\\" "n"', r'"\x41" "B"', r'"é" "\x41"'],
)
def test_adjacent_strings_are_what_protobuf_reads(written: str) -> None:
    message = load_schema().message("NetParameter")()
    text_format.Parse(f"name: {written}", message)
    assert parse_text(f"name: {written}").fields[0].value.text == message.name


def test_an_escape_ends_with_its_string() -> None:
    """As ``x`` without digits is none, whatever the next string begins with."""
    tree = parse_text(r'name: "\x" "41"')
    assert tree.fields[0].value.text == r"\x41"
    assert tree.warnings == [r"line 1: Caffe refuses \x in a string; both characters are kept"]
