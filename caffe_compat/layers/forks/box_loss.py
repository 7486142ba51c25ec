"""Online hard example mining (OHEM) of the region-based detectors: which boxes count, and a loss for each."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ...network.shapes import four_axes
from ..bvlc.loss import class_axis, ignored_label, normalization_mode, same_batch
from ..bvlc.softmax_loss import SoftmaxWithLoss, softmax_with_loss
from ..precision import widened
from .families import DREADLORD

__all__ = ["BoxAnnotatorOHEM", "SoftmaxWithLossOHEM"]


# Caffe's FLT_MIN: probabilities are raised to it before their logarithm is taken.
_LEAST = torch.finfo(torch.float32).tiny


# These have it as Shrivastava et al.'s code was ported to C++ by the authors of R-FCN.
_DAI = (
    *DREADLORD,
    "Microsoft/caffe",
    "bharatsingh430/py-R-FCN-multiGPU",
    "makefile/frcnn",
    "peteanderson80/bottom-up-attention",
    "soeaver/py-RFCN-priv",
    "superxuang/caffe_3d_faster_rcnn",
    "torrvision/caffe-tvg",
)


class SoftmaxWithLossOHEM(SoftmaxWithLoss):
    """SoftmaxWithLoss, with the loss at each position, before it is divided, as a third top.

    ``fixed`` is what the sum is divided by, at least 1, whatever the mode.
    """

    def __init__(
        self, axis: int, mode: str, ignored: int | None, gradients: str, *, tops: int, fixed: float | None = None
    ) -> None:
        super().__init__(axis, mode, ignored, gradients, tops=tops)
        self.with_each = tops > 2
        self.fixed = fixed

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        tops = super().infer(*bottoms)
        return (*tops, bottoms[0].new_empty(bottoms[1].shape)) if self.with_each else tops

    def divisor(self, outer: int, inner: int, valid: Tensor | None) -> float | Tensor:
        return super().divisor(outer, inner, valid) if self.fixed is None else max(1.0, self.fixed)

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        tops = super().forward(x, labels)
        if not self.with_each:
            return tops
        return (*tops, self.each(x.detach(), labels).reshape(labels.shape).to(x.dtype))

    def each(self, x: Tensor, labels: Tensor) -> Tensor:
        """The loss at each position, 0 where the label is ignored."""
        index, valid = self.labels_like(x, labels)
        losses = -torch.softmax(widened(x), self.axis).gather(self.axis, index).clamp_min(_LEAST).log()
        return losses if valid is None else torch.where(valid, losses, 0)


class IntelSoftmaxWithLossOHEM(SoftmaxWithLossOHEM):
    """Two slips of intel/caffe's CPU code: of N labels that are not ignored, the losses of the first N positions are
    summed, ignored ones being 0; and the second top is written if it is the last, and else stays 0.

    From the second pass on Caffe leaves in place of these zeros what the backward pass before left in the bottom's
    diff. That is not followed.
    """

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        tops = super().forward(x, labels)
        loss, *others = tops if isinstance(tops, tuple) else (tops,)
        valid = self.labels_like(x, labels)[1]
        if valid is not None:
            losses = self.each(x, labels).flatten()
            first = torch.arange(len(losses), device=x.device) < valid.sum()
            outer, inner = math.prod(x.shape[: self.axis]), math.prod(x.shape[self.axis + 1 :])
            value = (torch.where(first, losses, 0).sum() / self.divisor(outer, inner, valid)).to(x.dtype)
            loss = value if self.gradients == "true" else loss + (value - loss).detach()
        if self.with_each:
            others[0] = torch.zeros_like(others[0])
        return (loss, *others) if others else loss


def _softmax_ohem(spec: LayerSpec, kind: type[SoftmaxWithLossOHEM]) -> Layer:
    same_batch(spec)
    axis = class_axis(spec, spec.params("softmax_param").axis, "softmax_param.axis")
    params, fixed = spec.params("loss_param"), None
    if params.has("normalization") and params.normalization == "PRE_FIXED":
        params.ignore("normalize")
        mode, fixed = "NONE", float(params.pre_fixed_normalizer)
    else:
        mode = normalization_mode(spec, "VALID")
        if params.knows("pre_fixed_normalizer"):
            params.ignore("pre_fixed_normalizer")
    return kind(axis, mode, ignored_label(spec), spec.gradients, tops=len(spec.tops), fixed=fixed)


@layer("SoftmaxWithLossOHEM", bottoms=2, tops=(0, 3), loss=True, dialects=_DAI)
def softmax_with_loss_ohem(spec: LayerSpec) -> Layer:
    return _softmax_ohem(spec, SoftmaxWithLossOHEM)


@layer("SoftmaxWithLossOHEM", bottoms=2, tops=(0, 3), loss=True, dialects=("intel/caffe",))
def softmax_with_loss_ohem_intel(spec: LayerSpec) -> Layer:
    return _softmax_ohem(spec, IntelSoftmaxWithLossOHEM)


@layer("SoftmaxWithLoss", bottoms=2, tops=(0, 3), loss=True, dialects=("daijifeng001/caffe-rfcn",))
def softmax_with_loss_of_each(spec: LayerSpec) -> Layer:
    """What became SoftmaxWithLossOHEM elsewhere."""
    plain = softmax_with_loss(spec)
    assert isinstance(plain, SoftmaxWithLoss)
    if len(spec.tops) < 3:
        return plain
    return SoftmaxWithLossOHEM(plain.axis, plain.mode, plain.ignored, plain.gradients, tops=3)


class BoxAnnotatorOHEM(Layer):
    """Labels and weights of the ``count`` boxes of each image whose loss is largest; the others get ``ignored`` and 0.

    Bottoms: boxes (image, x1, y1, x2, y2), loss, label and the weights of the box regression. The tops have four axes.
    It has no gradient. Of equal losses the first counts; Caffe sorts more than 16 boxes in an order of its own.
    """

    def __init__(self, count: int, ignored: int) -> None:
        super().__init__()
        self.count = count
        self.ignored = ignored

    def forward(self, boxes: Tensor, losses: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        images = boxes.detach()[:, 0].reshape(-1).long()
        order = losses.detach().reshape(-1).argsort(descending=True, stable=True)
        images = images[order]
        ahead = torch.ones(len(order), len(order), dtype=torch.bool, device=boxes.device).tril(-1)
        rank = ((images[:, None] == images[None, :]) & ahead).sum(1)
        kept = torch.zeros_like(rank, dtype=torch.bool).scatter(0, order, rank < self.count)
        labels, weights = (x.detach().reshape(four_axes(tuple(x.shape))) for x in (labels, weights))
        kept = kept.view(labels.shape)
        return torch.where(kept, labels, self.ignored), torch.where(kept, weights, 0)


@layer("BoxAnnotatorOHEM", bottoms=4, tops=2)
def box_annotator_ohem(spec: LayerSpec) -> Layer:
    params = spec.params("box_annotator_ohem_param")
    if params.roi_per_img < 1:
        spec.fail(f"roi_per_img is {params.roi_per_img}; at least 1 was expected")
    count, _, height, width = spec.four_axes(0)
    for index, columns in enumerate((5, 1, 1, spec.four_axes(3)[1])):  # boxes, losses, labels, weights
        expected = (count, columns, height, width)
        if spec.four_axes(index) != expected:
            spec.misfit(index, f"{list(expected)}")
    return BoxAnnotatorOHEM(params.roi_per_img, params.ignore_label)
