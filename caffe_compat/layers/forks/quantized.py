"""Layers of networks with few bits (half-wave Gaussian quantization): Quant, BinaryConvolution, BinaryInnerProduct."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..autograd import Context
from ..bvlc.convolution import Convolution, Geometry, convolution
from ..bvlc.inner_product import InnerProduct, inner_product

__all__ = ["BinaryConvolution", "BinaryInnerProduct", "Quant"]

_FORK = "zhaoweicai/hwgq"


class _GivenSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, y: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return y.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None


class Quant(Layer):
    """Values reduced to few, with the gradient of another function, as those few have none.

    Args:
        forward_function: ``sign`` (-1 below 0, else 1), ``hard_tanh`` (cut off at -1 and 1), ``relu``, or ``hwgq``:
            what is not positive becomes -``slope``, the rest the nearest of ``centers``, the lower of two as near, but
            0 what is no number or infinite.
        backward_function: ``hard_tanh`` (1 from -``clip`` to ``clip``) or ``relu`` (1 above 0, ``slope`` below, 0 above
            ``clip``).
        slope: of relu below 0. clip: where gradients end; None for with the finite numbers.
    """

    def __init__(
        self,
        forward_function: str,
        backward_function: str,
        centers: tuple[float, ...],
        slope: float,
        clip: float | None,
    ) -> None:
        super().__init__()
        self.forward_function = forward_function
        self.backward_function = backward_function
        self.centers = centers
        self.slope = slope
        self.clip = clip

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor) -> Tensor:
        fixed = x.detach()
        y = self._values(fixed)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return y
        top: Tensor = _GivenSlope.apply(x, y, self._slopes(fixed))
        return top

    def _values(self, x: Tensor) -> Tensor:
        if self.forward_function == "sign":
            return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
        if self.forward_function == "hard_tanh":
            return x.clamp(-1, 1)
        if self.forward_function == "relu":
            return torch.where(x > 0, x, x * self.slope)
        y = torch.where(x <= torch.finfo(x.dtype).max, self.centers[-1], 0.0).to(x.dtype)
        # From the end, so that the first center whose bound is not exceeded stays.
        for lower, upper in reversed(list(itertools.pairwise(self.centers))):
            y = torch.where(x <= 0.5 * (lower + upper), lower, y)
        return torch.where(x <= 0, -self.slope, y)

    def _slopes(self, x: Tensor) -> Tensor:
        clip = torch.finfo(x.dtype).max if self.clip is None else self.clip
        if self.backward_function == "hard_tanh":
            return (x.abs() <= clip).to(x.dtype)
        return torch.where(x <= clip, torch.where(x > 0, 1.0, self.slope), 0).to(x.dtype)


@layer("Quant", bottoms=1, tops=1, dialects=(_FORK,))
def quant(spec: LayerSpec) -> Layer:
    params = spec.params("quant_param")
    params.ignore("thrs")  # which the fork does not read: it takes the middle between two centers
    forward, backward, centers = params.forward_func, params.backward_func, params.centers
    if forward not in ("sign", "hard_tanh", "hwgq", "relu") or backward not in ("hard_tanh", "relu"):
        spec.fail(
            f"forward_func {forward!r} must be sign, hard_tanh, hwgq or relu, and backward_func {backward!r} hard_tanh "
            "or relu"
        )
    if forward == "hwgq" and (not centers or min(centers) <= 0):
        spec.fail(f"centers {list(centers)} must be positive numbers, at least one")
    if spec.bottoms[0] == spec.tops[0]:
        spec.fail("cannot run in place: the fork sets its top to 0 before it reads its bottom")
    return Quant(forward, backward, centers, params.negative_slope, params.clip_thr if params.clip_thr > 0 else None)


def _binary(weight: Tensor, scaled: bool) -> Tensor:
    """Signs of the weights (1 for 0), times the mean size of those of an output if ``scaled``.

    The gradient goes to the weights as if they were what stands in for them.
    """
    fixed = weight.detach()
    signs = torch.where(fixed >= 0, 1.0, -1.0).to(fixed.dtype)
    if scaled:
        signs = signs * fixed.abs().mean(tuple(range(1, fixed.dim())), keepdim=True)
    if not (torch.is_grad_enabled() and weight.requires_grad):
        return signs
    passed: Tensor = _GivenSlope.apply(weight, signs, torch.ones_like(fixed))
    return passed


class BinaryConvolution(Convolution):
    """A convolution with the signs of its weights, times their mean size for each output if ``scaled``."""

    def __init__(self, geometry: Geometry, channels: int, outputs: int, params: Params, *, scaled: bool) -> None:
        super().__init__(geometry, channels, outputs, params)
        self.scaled = scaled

    def slide(self, x: Tensor, weight: Tensor) -> Tensor:
        return super().slide(x, _binary(weight, self.scaled))


@layer("BinaryConvolution", bottoms=(1, None), tops=(1, None), dialects=(_FORK,))
def binary_convolution(spec: LayerSpec) -> nn.Module:
    params, plain = spec.params("binary_convolution_param"), convolution(spec)
    scaled = params.use_alpha
    if not params.use_binarization:
        return plain
    assert isinstance(plain, Convolution)
    channels = spec.bottom_shapes[0][plain.geometry.axis]
    kernels = spec.params("convolution_param")
    module = BinaryConvolution(plain.geometry, channels, plain.outputs, kernels, scaled=scaled)
    module.fits, module.direct = plain.fits, plain.direct
    return module


class BinaryInnerProduct(InnerProduct):
    """An inner product with the signs of its weights, times their mean size for each output if ``scaled``."""

    def __init__(self, axis: int, inputs: int, params: Params, *, scaled: bool) -> None:
        super().__init__(axis, inputs, params)
        self.scaled = scaled

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x.flatten(self.axis), _binary(self.weight, self.scaled), self.bias)


@layer("BinaryInnerProduct", bottoms=1, tops=1, dialects=(_FORK,))
def binary_inner_product(spec: LayerSpec) -> nn.Module:
    params, plain = spec.params("binary_inner_product_param"), inner_product(spec)
    scaled = params.use_alpha
    assert isinstance(plain, InnerProduct)
    if plain.transpose:
        spec.fail("transpose is not supported: the fork has none for this type")
    if not params.use_binarization:
        return plain
    return BinaryInnerProduct(plain.axis, plain.weight.shape[1], spec.params("inner_product_param"), scaled=scaled)
