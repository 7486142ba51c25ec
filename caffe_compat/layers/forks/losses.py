"""Losses of single forks that are a formula each: absolute and squared differences, and cross-entropies of sigmoids.

Sources: kmaninis/OSVOS-caffe, ``caffe-osvos/src/caffe/layers/sigmoid_cross_entropy_balance_loss_layer.cpp``;
``abs_loss_layer.cpp`` as several forks have it; xiaolonw/caffe-3dnormal_joint_pose, ``sigmoid_loss_layer.cpp``;
pulkitag/caffe, ``euclidean_loss_with_ignore_layer.cpp``; zimenglan-sysu-512/pose_action_caffe,
``similary_euclidean_loss_layer.cpp``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ...network.registry import Layer, LayerSpec, layer
from ..bvlc.loss import same_batch, with_gradient
from ..precision import widened

__all__ = ["AbsLoss", "BalancedSigmoidLoss", "EuclideanLossWithIgnore", "SigmoidLoss", "SimilarityLoss"]

# Caffe's FLT_MIN: probabilities are raised to it before their logarithm is taken.
_LEAST = torch.finfo(torch.float32).tiny


def _value_each(spec: LayerSpec) -> int:
    """How many examples there are, of predictions and as many targets."""
    examples = same_batch(spec)
    spec.as_many(1, spec.bottom_shapes[0], f"a value for each of {spec.bottoms[0]!r}")
    return examples


class AbsLoss(Layer):
    """Sum of |a - b| over all values, divided by the examples. Both bottoms get gradients."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return ((widened(a) - widened(b).reshape(a.shape)).abs().sum() / a.shape[0]).to(a.dtype)


@layer("AbsLoss", bottoms=2, tops=(0, 1), loss=True, unforced=(), verified=False)
def abs_loss(spec: LayerSpec) -> Layer:
    """Forks differ in the gradient where both are equal: 0 here, -1 in some."""
    _value_each(spec)
    return AbsLoss()


class BalancedSigmoidLoss(Layer):
    """Cross-entropy of sigmoids with targets 1 and 0, which together weigh the same in each example, over N.

    Values with another target have no part in the loss; the fork hands back sigmoid - target for them all the same,
    ``as_caffe``.
    """

    def __init__(self, *, as_caffe: bool) -> None:
        super().__init__()
        self.as_caffe = as_caffe

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        scores, goal = widened(x).flatten(1), widened(target.detach()).reshape(x.shape).flatten(1)
        ones, zeros = goal == 1, goal == 0
        count, others = ones.sum(1, keepdim=True), zeros.sum(1, keepdim=True)
        weights = torch.where(ones, others / (count + others), torch.where(zeros, count / (count + others), 0))
        losses = functional.binary_cross_entropy_with_logits(scores, goal, reduction="none")
        loss = (weights * torch.where(ones | zeros, losses, 0)).sum() / x.shape[0]
        if not self.as_caffe:
            return loss.to(x.dtype)

        def slopes() -> Tensor:
            slope = (scores.sigmoid() - goal) * torch.where(ones | zeros, weights, 1)
            return (slope / x.shape[0]).reshape(x.shape).to(x.dtype)

        return with_gradient(loss.to(x.dtype), x, slopes)


@layer("SigmoidCrossEntropyBalanceLoss", bottoms=2, tops=(0, 1), loss=True, verified=False)
def sigmoid_cross_entropy_balance_loss(spec: LayerSpec) -> Layer:
    _value_each(spec)
    return BalancedSigmoidLoss(as_caffe=spec.gradients == "caffe")


class SigmoidLoss(Layer):
    """Cross-entropy of sigmoids with labels that are 1, cut off, or else 0, summed and divided by the examples.

    The value is bounded where a probability is below the least positive float; the gradient is not.
    """

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        goal = (labels.detach().reshape(x.shape).trunc() == 1).to(widened(x).dtype)
        losses = functional.binary_cross_entropy_with_logits(widened(x), goal, reduction="none")
        losses = losses + (losses.clamp_max(-math.log(_LEAST)) - losses).detach()
        return (losses.sum() / x.shape[0]).to(x.dtype)


@layer("SIGMOID_LOSS", bottoms=2, tops=0, loss=True, dialects=("xiaolonw/caffe-3dnormal_joint_pose",), verified=False)
def sigmoid_loss(spec: LayerSpec) -> Layer:
    if any(weight not in (0, 1) for weight in spec.message.loss_weight):
        spec.fail("a loss_weight other than 1 is not supported: the fork's gradient does not know it")
    _value_each(spec)
    return SigmoidLoss()


class EuclideanLossWithIgnore(Layer):
    """Sum of (x - target)^2 / 2 over the examples whose mark is 1, divided by how many these are; 0 of none.

    Targets (N, values + 1, ...) have the mark behind an example's values.
    """

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        rows = widened(x).flatten(1)
        goal = widened(target.detach()).flatten(1)
        counted = goal[:, rows.shape[1]] == 1
        squares = (rows - goal[:, : rows.shape[1]]).square().sum(1)
        return (torch.where(counted, squares, 0).sum() / counted.sum().clamp_min(1) / 2).to(x.dtype)


@layer("EuclideanLossWithIgnore", bottoms=2, tops=(0, 1), loss=True, dialects=("pulkitag/caffe",), verified=False)
def euclidean_loss_with_ignore(spec: LayerSpec) -> Layer:
    params = spec.params("euclideanloss_param")
    if params.is_normalized:
        spec.fail("is_normalized: true is not supported: the fork's gradient multiplies by what its loss divides by")
    params.ignore("normalize_choice")  # of is_normalized alone
    examples, values, *rest = spec.shaped(0, "examples", "values", ...)
    spec.shaped(1, f"examples = {examples}", f"values and a mark = {values + 1}", ...)
    spec.as_many(1, (examples, values + 1, *rest), "a target for each value, and a mark for each place")
    return EuclideanLossWithIgnore()


class SimilarityLoss(Layer):
    """For two examples: (rate d^2 - bias) / 2 of their distance d if their labels are equal, and less that if not.

    Where it is below ``least`` there is no gradient; elsewhere the fork's is half the derivative, ``as_caffe``.
    """

    def __init__(self, rate: float, least: float, bias: float, *, as_caffe: bool) -> None:
        super().__init__()
        self.rate = rate
        self.least = least
        self.bias = bias
        self.as_caffe = as_caffe

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        first, second = widened(x)
        own = labels.detach().flatten().long()
        sign = torch.where(own[0] == own[1], 1.0, -1.0)
        loss = sign * (self.rate * (first - second).square().sum() - self.bias) / 2
        if not self.as_caffe:
            return loss.to(x.dtype)

        def slopes() -> Tensor:
            slope = sign * self.rate * (first - second) / 2 * (loss >= self.least)
            return torch.stack([slope, -slope]).to(x.dtype)

        return with_gradient(loss.to(x.dtype), x, slopes)


@layer(
    "SimilaryEuclideanLoss",
    bottoms=2,
    tops=(0, 1),
    loss=True,
    dialects=("zimenglan-sysu-512/pose_action_caffe",),
    verified=False,
)
def similary_euclidean_loss(spec: LayerSpec) -> Layer:
    spec.shaped(0, 2, ...)
    spec.vector(1, "labels = 2")
    if not spec.message.HasField("similary_euclidean_loss_param"):
        spec.fail("needs similary_euclidean_loss_param, even if it is empty")
    params = spec.params("similary_euclidean_loss_param")
    return SimilarityLoss(params.learn_lr, params.loss_thresh, params.loss_bias, as_caffe=spec.gradients == "caffe")
