"""Layers of the second generation of YOLO in BirdeeChen's fork: Region and DetectionOutput."""

from __future__ import annotations

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ..exporting import repeated, rows_or
from ..precision import widened

__all__ = ["Region", "RegionDetections"]

_FORK = "BirdeeChen/caffe_yolo_v2"
# x, y, width, height, confidence; classes follow.
_BOX = 5

Anchors = tuple[tuple[float, float], ...]


class Region(Layer):
    """Predictions (N, boxes x (5 + classes), H, W), the numbers of a cell side by side, with the confidence's sigmoid.

    The top has the bottom's shape, but holds (N, H, W, boxes, 5 + classes). Centre and size stay as they are.
    There is no gradient. Source: BirdeeChen/caffe_yolo_v2, ``src/caffe/layers/region_layer.cpp``.

    Args:
        softmax: whether classes become probabilities.
    """

    def __init__(self, boxes: int, *, softmax: bool) -> None:
        super().__init__()
        self.boxes = boxes
        self.softmax = softmax

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        cells = x.permute(0, 2, 3, 1).reshape(shape[0], shape[2], shape[3], self.boxes, -1)
        classes = cells[..., _BOX:].softmax(-1) if self.softmax else cells[..., _BOX:]
        return torch.cat([cells[..., :4], cells[..., 4:_BOX].sigmoid(), classes], -1).reshape(shape)


@layer("Region", bottoms=1, tops=1, dialects=(_FORK,), verified=False)
def region(spec: LayerSpec) -> Layer:
    if spec.bottoms[0] == spec.tops[0]:
        spec.fail("works in place in no fork: its top needs a name of its own")
    params = spec.params("region_param")
    # The fork has the field, and reads it nowhere.
    params.ignore("anchors")
    if params.coords != 4:
        spec.fail(f"coords is {params.coords}; 4 was expected: the fork takes the fifth number for the confidence")
    if params.softmax:
        spec.warn("as softmax tells, classes become probabilities; the fork leaves it to chance, for it never reads it")
    _check_map(spec, params.boxes_of_each_grid, params.classes)
    return Region(params.boxes_of_each_grid, softmax=params.softmax)


class RegionDetections(Layer):
    """Rows (image, class counted from 0, confidence, x, y, width, height), cell by cell: (1, 1, detections, 7).

    The bottom (1, anchors x (5 + classes), S, S) predicts, for each anchor of each cell, the box's centre within the
    cell, its size as a factor of the anchor's, how sure it is to hold an object, and the classes. The most probable
    class, by softmax, times the probability of an object must reach ``confidence``. Boxes are parts of the image. Of
    two whose parts within the image overlap by ``threshold`` or more, of whatever classes, the less sure one goes, or
    the earlier one if they are equally sure. Pairs are looked at in the order of boxes; one that went takes no other
    with it.

    Without any detection, one row (0, -1 ...). Their number depends on the values; before the first pass it is 1, as in
    Caffe. There is no gradient. Source: BirdeeChen/caffe_yolo_v2, ``src/caffe/layers/detection_output_layer.cpp`` and
    ``include/caffe/util/bbox_util.hpp``.

    Args:
        anchors: (width, height) in cells.
    """

    def __init__(self, anchors: Anchors, confidence: float, threshold: float) -> None:
        super().__init__()
        self.anchors = anchors
        self.confidence = confidence
        self.threshold = threshold

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(1, 1, 1, 7)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        side = x.shape[3]
        cells = widened(x)[0].reshape(len(self.anchors), -1, side, side).permute(2, 3, 0, 1)
        places = torch.arange(side, device=x.device)[:, None]
        centre = torch.stack([cells[..., 0].sigmoid() + places, cells[..., 1].sigmoid() + places[:, None]], -1) / side
        size = cells[..., 2:4].exp() * cells.new_tensor(self.anchors) / side
        probability, label = cells[..., _BOX:].softmax(-1).max(-1)
        sure = cells[..., 4].sigmoid()
        rows = torch.stack([torch.zeros_like(sure), label.to(sure.dtype), sure * probability], -1)
        rows = torch.cat([rows, centre, size], -1)
        found = rows[..., 2] >= self.confidence
        rows, sure = rows[found], sure[found]
        none = torch.cat([rows.new_zeros(1, 1), rows.new_full((1, 6), -1)], 1)
        return rows_or(rows[self._kept(rows[:, 3:], sure)], none)[None, None].to(x.dtype)

    def _kept(self, boxes: Tensor, sure: Tensor) -> Tensor:
        """Which of ``boxes`` (K, 4) stay, (K,)."""
        # One more box, which never stays: there is always one to look at.
        boxes = torch.cat([boxes, boxes.new_zeros(1, 4)])
        places = torch.arange(boxes.shape[0], device=boxes.device)
        kept = places < places[-1]
        sure = torch.cat([sure, sure.new_zeros(1)])

        def goes_on(kept: Tensor, at: Tensor) -> Tensor:
            return (kept & (places > at)).any()

        def round_(kept: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
            behind = kept & (places > at)
            at = behind.int().argmax(0, keepdim=True)
            rivals = behind & (places > at) & (_shared(boxes[at], boxes) >= self.threshold)
            surer = rivals & (sure >= sure[at])
            # The first that is at least as sure takes this one away; those before it are less sure, and go.
            goes = rivals & (surer.int().cumsum(0) == 0)
            return kept & ~goes & ~((places == at) & surer.any()), at

        return repeated(goes_on, round_, (kept, places[:1] - 1))[0][:-1]


def _shared(box: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union of ``box`` (1, 4) and each of ``boxes`` (K, 4), as far as they lie in the image."""
    (a_low, a_high), (b_low, b_high) = _inside(box), _inside(boxes)
    width, height = (torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)).unbind(-1)
    common = torch.where((width > 0) & (height > 0), width * height, 0)
    union = (a_high - a_low).clamp_min(0).prod(-1) + (b_high - b_low).clamp_min(0).prod(-1) - common
    return torch.where(common > 0, common / union, 0)


def _inside(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Left and top, right and bottom, (..., 2)."""
    half = boxes[..., 2:] / 2
    return (boxes[..., :2] - half).clamp_min(0), (boxes[..., :2] + half).clamp_max(1)


@layer("DetectionOutput", bottoms=1, tops=1, dialects=(_FORK,), verified=False)
def detection_output_of_regions(spec: LayerSpec) -> Layer:
    params = spec.params("detection_output_param")
    # The fork keeps the number of coordinates and the names of classes, and makes no use of them.
    params.ignore("coords", "label_map_file")
    if not params.has("classes"):
        spec.fail("needs classes")
    count, biases = params.num_box, params.biases
    if len(biases) < 2 * count:
        spec.fail(f"has {len(biases)} numbers in biases for num_box {count}; a width and a height each were expected")
    _check_map(spec, count, params.classes)
    images, _, height, width = spec.images()
    if images != 1 or (height, width) != (params.side, params.side):
        spec.misfit(0, f"one map of side {params.side}")
    anchors = tuple((biases[2 * i], biases[2 * i + 1]) for i in range(count))
    return RegionDetections(anchors, params.confidence_threshold, params.nms_threshold)


def _check_map(spec: LayerSpec, boxes: int, classes: int) -> None:
    numbers = spec.images(pixels=True)[1]
    if boxes < 1 or classes < 1:
        spec.fail(f"needs at least one box in a cell and one class; found {boxes} and {classes}")
    if numbers != boxes * (_BOX + classes):
        spec.misfit(0, f"a map of {boxes} x (5 + {classes}) numbers")
