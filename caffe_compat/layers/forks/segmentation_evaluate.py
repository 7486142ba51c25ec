"""SegmentationEvaluate: how well the maps of a segmentation overlap true ones.

Source: eric612/MobileNet-YOLO, ``src/caffe/layers/segmentation_evaluate_layer.cpp``, and OpenCV's ``resize`` of bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer

__all__ = ["SegmentationEvaluate"]

# OpenCV multiplies bytes by whole numbers of this many parts.
_PARTS = 2048


class SegmentationEvaluate(Layer):
    """Intersection over union of each class in the first image, (1, 1, 1, C).

    Bottoms: predictions and truths, both (N, C, ...); a pixel counts where its value is above the threshold.
    Predictions of another size than the truths are made whole numbers out of 255, which go around at 256, and resized
    as OpenCV resizes bytes. A class of which there is neither a match nor a true pixel is then -1, and else 0.
    There is no gradient.
    """

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    @torch.no_grad()
    def forward(self, predicted: Tensor, truth: Tensor) -> Tensor:
        found, true = predicted[0].float(), truth[0].float() > self.threshold
        resized = found.shape != true.shape
        if resized:
            found = _resize_bytes((found * 255).trunc().long() % 256, *true.shape[1:]) > int(self.threshold * 255)
        else:
            found = found > self.threshold
        matches, trues, all_found = ((x.sum((1, 2))) for x in (found & true, true, found))
        union = trues + all_found - matches
        overlap = torch.where(matches > 0, matches / union, 0)
        if resized:
            overlap = torch.where((matches == 0) & (trues == 0), -1, overlap)
        return overlap.to(predicted.dtype)[None, None, None]


def _resize_bytes(x: Tensor, height: int, width: int) -> Tensor:
    """Maps of bytes (C, H, W) in another size, as OpenCV resizes them by default, which is linearly."""
    if x.shape[1] == 2 * height and x.shape[2] == 2 * width:  # OpenCV takes means here
        return (x.reshape(len(x), height, 2, width, 2).sum((2, 4)) + 2) // 4
    left, right, weight = _steps(x.shape[2], width, x)
    weight = torch.where(left == right, 0, weight)
    x = x[:, :, left] * (_PARTS - weight) + x[:, :, right] * weight
    top, bottom, weight = _steps(x.shape[1], height, x)
    weight = weight[:, None]
    parts = (_PARTS - weight) * (x[:, top] // 16) // 65536 + weight * (x[:, bottom] // 16) // 65536
    return (parts + 2) // 4


def _steps(before: int, after: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each place of a resized axis, two places of the old one and the second one's part of 2048."""
    # On the CPU, for not every device has numbers of 64 bits.
    at = (torch.arange(after, dtype=torch.float64, device="cpu") + 0.5) * (before / after) - 0.5
    at = at.float()
    first = at.floor()
    part = ((at - first) * _PARTS).round().long().to(like.device)
    places = torch.stack([first, first + 1]).long().clamp(0, before - 1).to(like.device)
    return places[0], places[1], part


@layer("SegmentationEvaluate", bottoms=2, tops=1, dialects=("eric612/MobileNet-YOLO",))
def segmentation_evaluate(spec: LayerSpec) -> Layer:
    params = spec.params("segmentation_evaluate_param")
    # The fork must be told, and takes the number from the maps.
    if not params.has("num_classes"):
        spec.fail("needs num_classes")
    params.ignore("num_classes")
    classes = spec.images(0, pixels=True)[1]
    spec.shaped(1, "images > 0", classes, "height > 0", "width > 0")
    return SegmentationEvaluate(params.threshold)
