"""RegionLoss: what the second generation of YOLO learns from, as eric612's fork has it.

Source: eric612/MobileNet-YOLO, ``src/caffe/layers/region_loss_layer.cpp``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, layer
from ..gradients import with_slopes
from .yolo_boxes import best_overlap, objects_before, overlap

__all__ = ["RegionLoss"]

# How many objects an image may have.
_OBJECTS = 300
# x, y, width, height, confidence; classes follow.
_BOX = 5


@dataclass(frozen=True)
class Rule:
    """How an error counts.

    Attributes:
        anchors: width and height in cells, of each.
        by_anchor: whether an object's anchor is the one whose shape it has most of, or the one whose box has.
        rescored: whether a confidence is to be the overlap, and else 1, small boxes counting more.
        threshold: boxes that overlap any object by more need not be unsure.
        coordinates, objects, others, classes: factors of the errors of boxes, confidences with and without an object,
            and classes.
    """

    anchors: tuple[tuple[float, float], ...]
    by_anchor: bool
    rescored: bool
    threshold: float
    coordinates: float
    objects: float
    others: float
    classes: float


class RegionLoss(Layer):
    """The sum of squared errors of all boxes, by the number of images.

    Bottoms: x (N, anchors x (5 + classes), S, S), for each anchor of each cell centre, size, confidence and classes;
    objects (N, ..., 1500 numbers), each (class, x, y, width, height) in parts of the image, up to one without a width
    (for boxes that need not be unsure, up to one without an x). An object is learnt by one anchor of its cell; where
    several want the same, the last has it.

    The errors are gradients: those of the centre and of the confidence have their sigmoid's slope in them, those of
    classes are of probabilities and have no softmax's. Backward, the fork gives each error by the number of images,
    which is not the derivative of the loss. There is no gradient for objects.

    Args:
        as_caffe: the fork's gradient; else that of the loss, the errors' targets being constants.
    """

    def __init__(self, rule: Rule, *, as_caffe: bool) -> None:
        super().__init__()
        self.rule = rule
        self.as_caffe = as_caffe

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(())

    def forward(self, x: Tensor, objects: Tensor) -> Tensor:
        images, anchors, side = x.shape[0], len(self.rule.anchors), x.shape[3]
        maps = x.float().reshape(images, anchors, -1, side, side)
        truth = objects.detach().float().reshape(images, _OBJECTS, 5)
        with torch.set_grad_enabled(not self.as_caffe and torch.is_grad_enabled()):
            errors = self._errors(maps, truth)
            loss = errors.square().sum() / images
        if self.as_caffe:
            loss = with_slopes(loss, (x, (errors / images).reshape(x.shape).to(x.dtype)))
        return loss.to(x.dtype)

    def _errors(self, maps: Tensor, truth: Tensor) -> Tensor:
        """The error of every number that ``maps`` (N, anchors, 5 + classes, S, S) predict."""
        sure, classes = maps[:, :, 4].sigmoid(), maps[:, :, _BOX:].softmax(2)
        boxes = self._boxes(maps[:, :, :4].detach())
        far = best_overlap(boxes, truth) <= self.rule.threshold
        errors = torch.zeros_like(maps)
        errors[:, :, 4] = self.rule.others * sure * sure * (1 - sure) * far
        places, wanted = self._assigned(boxes, truth)
        if len(places):
            flat = errors.permute(0, 1, 3, 4, 2).reshape(-1, maps.shape[2])
            own = torch.cat([maps[:, :, :4], sure[:, :, None], classes], 2).permute(0, 1, 3, 4, 2)
            learnt = self._learnt(own.reshape(flat.shape)[places], boxes.reshape(-1, 4)[places], wanted, places, maps)
            flat = flat.index_put((places,), learnt)
            errors = flat.reshape(*(maps.shape[i] for i in (0, 1, 3, 4, 2))).permute(0, 1, 4, 2, 3)
        return errors

    def _boxes(self, raw: Tensor) -> Tensor:
        """Centre and size in parts of the image, (N, anchors, S, S, 4)."""
        side = raw.shape[-1]
        cells = torch.arange(side, device=raw.device, dtype=raw.dtype)
        x = (raw[:, :, 0].sigmoid() + cells) / side
        y = (raw[:, :, 1].sigmoid() + cells[:, None]) / side
        size = raw.new_tensor(self.rule.anchors)[:, :, None, None]
        width, height = (raw[:, :, 2 + i].exp() * size[:, i] / side for i in (0, 1))
        return torch.stack([x, y, width, height], -1)

    def _assigned(self, boxes: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Which predictions learn: places among all, and what each learns: class, x, y, width, height, and the cell."""
        images, anchors, side = boxes.shape[:3]
        image, number = objects_before(truth, 3).nonzero().unbind(1)
        wanted = truth[image, number]
        cell = (wanted[:, 1:3] * side).trunc().long()
        spot = cell[:, 1] * side + cell[:, 0]
        if bool(((spot < 0) | (spot >= side * side)).any()):
            raise LayerError("an object lies outside its image", layer=self.layer_name, type="RegionLoss")
        shapes = boxes.reshape(images, anchors, side * side, 4)[image, :, spot, 2:]
        if self.rule.by_anchor:
            shapes = (boxes.new_tensor(self.rule.anchors) / side).expand_as(shapes)
        zeros = torch.zeros_like(shapes)
        overlaps = overlap(torch.cat([zeros, shapes], -1), torch.cat([zeros[:, :1], wanted[:, None, 3:]], -1))
        overlaps = torch.where(overlaps > 0, overlaps, -1)
        best = (overlaps == overlaps.amax(1, keepdim=True)).to(torch.uint8).argmax(1)
        place = (image * anchors + best) * side * side + spot
        # An object that overlaps no anchor is learnt by the very first prediction of the batch.
        place = torch.where(overlaps.amax(1) > 0, place, 0)
        order = torch.arange(len(place), device=place.device)
        last = order.new_full((images * anchors * side * side,), -1).scatter_reduce(0, place, order, "amax")
        kept = last[place] == order
        return place[kept], torch.cat([wanted[kept], cell[kept]], 1)

    def _learnt(self, own: Tensor, boxes: Tensor, wanted: Tensor, places: Tensor, maps: Tensor) -> Tensor:
        """The errors of predictions ``own`` (K, 5 + classes) that learn objects ``wanted`` (class, box, cell)."""
        rule, side = self.rule, maps.shape[3]
        label, truth, cell = wanted[:, 0].trunc(), wanted[:, 1:5], wanted[:, 5:]
        anchor = own.new_tensor(rule.anchors)[places // (side * side) % len(rule.anchors)]
        # The box that is compared lies in the object's cell, also where the prediction does not.
        centre = own[:, :2].sigmoid()
        predicted = torch.cat([(centre.detach() + cell) / side, boxes[:, 2:]], 1)
        shared = overlap(predicted, truth)
        scale = rule.coordinates if rule.rescored else rule.coordinates * (2 - truth[:, 2:3] * truth[:, 3:4])
        middle = scale * (centre - (truth[:, :2] * side - cell)) * centre * (1 - centre)
        size = scale * (own[:, 2:4] - (truth[:, 2:] * side / anchor).log())
        sure = own[:, 4:5]
        target = shared[:, None] if rule.rescored else 1
        confidence = rule.objects * (sure - target) * sure * (1 - sure)
        labels = torch.arange(own.shape[1] - _BOX, device=own.device) == label[:, None]
        return torch.cat([middle, size, confidence, rule.classes * (own[:, _BOX:] - labels.to(own.dtype))], 1)


@layer("RegionLoss", bottoms=2, tops=1, loss=True, dialects=("eric612/MobileNet-YOLO",))
def region_loss(spec: LayerSpec) -> Layer:
    params, (images, numbers, height, width) = spec.params("region_loss_param"), spec.images()
    # The fork takes the side from the map, and reads the others without using them.
    params.ignore("side", "softmax", "jitter", "absolute", "random", "softmax_tree", "class_map")
    if params.coords != 4:
        spec.fail(f"coords is {params.coords}; 4 was expected")
    count, classes = params.num, params.num_class
    biases = tuple(params.biases) if len(params.biases) >= 10 else (0.0,) * 10
    if count < 1 or classes < 1 or 2 * count > len(biases):
        spec.fail(
            f"num {count} and num_class {classes} must be at least 1, with two of {len(biases)} biases for each num"
        )
    if numbers != count * (_BOX + classes) or height != width:
        spec.misfit(0, f"a square map of {count} x (5 + {classes})")
    spec.rows(1, f"images = {images}", f"{_OBJECTS} objects of 5 numbers = {5 * _OBJECTS}")
    rule = Rule(
        tuple((biases[2 * i], biases[2 * i + 1]) for i in range(count)),
        bool(params.bias_match),
        bool(params.rescore),
        params.thresh,
        params.coord_scale,
        params.object_scale,
        params.noobject_scale,
        params.class_scale,
    )
    return RegionLoss(rule, as_caffe=spec.gradients == "caffe")
