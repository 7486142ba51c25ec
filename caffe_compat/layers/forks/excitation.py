"""AssistedExcitation of eric612/MobileNet-YOLO: early in training, the places of objects are raised in the features."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, layer

__all__ = ["AssistedExcitation"]

# How many boxes each image's list has room for, and the share of the training that the excitation lasts for.
ROOM = 300
LASTS = 0.75


class AssistedExcitation(Layer):
    """Features (N, C, H, W) and, in every channel of the first image, a share of a map where its boxes are.

    Bottoms: features; boxes (N, 1, 300, 5) as class, centre, width and height in fractions of the image, which a centre
    of x = 0 ends; the map (N, 1, H, W). The share is cos(pi/2 i / 0.75 n) at iteration i of n, at least 0. Boxes that
    overlap do not add. Other images stay as they are: the fork writes their places behind those that it reads. Boxes
    and map have no gradient. Source: the fork's ``assisted_excitation_layer.cpp``.
    """

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor, boxes: Tensor, values: Tensor) -> Tensor:
        if x.is_meta or not len(x):
            return x.clone()
        inside = self._inside(boxes.detach().reshape(-1, ROOM, 5)[0], *x.shape[2:])
        added = torch.where(inside, values.detach()[0, 0] * self._share(), 0)
        return torch.cat([x[:1] + added, x[1:]])

    def _share(self) -> float:
        """How much of the map is added now."""
        training = self.randomness.training
        if training is None:
            raise LayerError(
                "what it adds depends on how far the training is, and nothing trains this net; a solver does, or "
                "net.randomness.training = (iteration, iterations in all) says so",
                layer=self.layer_name,
                type="AssistedExcitation",
            )
        iteration, stop = training
        part = np.float32(iteration) / np.float32(stop * LASTS)
        return float(np.float32(min(max(math.cos(float(part) * math.pi / 2), 0.0), 1.0)))

    @staticmethod
    def _inside(boxes: Tensor, height: int, width: int) -> Tensor:
        """Which places (H, W) lie in any of the boxes (300, 5) before the first that has x = 0. At least one does."""
        listed = (boxes[:, 1] != 0).cumprod(0).bool()
        spans = []
        for centre, size, length in ((2, 4, height), (1, 3, width)):
            low, high = boxes[:, centre] - boxes[:, size] / 2, boxes[:, centre] + boxes[:, size] / 2
            first = (low * length).trunc().clamp(0, length - 1)
            last = ((high * length).double() + 0.95).trunc().to(first)
            last = torch.maximum(last, first + 1).clamp_max(length)
            place = torch.arange(length, device=boxes.device)
            spans.append((place >= first[:, None]) & (place < last[:, None]))
        rows, columns = spans
        return (rows[:, :, None] & columns[:, None, :] & listed[:, None, None]).any(0)


@layer("AssistedExcitation", bottoms=3, tops=1, dialects=("eric612/MobileNet-YOLO",))
def assisted_excitation(spec: LayerSpec) -> Layer:
    images, _, height, width = spec.images(0, pixels=True)
    spec.as_many(1, (images, ROOM, 5), f"{ROOM} boxes of five numbers for each image")
    spec.shaped(2, f"images = {images}", 1, f"height = {height}", f"width = {width}")
    return AssistedExcitation()
