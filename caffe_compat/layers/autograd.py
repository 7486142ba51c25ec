"""What PyTorch hands to a ``torch.autograd.Function`` in both directions, as far as the layers use it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

__all__ = ["Context"]


class Context(Protocol):
    """A function's own memory between forward and backward. What more a function keeps, its own protocol names."""

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...
    @property
    def needs_input_grad(self) -> tuple[bool, ...]: ...
    def save_for_backward(self, *tensors: Tensor) -> None: ...
