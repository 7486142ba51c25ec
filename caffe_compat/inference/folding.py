"""A scaling of the top of a convolution or inner product, moved into its weight and bias."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn

from ..layers.bvlc.convolution import Convolution, Deconvolution
from ..layers.bvlc.inner_product import InnerProduct
from .affine import AffineMap, exact

__all__ = ["Kernel", "can_fold", "folded_tensors", "is_kernel"]

Kernel: TypeAlias = Convolution | InnerProduct

# By their exact class: one that a user wrote, or derived, may compute something else.
_KERNELS = (Convolution, Deconvolution, InnerProduct)


def is_kernel(module: nn.Module) -> bool:
    """Whether scaling can be moved into ``module``."""
    return type(module) in _KERNELS


def can_fold(kernel: Kernel, affine: AffineMap, rank: int) -> bool:
    """Whether ``affine`` lies along the channels of the top, of ``rank`` axes, and folding costs no precision.

    No channel's largest weight, and no bias, may leave the range in which its dtype has all its digits, so what is
    infinite or no number does not fit either.
    """
    axis = kernel.geometry.axis if isinstance(kernel, Convolution) else rank - 1
    if any(size != 1 for x in (affine.scale, affine.shift) for i, size in enumerate(x.shape) if i != axis):
        return False
    bounds = torch.finfo(kernel.weight.dtype)
    peaks = _channel_peaks(kernel) * affine.scale.flatten().abs()
    full = (peaks == 0) | ((peaks >= bounds.tiny) & (peaks <= bounds.max))
    return bool(full.all()) and bool((_folded_bias(kernel, affine).abs() <= bounds.max).all())


def folded_tensors(kernel: Kernel, affine: AffineMap) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias of ``kernel`` with ``affine`` folded in, rounded once to the weight's precision."""

    def like_weight(tensor: Tensor) -> nn.Parameter:
        return nn.Parameter(tensor.to(kernel.weight.dtype).to(kernel.weight.device), requires_grad=False)

    return like_weight(_folded_weight(kernel, affine)), like_weight(_folded_bias(kernel, affine))


def _channel_peaks(kernel: Kernel) -> Tensor:
    """The largest absolute weight of each output channel (O,), float64."""
    weight = kernel.weight.detach().abs()
    if isinstance(kernel, Deconvolution):
        peaks = weight.reshape(kernel.group, -1, weight.shape[1], weight[0, 0].numel()).amax((1, 3))
    elif isinstance(kernel, Convolution):
        peaks = weight.flatten(1).amax(1)
    else:
        peaks = weight.amax(0 if kernel.transpose else 1)
    return exact(peaks).flatten()


def _folded_weight(kernel: Kernel, affine: AffineMap) -> Tensor:
    """weight * scale of its output channel, float64."""
    weight = exact(kernel.weight)
    channels = affine.scale.flatten().expand(_outputs(kernel))
    if isinstance(kernel, Deconvolution):
        # (C, O / group, ...): the bottom's channels are in groups one behind the other, and so are the top's.
        spread = channels.reshape(kernel.group, -1).repeat_interleave(weight.shape[0] // kernel.group, 0)
        return weight * spread.reshape(weight.shape[:2] + (1,) * (weight.dim() - 2))
    if isinstance(kernel, InnerProduct) and kernel.transpose:
        return weight * channels
    return weight * channels.reshape(-1, *[1] * (weight.dim() - 1))


def _folded_bias(kernel: Kernel, affine: AffineMap) -> Tensor:
    """bias * scale + shift, float64 (O,)."""
    scale, shift = affine.scale.flatten(), affine.shift.flatten()
    return (shift if kernel.bias is None else exact(kernel.bias) * scale + shift).expand(_outputs(kernel))


def _outputs(kernel: Kernel) -> int:
    if isinstance(kernel, Deconvolution):
        return kernel.weight.shape[1] * kernel.group
    return kernel.weight.shape[1 if isinstance(kernel, InnerProduct) and kernel.transpose else 0]
