"""Operations of torch -> nodes, for layers that are traced. One function for each, called like the operation.

Each gets an :class:`Operation` and the arguments of torch's own; what it returns is the name of the value, or a list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .graph import Site
from .sizes import Size, Sizes

__all__ = ["Axes", "Given", "Operation", "Traced", "Translate", "translate", "translates"]


@dataclass(frozen=True)
class Traced:
    """A value: its name, and the tensors that it was in two runs."""

    name: str
    tensor: Tensor
    other: Tensor

    @property
    def sizes(self) -> Sizes:
        """Its axes."""
        return tuple(a if a == b else Size(a, b) for a, b in zip(self.tensor.shape, self.other.shape, strict=True))

    @property
    def kind(self) -> np.dtype:
        """The type of its values in numpy."""
        return np.dtype(str(self.tensor.dtype).removeprefix("torch."))

    @property
    def rank(self) -> int:
        """The number of its axes."""
        return self.tensor.dim()


# An argument that may be a value of the graph, one of its sizes, or a number.
Given: TypeAlias = "Traced | Size | float"
# Axes, or numbers for each: one, several, or what the operation does without them.
Axes: TypeAlias = "int | Sequence[int] | None"
Kind: TypeAlias = "np.dtype | type"


@dataclass(frozen=True)
class Operation:
    """Where an operation is put, and what it makes."""

    site: Site
    made: Sequence[Traced]

    @property
    def top(self) -> Traced:
        """What it makes first."""
        return self.made[0]

    def op(self, type_: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; the name of what it makes."""
        return self.site.op(type_, *inputs, **attributes)

    def ints(self, values: ArrayLike) -> str:
        """A constant of whole numbers."""
        return self.site.ints(values)

    def constant(self, value: ArrayLike, kind: Kind) -> str:
        """A constant of ``kind``."""
        return self.site.graph.constant(np.asarray(value, kind))

    def given(self, x: Given, kind: Kind) -> str:
        """A value, or a number, as values of ``kind``."""
        if isinstance(x, Traced):
            return x.name if x.kind == kind else self.site.cast(x.name, kind)
        if isinstance(x, Size):
            found = self.op("Squeeze", self.site.size(x), self.ints([0]))
            return found if kind == np.int64 else self.site.cast(found, kind)
        return self.constant(x, kind)

    def axes(self, axes: Axes, rank: int) -> list[int]:
        """Axes counted from the start; all where none are named."""
        listed = [axes] if isinstance(axes, int) else list(axes or range(rank))
        return [axis % max(rank, 1) for axis in listed]


Translate = Callable[..., str | Sequence[str]]
_T = TypeVar("_T", bound=Translate)

_TABLE: dict[str, Translate] = {}


def translates(*names: str) -> Callable[[_T], _T]:
    """Register a translation for operations of these names."""

    def register(function: _T) -> _T:
        _TABLE.update(dict.fromkeys(names, function))
        return function

    return register


def translate(
    site: Site, name: str, made: Sequence[Traced], arguments: Sequence[object], keywords: dict[str, object]
) -> Sequence[str]:
    """Put an operation into the graph; the names of what it makes.

    Raises:
        LayerError: it has no translation.
    """
    function = _TABLE.get(name)
    if function is None:
        site.fail(f"has no form in ONNX here: it needs torch's {name}")
    found = function(Operation(site, made), *arguments, **keywords)
    return [found] if isinstance(found, str) else list(found)


def common_kind(*values: Given) -> np.dtype:
    """What torch computes in, given these values and numbers."""
    plain = [v.tensor if isinstance(v, Traced) else v.built if isinstance(v, Size) else v for v in values]
    found = torch.result_type(plain[0], plain[1])
    return np.dtype(str(found).removeprefix("torch."))
