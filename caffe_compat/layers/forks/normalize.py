"""Normalize of the single-shot detector (SSD), and of caffe-windows. Other forks have other layers of this name."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..autograd import Context
from ..bvlc.scale import filler_or_constant
from ..precision import widened
from .families import CAMBRICON, DREADLORD, SSD, SSD_FIRST

__all__ = ["Normalize", "NormalizedPositions"]

_WINDOWS, _YUQJ = "happynear/caffe-windows", "yuqj1991/caffe_train"
_LEAST = 1e-6

# The Normalize of yjxiong/caffe, pulkitag/caffe and what they were copied into has no parameters, and no scale.
_FORKS = (
    *SSD,
    *SSD_FIRST,
    *DREADLORD,
    *CAMBRICON,
    "GuohongWu/caffe-windows",
    "MhLiao/TextBoxes_plusplus",
    "eric612/Caffe-YOLOv3-Windows",
    "luoyetx/mini-caffe",
    "weiliu89/caffe@fcn",
)
# These raise eps to the least normal number.
_FLOORED = ("NVIDIA/caffe", "tidsp/caffe-jacinto@caffe-0.17")


class _Context(Context, Protocol):
    axes: tuple[int, ...]


class _ScaledAfterwards(torch.autograd.Function):
    """x / norm * scale with the fork's backward pass.

    That scales what it has projected, where the derivative projects what it has scaled: other numbers where the scales
    of the channels differ. Its gradient of the scale is a product with the top, divided by the scale: not a number
    where that is 0.
    """

    @staticmethod
    def forward(ctx: _Context, x: Tensor, norm: Tensor, scale: Tensor, axes: tuple[int, ...]) -> Tensor:
        unit = x / norm
        ctx.save_for_backward(unit, norm, scale)
        ctx.axes = axes
        return unit * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, Tensor, None]:
        unit, norm, scale = ctx.saved_tensors
        along = (unit * grad).sum(ctx.axes, keepdim=True)
        return (grad - along * unit) / norm * scale, None, (unit * scale * grad).sum_to_size(scale.shape) / scale, None


class Normalize(Layer):
    """x divided by its Euclidean norm over the channels (and the positions, if ``across``), times a learned scale.

    Args:
        shared: one scale for all channels.
        true_gradient: the derivative instead of the fork's backward pass (:class:`_ScaledAfterwards`).
    """

    scale: nn.Parameter

    def __init__(
        self, channels: int, across: bool, eps: float, scale: Params, *, shared: bool, true_gradient: bool
    ) -> None:
        super().__init__()
        self.across = across
        self.eps = eps
        self.true_gradient = true_gradient
        self.blob("scale", () if shared else (channels,), scale)

    def forward(self, x: Tensor) -> Tensor:
        axes = tuple(range(1, x.dim())) if self.across else (1,)
        wide = widened(x)
        norm = ((wide * wide).sum(axes, keepdim=True) + self.eps).sqrt()
        scale = self.scale if self.scale.dim() == 0 else self.scale.view(-1, *[1] * (x.dim() - 2))
        if self.true_gradient:
            return (wide / norm).to(x.dtype) * scale
        top: Tensor = _ScaledAfterwards.apply(wide, norm.detach(), scale.to(wide.dtype), axes)
        return top.to(x.dtype)


@layer("Normalize", bottoms=1, tops=1, dialects=_FORKS)
def normalize(spec: LayerSpec) -> Layer:
    channels = spec.channels()[1]
    params = spec.params("norm_param")
    # Caffe's net sets what a layer learns by its lr_mult after the layer has had its say.
    params.ignore("fix_scale")
    eps = params.eps
    if any(fork in spec.dialect.split("+") for fork in _FLOORED):
        eps = max(eps, torch.finfo(torch.float32).tiny)
    return Normalize(
        channels,
        params.across_spatial,
        eps,
        filler_or_constant(params, 1.0, "scale_filler"),
        shared=params.channel_shared,
        true_gradient=spec.gradients == "true",
    )


class NormalizedPositions(Layer):
    """Each position of (N, C, ...), of four axes, by its length or, with ``absolute``, by the sum of its sizes.

    1e-6 is added to what the root is taken from, or to the sum; the forks' GPU code adds 1e-12 to the former. A second
    top (N, 1, H, W) has what was divided by.

    Args:
        norm_learns: whether the gradient of the second top comes back.
    """

    def __init__(self, *, absolute: bool, tops: int, norm_learns: bool) -> None:
        super().__init__()
        self.absolute = absolute
        self.with_norm = tops > 1
        self.norm_learns = norm_learns

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        values = widened(x).reshape(*x.shape, *[1] * (4 - x.dim()))
        sums = (values.abs() if self.absolute else values.square()).sum(1, keepdim=True) + _LEAST
        norm = sums if self.absolute else sums.sqrt()
        top = (values / norm).to(x.dtype)
        if not self.with_norm:
            return top
        return top, (norm if self.norm_learns else norm.detach()).to(x.dtype)


@layer("Normalize", bottoms=1, tops=(1, 2), dialects=(_WINDOWS, _YUQJ))
def normalize_positions(spec: LayerSpec) -> Layer:
    params = spec.params("normalize_param")
    spec.channels()
    spec.four_axes()
    # On a GPU it leaves a division out of the gradient; the fork's CPU code does not heed it.
    params.ignore("fix_gradient")
    if params.normalize_type not in ("L1", "L2"):
        spec.fail(f"normalize_type {params.normalize_type!r} must be L1 or L2")
    absolute, true = params.normalize_type == "L1", spec.gradients == "true"
    if absolute and not true and _YUQJ in spec.dialect.split("+"):
        spec.fail("normalize_type L1 is not supported: a pair of brackets is missing in this fork's gradient")
    if len(spec.tops) == 1:
        params.ignore("bp_norm")
    learns = len(spec.tops) == 2 and (params.bp_norm or true)
    return NormalizedPositions(absolute=absolute, tops=len(spec.tops), norm_learns=learns)
