"""Dropout: values are dropped in training only, and what remains is scaled so that means agree."""

from __future__ import annotations

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer

__all__ = ["Dropout"]


class Dropout(Layer):
    """In training, each value is zeroed with probability ``ratio``, and kept values are multiplied by 1 / (1 - ratio).

    With ``scale_train`` off (a field of several forks) the scale moves to testing: training leaves kept values as they
    are, and testing multiplies by 1 - ratio.
    """

    def __init__(self, ratio: float, scale_train: bool = True) -> None:
        super().__init__()
        self.ratio = ratio
        self.scale_train = scale_train

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor) -> Tensor:
        keep = 1 - self.ratio
        if not self.training:
            return x if self.scale_train else x * keep
        generator = self.randomness.generator(self.layer_name, x.device)
        y = x * torch.empty_like(x).bernoulli_(keep, generator=generator)
        return y * (1 / keep) if self.scale_train else y


@layer("Dropout", bottoms=1, tops=1)
def dropout(spec: LayerSpec) -> Layer:
    p = spec.params("dropout_param")
    if not 0 <= p.dropout_ratio < 1:
        spec.fail(f"dropout_ratio is {p.dropout_ratio:g}; it must be at least 0 and less than 1")
    return Dropout(p.dropout_ratio, p.get("scale_train", True))
