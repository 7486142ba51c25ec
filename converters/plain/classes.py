"""A layer's own class, carried into the file as one plain ``nn.Module``.

Its methods are those of the library, word for word; its constructor is made of what the layer at hand is set to.
"""

from __future__ import annotations

import ast
import enum
import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from types import BuiltinFunctionType, FunctionType

import torch
from torch import Tensor, nn

from caffe_compat.errors import NetworkError
from caffe_compat.network.registry import Layer

from .carried import WITHOUT_PLACE, Carried, names_in, origin_of
from .code import Call, Code, collection, named
from .names import quoted

__all__ = ["Classes", "literal"]

# What torch and the library keep in every module, which a file of its own has or does not need.
_OF_EVERY_MODULE = frozenset(vars(Layer())) | {"training"}
# A tensor that is no blob and holds more is not written as numbers.
_MOST_VALUES = 64


def literal(value: object, carried: Carried) -> Code:
    """``value`` as source; classes and functions of the library that it names are carried along.

    Raises:
        NetworkError: there is no way to write it.
    """
    if isinstance(value, enum.Enum) or is_dataclass(value) or isinstance(value, FunctionType):
        return _of_the_library(value, carried)
    if isinstance(value, functools.partial):
        carried.imports["import functools"] = None
        settings = [named(name, literal(v, carried)) for name, v in value.keywords.items()]
        return Call("functools.partial", [*(literal(v, carried) for v in (value.func, *value.args)), *settings])
    if isinstance(value, BuiltinFunctionType):
        name = value.__name__
        if getattr(torch, name, None) is value:
            carried.imports["import torch"] = None
            return f"torch.{name}"
    if isinstance(value, bool | int | torch.dtype | None):
        return repr(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return repr(value)
        carried.imports["import math"] = None
        return "math.nan" if math.isnan(value) else "math.inf" if value > 0 else "-math.inf"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, tuple | list):
        return collection([literal(v, carried) for v in value], "()" if isinstance(value, tuple) else "[]")
    if isinstance(value, Tensor) and value.numel() <= _MOST_VALUES and not value.is_meta:
        carried.imports["import torch"] = None
        return Call("torch.tensor", [literal(value.tolist(), carried), f"dtype={value.dtype}"])
    raise NetworkError(f"its setting {type(value).__name__} cannot be written as source")


def _of_the_library(value: object, carried: Carried) -> Code:
    kind: FunctionType | type = value if isinstance(value, FunctionType) else type(value)
    name = kind.__qualname__
    if not name.isidentifier():
        raise NetworkError(f"its setting {name} is no function that stands alone")
    if kind.__module__.partition(".")[0] == "torch":
        carried.imports[f"from {kind.__module__} import {name}"] = None
    else:
        carried.add(kind.__module__, name)
    if isinstance(value, FunctionType):
        return name
    if isinstance(value, enum.Enum):
        return f"{name}.{value.name}"
    assert is_dataclass(value)
    return Call(name, [named(f.name, literal(getattr(value, f.name), carried)) for f in fields(value) if f.init])


@dataclass(frozen=True)
class _Member:
    """A method or a class attribute of a layer: where it stands, and what it is called when it is carried.

    Attributes:
        above: what is called in place of the method of the same name that ``super()`` finds.
    """

    module: str
    node: ast.stmt
    name: str
    above: str = ""

    @property
    def calls_above(self) -> bool:
        """Whether it calls what it overrides, and has not been told yet where that is."""
        return (
            not self.above
            and self.name != "__init__"
            and f"super().{self.name}(" in origin_of(self.module).text(self.node)
        )

    def text(self) -> str:
        """Its source."""
        text = origin_of(self.module).text(self.node)
        if not isinstance(self.node, ast.FunctionDef):
            return text
        text = text.replace(f"def {self.node.name}(", f"def {self.name}(", 1)
        return text.replace(f"super().{self.node.name}(", f"self.{self.above}(") if self.above else text


@functools.cache
def _members(kind: type) -> Mapping[str, _Member]:
    """What the class and those above it, up to Layer, define: the nearest definition of each name.

    A method that a nearer one calls by ``super()`` is there too, as ``<method>_of_<class>``.
    """
    found: dict[str, _Member] = {}
    last: dict[str, str] = {}  # name -> what the furthest definition of it is called
    for cls in kind.__mro__[: kind.__mro__.index(Layer)]:
        node = origin_of(cls.__module__).bound.get(cls.__name__)
        if not isinstance(node, ast.ClassDef):
            raise NetworkError("its class does not stand by itself in its file")
        for statement in node.body:
            for name in _names_of(statement):
                if name not in last:
                    found[name] = _Member(cls.__module__, statement, name)
                    last[name] = name
                elif found[last[name]].calls_above:
                    above = f"{name}_of_{_small(cls)}"
                    found[last[name]] = replace(found[last[name]], above=above)
                    found[above] = _Member(cls.__module__, statement, above)
                    last[name] = above
    return found


def _small(kind: type) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).lower()


def _names_of(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef):
        return [statement.name]
    if isinstance(statement, ast.Assign):
        return [t.id for t in statement.targets if isinstance(t, ast.Name)]
    if isinstance(statement, ast.AnnAssign) and statement.value is not None and isinstance(statement.target, ast.Name):
        return [statement.target.id]
    return []


class Classes:
    """The classes of layers that one file carries; :meth:`finish` writes them when all their layers are known."""

    def __init__(self, carried: Carried) -> None:
        self._carried = carried
        self._made: dict[type, list[Layer]] = {}

    def add(self, module: nn.Module) -> Call:
        """Carry the class of ``module``; the call that makes one like it.

        Raises:
            NetworkError: it is no layer of this library, or does something that has no place in plain PyTorch.
        """
        kind: type = type(module)
        if not isinstance(module, Layer) or kind.__module__.partition(".")[0] != "caffe_compat":
            raise NetworkError("its code is not of this library")
        if any(True for _ in module.children()):
            raise NetworkError("it is made of other modules")
        carried, members, used = self._carried, _members(kind), _used(kind)
        settings = _settings(module)
        arguments: list[Code] = [named(name, literal(value, carried)) for name, value in settings.items()]
        arguments += [f"{name}_shape={_shape(tensor)}" for name, tensor in _tensors(module).items()]
        if carried.claim(kind.__module__, kind.__name__):
            for member in (members[name] for name in members if name in used):
                for name in names_in(member.node):
                    carried.add(member.module, name)
            for needed in ("from torch import nn", *(["import torch"] if _tensors(module) else [])):
                carried.imports[needed] = None
            carried.definitions[kind.__name__] = ""  # its place, behind what it needs
        self._made.setdefault(kind, []).append(module)
        return Call(kind.__name__, arguments)

    def has_state(self, module: nn.Module) -> bool:
        """Whether a carried module has something from earlier calls to forget."""
        kind: type = type(module)
        return "reset_state" in _members(kind)

    def finish(self) -> None:
        """Write the classes."""
        for kind, modules in self._made.items():
            self._carried.definitions[kind.__name__] = _class_source(kind, modules)


def _settings(module: Layer) -> dict[str, object]:
    """The attributes that the layer's forward reads, blobs aside."""
    kind: type = type(module)
    used = _used(kind)
    found = {name: value for name, value in vars(module).items() if name in used and name not in _OF_EVERY_MODULE}
    return {**found, "layer_name": module.layer_name} if "layer_name" in used else found


def _tensors(module: nn.Module) -> dict[str, Tensor | None]:
    """Blobs and state; None for blobs that layers of this type may have and this one has not."""
    return {**module._parameters, **module._buffers}


def _shape(tensor: Tensor | None) -> str:
    return repr(None if tensor is None else tuple(tensor.shape))


@functools.cache
def _used(kind: type) -> Mapping[str, None]:
    """The attributes that ``forward`` reaches, the methods it calls included, in the order of the class."""
    members = _members(kind)
    reached: dict[str, None] = {}
    waiting = ["forward", *(["reset_state"] if "reset_state" in members else [])]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        if name in WITHOUT_PLACE:
            raise NetworkError(f"it {WITHOUT_PLACE[name]}")
        reached[name] = None
        if name in members:
            text = members[name].text()
            if "super()" in text:
                raise NetworkError("its class builds on another in a way that cannot be flattened")
            waiting += re.findall(r"\bself\.(\w+)", text)
            if _hands_itself_on(members[name].node):  # to a check, which names the layer in its error
                waiting.append("layer_name")
    return reached


def _hands_itself_on(node: ast.stmt) -> bool:
    """Whether a method passes its ``self`` to something."""
    inner = list(ast.walk(node))
    read = sum(isinstance(n, ast.Name) and n.id == "self" for n in inner)
    return read > sum(
        isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "self" for n in inner
    )


def _class_source(kind: type, modules: Sequence[Layer]) -> str:
    members, used = _members(kind), _used(kind)
    lines = [f"class {kind.__name__}(nn.Module):"]
    node = origin_of(kind.__module__).bound[kind.__name__]
    assert isinstance(node, ast.ClassDef)
    if ast.get_docstring(node) is not None:
        statement = node.body[0]
        lines += [*origin_of(kind.__module__).lines[statement.lineno - 1 : statement.end_lineno], ""]
    found = [members[name] for name in members if name in used]
    for member in found:
        if not isinstance(member.node, ast.FunctionDef):
            lines += [member.text(), ""]
    kinds = {
        name: "nn.Parameter" if name in modules[0]._parameters else "torch.Tensor" for name in _tensors(modules[0])
    }
    if kinds:
        lines += [*(f"    {name}: {of}{_optional(name, modules)}" for name, of in kinds.items()), ""]
    if kinds or _settings(modules[0]):
        lines += [*_constructor(modules), ""]
    for member in found:
        if isinstance(member.node, ast.FunctionDef):
            lines += [member.text(), ""]
    return "\n".join(lines).rstrip()


def _optional(name: str, modules: Sequence[Layer]) -> str:
    return " | None" if any(_tensors(module)[name] is None for module in modules) else ""


def _constructor(modules: Sequence[Layer]) -> list[str]:
    settings = [_settings(module) for module in modules]
    arguments = [f"{name}: {_annotation([found[name] for found in settings])}" for name in settings[0]]
    body = ["super().__init__()", *(f"self.{name} = {name}" for name in settings[0])]
    for name in _tensors(modules[0]):
        optional = _optional(name, modules)
        arguments.append(f"{name}_shape: tuple[int, ...]{optional}")
        unless = f"None if {name}_shape is None else " if optional else ""
        if name in modules[0]._parameters:
            made = f"{unless}nn.Parameter(torch.empty({name}_shape))"
            body.append(f'self.register_parameter("{name}", {made})' if optional else f"self.{name} = {made}")
        else:
            passing = ", persistent=False" if name in modules[0]._non_persistent_buffers_set else ""
            body.append(f'self.register_buffer("{name}", {unless}torch.zeros({name}_shape){passing})')
    head = Call("def __init__", ["self", *arguments])
    return [*head.lines("    ", "", " -> None:"), *(f"        {line}" for line in body)]


def _annotation(values: Sequence[object]) -> str:
    return " | ".join(sorted({_kind(value) for value in values}, key=lambda kind: (kind == "None", kind)))


def _kind(value: object) -> str:
    if value is None:
        return "None"
    if isinstance(value, tuple):
        kinds = {_kind(v) for v in value}
        return f"tuple[{kinds.pop()}, ...]" if len(kinds) == 1 else "tuple"
    return "object" if callable(value) else type(value).__name__
