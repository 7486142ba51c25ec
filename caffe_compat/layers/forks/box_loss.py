"""Losses of the region-based detectors: three generations of SmoothL1Loss, and online hard example mining (OHEM)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ..bvlc.loss import check_same_batch, class_axis, ignored_label, normalization_mode, normalizer, with_gradient
from ..bvlc.softmax_loss import SoftmaxWithLoss
from ..precision import widened

__all__ = ["BoxAnnotatorOHEM", "SmoothL1Loss", "SoftmaxWithLossOHEM"]


# Caffe's FLT_MIN: probabilities are raised to it before their logarithm is taken.
_LEAST = torch.finfo(torch.float32).tiny


class SmoothL1Loss(Layer):
    """Sum of f(w (a - b)) v over all values, divided by a number.

    f(d) is sigma^2 d^2 / 2 for |d| < 1 / sigma^2, else |d| - 1 / (2 sigma^2).

    Third and fourth bottom are w (inside) and v (outside). A second top is f summed over the channels. With w alone
    Caffe's gradient is f'(w (a - b)), without the factor w (which was made for 0 and 1); ``gradients="true"`` has it.

    Args:
        fixed: what the sum is divided by; None for the number of examples, the first dimension of the bottom.
    """

    def __init__(self, sigma: float, fixed: float | None, gradients: str, *, tops: int) -> None:
        super().__init__()
        self.sigma = sigma
        self.fixed = fixed
        self.gradients = gradients
        self.with_sums = tops > 1

    def forward(self, a: Tensor, b: Tensor, *weights: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        difference = widened(a) - widened(b).reshape(a.shape)
        scaled = difference * weights[0].detach().reshape(a.shape) if weights else difference
        square = self.sigma * self.sigma
        near = scaled.abs() < 1 / square
        errors = torch.where(near, 0.5 * square * scaled * scaled, scaled.abs() - 0.5 / square)
        if len(weights) > 1:
            errors = errors * weights[1].detach().reshape(a.shape)
        count = a.shape[0] if self.fixed is None else self.fixed
        loss = errors.sum() / count
        if len(weights) == 1 and self.gradients != "true":
            loss = with_gradient(loss, difference, lambda: torch.where(near, square * scaled, scaled.sign()) / count)
        loss = loss.to(a.dtype)
        return (loss, errors.sum(1, keepdim=True).detach().to(a.dtype)) if self.with_sums else loss


@layer("SmoothL1Loss", bottoms=(2, 4), tops=(0, 1), loss=True)
def smooth_l1_loss(spec: LayerSpec) -> Layer:
    """Fast R-CNN's and SSD's (two or three bottoms) and Faster R-CNN's (two or four, with sigma)."""
    _check_alike(spec)
    sigma = 1.0
    if spec.knows("smooth_l1_loss_param"):
        sigma = spec.params("smooth_l1_loss_param").sigma
        if len(spec.bottoms) == 3 and sigma != 1:
            spec.fail(f"sigma {sigma:g} needs both inside and outside weights, but there is one bottom of weights")
        if sigma == 0:
            spec.fail("sigma is 0; 1 / sigma^2 is where the loss turns linear")
    return SmoothL1Loss(sigma, None, spec.gradients, tops=1)


def _normalized_smooth_l1(spec: LayerSpec) -> Layer:
    _check_alike(spec)
    shape, params = spec.bottom_shapes[0], spec.params("loss_param")
    # The number is given in the text, which the modes of BVLC do not know.
    if params.has("normalization") and params.normalization == "PRE_FIXED":
        params.ignore("normalize")
        fixed = max(1.0, params.pre_fixed_normalizer)
    else:
        fixed = float(normalizer(normalization_mode(spec, "VALID"), shape[0], math.prod(shape[2:]), None))
    return SmoothL1Loss(1.0, fixed, spec.gradients, tops=len(spec.tops))


@layer("SmoothL1Loss", bottoms=(2, 3), tops=(0, 2), loss=True, dialects=("daijifeng001/caffe-rfcn",))
def smooth_l1_loss_rfcn(spec: LayerSpec) -> Layer:
    return _normalized_smooth_l1(spec)


@layer("SmoothL1LossOHEM", bottoms=(2, 3), tops=(0, 2), loss=True)
def smooth_l1_loss_ohem(spec: LayerSpec) -> Layer:
    return _normalized_smooth_l1(spec)


def _check_alike(spec: LayerSpec) -> None:
    check_same_batch(spec)
    first = spec.bottom_shapes[0]
    for name, shape in zip(spec.bottoms[1:], spec.bottom_shapes[1:], strict=True):
        # Caffe looks at four axes, the missing ones being 1.
        if _four(shape) != _four(first):
            spec.fail(f"{name!r} has shape {list(shape)}, {spec.bottoms[0]!r} {list(first)}; they must be alike")


def _four(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, *[1] * (4 - len(shape)))


class SoftmaxWithLossOHEM(SoftmaxWithLoss):
    """SoftmaxWithLoss, with the loss at each position, before it is divided, as a third top."""

    def __init__(self, axis: int, mode: str, ignored: int | None, gradients: str, *, tops: int) -> None:
        super().__init__(axis, mode, ignored, gradients, tops=tops)
        self.with_each = tops > 2

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        tops = super().forward(x, labels)
        if not self.with_each:
            return tops
        index, valid = self.labels_like(x, labels)
        losses = -torch.softmax(widened(x.detach()), self.axis).gather(self.axis, index).clamp_min(_LEAST).log()
        if valid is not None:
            losses = torch.where(valid, losses, 0)
        return (*tops, losses.reshape(labels.shape).to(x.dtype))


@layer("SoftmaxWithLossOHEM", bottoms=2, tops=(0, 3), loss=True)
def softmax_with_loss_ohem(spec: LayerSpec) -> Layer:
    check_same_batch(spec)
    axis = class_axis(spec, spec.params("softmax_param").axis, "softmax_param.axis")
    mode = normalization_mode(spec, "VALID")
    return SoftmaxWithLossOHEM(axis, mode, ignored_label(spec), spec.gradients, tops=len(spec.tops))


class BoxAnnotatorOHEM(Layer):
    """Labels and weights of the ``count`` boxes of each image whose loss is largest; the others get ``ignored`` and 0.

    Bottoms: boxes (image, x1, y1, x2, y2), loss, label and the weights of the box regression. It has no gradient.
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
        labels, weights = labels.detach(), weights.detach()
        kept_weights = kept.view(weights.shape[0], 1, *weights.shape[2:])
        return torch.where(kept.view(labels.shape), labels, self.ignored), torch.where(kept_weights, weights, 0)


@layer("BoxAnnotatorOHEM", bottoms=4, tops=2)
def box_annotator_ohem(spec: LayerSpec) -> Layer:
    params = spec.params("box_annotator_ohem_param")
    if params.roi_per_img < 1:
        spec.fail(f"roi_per_img is {params.roi_per_img}; at least 1 was expected")
    boxes, losses, labels, weights = map(_four, spec.bottom_shapes)
    count, _, height, width = boxes
    for name, found, expected in zip(
        spec.bottoms,
        (boxes, losses, labels, weights),
        (
            (count, 5, height, width),
            (count, 1, height, width),
            (count, 1, height, width),
            (count, weights[1], height, width),
        ),
        strict=True,
    ):
        if found != expected:
            spec.fail(f"{name!r} has shape {list(found)}; {list(expected)} was expected")
    return BoxAnnotatorOHEM(params.roi_per_img, params.ignore_label)
