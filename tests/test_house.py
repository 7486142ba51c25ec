"""The size of things: a file holds one idea, a function can be read at once."""

from __future__ import annotations

import ast
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


def long_functions(text: str) -> Iterator[tuple[str, int]]:
    """Functions that are too long, with their lines; the options declared above a command are no part of it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield node.name, lines


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_LINES
    assert list(long_functions(text)) == []


def test_a_planted_function_is_seen() -> None:
    body = "    pass\n" * FUNCTION_LINES
    assert list(
        long_functions(f"class A:\n    @b\n    async def f():\n{body}".replace("    pass", "        pass"))
    ) == [("f", FUNCTION_LINES + 1)]
    assert not list(long_functions(f"@b\ndef f():\n{body[:-9]}"))
