"""MVN: each image, or each of its channels, with mean 0 and standard deviation 1."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ..autograd import Context
from ..precision import widened

__all__ = ["MVN"]


class _Context(Context, Protocol):
    axes: tuple[int, ...]


class _CaffeGradient(torch.autograd.Function):
    """(x - mean) / divisor with Caffe's backward pass, which takes the divisor for the sd of the true gradient."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, axes: tuple[int, ...], module: MVN) -> Tensor:
        centred = x - x.mean(axes, keepdim=True)
        divisor = module.divisor(centred.square().mean(axes, keepdim=True))
        y = centred.div_(divisor)
        ctx.save_for_backward(y, divisor)
        ctx.axes = axes
        return y

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, None]:
        y, divisor = ctx.saved_tensors
        along_y = (grad * y).mean(ctx.axes, keepdim=True)
        return (grad - grad.mean(ctx.axes, keepdim=True) - along_y * y) / divisor, None, None


class MVN(Layer):
    """(x - mean) / (sd + eps) over ``axes`` of (N, C, H, W); without the division unless ``divide``.

    A bottom with fewer axes gives a top with axes of size 1 behind, as in Caffe.
    """

    def __init__(self, axes: tuple[int, ...], eps: float, divide: bool, true_gradient: bool) -> None:
        super().__init__()
        self.axes = axes
        self.eps = eps
        self.divide = divide
        self.true_gradient = true_gradient

    def infer(self, *bottoms: Tensor) -> Tensor:
        (x,) = bottoms
        return x.reshape(x.shape + (1,) * (4 - x.ndim))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 4:
            x = x.reshape(x.shape + (1,) * (4 - x.ndim))
        wide = widened(x)
        if self.divide and not self.true_gradient:
            result: Tensor = _CaffeGradient.apply(wide, self.axes, self)
            return result.to(x.dtype)
        centred = wide - wide.mean(self.axes, keepdim=True)
        if self.divide:
            centred = centred / self.divisor(centred.square().mean(self.axes, keepdim=True))
        return centred.to(x.dtype)

    def divisor(self, variance: Tensor) -> Tensor:
        return variance.sqrt() + self.eps


@layer("MVN", bottoms=1, tops=1)
def mvn(spec: LayerSpec) -> Layer:
    params = spec.params("mvn_param")
    spec.four_axes()
    axes = (1, 2, 3) if params.across_channels else (2, 3)
    return MVN(axes, params.eps, params.normalize_variance, spec.gradients == "true")
