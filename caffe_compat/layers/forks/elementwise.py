"""Values of one kind or another: Arccos, Cosine, ChannelScale, GRN and NegReLU.

Source: happynear/caffe-windows, ``src/caffe/layers/arccos_layer.cpp``, ``cosine_layer.cpp`` and
``channel_scale_layer.cpp``; openvinotoolkit/training_toolbox_caffe, ``grn_layer.cpp``; lmb-freiburg/flownet2,
``neg_relu_layer.cpp``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ..gradients import with_fixed_gradient, with_slopes
from ..precision import widened

__all__ = ["GRN", "Arccos", "ChannelScale", "Cosine", "NegReLU"]

_WINDOWS, _WU = "happynear/caffe-windows", "GuohongWu/caffe-windows"

# From here on the fork's arc cosine keeps its slope, which would grow beyond all bounds.
_STEEP = 0.99


class Arccos(Layer):
    """The angle of each cosine, not a number beyond 1; above 0.99 with the slope at 0.99.

    That is what the fork computes on a CPU; on a GPU it cuts values off at 0.9999 from 1 and -1.
    """

    def __init__(self, *, as_caffe: bool) -> None:
        super().__init__()
        self.as_caffe = as_caffe

    def forward(self, x: Tensor) -> Tensor:
        angle = x.acos()
        if not self.as_caffe:
            return angle
        return with_slopes(angle, (x, -1 / (1 - x.detach().clamp_max(_STEEP).square()).sqrt()))


@layer("Arccos", bottoms=1, tops=1, dialects=(_WINDOWS,))
def arccos(spec: LayerSpec) -> Layer:
    return Arccos(as_caffe=spec.gradients == "caffe")


class Cosine(Layer):
    """cos(x). Its gradient is -sin(x) whatever arrives, as the fork has it on a CPU; on a GPU it has the derivative."""

    def __init__(self, *, as_caffe: bool) -> None:
        super().__init__()
        self.as_caffe = as_caffe

    def forward(self, x: Tensor) -> Tensor:
        return with_fixed_gradient(x.cos(), x, -x.sin()) if self.as_caffe else x.cos()


@layer("Cosine", bottoms=1, tops=1, dialects=(_WINDOWS,))
def cosine(spec: LayerSpec) -> Layer:
    return Cosine(as_caffe=spec.gradients == "caffe")


class ChannelScale(Layer):
    """x (N, C, ...) times a factor for each position, (N, ...).

    Args:
        forward_too: False leaves x as it is in the forward pass.
        by_feature: whether the gradient of x has the factor in it. by_scale: whether there is one of the factors.
        as_caffe: the fork's gradient; else the derivative.
    """

    def __init__(self, *, forward_too: bool, by_feature: bool, by_scale: bool, as_caffe: bool) -> None:
        super().__init__()
        self.forward_too = forward_too
        self.by_feature = by_feature
        self.by_scale = by_scale
        self.as_caffe = as_caffe

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        scale = scale.reshape(x.shape[0], 1, *x.shape[2:])
        if not self.as_caffe:
            return x * scale if self.forward_too else x.clone()
        fixed, factor = x.detach(), scale.detach()
        top = fixed * factor if self.forward_too else fixed
        slopes = (x, factor.expand(x.shape) if self.by_feature else torch.ones_like(x))
        return with_slopes(top, slopes, (scale.expand(x.shape), fixed if self.by_scale else torch.zeros_like(fixed)))


@layer("ChannelScale", bottoms=2, tops=1, dialects=(_WINDOWS, _WU))
def channel_scale(spec: LayerSpec) -> Layer:
    params, shape = spec.params("channel_scale_param"), spec.channels()
    if params.global_scale:
        spec.fail("global_scale: true is not supported: the forks compute something else for it on a CPU than on a GPU")
    params.ignore("max_global_scale", "min_global_scale", "init_global_scale")  # of a global scale
    spec.shaped(1, shape[0], ...)
    spec.as_many(1, (shape[0], *shape[2:]), "a factor for each position")
    return ChannelScale(
        forward_too=params.do_forward,
        by_feature=params.do_backward_feature,
        by_scale=params.do_backward_scale,
        as_caffe=spec.gradients == "caffe",
    )


class GRN(Layer):
    """Each position of (N, C, ...) at length 1: x / sqrt(sum over the channels of x^2 + bias).

    ``passed`` hands the gradient back as it arrives, as the fork does with ``dummy_backward``.
    """

    def __init__(self, bias: float, *, passed: bool) -> None:
        super().__init__()
        self.bias = bias
        self.passed = passed

    def forward(self, x: Tensor) -> Tensor:
        values = widened(x)
        top = values / (values.square().sum(1, keepdim=True) + self.bias).sqrt()
        if self.passed:
            top = with_slopes(top.detach(), (values, torch.ones_like(top)))
        return top.to(x.dtype)


@layer("GRN", bottoms=1, tops=1, dialects=("openvinotoolkit/training_toolbox_caffe",))
def grn(spec: LayerSpec) -> Layer:
    params = spec.params("grn_param")
    if params.bias < 0:
        spec.fail(f"bias {params.bias:g} must be at least 0")
    if math.prod(spec.channels()) == 0:
        spec.misfit(0, "one with values")
    return GRN(params.bias, passed=params.dummy_backward and spec.gradients == "caffe")


class NegReLU(Layer):
    """What is negative as it is, the rest times ``slope``."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x < 0, x, x * self.slope)


@layer("NegReLU", bottoms=1, tops=1, dialects=("lmb-freiburg/flownet2", "twhui/LiteFlowNet"))
def neg_relu(spec: LayerSpec) -> Layer:
    params = spec.params("relu_param")
    params.ignore("engine")
    return NegReLU(params.negative_slope)
