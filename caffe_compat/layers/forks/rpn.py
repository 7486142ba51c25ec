"""Proposal: the region proposals of Faster R-CNN as PVANet's fork, mini-caffe and caffe-windows have them, in C++.

Other forks have a type of this name, and even of these parameters, that computes other boxes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..exporting import is_exporting
from ..precision import widened
from .boxes import suppress

__all__ = ["Proposal", "base_anchors"]

_PVANET, _MINI = "sanghoon/caffe@dev_pvanet", "luoyetx/mini-caffe"
_WINDOWS, _WU = "happynear/caffe-windows", "GuohongWu/caffe-windows"


def base_anchors(size: int, ratios: tuple[float, ...], scales: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """Corners of the boxes around the first cell, the scales of the first ratio first.

    A ratio is height by width. Widths and heights are rounded before they are scaled.
    """
    anchors = []
    centre = 0.5 * (size - 1)
    for ratio in ratios:
        # In single precision, as halves are rounded up.
        width = np.floor(np.sqrt(np.float32(size * size) / np.float32(ratio)) + np.float32(0.5))
        height = np.floor(width * np.float32(ratio) + np.float32(0.5))
        for scale in scales:
            half = [0.5 * (float(side) * scale - 1) for side in (width, height)]
            anchors.append((centre - half[0], centre - half[1], centre + half[0], centre + half[1]))
    return tuple(anchors)


def _anchors_of_windows(
    size: int, ratios: tuple[float, ...], scales: tuple[float, ...], divisor: int
) -> tuple[tuple[float, ...], ...]:
    """The same of caffe-windows, whose sides are rounded last, halves up, after a division by ``divisor``."""
    anchors, centre = [], 0.5 * (size - 1)
    for ratio in ratios:
        width = np.sqrt(np.float32(size * size) / np.float32(ratio))
        sides = (width, np.float32(width * np.float32(ratio)))
        for scale in scales:
            # As a C++ cast, which cuts off towards 0, does it.
            half = [0.5 * int(float(side * np.float32(scale)) / divisor - 1 + 0.5) for side in sides]
            anchors.append((centre - half[0], centre - half[1], centre + half[0], centre + half[1]))
    return tuple(anchors)


@dataclass(frozen=True)
class ProposalSettings:
    """How boxes are made and chosen.

    Attributes:
        anchors: corners of the boxes around the first cell. stride: pixels from cell to cell.
        least: width and height that a box must have in the image before it was scaled.
        before, after: how many boxes are looked at, and kept, at most. overlap: above it, the lower of two boxes goes.
        swaps: how the sort moves what it has compared; see :func:`_quicksorted`.
        apart: whether boxes that lie beside each other have no pixel in common.
    """

    anchors: tuple[tuple[float, ...], ...]
    stride: int
    least: int
    before: int
    after: int
    overlap: float
    swaps: bool
    apart: bool


class Proposal(Layer):
    """The best boxes of an image, rows (0, x1, y1, x2, y2), the best first; and, second, their scores.

    Bottoms: for A anchors, scores (1, 2 A, H, W), of which the second A count; adjustments (1, 4 A, H, W) of centre and
    size; height, width and scale (or the scales in height and width) of the image. Boxes that are too small have the
    score 0, and are not left out. Equal scores come in the order in which the fork's own quicksort leaves them. The
    number of boxes depends on the values. There is no gradient.

    Args:
        numbers: how many of the image's are read: 3, or 4 with scales in height and width. scored: a second top.
    """

    def __init__(self, settings: ProposalSettings, numbers: int, *, scored: bool) -> None:
        super().__init__()
        self.settings = settings
        self.numbers = numbers
        self.scored = scored

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        boxes = bottoms[0].new_empty(self.settings.after, 5)
        return (boxes, boxes[:, 0]) if self.scored else boxes

    @torch.no_grad()
    def forward(self, scores: Tensor, offsets: Tensor, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        s = self.settings
        height, width = scores.shape[2:]
        anchors = widened(offsets).new_tensor(s.anchors)
        x = torch.arange(width, device=offsets.device).expand(height, width)
        y = torch.arange(height, device=offsets.device)[:, None].expand(height, width)
        shift = torch.stack([x, y, x, y], -1)[:, :, None] * s.stride
        low, high = (anchors + shift).split(2, -1)  # (H, W, A, 2)
        change = widened(offsets)[0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1)
        size = high - low + 1
        centre = change[..., :2] * size + (low + 0.5 * size)
        half = 0.5 * change[..., 2:].exp() * size
        info = widened(image).flatten()[: self.numbers]
        limit = info[[1, 0]] - 1
        low, high = (torch.minimum(corner, limit).clamp_min(0) for corner in (centre - half, centre + half))
        least = s.least * (info[[3, 2]] if len(info) > 3 else info[2])
        fits = (high - low + 1 >= least).all(-1)
        boxes = torch.cat([low, high], -1).reshape(-1, 4)
        score = (widened(scores)[0, len(s.anchors) :].permute(1, 2, 0) * fits).reshape(-1)
        order = _descending(score, s.before, swaps=s.swaps)
        score, boxes = score[order], boxes[order]
        everything = torch.ones_like(score, dtype=torch.bool)[None]
        measure = _overlap_of_meeting if s.apart else _pixel_overlap
        kept = suppress(boxes[None], everything, s.overlap, measure=measure, limit=s.after)[0]
        places = kept.nonzero()[:, 0]
        rows = torch.cat([torch.zeros_like(score)[:, None], boxes], 1)[places].to(scores.dtype)
        return (rows, score[places].to(scores.dtype)) if self.scored else rows


def _pixel_overlap(kept: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes that have their last pixels in them."""
    sides = torch.minimum(kept[..., 2:], others[..., 2:]) - torch.maximum(kept[..., :2], others[..., :2]) + 1
    shared = sides.clamp_min(0).prod(-1)
    first, second = ((box[..., 2:] - box[..., :2] + 1).prod(-1) for box in (kept, others))
    return shared / (first + second - shared)


def _overlap_of_meeting(kept: Tensor, others: Tensor) -> Tensor:
    """The same, 0 for boxes whose corners say that they lie apart, though by less than a pixel."""
    apart = (kept[..., :2] > others[..., 2:]) | (kept[..., 2:] < others[..., :2])
    return torch.where(apart.any(-1), 0, _pixel_overlap(kept, others))


def _descending(score: Tensor, count: int, *, swaps: bool) -> Tensor:
    """Where the ``count`` highest scores are, in the order in which the fork's quicksort leaves them."""
    order = score.argsort(descending=True, stable=True)
    count = min(count, len(order))
    if is_exporting():
        return order[:count]  # a program keeps the order of equal scores
    ranked = score[order[: count + 1]]
    if bool((ranked[1:] != ranked[:-1]).all()):
        return order[:count]
    return torch.from_numpy(_quicksorted(score.cpu().numpy(), count, swaps=swaps)).to(score.device)[:count]


def _quicksorted(score: np.ndarray, count: int, *, swaps: bool) -> np.ndarray:
    """The forks' quicksorts, of which the order of equal scores is to be known: places in ``score``.

    The first score of a part divides it. From both ends the next lower one on the left and the next higher one on the
    right are sought, which change places (``swaps``: PVANet,
    caffe-windows), or take turns at filling the hole that the first score has left (mini-caffe). Parts behind the first
    ``count`` stay as they are.
    """
    order = np.arange(len(score))
    tied = np.isin(score, [value for value, n in zip(*np.unique(score, return_counts=True), strict=True) if n > 1])
    parts = [(0, len(score))]
    while parts:
        start, end = parts.pop()
        own = order[start:end].copy()
        values = score[own]
        if tied[own].sum() < 2:
            order[start:end] = own[np.argsort(-values, kind="stable")]
            continue
        if (values == values[0]).all():
            continue
        lower, higher = np.flatnonzero(values < values[0]), np.flatnonzero(values > values[0])[::-1]
        both = min(len(lower), len(higher))
        pairs = int((lower[:both] < higher[:both]).sum())  # the first ones, as the places meet in the middle
        left, right = lower[:pairs], higher[:pairs]
        last = left[-1] if pairs else 0
        middle = higher[pairs] if pairs < len(higher) and higher[pairs] > last else last
        moved = own.copy()
        if swaps:
            moved[left], moved[right] = own[right], own[left]
            moved[0], moved[middle] = moved[middle], moved[0]
        else:
            sources = higher[: pairs + (middle != last)]
            moved[np.concatenate([[0], left])[: len(sources)]] = own[sources]
            moved[right] = own[left]
            moved[middle] = own[0]
        order[start:end] = moved
        if middle > 1:
            parts.append((start, start + int(middle)))
        if start + middle + 1 < count and middle + 2 < len(own):
            parts.append((start + int(middle) + 1, end))
    return order


@layer("Proposal", bottoms=3, tops=(1, 2), dialects=(_PVANET, _MINI))
def proposal(spec: LayerSpec) -> Layer:
    params = _checked(spec)
    pvanet = _PVANET in spec.dialect.split("+")
    numbers = 4 if pvanet else 3
    if math.prod(spec.bottom_shapes[2]) < numbers:
        other = f" (3 under {_MINI})" if pvanet else ""
        spec.misfit(2, f"a blob of {numbers} numbers under the dialect {spec.dialect}{other}")
    return _proposal(
        spec, base_anchors(params.base_size, params.ratio, params.scale), swaps=pvanet, apart=pvanet, numbers=numbers
    )


@layer("Proposal", bottoms=3, tops=(1, 2), dialects=(_WINDOWS,))
def proposal_of_windows(spec: LayerSpec) -> Layer:
    """Like GuohongWu's, but that the sides of anchors are divided by base_size."""
    return _proposal_of_windows(spec, spec.params("proposal_param").base_size)


@layer("Proposal", bottoms=3, tops=(1, 2), dialects=(_WU,), verified=False)
def proposal_of_wu(spec: LayerSpec) -> Layer:
    return _proposal_of_windows(spec, 1)


def _proposal_of_windows(spec: LayerSpec, divisor: int) -> Layer:
    """The forks read a fourth number of the image, its scale in width, also of three: then there is one for both."""
    params = _checked(spec)
    numbers = math.prod(spec.bottom_shapes[2])
    if numbers < 3:
        spec.misfit(2, "a blob of 3 numbers, or of 4")
    anchors = _anchors_of_windows(params.base_size, params.ratio, params.scale, divisor)
    return _proposal(spec, anchors, swaps=True, apart=True, numbers=min(numbers, 4))


def _checked(spec: LayerSpec) -> Params:
    params = spec.params("proposal_param")
    ratios, scales = params.ratio, params.scale
    if not ratios or not scales or min((*ratios, *scales)) <= 0 or params.base_size < 1 or params.feat_stride < 1:
        spec.fail("needs a ratio and a scale, and positive ones, and a base_size and a feat_stride of at least 1")
    if min(params.pre_nms_topn, params.post_nms_topn) < 1:
        spec.fail("pre_nms_topn and post_nms_topn must be at least 1")
    count = len(ratios) * len(scales)
    *_, height, width = spec.shaped(0, 1, f"scores of {count} anchors = {2 * count}", "height", "width")
    spec.shaped(1, 1, f"offsets of {count} anchors = {4 * count}", f"height = {height}", f"width = {width}")
    return params


def _proposal(
    spec: LayerSpec, anchors: tuple[tuple[float, ...], ...], *, swaps: bool, apart: bool, numbers: int
) -> Layer:
    params = spec.params("proposal_param")
    spec.warn(f"the boxes are those of {spec.dialect}; other forks make others of the same parameters")
    settings = ProposalSettings(
        anchors,
        params.feat_stride,
        params.min_size,
        params.pre_nms_topn,
        params.post_nms_topn,
        params.nms_thresh,
        swaps,
        apart,
    )
    return Proposal(settings, numbers, scored=len(spec.tops) == 2)
