"""Yolov3 and GaussianYolov3: what the third generation of YOLO learns from, as eric612's forks have it.

Source: eric612/MobileNet-YOLO and eric612/Caffe-YOLOv3-Windows, ``src/caffe/layers/yolov3_layer.cpp`` and
``gaussian_yolov3_layer.cpp``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, layer
from ..gradients import with_slopes
from .yolo_boxes import best_overlap, objects_before, overlap, overlap_slopes, rounds

__all__ = ["GaussianYolov3", "Yolov3"]

_MOBILE, _WINDOWS = "eric612/MobileNet-YOLO", "eric612/Caffe-YOLOv3-Windows"
# How many objects an image may have.
_OBJECTS = 300
# The spread that no box is surer than.
_SPREAD = 0.3
# What keeps a density from being divided by 0.
_LEAST = 1e-9
# C's FLT_MAX, which stands for no limit.
_NO_LIMIT = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Rule:
    """How errors count.

    Attributes:
        anchors: width and height, in pixels, of the boxes of all maps. chosen: which of them this map predicts.
        pixels: how many a cell is wide and high.
        threshold: boxes that overlap any object by more need not be unsure.
        coordinates, objects, classes: factors of the errors of boxes, of confidences with an object (of the logic
            gradient alone), and of classes.
        logic: whether the gradient has the sigmoid's slope in it.
        focal: whether classes are learnt by the focal loss. smoothing: how far a class is to be from 0 and 1.
        kind: how overlaps are measured; with ``MSE``, boxes learn their numbers, with others, their overlap.
        weight: of the overlap. more: anchors with more than this of an object's shape learn it, too; from 1 on, none.
        limit: of a slope of the overlap. added: whether the slopes for several objects add up, or the last one's count.
        reversed_sign: classes that a later object adds to a prediction get an error of the other sign, as in the
            Windows fork, and one at any label that the first class has an error for.
    """

    anchors: tuple[tuple[float, float], ...]
    chosen: tuple[int, ...]
    pixels: int
    threshold: float
    coordinates: float
    objects: float
    classes: float
    logic: bool
    focal: bool = False
    smoothing: float = 0.0
    kind: str = "MSE"
    weight: float = 0.0
    more: float = 1.0
    limit: float = _NO_LIMIT
    added: bool = True
    reversed_sign: bool = False


class _Wanted(NamedTuple):
    """K times that a prediction learns an object, in the order in which the fork does."""

    place: Tensor  # which prediction of all
    label: Tensor
    box: Tensor  # (K, 4)
    cell: Tensor  # (K, 2), column and row
    anchor: Tensor  # (K, 2), in pixels


class _YoloLoss(Layer):
    """The loss of a map's boxes, by the number of images.

    Bottoms: x (N, anchors x (numbers + classes), H, W), for each anchor of each cell its box, confidence and classes;
    objects (N, ..., 1500 numbers), each (class, x, y, width, height) in parts of the image, up to one without a width
    (for boxes that need not be unsure, up to one without an x). An object is learnt by the anchor whose shape it has
    most of, if that is of this map, and by others of its cell that are much like it; the fork takes the place of the
    former among the map's anchors for its number among all, so that it may learn the object twice.

    The loss is the sum of squared errors, or, where boxes learn by overlap, that of confidences and classes and the
    mean of 1 - overlap. Backward, the fork gives each error by the number of images, which is not the derivative.
    There is no gradient for objects. Where rounding makes an overlap larger than 1, the fork learns the object there,
    too; this does not.

    Args:
        as_caffe: the fork's gradient; else that of the loss, targets being constants.
    """

    boxes_at: tuple[int, ...]
    confidence_at: int
    # Which numbers are no probabilities: widths and heights.
    raw: tuple[int, ...]

    def __init__(self, rule: Rule, *, as_caffe: bool) -> None:
        super().__init__()
        self.rule = rule
        self.as_caffe = as_caffe

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(())

    def forward(self, x: Tensor, objects: Tensor) -> Tensor:
        rule, images = self.rule, x.shape[0]
        rows = x.float().reshape(images, len(rule.chosen), -1, *x.shape[2:]).permute(0, 1, 3, 4, 2)
        truth = objects.detach().float().reshape(images, _OBJECTS, 5)
        with torch.set_grad_enabled(not self.as_caffe and torch.is_grad_enabled()):
            own = rows.sigmoid().index_copy(-1, self._index(self.raw, rows), rows[..., list(self.raw)])
            errors, overlaps = self._errors(own, truth)
            first = 0 if self.by_numbers else self.confidence_at
            loss = errors[..., first:].square().sum()
            if not self.by_numbers and len(overlaps):
                loss = loss + rule.weight * (1 - overlaps).sum() / len(overlaps)
            loss = loss / images
        if self.as_caffe:
            slopes = errors / images
            if rule.logic:
                slopes = slopes * self._logistic_slopes(rows, own)
            loss = with_slopes(loss, (x, slopes.permute(0, 1, 4, 2, 3).reshape(x.shape).to(x.dtype)))
        return loss.to(x.dtype)

    @property
    def by_numbers(self) -> bool:
        """Whether boxes learn their numbers, and not their overlap."""
        return self.rule.kind == "MSE"

    def _logistic_slopes(self, rows: Tensor, own: Tensor) -> Tensor:
        """The sigmoid's slope at each prediction, 1 where there is no sigmoid.

        A loss by overlap has put the inputs back where the fork takes the box's probabilities from.
        """
        at = self.confidence_at
        given = own if self.by_numbers else torch.cat([rows[..., :at], own[..., at:]], -1)
        return (given * (1 - given)).index_fill(-1, self._index(self.raw, rows), 1)

    @staticmethod
    def _index(places: Sequence[int], like: Tensor) -> Tensor:
        return torch.tensor(places, device=like.device)

    def _errors(self, own: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """The error of each prediction in ``own`` (N, anchors, H, W, numbers); how much those that learn overlap."""
        height, width, length = own.shape[2:]
        sizes = own.new_tensor([width, height])
        sure = own[..., self.confidence_at]
        boxes = self.boxes(own.detach(), _cells(height, width, own), self._anchors(own)[:, None, None], sizes)
        far = best_overlap(boxes, truth, self.rule.kind) <= self.rule.threshold
        errors = torch.zeros_like(own)
        errors[..., self.confidence_at] = sure * far
        wanted = self._assigned(truth, height, width, length - self.confidence_at - 1)
        flat, predictions = errors.reshape(-1, length), own.reshape(-1, length)[wanted.place]
        overlaps = [own.new_zeros(0)]
        for turn in rounds(wanted.place):
            now = _Wanted(*(part[turn] for part in wanted))
            prediction, before = predictions[turn], flat[now.place]
            shared = overlap(self.boxes(prediction, now.cell, now.anchor, sizes), now.box, self.lost_kind)
            box = self.box_errors(prediction, before, now, sizes)
            flat = flat.index_put((now.place,), torch.cat([box, self._learnt(prediction, before, now.label)], 1))
            overlaps.append(shared)
        return flat.reshape(own.shape), torch.cat(overlaps)

    @property
    def lost_kind(self) -> str:
        """How the overlap that is missed is measured."""
        return self.rule.kind

    def _anchors(self, like: Tensor) -> Tensor:
        """Of this map, (anchors, 2), in pixels."""
        return like.new_tensor(self.rule.anchors)[list(self.rule.chosen)]

    def boxes(self, own: Tensor, cells: Tensor, anchors: Tensor, sizes: Tensor) -> Tensor:
        """Boxes (..., 4) in parts of the image of predictions in ``cells`` of a map of ``sizes`` (width, height)."""
        numbers = own[..., list(self.boxes_at)]
        centres = (cells + numbers[..., :2]) / sizes
        return torch.cat([centres, numbers[..., 2:].exp() * anchors / (sizes * self.rule.pixels)], -1)

    def targets(self, wanted: _Wanted, sizes: Tensor) -> Tensor:
        """What a prediction's numbers would have to be for the true box, (K, 4)."""
        centre = wanted.box[:, :2] * sizes - wanted.cell
        return torch.cat([centre, (wanted.box[:, 2:] * sizes * self.rule.pixels / wanted.anchor).log()], 1)

    def box_errors(self, own: Tensor, before: Tensor, wanted: _Wanted, sizes: Tensor) -> Tensor:
        """The errors of the boxes (K, numbers of a box) of predictions whose errors were ``before``."""
        raise NotImplementedError

    def _limited(self, slopes: Tensor) -> Tensor:
        """Slopes of an overlap as they are learnt: weighed, and within the limit; 0 where there is none."""
        slopes = (slopes * self.rule.weight).nan_to_num(0, 0, 0)
        return slopes.clamp(-self.rule.limit, self.rule.limit)

    def _assigned(self, truth: Tensor, height: int, width: int, classes: int) -> _Wanted:
        image, number = objects_before(truth, 3).nonzero().unbind(1)
        objects = truth[image, number]
        sizes = truth.new_tensor([width, height])
        cell, label = (objects[:, 1:3] * sizes).trunc(), objects[:, 0].trunc().long()
        spot = (cell[:, 1] * width + cell[:, 0]).long()
        if bool(((spot < 0) | (spot >= height * width)).any()):
            raise LayerError("an object lies outside its image", layer=self.layer_name, type=type(self).__name__)
        strange = label[(label < 0) | (label >= classes)]
        if len(strange):
            detail = f"an object has class {int(strange[0])}, which is none of the {classes} classes"
            raise LayerError(detail, layer=self.layer_name, type=type(self).__name__)
        learners = self._learners(objects[:, 3:], sizes)
        who, column = (learners >= 0).nonzero().unbind(1)
        place = learners[who, column]
        anchor = self._anchors(truth)[place]
        place = (image[who] * len(self.rule.chosen) + place) * height * width + spot[who]
        return _Wanted(place, label[who], objects[who, 1:], cell[who], anchor)

    def _learners(self, shapes: Tensor, sizes: Tensor) -> Tensor:
        """Which anchors of the map learn objects of ``shapes`` (K, 2), in the fork's order, or -1: (K, many)."""
        rule = self.rule
        anchors = shapes.new_tensor(rule.anchors) / (sizes * rule.pixels)
        at_zero = [torch.cat([torch.zeros_like(part), part], -1) for part in (anchors, shapes)]
        found = overlap(at_zero[0], at_zero[1][:, None], self.rule.kind)
        best = _first_maximum(found)
        place = shapes.new_full((len(anchors) + 1,), -1, dtype=torch.long)  # the last is for no anchor
        for i, anchor in reversed(list(enumerate(rule.chosen))):
            place[anchor] = i
        first = place[best]
        # The fork compares an anchor's number with a place in the map.
        taken = torch.where(first >= 0, first, best)[:, None]
        others = (found > rule.more) & (torch.arange(len(anchors), device=taken.device) != taken)
        others = others & (rule.more < 1)
        return torch.cat([first[:, None], torch.where(others, place[:-1], -1)], 1)

    def _learnt(self, own: Tensor, before: Tensor, label: Tensor) -> Tensor:
        """The errors of confidence and classes (K, 1 + classes) of predictions whose errors were ``before``."""
        rule, at = self.rule, self.confidence_at
        sure, classes, before = own[:, at : at + 1], own[:, at + 1 :], before[:, at + 1 :]
        confidence = (sure - 1) * (rule.objects if rule.logic else 1)
        is_label = torch.arange(classes.shape[1], device=own.device) == label[:, None]
        whole, single = self.class_errors(classes, is_label)
        # Where an earlier object has left its errors, the label's is all that changes.
        later = self.is_later(before, is_label)[:, None]
        return torch.cat([confidence, torch.where(later, torch.where(is_label, single, before), whole)], 1)

    def is_later(self, before: Tensor, is_label: Tensor) -> Tensor:
        """Whether an object (K,) has been learnt already where the errors of classes were ``before``."""
        return before[:, 0] != 0

    def class_errors(self, classes: Tensor, is_label: Tensor) -> tuple[Tensor, Tensor]:
        """The errors of classes (K, classes) for a first object, and for a later one, of which the label's counts."""
        rule = self.rule
        whole = rule.classes * (classes - is_label.to(classes.dtype))
        if rule.focal:
            own = (classes * is_label).sum(1, keepdim=True).detach() + 1e-15
            whole = whole * 0.5 * -(1 - own) * (2 * own * own.log() + own - 1)
        return whole, (classes - 1) * (-1 if rule.reversed_sign else 1)


def _cells(height: int, width: int, like: Tensor) -> Tensor:
    """Column and row of each cell, (H, W, 2)."""
    column, row = (torch.arange(n, device=like.device, dtype=like.dtype) for n in (width, height))
    return torch.stack([column.expand(height, width), row[:, None].expand(height, width)], -1)


def _first_maximum(found: Tensor) -> Tensor:
    """Where each row (K, many) is largest first, -1 where nothing is above 0."""
    found = torch.where(found > 0, found, 0)
    most = found.amax(1, keepdim=True)
    return torch.where(most[:, 0] > 0, (found == most).to(torch.uint8).argmax(1), -1)


class Yolov3(_YoloLoss):
    """Numbers x, y, width, height, confidence, then classes."""

    boxes_at = (0, 1, 2, 3)
    confidence_at = 4
    raw = (2, 3)

    @property
    def lost_kind(self) -> str:
        """The fork knows no loss of the plain overlap."""
        return "DIOU" if self.rule.kind == "IOU" else self.rule.kind

    def box_errors(self, own: Tensor, before: Tensor, wanted: _Wanted, sizes: Tensor) -> Tensor:
        truth = wanted.box
        if self.by_numbers:
            scale = self.rule.coordinates * (2 - truth[:, 2:3] * truth[:, 3:4])
            return scale * (own[:, :4] - self.targets(wanted, sizes))
        own, before = own.detach(), before.detach()[:, :4]
        boxes = self.boxes(own, wanted.cell, wanted.anchor, sizes)
        # A box without an extent gets one, as in the fork.
        boxes = torch.cat([boxes[:, :2], torch.where(boxes[:, 2:] == 0, 1, boxes[:, 2:])], 1)
        slopes = overlap_slopes(boxes, truth, self.rule.kind)
        slopes = torch.cat([slopes[:, :2], slopes[:, 2:] * own[:, 2:4].exp()], 1)
        return (before if self.rule.added else 0) - self._limited(slopes)

    def is_later(self, before: Tensor, is_label: Tensor) -> Tensor:
        if self.rule.reversed_sign:
            return super().is_later(before, is_label)
        return ((before != 0) & is_label).any(1)

    def class_errors(self, classes: Tensor, is_label: Tensor) -> tuple[Tensor, Tensor]:
        rule = self.rule
        if rule.reversed_sign:
            return super().class_errors(classes, is_label)
        target = is_label.to(classes.dtype) * (1 - rule.smoothing) + 0.5 * rule.smoothing
        smooth = rule.classes * (classes - target)
        return (super().class_errors(classes, is_label)[0] if rule.focal else smooth), smooth


class GaussianYolov3(_YoloLoss):
    """Numbers x, y, width and height, each followed by how far it may be off, confidence, then classes.

    Boxes learn by the likelihood of the true numbers (Choi et al., 2019: "Gaussian YOLOv3"), while their part of the
    loss is the mean of 1 - intersection over union. Whether a class has been learnt is told by the first one.
    """

    boxes_at = (0, 2, 4, 6)
    confidence_at = 8
    raw = (4, 6)

    @property
    def by_numbers(self) -> bool:
        return False

    def box_errors(self, own: Tensor, before: Tensor, wanted: _Wanted, sizes: Tensor) -> Tensor:
        truth, own, before = wanted.box, own.detach()[:, :8].reshape(-1, 4, 2), before.detach()[:, :8]
        middle, spread = own.unbind(2)
        off = (self.targets(wanted, sizes) - middle) / spread
        density = (off.square() / -2).exp() / (math.sqrt(2 * math.pi) * (spread + _SPREAD))
        scale = self.rule.coordinates * (2 - truth[:, 2:3] * truth[:, 3:4])
        factor = density / (density + _LEAST) * scale / 2
        slopes = torch.stack([factor * off / spread, factor * (off.square() / spread - 1 / (spread + _SPREAD))], 2)
        return (before if self.rule.added else 0) - self._limited(slopes.flatten(1))


@layer("Yolov3", bottoms=2, tops=1, loss=True, dialects=(_MOBILE,))
def yolov3(spec: LayerSpec) -> Layer:
    params = spec.params("yolov3_param")
    rule = replace(_by_overlap(spec, 4), kind=params.iou_loss, smoothing=params.label_smooth_eps)
    return Yolov3(rule, as_caffe=spec.gradients == "caffe")


@layer("GaussianYolov3", bottoms=2, tops=1, loss=True, dialects=(_MOBILE,))
def gaussian_yolov3(spec: LayerSpec) -> Layer:
    # The fork reads them and does not use them.
    spec.params("yolov3_param").ignore("iou_loss", "label_smooth_eps")
    return GaussianYolov3(replace(_by_overlap(spec, 8), kind="IOU"), as_caffe=spec.gradients == "caffe")


@layer("Yolov3", bottoms=2, tops=1, loss=True, dialects=(_WINDOWS,), verified=False)
def yolov3_of_windows(spec: LayerSpec) -> Layer:
    shape = spec.images()
    if shape[2] != shape[3]:
        spec.misfit(0, "a square map")
    return Yolov3(replace(_rule(spec, 4), reversed_sign=True), as_caffe=spec.gradients == "caffe")


def _by_overlap(spec: LayerSpec, numbers: int) -> Rule:
    """What the younger fork has more."""
    params = spec.params("yolov3_param")
    return replace(
        _rule(spec, numbers),
        focal=bool(params.use_focal_loss),
        weight=params.iou_normalizer,
        more=params.iou_thresh,
        limit=params.max_delta,
        added=bool(params.accumulate),
    )


def _rule(spec: LayerSpec, numbers: int) -> Rule:
    """What both forks read, checked; ``numbers`` are those of a box."""
    params = spec.params("yolov3_param")
    # The forks take the side from the map, and read the others without using them.
    params.ignore("side", "noobject_scale")
    biases, chosen, count, classes = params.biases, tuple(params.mask)[: params.num], params.num, params.num_class
    if len(biases) % 2 or count < 1 or len(chosen) < count or max(chosen, default=0) >= len(biases) // 2:
        spec.fail(f"mask {list(params.mask)} must name num, {count}, of the anchors in biases, {len(biases)} numbers")
    if classes < 1 or params.anchors_scale < 1:
        spec.fail(f"num_class {classes} and anchors_scale {params.anchors_scale} must be at least 1")
    spec.shaped(0, "images", count * (numbers + 1 + classes), "height", "width")
    spec.shaped(1, f"images = {spec.bottom_shapes[0][0]}", ...)
    spec.as_many(1, (spec.bottom_shapes[0][0], _OBJECTS, 5), f"{_OBJECTS} objects of 5 numbers for each image")
    return Rule(
        tuple(zip(biases[::2], biases[1::2], strict=True)),
        chosen,
        params.anchors_scale,
        params.thresh,
        params.coord_scale,
        params.object_scale,
        params.class_scale,
        bool(params.use_logic_gradient),
    )
