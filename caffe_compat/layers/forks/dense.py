"""Layers of forks of 2014 that classify or regress every position of a map: optical flow and surface normals.

They are of the first generation (``layers { type: MULTI_SOFTMAX }``) and keep the names of that.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...network.registry import Layer, LayerSpec, Shape, layer
from ...network.shapes import fits
from ..autograd import Context
from ..bvlc.loss import class_labels, same_batch, with_gradient
from ..precision import widened

__all__ = ["AngleLoss", "ChannelNorm", "MultiSoftmax", "MultiSoftmaxLoss"]

_FLOW = "Arroosh/optical_flow_prediction"
_NORMALS = "xiaolonw/caffe-3dnormal_joint_pose"
_LEAST = torch.finfo(torch.float32).tiny
# What both layers of surface normals add to what they divide by.
_ADDED = 1e-6


class MultiSoftmax(Layer):
    """Softmax over the channels at each position; what is no map, as of an InnerProduct, has a single one."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x, 1)


@layer("MULTI_SOFTMAX", bottoms=1, tops=1, dialects=(_FLOW,))
def multi_softmax(spec: LayerSpec) -> Layer:
    _positions(spec)
    _refuse_factors(spec)
    return MultiSoftmax()


class MultiSoftmaxLoss(Layer):
    """Mean over the examples of the sum over positions of -log softmax(x)[label - 1]: labels count from 1.

    Caffe's gradient knows no loss weight, nor what a fork divides the loss by before it shows it, ``shown``.
    """

    def __init__(self, *, tops: int, shown: float = 1.0) -> None:
        super().__init__()
        self.with_prob = tops > 1
        self.shown = shown

    def forward(self, x: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        index, _ = class_labels(labels.reshape(x.shape[0], 1, *x.shape[2:]) - 1, x.shape[1], None, self.layer_name)
        prob = torch.softmax(widened(x), 1)
        loss = -prob.gather(1, index).clamp_min(_LEAST).log().sum() / x.shape[0]

        def slopes() -> Tensor:
            slope = prob.scatter_add(1, index, torch.full_like(prob[:, :1], -1))
            return (slope / x.shape[0]).to(x.dtype)

        loss = with_gradient((loss / self.shown).to(x.dtype), x, slopes)
        return (loss, prob.detach().to(x.dtype)) if self.with_prob else loss


@layer("MULTI_SOFTMAX_LOSS", bottoms=2, tops=(0, 2), loss=True, dialects=(_FLOW,))
def multi_softmax_loss(spec: LayerSpec) -> Layer:
    _check_loss(spec)
    return MultiSoftmaxLoss(tops=len(spec.tops))


@layer("MULTI_SOFTMAX_LOSS", bottoms=2, tops=0, loss=True, dialects=(_NORMALS,), verified=False)
def multi_softmax_loss_of_normals(spec: LayerSpec) -> Layer:
    _check_loss(spec)
    return MultiSoftmaxLoss(tops=0, shown=336.0)


def _check_loss(spec: LayerSpec) -> None:
    _refuse_weight(spec)
    _refuse_factors(spec)
    images, _, *size = _positions(spec)
    spec.as_many(1, (images, *size), "a label for each position")


def _positions(spec: LayerSpec) -> Shape:
    """The shape of a map; or (examples, numbers), which these forks take for a map of a single position."""
    shape = spec.bottom_shapes[0]
    return shape if fits(shape, ("examples", "numbers")) else spec.images()


class _Context(Context, Protocol):
    gradients: str


class _NormalizedGradient(torch.autograd.Function):
    """x / (n + 1e-6), n being its length over the channels. Its gradient by that of the top, g:

    the fork's (n^2 g - x (x . g)) / (n^3 + 1e-6), or the true g / (n + 1e-6) - x (x . g) / (n (n + 1e-6)^2).
    """

    @staticmethod
    def forward(ctx: _Context, x: Tensor, gradients: str) -> Tensor:
        y = widened(x)
        squares = y.square().sum(1, keepdim=True)
        ctx.save_for_backward(x, squares)
        ctx.gradients = gradients
        return (y / (squares.sqrt() + _ADDED)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None]:
        x, squares = ctx.saved_tensors
        y, g, length = widened(x), widened(gradient), squares.sqrt()
        along = y * (y * g).sum(1, keepdim=True)
        if ctx.gradients == "true":
            wide = length + _ADDED
            result = g / wide - torch.where(length == 0, 0, along / (length * wide * wide))
        else:
            result = (squares * g - along) / (squares * length + _ADDED)
        return result.to(x.dtype), None


class ChannelNorm(Layer):
    """x divided by its Euclidean norm over the channels at each position, plus 1e-6.

    The fork's gradient is that of the division by the norm alone, with 1e-6 added to the cube of the norm instead: that
    is another one where the norm is small.
    """

    def __init__(self, gradients: str) -> None:
        super().__init__()
        self.gradients = gradients

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor) -> Tensor:
        top: Tensor = _NormalizedGradient.apply(x, self.gradients)
        return top


@layer("NORM", bottoms=1, tops=1, dialects=(_NORMALS,))
def norm(spec: LayerSpec) -> Layer:
    spec.images()
    return ChannelNorm(spec.gradients)


class AngleLoss(Layer):
    """Mean over the examples of the sum over positions of acos(x . label), for unit vectors along the channels.

    Positions whose label begins with a number beyond 10 do not count. Caffe's gradient adds 1e-6 to the square root
    that it divides by (``gradients="true"`` does not), and knows no loss weight.
    """

    def __init__(self, gradients: str) -> None:
        super().__init__()
        self.added = 0.0 if gradients == "true" else _ADDED

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        labels = widened(labels.detach()).reshape(x.shape)
        valid = ~(labels[:, :1].abs() > 10)
        cosine = (widened(x) * labels).sum(1, keepdim=True)
        angles = torch.where(valid, torch.acos(cosine), 0)

        def slopes() -> Tensor:
            slope = -1 / ((1 - cosine * cosine).sqrt() + self.added)
            return (torch.where(valid, labels * slope, 0) / x.shape[0]).to(x.dtype)

        return with_gradient((angles.sum() / x.shape[0]).to(x.dtype), x, slopes)


@layer("ANGLE_LOSS", bottoms=2, tops=(0, 1), loss=True, dialects=(_NORMALS,))
def angle_loss(spec: LayerSpec) -> Layer:
    spec.images()
    same_batch(spec)
    _refuse_weight(spec)
    spec.alike()
    return AngleLoss(spec.gradients)


def _refuse_weight(spec: LayerSpec) -> None:
    if any(weight not in (0, 1) for weight in spec.message.loss_weight):
        spec.fail("a loss_weight other than 1 is not supported: the fork's gradient does not know it")


def _refuse_factors(spec: LayerSpec) -> None:
    for name in ("mult_softmax_param", "mult_softmax_loss_param"):
        if spec.knows(name) and spec.message.HasField(name):
            spec.fail(f"{name} is not supported")
