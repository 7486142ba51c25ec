"""What a layer becomes in plain PyTorch: torch's own module or function where one gives the same bits, else its class.

    @written(AbsVal)
    def abs_val(at: Place, module: AbsVal) -> Written:
        return Written(f"{at.x}.abs()")

A writer returns None where torch has nothing that is the same for every input; then the layer's class is carried.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

from caffe_compat.network.registry import Shape

from .carried import Carried
from .code import Call, Code

__all__ = ["Place", "Written", "find_writer", "short", "written"]


@dataclass(frozen=True)
class Place:
    """Where a layer stands in the file.

    Attributes:
        attribute: what ``self`` calls it. bottoms: the variables that it reads. shapes: of its bottoms, as the net was
            built. tops: how many values it gives. carried: definitions that the file needs.
    """

    attribute: str
    bottoms: Sequence[str]
    shapes: Sequence[Shape]
    tops: int
    carried: Carried

    @property
    def x(self) -> str:
        """The variable of the only bottom, or the first."""
        return self.bottoms[0]

    @property
    def me(self) -> str:
        """The layer itself."""
        return f"self.{self.attribute}"

    def call(self) -> Call:
        """The layer applied to its bottoms."""
        return Call(self.me, self.bottoms)

    def function(self, of: Callable[..., object]) -> str:
        """The name of a function of this package, which is carried."""
        self.carried.add(of.__module__, of.__name__)
        return of.__name__


@dataclass(frozen=True)
class Written:
    """A layer as source.

    Attributes:
        value: what its tops are, in ``forward``; of several tops, a tuple. Empty for a layer without tops.
        member: what makes it in ``__init__``; None for one that is nothing but an expression.
        tensors: its weights, by their names in the member. note: how Caffe differs from what one is used to.
        stateful: whether the member has a ``reset_state``.
    """

    value: Code
    member: Call | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    note: str = ""
    stateful: bool = False


M = TypeVar("M", bound=nn.Module)
Writer = Callable[[Place, Any], "Written | None"]

_WRITERS: dict[type, Writer] = {}


def written(kind: type[M]) -> Callable[[Callable[[Place, M], Written | None]], Callable[[Place, M], Written | None]]:
    """Register what writes layers of exactly this class.

    Raises:
        ValueError: the class is taken.
    """

    def register(writer: Callable[[Place, M], Written | None]) -> Callable[[Place, M], Written | None]:
        if kind in _WRITERS:
            raise ValueError(f"{kind.__name__} is registered twice")
        _WRITERS[kind] = writer
        return writer

    return register


def find_writer(kind: type) -> Writer | None:
    """What writes layers of this class; None if nothing does."""
    if not _WRITERS:
        from . import writers

        for found in pkgutil.iter_modules(writers.__path__, f"{writers.__name__}."):
            importlib.import_module(found.name)
    return _WRITERS.get(kind)


def short(value: float) -> str:
    """The shortest decimal for a number that goes into single precision as it is: files say 0.1, and mean that.

    >>> short(0.10000000149011612), short(2.0), short(9.999999747378752e-05)
    ('0.1', '2.0', '0.0001')
    """
    text = repr(float(str(np.float32(value))))
    return text if np.float32(float(text)) == np.float32(value) else repr(value)
