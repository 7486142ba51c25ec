"""SpatialDropoutLayer of ENet: whole maps are left out, which ones is drawn for each image.

Source: TimoSaemann/caffe-enet, ``python/spatial_dropout.py``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...network.python_registry import PythonSettings, python_layer
from ...network.registry import Layer, LayerSpec

__all__ = ["SpatialDropoutLayer"]


class SpatialDropoutLayer(Layer):
    """Maps of (N, C, ...) times 0, by chance, or 1 / (1 - part).

    Where nothing is dropped, values are still multiplied by that factor, as in the original. Its backward pass leaves
    out, of every image, the maps that the last image lost.

    Args:
        part: how many maps are left out. drops: whether any are: ``phase`` in ``param_str`` says it, not the net's.
        as_caffe: the original's gradient; else the true one.
    """

    def __init__(self, part: float, *, drops: bool, as_caffe: bool) -> None:
        super().__init__()
        self.factor = 1 / (1 - part)
        self.kept = 1 - part
        self.drops = drops
        self.as_caffe = as_caffe

    def infer(self, *bottoms: Tensor) -> Tensor:
        return torch.empty_like(bottoms[0])

    def forward(self, x: Tensor) -> Tensor:
        if not self.drops:
            return x * self.factor
        random, ones = self.randomness.numpy(self.layer_name), np.ones(x.shape[1], dtype=np.int64)
        drawn = np.stack([random.binomial(ones, self.kept) for _ in range(x.shape[0])])
        axes = [1] * (x.dim() - 2)
        mask = torch.from_numpy(drawn).to(x.device, x.dtype).reshape(*x.shape[:2], *axes)
        if not self.as_caffe:
            return x * mask * self.factor
        # The value of one mask, the gradient of the other.
        last = x * mask[-1:]
        return (last + (x * mask - last).detach()) * self.factor


@python_layer("spatial_dropout", "SpatialDropoutLayer", bottoms=1, tops=1, verified=False)
def spatial_dropout_layer(spec: LayerSpec, settings: PythonSettings) -> Layer:
    phase, told = settings.word("phase"), settings.get("p")
    try:
        part = float(told)
    except (TypeError, ValueError):
        spec.fail(f"p is {told!r}; a number was expected")
    if not 0 < part < 1:
        spec.fail(f"p is {part:g}; it must lie between 0 and 1")
    spec.shaped(0, "images > 0", "channels", ...)
    return SpatialDropoutLayer(part, drops=phase == "TRAIN", as_caffe=spec.gradients == "caffe")
