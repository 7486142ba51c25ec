"""Two layers of one's own, as a file for ``--plugin``: the example that the documentation shows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from caffe_compat import Layer, LayerSpec, layer


class ChannelGate(Layer):
    """x * sigmoid(weight), one weight for each channel."""

    weight: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.blob("weight", (channels,))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.weight).view(-1, *[1] * (x.dim() - 2))


@layer("ChannelGate", bottoms=1, tops=1)
def channel_gate(spec: LayerSpec) -> Layer:
    return ChannelGate(spec.channels(0)[1])


@layer("Softsign", bottoms=1, tops=1)
def softsign(spec: LayerSpec) -> nn.Module:
    return nn.Softsign()
