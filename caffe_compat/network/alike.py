"""Layers that are alike, which most layers of a deep network are: one of them is built, the others are its twins.

Two layers are alike if nothing that a builder looks at tells them apart: their types and parameters, the shapes of
their bottoms, and which of their blobs are the same one. What their blobs are called makes no difference, nor what they
are called themselves. Builders that do not ship might look at that, and some that do look at the net around the layer:
what they build has no twins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from enum import Enum
from types import BuiltinFunctionType, FunctionType
from typing import Any, TypeAlias

from torch import Tensor, nn

from ..schema.messages import LayerParameter
from ..schema.params import Params
from .registry import Layer, Shape

__all__ = ["Likeness", "Mould", "likeness_of"]

# Type, shapes of the bottoms, which blobs are the same one, how many tops are named, and the message without its names.
Likeness: TypeAlias = "tuple[str, tuple[Shape, ...], tuple[int, ...], int, bytes]"

# Values that nobody changes. (What a Params remembers is what was read of it, which is told once for all twins.)
_UNCHANGING = (bool, int, float, complex, str, bytes, type(None), Enum, type, BuiltinFunctionType, Params)
# What a net gives its layers: one for all of them.
_OF_THE_NET = ("randomness", "files")


def likeness_of(message: LayerParameter, shapes: Sequence[Shape], blobs: Sequence[str]) -> Likeness | None:
    """What a layer has in common with those that are alike; None for one that shares parameters by name.

    Args:
        shapes: of its bottoms. blobs: names of its bottoms, and then of its tops.
    """
    param = message.param
    if param and any(spec.name for spec in param):
        return None
    # Of each name, where it comes first; not list.index, which a layer of many tops waits for.
    first: dict[str, int] = {}
    same = tuple([first.setdefault(name, i) for i, name in enumerate(blobs)])
    bare = type(message)()
    bare.CopyFrom(message)
    for name in ("name", "bottom", "top"):
        bare.ClearField(name)
    return message.type, tuple(shapes), same, len(message.top), bare.SerializeToString()


class Mould:
    """What the twins of a module are made from. Whatever becomes of the module itself, they are as it is now.

    >>> class Gain(Layer):
    ...     def __init__(self, channels):
    ...         super().__init__()
    ...         self.blob("gain", (channels,))
    >>> gain = Gain(3)
    >>> twin = Mould(gain).twin()
    >>> twin.blob_names, twin.gain.shape, twin.gain is gain.gain
    (('gain',), torch.Size([3]), False)

    Raises:
        _Unique: see :meth:`of`.
    """

    def __init__(self, module: nn.Module) -> None:
        self._kind = type(module)
        self._same: dict[str, object] = {}
        self._made: list[tuple[str, Callable[[], object]]] = []
        for name, value in vars(module).items():
            if name in _OF_THE_NET or _is_unchanging(value):
                self._same[name] = value
            else:
                self._made.append((name, _maker(value)))

    @classmethod
    def of(cls, module: nn.Module) -> Mould | None:
        """The mould of a layer's module; None if it holds what cannot be made twice.

        That is, anything but values that nobody changes, tensors, other such modules, and collections of these.
        """
        try:
            return cls(module) if isinstance(module, Layer) else None
        except _Unique:
            return None

    def twin(self) -> nn.Module:
        """Another module like it, with tensors of its own."""
        made = self._kind.__new__(self._kind)
        own = vars(made)
        own.update(self._same)
        for name, make in self._made:
            own[name] = make()
        return made


class _Unique(Exception):
    """A value that might be changed, in a way that is not known here."""


def _is_unchanging(value: object) -> bool:
    """Whether two modules may hold this very object."""
    if isinstance(value, _UNCHANGING):
        return True
    if isinstance(value, FunctionType):
        return value.__closure__ is None  # else it may know the module
    if isinstance(value, (tuple, frozenset)):
        return all(map(_is_unchanging, value))
    settings = getattr(value, "__dataclass_params__", None)
    if settings is None or not settings.frozen:
        return False
    return all(_is_unchanging(getattr(value, field.name)) for field in fields(value))  # type: ignore[arg-type]


def _maker(value: object) -> Callable[[], object]:
    """What makes copies of a value that might be changed. Raises _Unique."""
    if _is_unchanging(value):
        return lambda: value
    if isinstance(value, Tensor):
        return _tensor_maker(value)
    if isinstance(value, nn.Module):
        return Mould(value).twin
    kind: Any = type(value)
    if isinstance(value, (list, set, dict)) and kind.__module__ in ("builtins", "collections"):
        if not value:
            return kind
        if isinstance(value, dict):
            makers = [(key, _maker(item)) for key, item in value.items()]
            return lambda: kind([(key, make()) for key, make in makers])
        items = [_maker(item) for item in value]
        return lambda: kind([make() for make in items])
    raise _Unique


def _tensor_maker(tensor: Tensor) -> Callable[[], Tensor]:
    if type(tensor) not in (Tensor, nn.Parameter) or not tensor.is_leaf:
        raise _Unique
    needs = tensor.requires_grad
    kept = tensor.detach() if tensor.is_meta else tensor.detach().clone()
    # Without memory there is nothing to share; asking for another tensor of the shape takes twice as long.
    another = kept.detach if tensor.is_meta else kept.clone
    if isinstance(tensor, nn.Parameter):
        return lambda: nn.Parameter(another(), needs)
    return lambda: another().requires_grad_(needs) if needs else another()
