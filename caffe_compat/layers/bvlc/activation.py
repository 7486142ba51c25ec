"""Layers that work on each value by itself: one bottom, one top of the same shape."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..precision import widened

__all__ = ["BNLL", "ELU", "AbsVal", "Clip", "Exp", "Log", "Power", "ReLU", "Sigmoid", "Swish", "TanH", "Threshold"]


class _Elementwise(Layer):
    """A layer whose top has the shape of its bottom."""

    def infer(self, *bottoms: Tensor) -> Tensor:
        # What torch does for these on tensors without memory is right too, but takes a millisecond per layer.
        return bottoms[0]


class AbsVal(_Elementwise):
    """|x|; the gradient at 0 is 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


@layer("AbsVal", bottoms=1, tops=1)
def abs_val(spec: LayerSpec) -> Layer:
    return AbsVal()


class BNLL(_Elementwise):
    """log(1 + exp(x))."""

    def forward(self, x: Tensor) -> Tensor:
        # Beyond 50 Caffe's gradient no longer changes, and log(1 + exp(x)) is x in either precision.
        return torch.nn.functional.softplus(x, 1.0, 50.0)


@layer("BNLL", bottoms=1, tops=1)
def bnll(spec: LayerSpec) -> Layer:
    return BNLL()


class Clip(_Elementwise):
    """max(low, min(x, high)); the gradient passes where low <= x <= high."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low = low
        self.high = high

    def forward(self, x: Tensor) -> Tensor:
        if self.low <= self.high:
            return x.clamp(self.low, self.high)
        # Crossed bounds: Caffe gives low everywhere, torch's clamp would give high.
        return x.clamp(max=self.high).clamp(min=self.low)


@layer("Clip", bottoms=1, tops=1)
def clip(spec: LayerSpec) -> Layer:
    p = spec.params("clip_param")
    if not (p.has("min") and p.has("max")):
        spec.fail("clip_param needs both min and max")
    return Clip(p.min, p.max)


class ELU(_Elementwise):
    """max(x, 0) + alpha * (exp(min(x, 0)) - 1)."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.elu(x, self.alpha)


@layer("ELU", bottoms=1, tops=1)
def elu(spec: LayerSpec) -> Layer:
    return ELU(spec.params("elu_param").alpha)


class Exp(_Elementwise):
    """outer_scale * exp(inner_scale * x), which is base ** (shift + scale * x)."""

    def __init__(self, inner_scale: float, outer_scale: float) -> None:
        super().__init__()
        self.inner_scale = inner_scale
        self.outer_scale = outer_scale

    def forward(self, x: Tensor) -> Tensor:
        y = torch.exp(x if self.inner_scale == 1 else x * self.inner_scale)
        return y if self.outer_scale == 1 else y * self.outer_scale


@layer("Exp", bottoms=1, tops=1)
def exp(spec: LayerSpec) -> Layer:
    p = spec.params("exp_param")
    log_base = _log_base(spec, p)
    try:
        outer_scale = math.exp(p.shift) if p.base == -1 else math.pow(p.base, p.shift)
    except OverflowError:
        spec.fail(f"base ** shift overflows for base {p.base:g}, shift {p.shift:g}")
    return Exp(log_base * p.scale, outer_scale)


class Log(_Elementwise):
    """outer_scale * log(shift + scale * x), where outer_scale is 1 / log(base)."""

    def __init__(self, outer_scale: float, scale: float, shift: float) -> None:
        super().__init__()
        self.outer_scale = outer_scale
        self.scale = scale
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        y = torch.log(_affine(x, self.scale, self.shift))
        return y if self.outer_scale == 1 else y * self.outer_scale


@layer("Log", bottoms=1, tops=1)
def log(spec: LayerSpec) -> Layer:
    p = spec.params("log_param")
    log_base = _log_base(spec, p)
    if log_base == 0:
        spec.fail("log_param.base is 1, and there is no logarithm to base 1")
    return Log(1 / log_base, p.scale, p.shift)


class Power(_Elementwise):
    """(shift + scale * x) ** power; a constant without a gradient where power or scale is 0.

    The gradient is the true one. Caffe computes it as power * y / x where shift is 0, which is 0/0 at x = 0.
    """

    def __init__(self, power: float, scale: float, shift: float) -> None:
        super().__init__()
        self.power = power
        self.scale = scale
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        if self.power * self.scale == 0:
            return torch.full_like(x, self.shift).pow(self.power)
        if self.power == 1:
            return _affine(x, self.scale, self.shift)
        return _affine(widened(x), self.scale, self.shift).pow(self.power).to(x.dtype)


@layer("Power", bottoms=1, tops=1)
def power(spec: LayerSpec) -> Layer:
    p = spec.params("power_param")
    return Power(p.power, p.scale, p.shift)


class ReLU(_Elementwise):
    """max(x, 0) + negative_slope * min(x, 0)."""

    def __init__(self, negative_slope: float) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        if self.negative_slope == 0:
            return torch.relu(x)
        return torch.nn.functional.leaky_relu(x, self.negative_slope)


@layer("ReLU", bottoms=1, tops=1)
def relu(spec: LayerSpec) -> Layer:
    return ReLU(spec.params("relu_param").negative_slope)


class Sigmoid(_Elementwise):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)


@layer("Sigmoid", bottoms=1, tops=1)
def sigmoid(spec: LayerSpec) -> Layer:
    spec.params("sigmoid_param")  # only an engine in BVLC; what a fork adds there is refused as unread
    return Sigmoid()


class Swish(_Elementwise):
    """x * sigmoid(beta * x)."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x if self.beta == 1 else x * self.beta)


@layer("Swish", bottoms=1, tops=1)
def swish(spec: LayerSpec) -> Layer:
    return Swish(spec.params("swish_param").beta)


class TanH(_Elementwise):
    """The hyperbolic tangent."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


@layer("TanH", bottoms=1, tops=1)
def tanh(spec: LayerSpec) -> Layer:
    spec.params("tanh_param")  # only an engine in BVLC; what a fork adds there is refused as unread
    return TanH()


class Threshold(_Elementwise):
    """1 where x > threshold, else 0. It has no gradient."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        return (x > self.threshold).to(x.dtype)


@layer("Threshold", bottoms=1, tops=1)
def threshold(spec: LayerSpec) -> Layer:
    return Threshold(spec.params("threshold_param").threshold)


def _affine(x: Tensor, scale: float, shift: float) -> Tensor:
    """shift + scale * x, rounded after the product as in Caffe."""
    y = x if scale == 1 else x * scale
    return y if shift == 0 else y + shift


def _log_base(spec: LayerSpec, p: Params) -> float:
    """The natural logarithm of ``base``; base -1 stands for e."""
    if p.base == -1:
        return 1.0
    if not 0 < p.base < math.inf:
        spec.fail(f"base is {p.base:g}; it must be positive and finite, or -1 for e")
    return math.log(p.base)
