"""RegionLoss: what the second generation of YOLO learns from, as eric612's fork has it, and as YOLO9000's and Intel's.

Sources: eric612/MobileNet-YOLO, choasup/caffe-yolo9000 and intel/caffe, ``src/caffe/layers/region_loss_layer.cpp``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..gradients import with_slopes
from .yolo_boxes import best_overlap, objects_before, overlap

__all__ = ["RegionLoss", "RegionLossOfRows"]

# How many objects an image may have.
_OBJECTS = 300
# x, y, width, height, confidence; classes follow.
_BOX = 5
# An object as SSD's data layer gives it: image, class from 1 on, instance, corners, difficult.
_ROW = 8


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

    # Whether the loss is divided by the number of images.
    by_images = True

    def __init__(self, rule: Rule, *, as_caffe: bool) -> None:
        super().__init__()
        self.rule = rule
        self.as_caffe = as_caffe

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(())

    def forward(self, x: Tensor, objects: Tensor) -> Tensor:
        images, anchors, side = x.shape[0], len(self.rule.anchors), x.shape[3]
        maps = x.float().reshape(images, anchors, -1, side, side)
        truth = self._truth(objects.detach().float(), images)
        with torch.set_grad_enabled(not self.as_caffe and torch.is_grad_enabled()):
            errors = self._errors(maps, *truth)
            loss = errors.square().sum() / (images if self.by_images else 1)
        if self.as_caffe:
            loss = with_slopes(loss, (x, (errors / images).reshape(x.shape).to(x.dtype)))
        return loss.to(x.dtype)

    def _truth(self, objects: Tensor, images: int) -> tuple[Tensor, Tensor, Tensor]:
        """Objects (N, many, class and box), which of them are learnt, and which boxes are compared with, (N, many)."""
        truth = objects.reshape(images, _OBJECTS, 5)
        return truth, objects_before(truth, 3), objects_before(truth, 1)

    def _errors(self, maps: Tensor, truth: Tensor, learnt: Tensor, compared: Tensor) -> Tensor:
        """The error of every number that ``maps`` (N, anchors, 5 + classes, S, S) predict."""
        sure, classes = maps[:, :, 4].sigmoid(), maps[:, :, _BOX:].softmax(2)
        boxes = self._boxes(maps[:, :, :4].detach())
        far = best_overlap(boxes, truth, there=compared) <= self.rule.threshold
        errors = torch.zeros_like(maps)
        errors[:, :, 4] = self.rule.others * sure * sure * (1 - sure) * far
        places, wanted = self._assigned(boxes, truth, learnt)
        if len(places):
            flat = errors.permute(0, 1, 3, 4, 2).reshape(-1, maps.shape[2])
            own = torch.cat([maps[:, :, :4], sure[:, :, None], classes], 2).permute(0, 1, 3, 4, 2)
            new = self._learnt(own.reshape(flat.shape)[places], boxes.reshape(-1, 4)[places], wanted, places, maps)
            flat = flat.index_put((places,), new)
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

    def _assigned(self, boxes: Tensor, truth: Tensor, learnt: Tensor) -> tuple[Tensor, Tensor]:
        """Which predictions learn: places among all, and what each learns: class, x, y, width, height, and the cell."""
        images, anchors, side = boxes.shape[:3]
        image, number = learnt.nonzero().unbind(1)
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


class RegionLossOfRows(RegionLoss):
    """The sum of squared errors of all boxes, of as many objects as there are.

    The second bottom is objects (1, 1, many, 8: image, class from 1 on, instance, corners as parts of the picture,
    difficult); an image of -1 is no object. Centre and size are off by 1 at most, a confidence that is to be 1 counts
    by the cube of what it lacks, and the loss is not divided by the number of images, as what is handed back is.
    """

    by_images = False

    def _truth(self, objects: Tensor, images: int) -> tuple[Tensor, Tensor, Tensor]:
        rows = objects.reshape(-1, _ROW)
        rows = rows[rows[:, 0].trunc() != -1]
        image = rows[:, 0].long()
        if ((image < 0) | (image >= images)).any():
            raise LayerError(
                f"an object is of an image that there is not: 0 to {images - 1} were expected",
                layer=self.layer_name,
                type="RegionLoss",
            )
        low, high = rows[:, 3:5], rows[:, 5:7]
        boxes = torch.cat([rows[:, 1:2].trunc() - 1, (low + high) / 2, high - low], 1)
        counts = torch.bincount(image, minlength=images)
        order = image.argsort(stable=True)
        place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[image[order]]
        truth = objects.new_zeros(images, int(counts.max()), 5)
        truth[image[order], place] = boxes[order]
        there = torch.arange(truth.shape[1], device=rows.device) < counts[:, None]
        return truth, there, there

    def _learnt(self, own: Tensor, boxes: Tensor, wanted: Tensor, places: Tensor, maps: Tensor) -> Tensor:
        rule, side = self.rule, maps.shape[3]
        label, truth, cell = wanted[:, 0], wanted[:, 1:5], wanted[:, 5:]
        anchor = own.new_tensor(rule.anchors)[places // (side * side) % len(rule.anchors)]
        centre, sure = own[:, :2].sigmoid(), own[:, 4:5]
        middle = (centre - (truth[:, :2] * side - cell)).clamp(-1, 1) * centre * (1 - centre)
        size = (own[:, 2:4] - (truth[:, 2:] * side / anchor).log()).clamp(-1, 1)
        confidence = -2 * rule.objects * (1 - sure) ** 3 * sure * (1 - sure)
        labels = torch.arange(own.shape[1] - _BOX, device=own.device) == label[:, None]
        errors = [rule.coordinates * middle, rule.coordinates * size, confidence]
        return torch.cat([*errors, rule.classes * (own[:, _BOX:] - labels.to(own.dtype))], 1)


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
    rule = _rule(params, biases, rescored=bool(params.rescore))
    return RegionLoss(rule, as_caffe=spec.gradients == "caffe")


def _rule(params: Params, biases: Sequence[float], *, rescored: bool) -> Rule:
    return Rule(
        tuple((biases[2 * i], biases[2 * i + 1]) for i in range(params.num)),
        bool(params.bias_match),
        rescored,
        params.thresh,
        params.coord_scale,
        params.object_scale,
        params.noobject_scale,
        params.class_scale,
    )


@layer(
    "RegionLoss",
    bottoms=2,
    tops=1,
    loss=True,
    dialects=("choasup/caffe-yolo9000", "intel/caffe"),
    verified=False,
)
def region_loss_of_rows(spec: LayerSpec) -> Layer:
    params = spec.params("region_loss_param")
    # The forks read them without using them; errors are gradients, which a rescored confidence would not be.
    params.ignore("softmax", "jitter", "absolute", "random", "rescore")
    for name in ("softmax_tree", "class_map"):
        if getattr(params, name):
            spec.fail(f"{name} is {getattr(params, name)!r}; classes out of a file are not supported")
    side, count, classes = params.side, params.num, params.num_class
    if params.coords != 4:
        spec.fail(f"coords is {params.coords}; 4 was expected")
    if count < 1 or classes < 1 or side < 1 or len(params.biases) < 2 * count:
        spec.fail(
            f"num {count}, num_class {classes} and side {side} must be at least 1, with two biases for each num; there "
            f"are {len(params.biases)} biases"
        )
    spec.shaped(0, "images", f"values of {count} boxes = {count * (_BOX + classes)}", side, side)
    spec.shaped(1, 1, 1, "objects", _ROW)
    return RegionLossOfRows(_rule(params, params.biases, rescored=False), as_caffe=spec.gradients == "caffe")
