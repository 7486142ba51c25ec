"""Definitions of this library carried over into a file of plain PyTorch, with all that they need and nothing else.

A layer's maths is a class that knows nothing of Caffe's files, so its source can stand alone. What is carried is the
text as it stands in this package, comments included; what is refused is code that reads or writes files.
"""

from __future__ import annotations

import ast
import functools
import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from caffe_compat.errors import NetworkError

__all__ = ["WITHOUT_PLACE", "Carried", "Origin", "names_in", "origin_of"]

_PACKAGE = "caffe_compat"
# Of the library's own classes, what stands in their place.
_STAND_INS = {
    ("caffe_compat.network.registry", "Layer"): "Layer = nn.Module",
    ("caffe_compat.network.registry", "Shape"): "Shape = tuple[int, ...]",
}
_ERRORS = "caffe_compat.errors"
_ERROR = """class {name}(ValueError):
    \"\"\"What a layer cannot take.\"\"\"

    def __init__(self, message: str, *, layer: str = "", type: str = "") -> None:
        super().__init__(f"layer {{layer!r}}: {{message}}" if layer else message)"""
_STAND_INS_NEED = {"Layer": "from torch import nn"}
_REFUSED = {
    "outside_graphs": "touches files",
    "FileAccess": "touches files",
    "read_blob": "reads a file",
    "Params": "depends on the definition",
    "LayerSpec": "depends on the definition",
}
# What a net gives its layers, and a file of its own has not.
WITHOUT_PLACE = {"files": "touches files", "randomness": "draws at random"}
# What a file may import besides Python's own modules; numpy comes with torch.
_PACKAGES = {"torch", "numpy", *sys.stdlib_module_names}
# Functions that draw in training alone.
_ONLY_IN_TRAINING = ("_pool",)


@dataclass(frozen=True)
class Origin:
    """A module of this package as text: what each of its names is bound by.

    Attributes:
        lines: of the source. bound: name -> the top-level statement that binds it.
    """

    name: str
    lines: tuple[str, ...]
    bound: dict[str, ast.stmt]

    def text(self, node: ast.AST) -> str:
        """The lines of a statement, with its decorators and the comments right above it."""
        assert isinstance(node, ast.stmt)
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
        while first and self.lines[first - 1].lstrip().startswith("#"):
            first -= 1
        return "\n".join(self.lines[first : node.end_lineno])


@functools.cache
def origin_of(module: str) -> Origin:
    """The source of a module of this package."""
    importlib.import_module(module)
    file = sys.modules[module].__file__
    assert file is not None
    text = Path(file).read_text(encoding="utf-8")
    bound: dict[str, ast.stmt] = {}
    for node in ast.parse(text).body:
        bound.update(dict.fromkeys(_bound_by(node), node))
    return Origin(module, tuple(text.splitlines()), bound)


def _bound_by(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.partition(".")[0] for alias in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]


def names_in(node: ast.AST) -> list[str]:
    """The names that some code takes from around it, each once, in order."""
    return list(dict.fromkeys(_free_names(node, frozenset())))


def _free_names(node: ast.AST, own: frozenset[str]) -> Iterator[str]:
    if isinstance(node, ast.Name):
        if node.id not in own and isinstance(node.ctx, ast.Load):
            yield node.id
        return
    if isinstance(node, ast.FunctionDef):
        # Annotations, defaults and decorators are read outside of it.
        for outside in (*node.decorator_list, node.returns, *_of_arguments(node.args)):
            if outside is not None:
                yield from _free_names(outside, own)
        within = [n for statement in node.body for n in ast.walk(statement)]
        own |= {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)}
        own |= {n.id for n in within if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        for statement in node.body:
            yield from _free_names(statement, own)
        return
    for child in ast.iter_child_nodes(node):
        yield from _free_names(child, own)


def _of_arguments(arguments: ast.arguments) -> list[ast.expr | None]:
    return [
        *arguments.defaults,
        *arguments.kw_defaults,
        *(a.annotation for a in ast.walk(arguments) if isinstance(a, ast.arg)),
    ]


@dataclass
class Carried:
    """Definitions gathered for one file, each after those that it needs.

    Attributes:
        imports: lines, each of which imports one name. definitions: name -> source.
    """

    imports: dict[str, None] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)
    _homes: dict[str, str] = field(default_factory=dict)

    def add(self, module: str, name: str) -> None:
        """Carry what ``name`` is in ``module``, and all that it needs; nothing if it is no global of it.

        Raises:
            NetworkError: it does something that has no place in a file of its own, or two definitions share a name.
        """
        if name in _REFUSED:
            raise NetworkError(f"its code {_REFUSED[name]}")
        node = origin_of(module).bound.get(name)
        if node is None:
            return
        if isinstance(node, ast.Import):
            alias = next(a for a in node.names if (a.asname or a.name.partition(".")[0]) == name)
            _check_package(alias.name)
            self.imports[f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")] = None
        elif isinstance(node, ast.ImportFrom):
            self._follow(module, node, name)
        elif self.claim(module, name):
            if (module, name) in _STAND_INS:
                if name in _STAND_INS_NEED:
                    self.imports[_STAND_INS_NEED[name]] = None
                self.definitions[name] = _STAND_INS[module, name]
                return
            if module == _ERRORS and isinstance(node, ast.ClassDef):
                self.definitions[name] = _ERROR.format(name=name)
                return
            for attribute in (n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)):
                if attribute in WITHOUT_PLACE and name not in _ONLY_IN_TRAINING:
                    raise NetworkError(f"it {WITHOUT_PLACE[attribute]}")
            for package in _imported_within(node):
                _check_package(package)
            for needed in names_in(node):
                if needed != name:
                    self.add(module, needed)
            self.definitions[name] = origin_of(module).text(node)

    def claim(self, module: str, name: str) -> bool:
        """Whether ``name`` of ``module`` is new; from now on the name is its.

        Raises:
            NetworkError: another module's definition has that name.
        """
        if name in self._homes:
            there = origin_of(self._homes[name])
            here = origin_of(module)
            if there is not here and there.text(there.bound[name]) != here.text(here.bound[name]):
                raise NetworkError(f"its code and that of another layer both call something {name}")
            return False
        self._homes[name] = module
        return True

    def _follow(self, module: str, node: ast.ImportFrom, name: str) -> None:
        alias = next(a for a in node.names if (a.asname or a.name) == name)
        package = module.rpartition(".")[0].split(".")
        base = package[: len(package) - node.level + 1] if node.level else []
        source = ".".join([*base, *([node.module] if node.module else [])])
        if source.partition(".")[0] != _PACKAGE:
            _check_package(source)
            self.imports[f"from {source} import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")] = None
            return
        if alias.asname:
            raise NetworkError(f"its code calls {alias.name} by another name")
        self.add(_home(source, alias.name), alias.name)


def _imported_within(node: ast.AST) -> Iterator[str]:
    """Modules that code imports when it runs; an empty name for one of this package."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Import):
            yield from (alias.name for alias in inner.names)
        elif isinstance(inner, ast.ImportFrom):
            yield "" if inner.level else inner.module or ""


def _check_package(module: str) -> None:
    """Raises NetworkError for what a file of plain PyTorch cannot expect to be there."""
    package = module.partition(".")[0]
    if package not in _PACKAGES:
        raise NetworkError(f"its code needs {package or _PACKAGE}")


def _home(module: str, name: str) -> str:
    """The module that defines what ``module`` has under ``name``, by following imports."""
    node = origin_of(module).bound.get(name)
    if isinstance(node, ast.ImportFrom) and node.level:
        package = module.rpartition(".")[0].split(".")
        return _home(".".join([*package[: len(package) - node.level + 1], node.module or ""]), name)
    return module
