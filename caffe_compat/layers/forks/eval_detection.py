"""EvalDetection of intel/caffe: which boxes of YOLO's second generation are right, and which are not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, layer
from ..precision import widened
from .boxes import best_apart

__all__ = ["EvalDetection", "Measure"]

# The fork's, of boxes in each cell, whatever the file says.
_ANCHORS = 5
# As in Darknet: boxes that are less sure do not count.
_LEAST = 0.005


@dataclass(frozen=True)
class Measure:
    """How boxes are read and judged.

    Attributes:
        side: of the map. classes: their number. anchors: (width, height) in cells of each box.
        overlap: from which on a box is right. crowded: from which on the less sure of two boxes goes; None for no box.
        score: what tells how sure a box is, ``OBJ``, ``PROB`` or ``MULTIPLY``.
    """

    side: int
    classes: int
    anchors: tuple[tuple[float, float], ...]
    overlap: float
    crowded: float | None
    score: str


class EvalDetection(Layer):
    """Maps (N, 5 x (5 + classes), side, side) and objects (1, 1, objects, 8: image, class from 1 on, instance, corners
    as parts of the picture, difficult) -> (N, classes + 4 x boxes): how many objects of each class there are, and then,
    of each box that is kept, class, how sure it is, 1 if it is right, 1 if it is of no object or one found already.

    Of the boxes of a picture, of all classes together, the less sure go where two overlap. They come by classes, the
    surest first. An image of -1 is no object. No gradient. Source: intel/caffe, ``eval_detection_layer.cpp``.
    """

    def __init__(self, measure: Measure) -> None:
        super().__init__()
        self.measure = measure

    def infer(self, *bottoms: Tensor) -> Tensor:
        m = self.measure
        return bottoms[0].new_empty(len(bottoms[0]), m.classes + m.side * m.side * _ANCHORS * 4)

    @torch.no_grad()
    def forward(self, maps: Tensor, objects: Tensor, *ignored: Tensor) -> Tensor:
        m, rows = self.measure, widened(objects).reshape(-1, 8)
        rows = rows[rows[:, 0].trunc() != -1]
        image, label = rows[:, 0].long(), rows[:, 1].long() - 1
        if ((label < 0) | (label >= m.classes) | (image < 0) | (image >= len(maps))).any():
            raise LayerError(
                f"an object is of an image or class that there is not: 0 to {len(maps) - 1}, and 1 to {m.classes}, "
                "were expected",
                layer=self.layer_name,
                type="EvalDetection",
            )
        top = widened(maps).new_zeros(self.infer(maps).shape)
        for i, one in enumerate(widened(maps)):
            own = image == i
            top[i, : m.classes] = torch.bincount(label[own], minlength=m.classes)
            found = self._judged(*self._boxes(one), rows[own, 3:7], label[own])
            top[i, m.classes : m.classes + found.numel()] = found.flatten()
        return top.to(maps.dtype)

    def _boxes(self, one: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Corners (B, 4), classes (B,) and scores (B,) of the boxes of one picture that are kept, by classes."""
        m = self.measure
        cells = one.permute(1, 2, 0).reshape(m.side, m.side, _ANCHORS, m.classes + 5)
        place = torch.arange(m.side, device=one.device)
        anchors = one.new_tensor(m.anchors)
        x = (cells[..., 0].sigmoid() + place[None, :, None]) / m.side
        y = (cells[..., 1].sigmoid() + place[:, None, None]) / m.side
        half = cells[..., 2:4].exp() * anchors / m.side / 2
        centre = torch.stack([x, y], -1)
        boxes = torch.cat([centre - half, centre + half], -1).reshape(-1, 4)
        chances = cells[..., 5:].softmax(-1).reshape(-1, m.classes)
        most, label = chances.max(1).values, _first_most(chances)
        sure = cells[..., 4].sigmoid().flatten()
        scores = {"OBJ": sure, "PROB": most}.get(m.score, sure * most)
        if m.crowded is None:
            return boxes[:0], label[:0], scores[:0]
        order = scores.argsort(descending=True, stable=True)
        # Boxes go at the threshold itself, too.
        below = float(np.nextafter(m.crowded, -1, dtype=np.float64 if boxes.dtype == torch.float64 else np.float32))
        kept = order[best_apart(boxes[order], below, _overlap)]
        kept = kept[scores[kept] >= _LEAST]
        kept = kept[label[kept].argsort(stable=True)]
        return boxes[kept], label[kept], scores[kept]

    def _judged(self, boxes: Tensor, label: Tensor, scores: Tensor, truth: Tensor, true_label: Tensor) -> Tensor:
        """(B, 4): class, score, whether a box is right, whether it is not."""
        out = torch.stack([label.to(scores.dtype), scores, torch.zeros_like(scores), torch.zeros_like(scores)], 1)
        taken: set[int] = set()
        for row, kind in enumerate(label.tolist()):
            own = (true_label == kind).nonzero().flatten()
            if not len(own):
                out[row, 3] = 1
                continue
            overlaps = _overlap(boxes[row], truth[own])
            best = int(_first_most(overlaps[None])[0])
            if overlaps[best] >= self.measure.overlap:
                place = int(own[best])
                out[row, 3 if place in taken else 2] = 1
                taken.add(place)
        return out


def _first_most(values: Tensor) -> Tensor:
    """For each row of (N, M) the first place of its largest value."""
    most = values == values.max(1, keepdim=True).values
    places = torch.arange(values.shape[1], device=values.device)
    return torch.where(most, places, values.shape[1] - 1).min(1).values


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of corners (..., 4); the shapes broadcast."""
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    common = torch.where((sides < 0).any(-1), 0, sides.prod(-1))
    return common / ((a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - common)


@layer("EvalDetection", bottoms=(2, None), tops=1, dialects=("intel/caffe",), verified=False, unforced=(0, 1))
def eval_detection(spec: LayerSpec) -> Layer:
    params = spec.params("eval_detection_param")
    params.ignore("sqrt", "constriant")  # of the first generation; the fork has commented out what they did
    side, classes = params.side, params.num_class
    if side < 1 or classes < 1:
        spec.fail(f"side {side} and num_class {classes} must be at least 1")
    if params.num_object != _ANCHORS or len(params.biases) < 2 * _ANCHORS:
        spec.fail(
            f"num_object is {params.num_object}, with {len(params.biases)} biases; the fork reads five boxes of each "
            "cell, and two biases of each"
        )
    spec.shaped(0, "images", f"values of {_ANCHORS} boxes = {_ANCHORS * (classes + 5)}", side, side)
    spec.shaped(1, 1, 1, "objects", 8)
    values = list(params.biases)[: 2 * _ANCHORS]
    anchors = tuple(zip(values[::2], values[1::2], strict=True))
    crowded = None if params.nms < 0 else params.nms
    return EvalDetection(Measure(side, classes, anchors, params.threshold, crowded, params.score_type))
