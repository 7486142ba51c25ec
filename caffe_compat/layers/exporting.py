"""What ``torch.export`` cannot follow in Python: loops and refusals that depend on values.

A program that it makes runs with torch alone, so both have to be in it as operations.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import LayerError

__all__ = ["insist", "is_exporting", "repeated", "rows_or"]

State = tuple[Tensor, ...]


def is_exporting() -> bool:
    """Whether ``torch.export`` is tracing.

    >>> is_exporting()
    False
    """
    # Torch 2.6 has no name for that: there, tracing without dynamo is what exports.
    told = getattr(torch.compiler, "is_exporting", None)
    if told is not None:
        return bool(told())
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


def repeated(goes_on: Callable[..., Tensor], step: Callable[..., State], state: State) -> State:
    """``state``, taken on by ``step`` as long as ``goes_on``; both take its tensors one by one.

    >>> repeated(lambda x: x < 100, lambda x: (x * x,), (torch.tensor(3),))
    (tensor(6561),)
    """
    if is_exporting():
        if not hasattr(torch.compiler, "is_exporting"):
            raise NotImplementedError("torch 2.6 keeps no loops")
        from torch._higher_order_ops.while_loop import while_loop

        return tuple(while_loop(goes_on, step, state))
    while bool(goes_on(*state)):
        state = step(*state)
    return state


def insist(condition: Tensor, message: str, *, layer: str, type: str) -> None:
    """Refuse values.

    Raises:
        LayerError: ``condition`` does not hold. An exported program raises torch's own kind of error.
    """
    if is_exporting():
        torch._assert_async(condition, f"layer {layer!r} ({type}): {message}")
    elif not condition:
        raise LayerError(message, layer=layer, type=type)


def rows_or(rows: Tensor, instead: Tensor) -> Tensor:
    """``rows``, or ``instead`` if there are none.

    >>> rows_or(torch.zeros(0, 2), torch.ones(1, 2))
    tensor([[1., 1.]])
    """
    if not is_exporting():
        return rows if len(rows) else instead
    # Whether there are any is a value in a program, not a number of Python's.
    there = rows.new_ones(rows.shape[0], dtype=torch.bool)
    takes = torch.cat([there, (~there.any()).expand(instead.shape[0])])
    return torch.cat([rows, instead])[takes.nonzero()[:, 0]]
