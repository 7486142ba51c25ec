"""The size of things: a file holds one idea, a function can be read at once, and types say what a value is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import caffe_compat

ROOT = Path(caffe_compat.__file__).parent.parent
SOURCES = [
    path
    for package in ("caffe_compat", "converters", "hpm")
    for path in sorted((ROOT / package).rglob("*.py"))
    if "resources" not in path.parts
]
FILE_LINES, FUNCTION_LINES = 500, 80
ANY_PER_THOUSAND_LINES = 6


def long_functions(text: str) -> Iterator[tuple[str, int]]:
    """Functions that are too long, with their lines; the options declared above a command count."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            lines = node.end_lineno - first + 1
            if lines > FUNCTION_LINES:
                yield node.name, lines


def test_files_and_functions_are_short() -> None:
    for path in SOURCES:
        text = path.read_text()
        assert len(text.splitlines()) <= FILE_LINES, path
        assert list(long_functions(text)) == [], path


def test_a_planted_function_is_seen() -> None:
    body = "    pass\n" * FUNCTION_LINES
    assert list(
        long_functions(f"class A:\n    @b\n    async def f():\n{body}".replace("    pass", "        pass"))
    ) == [("f", FUNCTION_LINES + 2)]
    assert not list(long_functions(f"@b\ndef f():\n{body[:-18]}"))


def anys(text: str) -> int:
    """How often a text leaves a type open: every ``Any``, however it is imported."""
    if "Any" not in text:
        return 0
    nodes = list(ast.walk(ast.parse(text)))
    imports = [alias for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names]
    own = {alias.asname or "Any" for alias in imports if alias.name == "Any"}
    quoted = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    types = [text for text in quoted if re.fullmatch(r"[\w.\[\]|, ]+", text)]
    aliased = sum(len(re.findall(r"(?<!\w)Any(?=[\]|, ])", text)) for text in types)
    named = sum(isinstance(node, ast.Name) and node.id in own for node in nodes)
    return named + aliased + sum(isinstance(node, ast.Attribute) and node.attr == "Any" for node in nodes)


def test_few_types_are_left_open() -> None:
    texts = [path.read_text() for path in SOURCES]
    lines = sum(len(text.splitlines()) for text in texts)
    assert sum(map(anys, texts)) < lines * ANY_PER_THOUSAND_LINES / 1000


@pytest.mark.parametrize(
    "line",
    [
        "from typing import Any\nx: Any",
        "from typing import Any as A\nx: A",
        "import typing\nx: dict[str, typing.Any]",
        'from typing import Any\nX = "dict[str, Any]"',
    ],
)
def test_a_planted_any_is_seen(line: str) -> None:
    assert anys(line) == 1
