"""Detections of eric612's YOLO forks: Yolov3DetectionOutput and, of the second generation, YoloDetectionOutput."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ..exporting import rows_or
from ..precision import widened
from .boxes import suppress

__all__ = ["YoloDetectionOutput", "Yolov3DetectionOutput"]

_MOBILE, _WINDOWS = "eric612/MobileNet-YOLO", "eric612/Caffe-YOLOv3-Windows"

Anchors = tuple[tuple[float, float], ...]


class _YoloDetections(Layer):
    """Rows (0, class counted from 1, confidence, x1, y1, x2, y2), the best first: (1, 1, detections, 7).

    Every bottom (N, anchors x (5 + classes), H, W) predicts, for each anchor of each cell, the box's centre within the
    cell, its size as a factor of the anchor's, how sure it is to hold an object, and the classes. All bottoms, images
    and classes go through one suppression, and the image's number is always 0, as in the fork. Without any detection, a
    row (image, -1 ...) for every image. Their number depends on the values; before the first pass it is 1, as in Caffe.
    There is no gradient.

    Args:
        anchors: for each bottom, (width, height) of its boxes in cells.
        confidence: what detections must have. threshold: boxes that overlap a better one this much go.
    """

    def __init__(self, anchors: Sequence[Anchors], confidence: float, threshold: float) -> None:
        super().__init__()
        self.anchors = tuple(anchors)
        self.confidence = confidence
        self.threshold = threshold

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(1, 1, 1, 7)

    def choose(self, sure: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Confidences, and which of them count, both (..., classes), from (..., 1) and (..., classes)."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, *bottoms: Tensor) -> Tensor:
        found = [self._candidates(widened(x), anchors) for x, anchors in zip(bottoms, self.anchors, strict=True)]
        boxes, confidences, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        confidences, order = confidences.sort(descending=True, stable=True)
        boxes, labels = boxes[order], labels[order]
        # Boxes go at the threshold itself, too.
        below = np.nextafter(self.threshold, -1, dtype=np.float64 if boxes.dtype == torch.float64 else np.float32)
        kept = suppress(boxes[None], torch.ones_like(labels, dtype=torch.bool)[None], float(below))[0]
        rows = torch.cat([torch.zeros_like(labels)[:, None], labels[:, None] + 1], 1).to(boxes.dtype)
        rows = torch.cat([rows, confidences[:, None], boxes], 1)[kept]
        image = torch.arange(bottoms[0].shape[0], device=rows.device).to(rows.dtype)[:, None]
        none = torch.cat([image, rows.new_full((*image.shape[:1], 6), -1)], 1)
        return rows_or(rows, none)[None, None].to(bottoms[0].dtype)

    def _candidates(self, x: Tensor, anchors: Anchors) -> tuple[Tensor, Tensor, Tensor]:
        """Corners (K, 4), confidences (K,) and classes (K,), in the order of images, rows, columns and anchors."""
        height, width = x.shape[2:]
        x = x.reshape(x.shape[0], len(anchors), -1, height, width).permute(0, 3, 4, 1, 2)
        across = torch.arange(width, device=x.device)[:, None]
        down = torch.arange(height, device=x.device)[:, None, None]
        cells = x.new_tensor([width, height])
        centre = torch.stack([across + x[..., 0].sigmoid(), down + x[..., 1].sigmoid()], -1) / cells
        half = x[..., 2:4].exp() * x.new_tensor(anchors) / cells / 2
        confidences, count = self.choose(x[..., 4:5].sigmoid(), x[..., 5:])
        at = count.nonzero()
        corners = torch.cat([centre - half, centre + half], -1)
        image, row, column, anchor, label = at.unbind(1)
        return corners[image, row, column, anchor], confidences[image, row, column, anchor, label], label


class Yolov3DetectionOutput(_YoloDetections):
    """Every class for itself: its probability times that of an object must be above the confidence."""

    def choose(self, sure: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        confidences = classes.sigmoid() * sure
        return confidences, confidences > self.confidence


class YoloDetectionOutput(_YoloDetections):
    """The most probable class, by softmax, times the probability of an object must reach the confidence."""

    def choose(self, sure: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        confidences = classes.softmax(-1) * sure
        best = torch.zeros_like(classes, dtype=torch.bool).scatter(-1, classes.argmax(-1, keepdim=True), True)
        return confidences, best & (confidences >= self.confidence)


# ncnn copied the proto of the first, and with it the meaning.
@layer("Yolov3DetectionOutput", bottoms=(1, None), tops=1, dialects=(_MOBILE, "Tencent/ncnn"))
def yolov3_detection_output(spec: LayerSpec) -> Layer:
    return _yolov3_detection_output(spec)


@layer("Yolov3DetectionOutput", bottoms=(1, None), tops=1, dialects=(_WINDOWS,))
def yolov3_detection_output_windows(spec: LayerSpec) -> Layer:
    """This fork takes every map for a square one."""
    _check_squares(spec)
    return _yolov3_detection_output(spec)


def _yolov3_detection_output(spec: LayerSpec) -> Layer:
    params = spec.params("yolov3_detection_output_param")
    if params.get("gaussian_box", False):
        spec.fail("gaussian_box is not supported: the fork computes something else for it on a CPU than on a GPU")
    count, groups, masks = params.num_box, params.mask_group_num, params.mask
    if groups != len(spec.bottoms):
        spec.fail(f"mask_group_num is {groups}, but there are {len(spec.bottoms)} bottoms")
    if len(params.anchors_scale) < groups:
        spec.fail(f"has {len(params.anchors_scale)} anchors_scale for {groups} bottoms; one for each was expected")
    pairs = _pairs(spec, params.biases)
    step = len(masks) // groups
    if count < 1 or (groups - 1) * step + count > len(masks) or any(mask >= len(pairs) for mask in masks):
        spec.fail(f"mask {list(masks)} must name {count} of the {len(pairs)} anchors in biases for each bottom")
    if min(params.anchors_scale) < 1:
        spec.fail(f"anchors_scale {list(params.anchors_scale)} must be positive")
    anchors = []
    for i, scale in enumerate(params.anchors_scale[:groups]):
        chosen = (pairs[mask] for mask in masks[i * step : i * step + count])
        anchors.append(tuple((width / scale, height / scale) for width, height in chosen))
    _check_bottoms(spec, count, params.num_classes if params.has("num_classes") else None)
    return Yolov3DetectionOutput(anchors, params.confidence_threshold, params.nms_threshold)


@layer("YoloDetectionOutput", bottoms=(1, 2), tops=1, dialects=(_MOBILE, _WINDOWS))
def yolo_detection_output(spec: LayerSpec) -> Layer:
    params = spec.params("yolo_detection_output_param")
    # The first is overridden by the bottom's width, the second is not used, and the third only names classes.
    params.ignore("side", "coords", "label_map_file")
    pairs = _pairs(spec, params.biases)
    if params.num_box < 1 or len(pairs) < params.num_box:
        spec.fail(f"has {len(pairs)} anchors in biases for num_box {params.num_box}; one for each was expected")
    _check_bottoms(spec, params.num_box, params.num_classes if params.has("num_classes") else None)
    _check_squares(spec)
    anchors = [pairs[: params.num_box]] * len(spec.bottoms)
    return YoloDetectionOutput(anchors, params.confidence_threshold, params.nms_threshold)


def _check_squares(spec: LayerSpec) -> None:
    for index in range(len(spec.bottoms)):
        *_, height, width = spec.images(index)
        if height != width:
            spec.misfit(index, "(images, channels, side, side)")


def _pairs(spec: LayerSpec, biases: Sequence[float]) -> Anchors:
    if len(biases) % 2:
        spec.fail(f"biases are {len(biases)} numbers; a width and a height for each anchor were expected")
    return tuple(zip(biases[::2], biases[1::2], strict=True))


def _check_bottoms(spec: LayerSpec, count: int, classes: int | None) -> None:
    if not classes:
        spec.fail("needs num_classes")
    numbers = f"{count} anchors with 5 and {classes} numbers = {count * (5 + classes)}"
    for index in range(len(spec.bottoms)):
        spec.shaped(index, "images", numbers, "height > 0", "width > 0")
    if spec.bottom_shapes[0][0] > 1:
        spec.warn("as in the fork, the detections of all images of a batch are one list; run images one by one")
