"""Boxes of MS-CNN and Cascade R-CNN: proposals out of the maps that score and adjust a field around each cell, and
what becomes of these.

How many boxes come out depends on the values; before the first pass it is one, as in Caffe. None has a gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..exporting import insist, rows_or
from .boxes import area, best_apart

__all__ = ["BoxGroupOutput", "BoxOutput", "DecodeBBox", "FrcnnOutput", "ScaleRoute", "adjustment"]

# What Caffe gives in place of no box at all: (image, x1, y1, x2, y2).
_NONE = (0.0, 1.0, 1.0, 10.0, 10.0)

_MEASURES = ("IOU", "IOMU", "IOFU")


@dataclass(frozen=True)
class ProposalSettings:
    """How proposals are chosen.

    Attributes:
        least_score, least_size: of a box. overlap: above it, the lower of two boxes goes. mode: what the intersection
            is divided by: ``IOU`` the union, ``IOMU`` the smaller, ``IOFU`` the higher-scoring box.
        shift, factor: bounds of how far a box may move, in fields, and grow or shrink.
        before, after: how many of an image are looked at, and kept, at most; 0 for all.
        mean, std: what was subtracted from, and divided out of, the four adjustments in training.
    """

    least_score: float
    least_size: float
    overlap: float
    mode: str
    shift: float
    factor: float
    before: int
    after: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _settings(spec: LayerSpec, params: Params) -> ProposalSettings:
    mean, std = adjustment(spec)
    return ProposalSettings(
        params.fg_thr,
        params.min_size,
        params.iou_thr,
        _measure_of(spec, params),
        1 / params.field_xyr,
        math.log(params.field_whr),
        params.max_nms_num,
        params.max_post_nms_num,
        mean,
        std,
    )


def _measure_of(spec: LayerSpec, params: Params) -> str:
    """``nms_type``: what an intersection is divided by."""
    if params.nms_type not in _MEASURES:
        spec.fail(f"nms_type {params.nms_type!r} is none of {', '.join(_MEASURES)}")
    name: str = params.nms_type
    return name


def adjustment(spec: LayerSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the four adjustments of a box."""
    params = spec.params("bbox_reg_param")
    if not (params.has("bbox_mean") and params.has("bbox_std")):
        return (0.0,) * 4, (1.0,) * 4
    mean, std = params.bbox_mean, params.bbox_std
    if len(mean) != 4 or len(std) != 4 or min(std) <= 0:
        spec.fail(f"bbox_mean {list(mean)} and bbox_std {list(std)} must be four numbers each, the latter positive")
    return mean, std


class _Proposals(Layer):
    def __init__(self, settings: ProposalSettings, *, scored: bool) -> None:
        super().__init__()
        self.settings = settings
        self.scored = scored

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        boxes = bottoms[0].new_empty(1, 5, 1, 1)
        return (boxes, boxes.new_empty(1, 6, 1, 1)) if self.scored else boxes

    def decoded(self, offsets: Tensor, fields: Tensor, stride: float) -> tuple[Tensor, Tensor]:
        """First corners and sizes, (..., H, W, 2), by adjustments (..., 4, H, W) of fields (..., 2): width, height."""
        s = self.settings
        offsets = offsets.movedim(-3, -1)
        offsets = offsets * offsets.new_tensor(s.std) + offsets.new_tensor(s.mean)
        height, width = offsets.shape[-3:-1]
        x = torch.arange(width, device=offsets.device).expand(height, width)
        y = torch.arange(height, device=offsets.device)[:, None].expand(height, width)
        places = (torch.stack([x, y], -1) + 0.5) * stride
        fields = fields[..., None, None, :]
        centre = offsets[..., :2].clamp(-s.shift, s.shift) * fields + places
        size = offsets[..., 2:].clamp(-s.factor, s.factor).exp() * fields
        return centre - size / 2, size

    def chosen(self, boxes: list[list[Tensor]], scores: list[list[Tensor]], measure: Any) -> Any:
        """The tops from the candidates of each image, in parts."""
        s = self.settings
        rows = []
        for image, (own, own_scores) in enumerate(zip(boxes, scores, strict=True)):
            corners, score = torch.cat(own), torch.cat(own_scores)
            # Of equal scores, the last comes first.
            score, order = score.flip(0).sort(descending=True, stable=True)
            corners = corners.flip(0)[order]
            if s.before > 0:
                score, corners = score[: s.before], corners[: s.before]
            places = best_apart(corners, s.overlap, measure, s.after or None)
            number = torch.full_like(score[places], image)[:, None]
            rows.append(torch.cat([number, corners[places], score[places][:, None]], 1))
        found = torch.cat(rows)
        plain = rows_or(found[:, :5], found.new_tensor([_NONE]))[..., None, None]
        return (plain, rows_or(found, found.new_zeros(1, 6))[..., None, None]) if self.scored else plain


class BoxOutput(_Proposals):
    """MS-CNN's: bottoms (N, classes + 4, H, W), class 0 being the background, each with one field size and stride.

    The score of a box is that of its best class less that of the background. Tops: (boxes, 5, 1, 1) as image, x1, y1,
    x2, y2; and, second, the same with the score.
    """

    def __init__(
        self, settings: ProposalSettings, fields: list[tuple[int, int]], strides: tuple[int, ...], *, scored: bool
    ) -> None:
        super().__init__(settings, scored=scored)
        self.fields = fields
        self.strides = strides

    @torch.no_grad()
    def forward(self, *maps: Tensor) -> Tensor | tuple[Tensor, ...]:
        s = self.settings
        boxes: list[list[Tensor]] = [[] for _ in range(maps[0].shape[0])]
        scores: list[list[Tensor]] = [[] for _ in boxes]
        for x, field, stride in zip(maps, self.fields, self.strides, strict=True):
            low, size = self.decoded(x[:, -4:], x.new_tensor(field), stride)
            low = low.clamp_min(0)
            limit = x.new_tensor([x.shape[3] * stride, x.shape[2] * stride])
            size = torch.minimum(size, limit - low)
            score = x[:, 1:-4].amax(1) - x[:, 0]
            fits = (score >= s.least_score) & (size >= s.least_size).all(-1)
            corners = torch.cat([low, low + size], -1)
            for i in range(len(boxes)):
                row, column = fits[i].nonzero().unbind(1)
                boxes[i].append(corners[i, row, column])
                scores[i].append(score[i, row, column])
        return self.chosen(boxes, scores, self._measure)

    def _measure(self, kept: Tensor, others: Tensor) -> Tensor:
        size = torch.minimum(kept[..., 2:], others[..., 2:]) - torch.maximum(kept[..., :2], others[..., :2])
        shared = torch.where((size <= 0).any(-1), 0, size[..., 0] * size[..., 1])
        return _ratio(shared, area(kept), area(others), self.settings.mode)


@layer("BoxOutput", bottoms=(1, None), tops=(1, 2))
def box_output(spec: LayerSpec) -> Layer:
    params = spec.params("box_output_param")
    widths, heights, strides = params.field_w, params.field_h, params.downsample_rate
    if not len(widths) == len(heights) == len(strides) == len(spec.bottoms):
        spec.fail(
            f"field_w, field_h and downsample_rate must be given once for each of the {len(spec.bottoms)} bottoms"
        )
    images, numbers, *_ = spec.shaped(0, "images", "numbers >= 6", "height", "width")  # of a box, and of classes
    for index in range(1, len(spec.bottoms)):
        spec.shaped(index, f"images = {images}", f"numbers = {numbers}", "height", "width")
    fields = list(zip(widths, heights, strict=True))
    return BoxOutput(_settings(spec, params), fields, strides, scored=len(spec.tops) == 2)


class BoxGroupOutput(_Proposals):
    """Cascade R-CNN's: for each stride a bottom with probabilities and one with adjustments, fields in the first axis.

    Bottoms are (images x fields, classes, H, W) and (images x fields, 4, H, W); the score of a box is one less the
    probability of class 0. Tops as those of :class:`BoxOutput`, with corners that lie inside the box. The fork leaves
    boxes of equal scores to an unstable sort; here the last comes first.
    """

    def __init__(
        self,
        settings: ProposalSettings,
        fields: list[tuple[tuple[float, float], ...]],
        strides: list[int],
        *,
        scored: bool,
    ) -> None:
        super().__init__(settings, scored=scored)
        self.fields = fields
        self.strides = strides

    @torch.no_grad()
    def forward(self, *maps: Tensor) -> Tensor | tuple[Tensor, ...]:
        s = self.settings
        images = maps[0].shape[0] // len(self.fields[0])
        boxes: list[list[Tensor]] = [[] for _ in range(images)]
        scores: list[list[Tensor]] = [[] for _ in boxes]
        for i, (fields, stride) in enumerate(zip(self.fields, self.strides, strict=True)):
            prob, offsets = (t.unflatten(0, (images, len(fields))) for t in maps[2 * i : 2 * i + 2])
            height, width = prob.shape[-2:]
            low, size = self.decoded(offsets, prob.new_tensor(fields), stride)
            high = torch.minimum(low + size - 1, prob.new_tensor([width * stride, height * stride]))
            low = low.clamp_min(0)
            score = 1 - prob[:, :, 0]
            fits = (score >= s.least_score) & (high - low + 1 >= s.least_size).all(-1)
            corners = torch.cat([low, high], -1)
            for n in range(images):
                field, row, column = fits[n].nonzero().unbind(1)
                boxes[n].append(corners[n, field, row, column])
                scores[n].append(score[n, field, row, column])
        return self.chosen(boxes, scores, self._measure)

    def _measure(self, kept: Tensor, others: Tensor) -> Tensor:
        return _pixel_overlap(kept, others, self.settings.mode)


def _pixel_overlap(kept: Tensor, others: Tensor, mode: str) -> Tensor:
    """Of boxes that have their last pixels in them."""
    size = torch.minimum(kept[..., 2:], others[..., 2:]) - torch.maximum(kept[..., :2], others[..., :2])
    # Boxes that share a single row do not meet, as in the fork; those that share a column do.
    shared = torch.where((size[..., 0] < 0) | (size[..., 1] <= 0), 0, (size[..., 0] + 1) * (size[..., 1] + 1))
    return _ratio(shared, area(kept, 1), area(others, 1), mode)


def _ratio(shared: Tensor, kept: Tensor, others: Tensor, mode: str) -> Tensor:
    whole = {"IOMU": torch.minimum(kept, others), "IOFU": kept}.get(mode, kept + others - shared)
    return torch.where((kept > 0) & (others > 0) & (whole > 0), shared / whole, 0)


@layer("BoxGroupOutput", bottoms=(2, None), tops=(1, 2))
def box_group_output(spec: LayerSpec) -> Layer:
    params = spec.params("box_group_output_param")
    groups, shapes = params.box_group_param, spec.bottom_shapes
    if 2 * len(groups) != len(shapes):
        spec.fail(f"{len(shapes)} bottoms need {len(shapes) / 2:g} box_group_param, found {len(groups)}")
    images = None
    for i, group in enumerate(groups):
        count, prob = len(group.field_w), spec.images(2 * i)
        if not count or count != len(group.field_h):
            spec.fail(
                f"box_group_param {i} has {count} field_w and {len(group.field_h)} field_h; as many were expected"
            )
        spec.shaped(2 * i + 1, prob[0], 4, *prob[2:])
        if prob[0] % count or (images is not None and prob[0] // count != images):
            spec.misfit(2 * i, f"a map for each of the {count} fields of every image")
        images = prob[0] // count
    fields = [tuple(zip(group.field_w, group.field_h, strict=True)) for group in groups]
    strides = [group.stride for group in groups]
    return BoxGroupOutput(_settings(spec, params), fields, strides, scored=len(spec.tops) == 2)


def _adjusted(boxes: Tensor, change: Tensor) -> Tensor:
    """``boxes`` (..., 4) with their last pixels in them, centres moved by parts of their size and sizes changed."""
    low, high = boxes[..., :2], boxes[..., 2:]
    size = high - low + 1
    centre = change[..., :2] * size + (low + high) * 0.5
    size = change[..., 2:].exp() * size
    low = centre - (size - 1) / 2
    return torch.cat([low, low + size - 1], -1)


class DecodeBBox(Layer):
    """Boxes (image, x1, y1, x2, y2) adjusted by the second four of eight numbers each, centre and size.

    In training, those whose end comes to lie before their start are left out, and those that match the ground truth to
    ``exact`` already, going by the last value of their row in the third bottom. The boxes come with four axes. There
    is no gradient: training past this layer stops the fork.

    Raises:
        LayerError: no box is left, as in the fork.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], exact: float) -> None:
        super().__init__()
        self.mean = mean
        self.std = std
        self.exact = exact

    def infer(self, *bottoms: Tensor) -> Tensor:
        return torch.empty_like(bottoms[1])

    @torch.no_grad()
    def forward(self, offsets: Tensor, boxes: Tensor, *matches: Tensor) -> Tensor:
        change = offsets.flatten(1)[:, 4:] * offsets.new_tensor(self.std) + offsets.new_tensor(self.mean)
        before = boxes.reshape(-1, 5)
        after = torch.cat([before[:, :1], _adjusted(before[:, 1:], change)], 1)
        if self.training:
            kept = (after[:, 1:3] <= after[:, 3:]).all(1)
            if matches:
                kept = kept & (matches[0].flatten(1)[:, -1] < self.exact)
            after = after[kept]
        if not len(after):
            raise LayerError(f"none of {len(kept)} boxes is left", layer=self.layer_name, type="DecodeBBox")
        return after[..., None, None]


@layer("DecodeBBox", bottoms=(2, 3), tops=1, dialects=("zhaoweicai/mscnn", "zhaoweicai/cascade-rcnn"))
def decode_bbox(spec: LayerSpec) -> Layer:
    matches = len(spec.bottoms) == 3
    boxes = f"boxes = {spec.shaped(0, 'boxes', 'adjustments = 8', ...)[0]}"
    spec.shaped(1, boxes, 5, ...)
    if matches:
        spec.shaped(2, boxes, ...)
    if matches and spec.phase != "TRAIN":
        spec.fail("a third bottom is for the TRAIN phase only")
    mean, std = adjustment(spec)
    return DecodeBBox(mean, std, spec.params("decode_bbox_param").gt_iou_thr if matches else 0.0)


class ScaleRoute(Layer):
    """The boxes (image, x1, y1, x2, y2) with a scale from ``low`` to below ``high``, and the rows of the other bottoms
    that belong to them. A scale is the root of the area.

    If there is none, the box whose scale is nearest to ``middle``, by its ratio to it.
    """

    def __init__(self, low: float, high: float, middle: float) -> None:
        super().__init__()
        self.low = low
        self.high = high
        self.middle = middle

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        tops = tuple(x.new_empty(1, *_three(x)) for x in bottoms)
        return tops[0] if len(tops) == 1 else tops

    @torch.no_grad()
    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        scale = area(bottoms[0].reshape(-1, 5)[:, 1:].float(), 1).sqrt()
        inside = (scale >= self.low) & (scale < self.high)
        distance = (scale / self.middle).log2().abs()
        some = inside.any() | distance.isfinite().any()
        insist(some, "no box has an area", layer=self.layer_name, type="ScaleRoute")
        nearest = torch.where(distance.isfinite(), distance, torch.inf).argmin()[None]
        chosen = rows_or(inside.nonzero(), nearest[None])[:, 0]
        tops = tuple(x[chosen].reshape(-1, *_three(x)) for x in bottoms)
        return tops[0] if len(tops) == 1 else tops


def _three(x: Tensor) -> tuple[int, ...]:
    """The axes behind the first, at least three."""
    return (*x.shape[1:], *[1] * (4 - x.dim()))


@layer("ScaleRoute", bottoms=(1, None), tops=(1, None), dialects=("zhaoweicai/cascade-rcnn",))
def scale_route(spec: LayerSpec) -> Layer:
    params = spec.params("scale_route_param")
    spec.one_top_each()
    boxes = spec.shaped(0, "boxes", 5, ones=True)[0]
    for index in range(len(spec.bottoms)):
        spec.four_axes(index)
        spec.shaped(index, f"boxes = {boxes}", ...)
    low, high = params.get("low_scale", 0.0), params.get("high_scale", math.inf)
    if high < low or (params.has("low_scale") and low <= 0) or high <= 0:
        spec.fail(f"low_scale {low:g} and high_scale {high:g} must be positive, and the latter not below the former")
    ends = [end for end in (low, high) if 0 < end < math.inf]
    middle = math.prod(ends) ** (1 / len(ends)) if ends else 256.0
    return ScaleRoute(low, high, middle)


class FrcnnOutput(Layer):
    """Detections of one image: rows (0, x1, y1, x2, y2, class, score), (detections + 1, 7, 1, 1).

    The first row is (0, -1 ...) always. Ordered by class, the best first within a class. Before the first pass there is
    that row only, as in Caffe. The fork leaves equal scores to an unstable sort; here they keep the order of the boxes
    and classes. Bottoms: probabilities (N, classes) with class 0 for none, adjustments (N, 4 x classes)
    or (N, 8) of the boxes, these (N, 5 or 6), and height and width of the image, which boxes are cut off at.

    Args:
        confidence: scores must reach it. overlap, mode: as in :class:`ProposalSettings`.
        most: how many are kept of all classes, 0 for all.
        aware: every class has adjustments of its own.
    """

    def __init__(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        confidence: float,
        overlap: float,
        mode: str,
        most: int,
        *,
        aware: bool,
    ) -> None:
        super().__init__()
        self.mean = mean
        self.std = std
        self.confidence = confidence
        self.overlap = overlap
        self.mode = mode
        self.most = most
        self.aware = aware

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(1, 7, 1, 1)

    @torch.no_grad()
    def forward(self, prob: Tensor, offsets: Tensor, boxes: Tensor, image: Tensor) -> Tensor:
        prob, boxes = prob.flatten(1), boxes.flatten(1)
        insist(
            (boxes[:, 0] == 0).all() & ~(boxes[:, 3:5] < boxes[:, 1:3]).any(),
            "the boxes must be of the first image and have their end behind their start",
            layer=self.layer_name,
            type="FrcnnOutput",
        )
        change = offsets.reshape(len(prob), -1, 4) * offsets.new_tensor(self.std) + offsets.new_tensor(self.mean)
        adjusted = _adjusted(boxes[:, None, 1:5], change)
        limit = image.flatten()[[1, 0]]
        corners = torch.cat([adjusted[..., :2].clamp_min(0), torch.minimum(adjusted[..., 2:], limit)], -1)
        found = [corners.new_zeros(0, 7)]
        for label in range(1, prob.shape[1]):
            here = (prob[:, label] >= self.confidence).nonzero()[:, 0]
            score, order = prob[here, label].sort(descending=True, stable=True)
            own = corners[here, label if self.aware else 1][order]
            kept = best_apart(own, self.overlap, self._measure)
            rows = [torch.zeros_like(score), *own.unbind(1), torch.full_like(score, label), score]
            found.append(torch.stack(rows, 1)[kept])
        detections = torch.cat(found)
        if self.most > 0:
            best = detections[:, 6].argsort(descending=True, stable=True)[: self.most]
            detections = detections[best.sort().values]
        first = detections.new_tensor([[0, *[-1] * 6]])
        return torch.cat([first, detections])[..., None, None]

    def _measure(self, kept: Tensor, others: Tensor) -> Tensor:
        return _pixel_overlap(kept, others, self.mode)


@layer("FrcnnOutput", bottoms=4, tops=1, dialects=("zhaoweicai/cascade-rcnn",))
def frcnn_output(spec: LayerSpec) -> Layer:
    params = spec.params("frcnn_output_param")
    aware = spec.params("bbox_reg_param").cls_aware
    mean, std = adjustment(spec)
    count, classes = spec.rows(0, "boxes", "classes > 1")
    boxes = f"boxes = {count}"
    spec.rows(1, boxes, f"adjustments = {4 * classes if aware else 8}")
    if spec.rows(2, boxes, "numbers >= 5")[1] > 6:
        spec.misfit(2, f"({boxes}, 5 or 6)")
    spec.as_many(3, (2,), "height and width of one image")
    return FrcnnOutput(
        mean, std, params.conf_thr, params.iou_thr, _measure_of(spec, params), params.max_det_num, aware=aware
    )
