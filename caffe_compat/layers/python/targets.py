"""AnchorTargetLayer and ProposalTargetLayer: what Faster R-CNN's two stages are to learn from one image.

Sources: ``lib/rpn/anchor_target_layer.py`` and ``proposal_target_layer.py`` of rbgirshick/py-faster-rcnn, with the
additions of YuwenXiong/py-R-FCN (normalised offsets, boxes that know no class) and soeaver/py-RFCN-priv (anchors beside
the image). Overlaps and an anchor's offsets are computed in double precision, and drawn is as there: numpy's
``choice`` without replacement, first among boxes with an object, then among those without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import LayerError
from ...network.python_registry import Project, PythonSettings, python_layer
from ...network.registry import Layer, LayerSpec
from .anchors import Anchors, Spread, in_image, normalised, offsets_between, overlaps_between, shifted
from .projects import FASTER_RCNN
from .proposal import anchors_of, check_image, check_one, four

__all__ = [
    "AnchorRule",
    "AnchorTargetLayer",
    "BoxRule",
    "ProposalTargetLayer",
    "anchor_targets",
    "check_boxes",
    "check_truth",
    "sampled_boxes",
    "unmapped",
]


# An object of peteanderson80/bottom-up-attention: x1, y1, x2, y2, class, and its attributes.
_ATTRIBUTES = 16
_WITH_ATTRIBUTES = 5 + _ATTRIBUTES


@dataclass(frozen=True)
class AnchorRule:
    """Which anchors are taught what.

    Attributes:
        count: how many at most. objects: how many with an object at most.
        above, below: an overlap with an object from ``above`` on makes an anchor one with an object, below ``below``
            one without. An object's best anchors have it anyhow, except where ``strict`` gives ``below`` the last word.
        inside: the weight of each offset. share: the part of all weight that objects have; negative for one weight.
        spread: what offsets are normalised by, deviations and means; None if they are not.
        near: how far below an object's largest overlap an anchor's may be that counts as equal.
    """

    count: float
    objects: float
    above: float
    below: float
    strict: bool
    inside: tuple[float, ...]
    share: float
    spread: Spread = None
    near: float = 0.0

    @classmethod
    def of(cls, spec: LayerSpec, settings: PythonSettings, project: Project) -> AnchorRule:
        """What the configuration has."""
        count, share = (
            settings.config(project, "TRAIN.RPN_BATCHSIZE"),
            settings.config(project, "TRAIN.RPN_POSITIVE_WEIGHT"),
        )
        if not (share < 0 or 0 < share < 1):
            spec.fail(f"TRAIN.RPN_POSITIVE_WEIGHT is {share:g}; between 0 and 1, or negative, was expected")
        spread = spread_of(spec, settings, project, "TRAIN.RPN_NORMALIZE_TARGETS", "TRAIN.RPN_NORMALIZE")
        return cls(
            count,
            int(settings.config(project, "TRAIN.RPN_FG_FRACTION") * count),
            settings.config(project, "TRAIN.RPN_POSITIVE_OVERLAP"),
            settings.config(project, "TRAIN.RPN_NEGATIVE_OVERLAP"),
            settings.config(project, "TRAIN.RPN_CLOBBER_POSITIVES"),
            four(spec, "TRAIN.RPN_BBOX_INSIDE_WEIGHTS", settings.config(project, "TRAIN.RPN_BBOX_INSIDE_WEIGHTS")),
            share,
            spread,
        )


def spread_of(spec: LayerSpec, settings: PythonSettings, project: Project, on: str, prefix: str) -> Spread:
    """What the configuration normalises offsets by, where its key ``on`` says that it does."""
    if not settings.config(project, on):
        return None
    ends = ("STDS", "MEANS") if prefix.isupper() else ("stds", "means")
    stds, means = (four(spec, f"{prefix}_{end}", settings.config(project, f"{prefix}_{end}")) for end in ends)
    return stds, means


def anchor_targets(
    anchors: Tensor, truth: Tensor, rule: AnchorRule, random: np.random.RandomState
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What anchors (N, 4) are to learn of objects (M, 5), both in double precision.

    Returns:
        Labels (N,): 1 for an object, 0 for none, -1 for those that do not count; offsets to the object that is
        overlapped most (0 without objects), and their inner and outer weights, (N, 4).
    """
    if not len(truth):
        labels = anchors.new_zeros(len(anchors))
        _leave_out(labels, 0, rule.count, random)
        return labels, torch.zeros_like(anchors), *_weights(labels, rule)
    overlaps = overlaps_between(anchors, truth)
    most, best = overlaps.max(1).values, _first_most(overlaps)
    labels = anchors.new_full((len(anchors),), -1)
    if not rule.strict:
        labels[most < rule.below] = 0
    labels[(overlaps >= overlaps.max(0).values - rule.near).any(1)] = 1
    labels[most >= rule.above] = 1
    if rule.strict:
        labels[most < rule.below] = 0
    _leave_out(labels, 1, rule.objects, random)
    _leave_out(labels, 0, rule.count - int((labels == 1).sum()), random)
    offsets = normalised(offsets_between(anchors, truth[best, :4]).float(), rule.spread)
    return labels, offsets, *_weights(labels, rule)


def _first_most(values: Tensor) -> Tensor:
    """For each row of (N, M) the first place of its largest value, as numpy's ``argmax`` has it."""
    most = values == values.max(1, keepdim=True).values
    places = torch.arange(values.shape[1], device=values.device)
    return torch.where(most, places, values.shape[1] - 1).min(1).values


def _leave_out(labels: Tensor, label: int, count: float, random: np.random.RandomState) -> None:
    """Let all but ``count`` of those with ``label``, chosen at random, not count."""
    places = (labels == label).nonzero()[:, 0]
    if len(places) > count:
        labels[_drawn(places, int(len(places) - count), random)] = -1


def _drawn(places: Tensor, count: int, random: np.random.RandomState) -> Tensor:
    """``count`` of ``places``, each at most once."""
    return places[torch.from_numpy(random.choice(len(places), size=count, replace=False)).to(places.device)]


def _weights(labels: Tensor, rule: AnchorRule) -> tuple[Tensor, Tensor]:
    """Inner and outer weights, (N, 4)."""
    objects, others = labels == 1, labels == 0
    inside = objects[:, None] * labels.new_tensor(rule.inside)
    first, second = int(objects.sum()), int(others.sum())
    if rule.share < 0:
        outer = (objects | others) / max(first + second, 1)
    else:
        outer = objects * (rule.share / max(first, 1)) + others * ((1 - rule.share) / max(second, 1))
    return inside, outer[:, None].expand(-1, 4)


class AnchorTargetLayer(Layer):
    """What the region proposal network is to learn: labels, offsets, inner and outer weights of the anchors.

    Bottoms: the scores (1, any, H, W), of which only the shape counts; objects (M, 5) as x1, y1, x2, y2, class; height,
    width and scale of the image (1, 3). Tops, for A anchors around each cell: (1, 1, A H, W), then three of
    (1, 4 A, H, W). An anchor that lies over the image's edge by ``border`` pixels or more does not count. No gradient.

    Args:
        border: None for anchors wherever they lie.
    """

    def __init__(self, anchors: Anchors, stride: int, border: float | None, rule: AnchorRule) -> None:
        super().__init__()
        self.anchors = anchors
        self.stride = stride
        self.border = border
        self.rule = rule

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        height, width = bottoms[0].shape[2:]
        offsets = bottoms[0].new_empty(1, 4 * len(self.anchors), height, width)
        return bottoms[0].new_empty(1, 1, len(self.anchors) * height, width), offsets, offsets, offsets

    @torch.no_grad()
    def forward(self, scores: Tensor, truth: Tensor, image: Tensor, *ignored: Tensor) -> tuple[Tensor, ...]:
        check_one(self, scores)
        height, width = scores.shape[2:]
        objects = truth.flatten(1).double()
        _check_some(self, objects)
        anchors = shifted(objects.new_tensor(self.anchors), height, width, self.stride)
        counted = torch.ones_like(anchors[:, 0], dtype=torch.bool)
        if self.border is not None:
            size = image.double().flatten()
            counted = in_image(anchors, size[0], size[1], self.border)
        if not counted.any():
            raise LayerError("no anchor lies in the image", layer=self.layer_name, type="Python")
        random = self.randomness.numpy(self.layer_name)
        labels, *values = anchor_targets(anchors[counted], objects, self.rule, random)
        tops = [unmapped(labels, counted, -1), *(unmapped(value, counted, 0) for value in values)]
        maps = [top.reshape(height, width, -1).permute(2, 0, 1)[None].to(scores.dtype) for top in tops]
        return maps[0].reshape(1, 1, -1, width), *maps[1:]


def unmapped(values: Tensor, places: Tensor, rest: float) -> Tensor:
    """``values`` at ``places`` (a mask) of a larger tensor that is ``rest`` elsewhere."""
    out = values.new_full((len(places), *values.shape[1:]), rest)
    out[places] = values
    return out


def _check_some(module: Layer, truth: Tensor) -> None:
    if not len(truth):
        raise LayerError(
            "the image has no object, and the original stops there", layer=module.layer_name, type="Python"
        )


def check_truth(spec: LayerSpec, index: int) -> None:
    """Refuse a bottom that is no rows of x1, y1, x2, y2, class."""
    spec.shaped(index, "objects", "x1 y1 x2 y2 class = 5", ones=True)


@python_layer("rpn.anchor_target_layer", "AnchorTargetLayer", bottoms=(3, 4), tops=4, project=FASTER_RCNN)
def anchor_target_layer(spec: LayerSpec, settings: PythonSettings) -> Layer:
    spec.shaped(0, 1, "scores", "height", "width")
    if spec.bottom_shapes[1][1:2] != (_WITH_ATTRIBUTES,):  # of which it takes the first five numbers
        check_truth(spec, 1)
    check_image(spec, 2)
    border = settings.number("allowed_border", 0)
    inside = settings.config(FASTER_RCNN, "TRAIN.ONLY_INSIDE_ANCHORS")
    rule = AnchorRule.of(spec, settings, FASTER_RCNN)
    anchors = anchors_of(spec, settings)
    return AnchorTargetLayer(anchors, settings.whole("feat_stride"), border if inside else None, rule)


@dataclass(frozen=True)
class BoxRule:
    """Which proposals are taught what.

    Attributes:
        count: how many; infinite for all. objects: how many with an object at most.
        above: the overlap with an object from which on a box has one. between: from the first and below the second it
            has none; others do not count.
        classes: how many, the background being the first. agnostic: all objects' boxes are those of class 1.
        inside: the weight of each offset.
        spread: what offsets are normalised by, deviations and means; None if they are not.
    """

    count: float
    objects: float
    above: float
    between: tuple[float, float]
    classes: int
    agnostic: bool
    inside: tuple[float, ...]
    spread: Spread

    @classmethod
    def of(cls, spec: LayerSpec, settings: PythonSettings, project: Project) -> BoxRule:
        """What ``num_classes`` and the configuration have."""
        count = settings.config(project, "TRAIN.BATCH_SIZE")
        if count < 1 and count != -1:
            spec.fail(f"TRAIN.BATCH_SIZE is {count}; a positive number, or -1 for all boxes, was expected")
        number = math.inf if count == -1 else count
        part = settings.config(project, "TRAIN.FG_FRACTION") * number
        on = "TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED"
        spread = spread_of(spec, settings, project, on, "TRAIN.BBOX_NORMALIZE")
        low, high = (settings.config(project, f"TRAIN.BG_THRESH_{end}") for end in ("LO", "HI"))
        return cls(
            number,
            part if math.isinf(part) else round(part),
            settings.config(project, "TRAIN.FG_THRESH"),
            (low, high),
            settings.whole("num_classes", least=2),
            settings.config(project, "TRAIN.AGNOSTIC"),
            four(spec, "TRAIN.BBOX_INSIDE_WEIGHTS", settings.config(project, "TRAIN.BBOX_INSIDE_WEIGHTS")),
            spread,
        )


def sampled_boxes(module: Layer, rois: Tensor, truth: Tensor, rule: BoxRule) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Some of the boxes (N, 5) of one image and of its objects (M, 5 or more), and what they are to learn.

    Returns:
        Boxes (B, 5), those with an object first; their classes (B,), 0 for none; offsets to the object and their
        weights, (B, 4 x classes), nonzero at the class.

    Raises:
        LayerError: a box of another image, or a class that is none.
    """
    boxes, nearest, count = _drawn_boxes(module, rois, truth, rule)
    return _learnt(module, boxes, truth[nearest], count, rule)


def _drawn_boxes(module: Layer, rois: Tensor, truth: Tensor, rule: BoxRule) -> tuple[Tensor, Tensor, int]:
    """Some of the boxes: (B, 5), which object each overlaps most, and how many of them, the first, have one."""
    _check_some(module, truth)
    everything = torch.cat([rois, torch.cat([torch.zeros_like(truth[:, :1]), truth[:, :4]], 1)])
    if torch.any(everything[:, 0] != 0):
        raise LayerError("takes the boxes of one image, number 0", layer=module.layer_name, type="Python")
    overlaps = overlaps_between(everything[:, 1:].double(), truth.double())
    best, most = _first_most(overlaps), overlaps.max(1).values
    random = module.randomness.numpy(module.layer_name)
    objects = _some(most >= rule.above, rule.objects, random)
    low, high = rule.between
    others = _some((most < high) & (most >= low), rule.count - len(objects), random)
    chosen = torch.cat([objects, others])
    return everything[chosen], best[chosen], len(objects)


def _learnt(
    module: Layer, boxes: Tensor, nearest: Tensor, count: int, rule: BoxRule
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What boxes (B, 5), of which the first ``count`` have an object, are to learn of ``nearest`` (B, 5 or more)."""
    labels = nearest[:, 4].clone()
    labels[count:] = 0
    offsets = offsets_between(boxes[:, 1:], nearest[:, :4])
    offsets = normalised(offsets.double(), rule.spread).to(offsets.dtype)
    return boxes, labels, *_by_class(module, labels, offsets, rule)


def _some(fits: Tensor, count: float, random: np.random.RandomState) -> Tensor:
    """Places of at most ``count`` of those that fit, in the order in which they are drawn."""
    places = fits.nonzero()[:, 0]
    return _drawn(places, int(min(count, len(places))), random) if len(places) else places


def _by_class(module: Layer, labels: Tensor, offsets: Tensor, rule: BoxRule) -> tuple[Tensor, Tensor]:
    """Offsets (B, 4) and their weights at the places of their classes, (B, 4 x classes); 0 for boxes without object."""
    has = labels > 0
    place = (has.long() if rule.agnostic else labels.long())[:, None]
    if place.numel() and int(place.max()) >= rule.classes:
        hint = "" if rule.agnostic else "; boxes that know no class need TRAIN.AGNOSTIC: True (--python-config)"
        raise LayerError(
            f"an object has class {int(place.max())}, but num_classes is {rule.classes}{hint}",
            layer=module.layer_name,
            type="Python",
        )
    here = (torch.arange(rule.classes, device=labels.device) == place) & has[:, None]
    weights = offsets.new_tensor(rule.inside).expand_as(offsets)
    spread = [torch.where(here[..., None], values[:, None], 0).flatten(1) for values in (offsets, weights)]
    return spread[0], spread[1]


class ProposalTargetLayer(Layer):
    """What the second stage is to learn: boxes (B, 5), classes (B,), offsets, inner and outer weights (B, 4 classes).

    Bottoms: proposals (N, 5) as 0, x1, y1, x2, y2; objects (M, 5) as x1, y1, x2, y2, class. The number of boxes depends
    on the values. No gradient.

    Args:
        four_axes: all tops have four axes, as R-FCN's have.
    """

    def __init__(self, rule: BoxRule, *, four_axes: bool) -> None:
        super().__init__()
        self.rule = rule
        self.four_axes = four_axes

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        x = bottoms[0]
        count = int(min(self.rule.count, len(x) + len(bottoms[1])))
        offsets = x.new_empty(count, 4 * self.rule.classes)
        return self._shaped(x.new_empty(count, 5), x.new_empty(count), offsets, offsets, offsets)

    @torch.no_grad()
    def forward(self, rois: Tensor, truth: Tensor) -> tuple[Tensor, ...]:
        found = sampled_boxes(self, rois.flatten(1).float(), truth.flatten(1).float(), self.rule)
        return self._shaped(*(top.to(rois.dtype) for top in (*found, (found[-1] > 0).float())))

    def _shaped(self, *tops: Tensor) -> tuple[Tensor, ...]:
        return tuple(top.reshape(len(top), -1, 1, 1) for top in tops) if self.four_axes else tops


def check_boxes(spec: LayerSpec, index: int) -> None:
    """Refuse a bottom that is no rows of image, x1, y1, x2, y2."""
    spec.shaped(index, "boxes", "image x1 y1 x2 y2 = 5", ones=True)


@python_layer("rpn.proposal_target_layer", "ProposalTargetLayer", bottoms=2, tops=5, project=FASTER_RCNN)
def proposal_target_layer(spec: LayerSpec, settings: PythonSettings) -> Layer:
    check_boxes(spec, 0)
    check_truth(spec, 1)
    # R-FCN's own layer for sampling is what its Caffe has and the other's has not.
    return ProposalTargetLayer(BoxRule.of(spec, settings, FASTER_RCNN), four_axes=spec.knows("psroi_pooling_param"))


class AttributeTargetLayer(ProposalTargetLayer):
    """:class:`ProposalTargetLayer` with a sixth top: the attributes of the objects, (F, 16), of F boxes at most.

    An object has its attributes behind its class. Beyond the first of the sixteen, no attribute is ``ignored``, and so
    are all of the boxes that are missing. Source: peteanderson80/bottom-up-attention,
    ``lib/rpn/proposal_target_layer.py``.
    """

    def __init__(self, rule: BoxRule, ignored: float) -> None:
        super().__init__(rule, four_axes=True)
        self.ignored = ignored

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return *super().infer(*bottoms), bottoms[0].new_empty(int(self.rule.objects), _ATTRIBUTES)

    @torch.no_grad()
    def forward(self, rois: Tensor, truth: Tensor) -> tuple[Tensor, ...]:
        objects = truth.flatten(1).float()
        boxes, nearest, count = _drawn_boxes(self, rois.flatten(1).float(), objects, self.rule)
        found = _learnt(self, boxes, objects[nearest], count, self.rule)
        attributes = objects.new_full((int(self.rule.objects), _ATTRIBUTES), self.ignored)
        attributes[:count] = objects[nearest[:count], 5:_WITH_ATTRIBUTES]
        attributes[:, 1:][attributes[:, 1:] == 0] = self.ignored
        tops = self._shaped(*found, (found[-1] > 0).float())
        return tuple(top.to(rois.dtype) for top in (*tops, attributes))


@python_layer(
    "rpn.proposal_target_layer",
    "ProposalTargetLayer",
    bottoms=2,
    tops=6,
    project=FASTER_RCNN,
    verified=False,
)
def attribute_target_layer(spec: LayerSpec, settings: PythonSettings) -> Layer:
    check_boxes(spec, 0)
    spec.shaped(1, "objects", f"x1 y1 x2 y2 class and {_ATTRIBUTES} attributes >= {_WITH_ATTRIBUTES}", ones=True)
    settings.whole("num_attr_classes")
    settings.get("use_attr_labels", None)  # which the original never reads
    if settings.whole("num_rel_classes", 0, least=0):
        spec.fail("num_rel_classes above 0 is not supported: the original has a seventh top then")
    rule = BoxRule.of(spec, settings, FASTER_RCNN)
    if math.isinf(rule.objects):
        spec.fail("TRAIN.BATCH_SIZE is -1; a number of boxes was expected, of which a part has attributes")
    return AttributeTargetLayer(rule, settings.number("ignore_label", -1))
