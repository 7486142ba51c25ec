"""RescaledPoseCoords of pose_action_caffe: another layer than 3Dpose_ssl's of that name."""

from __future__ import annotations

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer

__all__ = ["ImagePoseCoords"]

# What a place outside its image becomes.
_OUTSIDE = -1.0


class ImagePoseCoords(Layer):
    """Coordinates (N, 2 points) in the image itself: divided by its scale, mirrored back, and -1 where off the image.

    A row of the second bottom (N, 5) is: index, width and height of the image, scale, whether it was flipped. A
    coordinate from the width or height on becomes -1; negative ones stay; of a flipped image, x becomes width - 1 - x.

    The fork's gradient is 0; ``gradients="true"`` gives that of the coordinates.
    """

    def __init__(self, gradients: str) -> None:
        super().__init__()
        self.gradients = gradients

    def infer(self, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        return x.new_empty(*x.shape[:2], 1, 1)

    def forward(self, coordinates: Tensor, info: Tensor) -> Tensor:
        if self.gradients != "true":
            coordinates = coordinates.detach()
        _, width, height, scale, flipped = info.detach().reshape(-1, 5, 1).unbind(1)
        x, y = (coordinates.flatten(1) / scale).unflatten(1, (-1, 2)).unbind(2)
        x = torch.where(x >= width, _OUTSIDE, torch.where(flipped != 0, width - 1 - x, x))
        y = torch.where(y >= height, _OUTSIDE, y)
        return torch.stack([x, y], 2).flatten(1)[..., None, None]


@layer("RescaledPoseCoords", bottoms=2, tops=1, dialects=("zimenglan-sysu-512/pose_action_caffe",))
def rescaled_pose_coords(spec: LayerSpec) -> Layer:
    images, coordinates, *_ = spec.shaped(0, "images", "coordinates", ones=True)
    if coordinates % 2:
        spec.misfit(0, "(images, pairs of coordinates)")
    spec.shaped(1, f"images = {images}", "index width height scale flipped = 5", ones=True)
    return ImagePoseCoords(spec.gradients)
