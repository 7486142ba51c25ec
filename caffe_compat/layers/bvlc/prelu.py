"""PReLU: a ReLU whose slope for negative values is learned."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from .scale import filler_or_constant

__all__ = ["PReLU"]


class PReLU(Layer):
    """max(x, 0) + slope * min(x, 0), with one slope per channel (axis 1), or a single one of shape ()."""

    slope: nn.Parameter

    def __init__(self, shape: tuple[int, ...], filler: Params) -> None:
        super().__init__()
        self.blob("slope", shape, filler)

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.slope)


@layer("PReLU", bottoms=1, tops=1)
def prelu(spec: LayerSpec) -> Layer:
    params = spec.params("prelu_param")
    channels = spec.channels()[1]
    return PReLU(() if params.channel_shared else (channels,), filler_or_constant(params, 0.25))
