"""Builders ask for shapes in one vocabulary, and in one wording of the error: none counts axes by hand."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from caffe_compat import layers

ROOT = Path(layers.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
# What only LayerSpec says of a bottom.
WORDINGS = ("has shape", "have shape", "has shapes", "bottoms of ")


def checks_by_hand(text: str) -> Iterator[str]:
    """The comparisons and words with which a builder tells that a bottom does not fit, other than the vocabulary's."""
    for function in ast.walk(ast.parse(text)):
        if isinstance(function, ast.FunctionDef) and any(arg.arg == "spec" for arg in function.args.args):
            shapes = _shape_names(function)
            for node in ast.walk(function):
                if (isinstance(node, ast.Compare) and _counts_axes(node, shapes)) or (
                    isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not) and _is_shape(node.operand, shapes)
                ):
                    yield ast.unparse(node)
                elif isinstance(node, ast.Call) and ast.unparse(node.func) == "spec.fail":
                    told = ast.unparse(node)
                    yield from (words for words in WORDINGS if words in told)


def _shape_names(function: ast.FunctionDef) -> set[str]:
    """The names that stand for shapes of bottoms: ``spec.bottom_shapes``, or what is taken out of it."""
    names: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            names |= _shapes_among(node.targets[0], node.value, names)
        elif isinstance(node, ast.For | ast.comprehension):
            names |= _shapes_among(node.target, node.iter, names)
    return names


def _shapes_among(target: ast.expr, source: ast.expr, names: set[str]) -> set[str]:
    """The names that an assignment, or a loop, gives shapes to; ``a, b = x, y`` is one assignment for each."""
    if isinstance(target, ast.Tuple) and isinstance(source, ast.Tuple) and len(target.elts) == len(source.elts):
        pairs = zip(target.elts, source.elts, strict=True)
        return {name for part, value in pairs for name in _shapes_among(part, value, names)}
    taken = isinstance(source, ast.Subscript) and isinstance(source.value, ast.Name) and source.value.id in names
    if "bottom_shapes" in ast.unparse(source) or taken:
        return {part.id for part in ast.walk(target) if isinstance(part, ast.Name)}
    return set()


def _is_shape(node: ast.AST, names: set[str]) -> bool:
    return "bottom_shapes" in ast.unparse(node) or (isinstance(node, ast.Name) and node.id in names)


def _counts_axes(node: ast.Compare, names: set[str]) -> bool:
    sides = [node.left, *node.comparators]
    lengths = [side for side in sides if isinstance(side, ast.Call) and ast.unparse(side.func) == "len"]
    numbers = [side for side in sides if all(isinstance(part, int) for part in _constants(side))]
    return bool(numbers) and any(_is_shape(part, names) for side in lengths for part in side.args)


def _constants(node: ast.AST) -> list[object]:
    """The values of a constant or of a tuple of constants; ``[None]`` for anything else."""
    if isinstance(node, ast.Tuple):
        return [value for element in node.elts for value in _constants(element)]
    return [node.value] if isinstance(node, ast.Constant) else [None]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_builder_checks_axes_by_hand(path: Path) -> None:
    assert list(checks_by_hand(path.read_text())) == []


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("if len(spec.bottom_shapes[0]) != 4: pass", "len(spec.bottom_shapes[0]) != 4"),
        ("shape = spec.bottom_shapes[0]\n    if len(shape) < 2 or shape[1] > 3: pass", "len(shape) < 2"),
        ("a, (b, *c) = 1, spec.bottom_shapes\n    return len(b) not in (2, 3)", "len(b) not in (2, 3)"),
        ("for name, s in zip(spec.bottoms, spec.bottom_shapes): 1 <= len(s) <= 4", "1 <= len(s) <= 4"),
        ("a = spec.bottom_shapes\n    b = a[1]\n    if not b: pass", "not b"),
        ("spec.fail(f'bottom {1} has shape {[]}; another was expected')", "has shape"),
    ],
)
def test_a_planted_check_is_seen(body: str, found: str) -> None:
    assert found in list(checks_by_hand(f"def build(spec):\n    {body}\n"))


def test_other_counts_are_not_meant() -> None:
    test = "len(spec.bottoms) == 2 or len(pads) != 1 or len(a) < len(spec.bottom_shapes[0])"
    assert not list(checks_by_hand(f"def build(spec):\n    if {test}: pass\n"))
