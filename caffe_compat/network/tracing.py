"""What torch.export is told while it traces a net: which layer it is that lets a dimension be no other than it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import LayerError

__all__ = ["Watch"]


@dataclass(frozen=True)
class _Dimension:
    """A dimension of an input that somebody asked to be dynamic."""

    name: str
    axis: int
    size: Any


class Watch:
    """The dimensions of some inputs that ``torch.export``, which is tracing, was asked to keep dynamic."""

    def __init__(self, inputs: Mapping[str, Tensor]) -> None:
        self._dynamic = [_Dimension(name, axis, x.shape[axis]) for name, x in inputs.items() for axis in _asked(x)]

    def check(self, layer: str, type: str) -> None:
        """After this layer: refuse if it made one of the dimensions a number.

        Raises:
            LayerError: torch would say which dimension it is, but not why.
        """
        for dimension in self._dynamic:
            fixed = _number(dimension.size)
            if fixed is not None:
                raise LayerError(
                    f"works only where axis {dimension.axis} of input {dimension.name!r} is {fixed}, which was asked "
                    "to be dynamic",
                    layer=layer,
                    type=type,
                )


def _asked(x: Tensor) -> list[int]:
    """The axes of ``x`` that have to stay dynamic; torch may fix those whose dynamism it was told to find out itself.

    How torch remembers that is not documented, so where it is not found, all symbolic axes are taken.
    """
    symbolic = [axis for axis, size in enumerate(x.shape) if isinstance(size, torch.SymInt) and _number(size) is None]
    if not symbolic:
        return []
    first: Any = x.shape[symbolic[0]]
    for entry in getattr(first.node.shape_env, "tracked_fakes", None) or ():
        if entry.fake is x:
            constraints = getattr(entry.symbolic_context, "constraint_sizes", None)
            if constraints is not None:
                return [axis for axis in symbolic if constraints[axis] is not None]
    return symbolic


def _number(size: Any) -> int | None:
    """The value of a symbolic size that can have no other one."""
    found = size.node.maybe_as_int()
    return None if found is None else int(found)
