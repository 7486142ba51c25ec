"""Mish, as synopsys-caffe has it."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ...network.registry import Layer, LayerSpec, layer
from ..gradients import with_slopes

__all__ = ["Mish"]


class Mish(Layer):
    """y = x tanh(log(1 + exp(x))), value by value.

    The fork takes its derivative at y instead of at x; ``gradients="true"`` takes it at x.
    """

    def __init__(self, gradients: str) -> None:
        super().__init__()
        self.gradients = gradients

    def forward(self, x: Tensor) -> Tensor:
        y = functional.mish(x)
        if self.gradients == "true":
            return y
        at = y.detach()
        soft = functional.softplus(at)
        steep = soft.tanh()
        return with_slopes(y, (x, at * (1 - steep.square()) * (1 - (-soft).exp()) + steep))


@layer("Mish", bottoms=1, tops=1, verified=False)
def mish(spec: LayerSpec) -> Layer:
    return Mish(spec.gradients)
