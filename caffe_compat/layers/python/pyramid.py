"""FPN's Python layers: proposals from a pyramid of five maps, what their anchors learn, and boxes by level.

Source: unsky/FPN, ``lib/rpn/``: ``proposal_layer.py``, ``anchor_target_layer.py``, and with ``_mrcnn`` or without
``proposal_target_layer.py`` and ``as_rois.py``. None was recorded: they are built of parts of the layers that were.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import LayerError
from ...network.python_registry import PythonSettings, python_layer
from ...network.registry import Layer, LayerSpec
from .anchors import Anchors, base_anchors, in_image, shifted
from .projects import FPN
from .proposal import Choice, candidates, check_image, check_maps, check_one
from .targets import (
    AnchorRule,
    BoxRule,
    anchor_targets,
    check_boxes,
    check_truth,
    sampled_boxes,
    unmapped,
)

__all__ = ["LevelBoxes", "PyramidAnchorTargetLayer", "PyramidProposalLayer", "PyramidTargetLayer"]

_LEVELS = 5
# The least side of a proposal, in pixels of the image before it was scaled: fixed, whatever RPN_MIN_SIZE is.
_LEAST = 16


@dataclass(frozen=True)
class Level:
    """One map of the pyramid: its anchors around the first cell, and pixels from cell to cell."""

    anchors: Anchors
    stride: int


def _levels(spec: LayerSpec, settings: PythonSettings) -> tuple[Level, ...]:
    """What ``feat_stride`` says, ``4,8,16,32,64``, with anchors in proportion to the stride."""
    strides = settings.word("feat_stride").split(",")
    if len(strides) != _LEVELS or not all(stride.strip().isdigit() and int(stride) > 0 for stride in strides):
        spec.fail(f"feat_stride is {','.join(strides)!r}; {_LEVELS} whole numbers with commas between were expected")
    ratios, scales = settings.config(FPN, "FPNRATIOS"), settings.config(FPN, "FPNRSCALES")
    if min(*ratios, *scales) <= 0:
        spec.fail(f"FPNRATIOS {ratios} and FPNRSCALES {scales} must be positive")
    return tuple(Level(base_anchors(int(stride), ratios, scales), int(stride)) for stride in strides)


class PyramidProposalLayer(Layer):
    """The best boxes of an image, rows (0, x1, y1, x2, y2): ``choice.after`` of them, of which the last are repeated.

    Bottoms: height, width and scale of the image (1, 3); for each level, offsets (1, 4 A, H, W); for each level, scores
    (1, 2 A, H, W), of which the second A count. Cells that lie wholly or partly beyond the image do not count. Where
    there are too few boxes, some of them, drawn at random, stand for more. No gradient.
    """

    def __init__(self, levels: tuple[Level, ...], choice: Choice) -> None:
        super().__init__()
        self.levels = levels
        self.choice = choice

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[1].new_empty(self.choice.after, 5)

    @torch.no_grad()
    def forward(self, image: Tensor, *maps: Tensor) -> Tensor:
        found = []
        size = image.float().flatten()
        for level, offsets, scores in zip(self.levels, maps[:_LEVELS], maps[_LEVELS:], strict=True):
            check_one(self, scores)
            rows, columns = (int(float(side) / level.stride) for side in size[:2])
            if rows > scores.shape[2] or columns > scores.shape[3]:
                raise LayerError(
                    f"a map of {list(scores.shape[2:])} cells of {level.stride} pixels does not cover the image of "
                    f"{float(size[0]):g} x {float(size[1]):g}",
                    layer=self.layer_name,
                    type="Python",
                )
            own, change = (x[0, :, :rows, :columns].float() for x in (scores, offsets))
            found.append(candidates(own, change, size, level.anchors, level.stride, _LEAST))
        boxes, _ = self.choice.best(*(torch.cat(part) for part in zip(*found, strict=True)))
        if not len(boxes):
            raise LayerError(
                "no box is large enough, and the original stops there", layer=self.layer_name, type="Python"
            )
        missing = self.choice.after - len(boxes)
        if missing > 0:
            more = self.randomness.numpy(self.layer_name).choice(len(boxes), size=missing)
            boxes = torch.cat([boxes, boxes[torch.from_numpy(more).to(boxes.device)]])
        return torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1).to(image.dtype)


@python_layer("rpn.proposal_layer", "ProposalLayer", bottoms=1 + 2 * _LEVELS, tops=1, project=FPN, verified=False)
def pyramid_proposal_layer(spec: LayerSpec, settings: PythonSettings) -> Layer:
    levels = _levels(spec, settings)
    check_image(spec, 0)
    for i, level in enumerate(levels):
        check_maps(spec, 1 + _LEVELS + i, 1 + i, len(level.anchors))
    names = ("PRE_NMS_TOP_N", "POST_NMS_TOP_N", "NMS_THRESH")
    before, after, overlap = (settings.config(FPN, f"{spec.phase}.RPN_{name}") for name in names)
    if after < 1:
        spec.fail(f"{spec.phase}.RPN_POST_NMS_TOP_N is {after}; a positive number was expected")
    return PyramidProposalLayer(levels, Choice(before, after, overlap, _LEAST))


class PyramidAnchorTargetLayer(Layer):
    """What the region proposal network is to learn, for all levels at once.

    Bottoms: the scores of each level (1, any, H, W), of which only the shapes count; objects (M, 5) as x1, y1, x2, y2,
    class; height, width and scale of the image (1, 3). Tops, for A anchors around each of all N cells: labels (1, A N),
    then offsets, inner and outer weights (1, 4 A, N); within a level, anchor by anchor. No gradient.

    Offsets are those of anchors with an object; others have 0. An image may be without objects.
    """

    def __init__(self, levels: tuple[Level, ...], border: float, rule: AnchorRule) -> None:
        super().__init__()
        self.levels = levels
        self.border = border
        self.rule = rule

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        cells = sum(x.shape[2] * x.shape[3] for x in bottoms[:_LEVELS])
        count = len(self.levels[0].anchors)
        offsets = bottoms[0].new_empty(1, 4 * count, cells)
        return bottoms[0].new_empty(1, count * cells), offsets, offsets, offsets

    @torch.no_grad()
    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        scores, (truth, image, *_) = bottoms[:_LEVELS], bottoms[_LEVELS:]
        check_one(self, scores[0])
        objects, size = truth.flatten(1).double(), image.double().flatten()
        anchors = [
            shifted(objects.new_tensor(level.anchors), x.shape[2], x.shape[3], level.stride)
            for level, x in zip(self.levels, scores, strict=True)
        ]
        everything = torch.cat(anchors)
        counted = in_image(everything, size[0], size[1], self.border)
        random = self.randomness.numpy(self.layer_name)
        labels, offsets, inside, outer = anchor_targets(everything[counted], objects, self.rule, random)
        values = (offsets * (labels == 1)[:, None], inside, outer)
        tops = [unmapped(labels, counted, -1), *(unmapped(value, counted, 0) for value in values)]
        sizes = [len(level) for level in anchors]
        first, *others = (
            [self._by_anchor(part, x) for part, x in zip(top.split(sizes), scores, strict=True)] for top in tops
        )
        maps = (torch.cat([part.flatten(1) for part in level], 1)[None] for level in others)
        flat = torch.cat([part.flatten() for part in first])[None]
        return tuple(top.to(scores[0].dtype) for top in (flat, *maps))

    def _by_anchor(self, values: Tensor, like: Tensor) -> Tensor:
        """What each anchor of a level has, (H x W x A, n), as (A x n, H, W)."""
        return values.reshape(*like.shape[2:], -1).permute(2, 0, 1)


@python_layer(
    "rpn.anchor_target_layer",
    "AnchorTargetLayer",
    bottoms=(_LEVELS + 2, _LEVELS + 3),
    tops=4,
    project=FPN,
    verified=False,
)
def pyramid_anchor_target_layer(spec: LayerSpec, settings: PythonSettings) -> Layer:
    for level in range(_LEVELS):
        spec.shaped(level, 1, "scores", "height", "width")
    check_truth(spec, _LEVELS)
    check_image(spec, _LEVELS + 1)
    rule = AnchorRule.of(spec, settings, FPN)
    if rule.count == -1:
        rule = replace(rule, count=math.inf, objects=math.inf)
    return PyramidAnchorTargetLayer(_levels(spec, settings), settings.number("allowed_border", 1000), rule)


def _level_of(boxes: Tensor) -> Tensor:
    """The place among four levels of boxes (N, 5): by the root of their area, 224 pixels being of the third's."""
    area = (boxes[:, 3] - boxes[:, 1]) * (boxes[:, 4] - boxes[:, 2])
    area = torch.where(area <= 0, 1e-6, area)
    return (4 + (area.sqrt() / 224).log2()).floor().clamp(2, 5).long() - 2


def _by_level(level: Tensor, values: Tensor, rest: float, room: int | None) -> list[Tensor]:
    """``values`` in four parts, by ``level``.

    Args:
        room: how long each part is, filled up with ``rest``; None for as long as it takes, or four where it is empty.
    """
    parts = []
    for number in range(4):
        own = values[level == number]
        missing = (0 if len(own) else 4) if room is None else room - len(own)
        parts.append(torch.cat([own, own.new_full((missing, *own.shape[1:]), rest)]))
    return parts


class LevelBoxes(Layer):
    """Boxes (N, 5) in four parts, by their size; first all parts in one, then each.

    Args:
        room: how many boxes a part has, zeros being added; None for as many as there are, or four zeros.
    """

    def __init__(self, room: int | None) -> None:
        super().__init__()
        self.room = room

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        part = bottoms[0].new_empty(self.room or len(bottoms[0]), 5)
        return torch.cat([part] * 4), part, part, part, part

    @torch.no_grad()
    def forward(self, rois: Tensor) -> tuple[Tensor, ...]:
        boxes = rois.flatten(1)
        _check_room(self, len(boxes), self.room)
        parts = _by_level(_level_of(boxes.float()), boxes, 0, self.room)
        return torch.cat(parts), *parts


def _check_room(module: Layer, count: int, room: int | None) -> None:
    if room is not None and count > room:
        raise LayerError(f"{count} boxes do not fit into {room}", layer=module.layer_name, type="Python")


def _level_boxes(spec: LayerSpec, room: int | None) -> Layer:
    check_boxes(spec, 0)
    return LevelBoxes(room)


@python_layer("rpn.as_rois", "As_roisLayer", bottoms=1, tops=5, project=FPN, verified=False)
def as_rois_layer(spec: LayerSpec, settings: PythonSettings) -> Layer:
    return _level_boxes(spec, settings.config(FPN, "TEST.RPN_POST_NMS_TOP_N"))


@python_layer("rpn.as_rois_mrcnn", "As_rois_MergeRcnnLayer", bottoms=1, tops=5, project=FPN, verified=False)
def as_rois_merge_rcnn_layer(spec: LayerSpec, settings: PythonSettings) -> Layer:
    return _level_boxes(spec, None)


class PyramidTargetLayer(Layer):
    """What the second stage is to learn: boxes of four levels, then classes, offsets, inner and outer weights of all.

    As :class:`.targets.ProposalTargetLayer`, the boxes sorted by level. Those that fill a part up have class -1.

    Args:
        room: how many boxes a part has; None for as many as there are, or four where there is none.
    """

    def __init__(self, rule: BoxRule, room: int | None) -> None:
        super().__init__()
        self.rule = rule
        self.room = room

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        x = bottoms[0]
        count = self.room or int(min(self.rule.count, len(x) + len(bottoms[1])))
        offsets = x.new_empty(4 * count, 4 * self.rule.classes)
        return *[x.new_empty(count, 5)] * 4, x.new_empty(4 * count), offsets, offsets, offsets

    @torch.no_grad()
    def forward(self, rois: Tensor, truth: Tensor, *ignored: Tensor) -> tuple[Tensor, ...]:
        found = sampled_boxes(self, rois.flatten(1).float(), truth.flatten(1).float(), self.rule)
        level = _level_of(found[0])
        boxes, labels, offsets, weights = (
            _by_level(level, values, -1 if i == 1 else 0, self.room) for i, values in enumerate(found)
        )
        merged = [torch.cat(parts) for parts in (labels, offsets, weights)]
        tops = (*boxes, *merged, (merged[-1] > 0).float())
        return tuple(top.to(rois.dtype) for top in tops)


def _target_layer(spec: LayerSpec, settings: PythonSettings, *, padded: bool) -> Layer:
    check_boxes(spec, 0)
    check_truth(spec, 1)
    rule = BoxRule.of(spec, settings, FPN)
    if padded and math.isinf(rule.count):
        spec.fail("TRAIN.BATCH_SIZE is -1; a positive number was expected")
    return PyramidTargetLayer(rule, int(rule.count) if padded else None)


@python_layer("rpn.proposal_target_layer", "ProposalTargetLayer", bottoms=3, tops=8, project=FPN, verified=False)
def pyramid_target_layer(spec: LayerSpec, settings: PythonSettings) -> Layer:
    return _target_layer(spec, settings, padded=True)


@python_layer(
    "rpn.proposal_target_layer_mrcnn", "ProposalMergeRcnnTargetLayer", bottoms=3, tops=8, project=FPN, verified=False
)
def pyramid_merge_target_layer(spec: LayerSpec, settings: PythonSettings) -> Layer:
    return _target_layer(spec, settings, padded=False)
