"""HardMining of Cascade R-CNN: the boxes of each image whose loss is largest."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, layer
from ...network.shapes import four_axes

__all__ = ["HardMining"]


class HardMining(Layer):
    """Of losses (R,), boxes (R, 5: image, corners) and what else goes with them, the rows of the ``count`` hardest
    boxes of each image, in their order; where an image has fewer, the hardest of the others make up for them.

    Of equally hard boxes the last is taken first. The tops have four axes. No gradient. Source:
    zhaoweicai/cascade-rcnn, ``hard_mining_layer.cpp``.
    """

    def __init__(self, count: int, images: int) -> None:
        super().__init__()
        self.count = count
        self.images = images

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        number = min(self.count * self.images, len(bottoms[0]))
        return tuple(x.new_empty(number, *four_axes(tuple(x.shape))[1:]) for x in bottoms[1:])

    @torch.no_grad()
    def forward(self, losses: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
        losses, images = losses.reshape(-1), rows[0].flatten(1)[:, 0].long()
        bad = (images < 0) | (images >= self.images)
        if bad.any():
            raise LayerError(
                f"a box is of image {int(images[bad][0])}; 0 to {self.images - 1} was expected",
                layer=self.layer_name,
                type="HardMining",
            )
        order = losses.flip(0).argsort(descending=True, stable=True)
        order = len(losses) - 1 - order
        own = torch.nn.functional.one_hot(images[order], self.images)
        rank = (own.cumsum(0) * own).sum(1)  # among the boxes of its image, from 1 on
        first = rank <= self.count
        # Those that an image has too many of come behind, still the hardest first.
        kept = torch.cat([order[first], order[~first]])[: self.count * self.images].sort().values
        return tuple(x[kept].reshape(len(kept), *four_axes(tuple(x.shape))[1:]) for x in rows)


@layer("HardMining", bottoms=(2, None), tops=(1, None), dialects=("zhaoweicai/cascade-rcnn",), verified=False)
def hard_mining(spec: LayerSpec) -> Layer:
    params = spec.params("hard_mining_param")
    if min(params.num_roi_per_image, params.num_image) < 1:
        spec.fail(f"num_roi_per_image {params.num_roi_per_image} and num_image {params.num_image} must be at least 1")
    if any(spec.message.propagate_down):
        spec.fail("propagate_down: true: the fork's layer hands no gradient back")
    spec.one_top_each(len(spec.bottoms) - 1)
    count, *_ = spec.vector(0, "boxes")
    spec.shaped(1, f"boxes = {count}", 5, ones=True)
    for index in range(2, len(spec.bottoms)):
        spec.shaped(index, f"boxes = {count}", ...)
        spec.four_axes(index)
    return HardMining(params.num_roi_per_image, params.num_image)
