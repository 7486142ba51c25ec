"""Segmentation-aware networks: distances of a pixel to those about it, what they learn by, convolution of columns.

Source: aharley/segaware, ``im2dist_layer.cpp``, ``im2parity_layer.cpp``, ``dist_loss_layer.cpp`` and
``util/im2dist.cpp``. Where its GPU code differs (a label to be ignored shifts what follows it, and only the first
image counts), the CPU code is followed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..autograd import Context
from ..bvlc.convolution import Geometry, check_room, convolution, im2col, kernel_geometry, windows_as_columns
from ..precision import widened

__all__ = ["ConvolutionOfColumns", "DistLoss", "Im2dist", "Im2parity"]

_FORK = "aharley/segaware"
# What is as far as can be: FLT_MAX / 100.
_FAR = float(torch.finfo(torch.float32).max) / 100


def _pixels(x: Tensor, geometry: Geometry) -> Tensor:
    """The pixels of each window, (N, C, H, W) to (N, C, pixels, H', W'); outside the image lies 0."""
    return windows_as_columns(x, geometry).unflatten(1, (x.shape[1], math.prod(geometry.kernel)))


def _middle(geometry: Geometry) -> int:
    """Which of a window's pixels is its middle."""
    height, width = geometry.kernel
    return height // 2 * width + width // 2


def _inside(x: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Which pixels lie in the image, (1, 1, pixels, H', W'), and of which windows the middle does."""
    inside = _pixels(x.new_ones(1, 1, *x.shape[2:]), geometry) > 0
    at = _middle(geometry)
    return inside, inside[:, :, at : at + 1]


class _AbsAsCaffe(torch.autograd.Function):
    """|x|, with a slope of -1 where x is 0."""

    @staticmethod
    def forward(ctx: Context, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.abs()

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.where(x > 0, slope, -slope)


class Im2dist(Layer):
    """How far the pixel in the middle of each window is from each of the window, over all channels.

    (N, C, H, W) gives (N, pixels of a window, H', W'): the sum of absolute differences, or half of that of squared ones
    if ``squared``. It is 0 for pixels outside the image, and as far as can be if ``far_outside``; 0 in the middle, and
    as far as can be if ``far_middle``; a window whose middle lies outside has only zeros. Of absolute differences that
    are 0, the fork takes -1 for the slope, even of those to pixels outside, which are no differences; the true one is
    0.
    """

    def __init__(
        self, geometry: Geometry, *, squared: bool, far_middle: bool, far_outside: bool, as_caffe: bool
    ) -> None:
        super().__init__()
        self.geometry = geometry
        self.squared = squared
        self.far_middle = far_middle
        self.far_outside = far_outside
        self.as_caffe = as_caffe

    def forward(self, x: Tensor) -> Tensor:
        pixels = _pixels(x, self.geometry)
        at = _middle(self.geometry)
        middle = pixels[:, :, at : at + 1]
        inside, counts = _inside(x, self.geometry)
        itself = torch.arange(pixels.shape[2], device=x.device).view(-1, 1, 1) == at
        # To a pixel outside, the difference is 0, and in the fork its slope in the middle is not.
        apart = torch.where(inside, middle - pixels, middle - middle.detach())
        apart = torch.where(counts & ~itself, apart, 0)
        if self.squared:
            far = apart.square() / 2
        else:
            far = _AbsAsCaffe.apply(apart) if self.as_caffe else torch.where(inside, apart, 0).abs()
        total = widened(far).sum(1).to(x.dtype)
        beyond = torch.zeros_like(inside)
        if self.far_outside:
            beyond = beyond | ~inside
        if self.far_middle:
            beyond = beyond | itself
        # There, the distance is 0 by now.
        return total + _FAR * (beyond & counts)[:, 0].to(x.dtype)


class Im2parity(Layer):
    """Whether the label in the middle of each window (1) is that of each pixel of the window, or not (0).

    (N, C, H, W) gives (N, pixels of a window, H', W'), of the last channel. Labels are cut off to whole numbers;
    outside the image lies 0. Where one of both is ``ignored``, and where the middle lies outside, it is ``ignored``.
    """

    def __init__(self, geometry: Geometry, ignored: int | None) -> None:
        super().__init__()
        self.geometry = geometry
        self.ignored = ignored

    def forward(self, x: Tensor) -> Tensor:
        labels = _pixels(x[:, -1:].trunc(), self.geometry)
        at = _middle(self.geometry)
        middle = labels[:, :, at : at + 1]
        same = (labels == middle).to(x.dtype)
        if self.ignored is not None:
            _, counts = _inside(x, self.geometry)
            same = torch.where((labels == self.ignored) | (middle == self.ignored) | ~counts, self.ignored, same)
        return same[:, 0]


class _Mean(torch.autograd.Function):
    """The mean. The fork's gradient is the values over their count, whatever the weight of the loss is."""

    @staticmethod
    def forward(ctx: Context, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return widened(x).mean().to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x / x.numel()


class DistLoss(Layer):
    """The mean of what distances lie above ``near`` where the parity is not 0, and below ``apart`` where it is 0.

    Bottoms of one shape: distances, and parities, which are cut off to whole numbers; what has one that is ``ignored``
    counts as 0. The fork's gradient is that of half the squares, and no weight of the loss changes it;
    ``as_caffe=False`` gives the mean's own.
    """

    def __init__(self, near: float, apart: float, ignored: int | None, *, as_caffe: bool) -> None:
        super().__init__()
        self.near = near
        self.apart = apart
        self.ignored = ignored
        self.as_caffe = as_caffe

    def forward(self, distances: Tensor, parity: Tensor) -> Tensor:
        parity = parity.detach().trunc()
        same = parity != 0
        beyond = torch.where(same, distances - self.near, self.apart - distances).clamp_min(0)
        if self.ignored is not None:
            beyond = torch.where(parity == self.ignored, 0, beyond)
        if not self.as_caffe:
            return widened(beyond).mean().to(distances.dtype)
        return _Mean.apply(beyond)


def _geometry(spec: LayerSpec) -> Geometry:
    params = spec.params("convolution_param")
    params.ignore("num_output", "bias_term", "group", "weight_filler", "bias_filler", "force_nd_im2col")  # no weights
    shape, geometry = spec.images(), kernel_geometry(spec, params)
    if geometry.axis != 1:
        spec.fail(f"axis {geometry.axis} is not supported: it must be that of the channels, 1")
    check_room(spec, geometry, shape[2:])
    return geometry


@layer("Im2dist", bottoms=1, tops=1, dialects=(_FORK,), verified=False)
def im2dist(spec: LayerSpec) -> Layer:
    params = spec.params("im2dist_param")
    return Im2dist(
        _geometry(spec),
        squared=params.norm == "L2",
        far_middle=params.remove_center,
        far_outside=params.remove_bounds,
        as_caffe=spec.gradients == "caffe",
    )


@layer("Im2parity", bottoms=1, tops=1, dialects=(_FORK,), verified=False, unforced=(0,))
def im2parity(spec: LayerSpec) -> Layer:
    geometry, params = _geometry(spec), spec.params("im2parity_param")
    if params.has("ignore_label"):
        return Im2parity(geometry, params.ignore_label)
    before = tuple(k // 2 * d for k, d in zip(geometry.kernel, geometry.dilation, strict=True))
    sizes = spec.bottom_shapes[0][2:]
    top = windows_as_columns(torch.empty(spec.bottom_shapes[0], device="meta"), geometry).shape[2:]
    for size, count, pad, stride, middle in zip(sizes, top, geometry.pad, geometry.stride, before, strict=True):
        if pad > middle or (count - 1) * stride - pad + middle >= size:
            spec.fail("with this pad, the middle of a window lies outside the image, which needs an ignore_label")
    return Im2parity(geometry, None)


@layer("DistLoss", bottoms=2, tops=(0, 1), loss=True, unforced=(1,), dialects=(_FORK,), verified=False)
def dist_loss(spec: LayerSpec) -> Layer:
    spec.alike()
    # The fork checks them, and reads none.
    spec.params("convolution_param").ignore(
        *("kernel_size", "kernel_h", "kernel_w", "pad", "pad_h", "pad_w", "stride", "stride_h", "stride_w", "dilation"),
        *("axis", "num_output", "bias_term", "group", "weight_filler", "bias_filler", "force_nd_im2col"),
    )
    params = spec.params("dist_loss_param")
    if not 0 < params.alpha < params.beta:
        spec.fail(f"alpha {params.alpha:g} and beta {params.beta:g} must be above 0, and beta the larger one")
    spec.params("loss_param").ignore("normalize", "normalization")  # always by the count
    ignored = params.ignore_label if params.has("ignore_label") else None
    return DistLoss(params.alpha, params.beta, ignored, as_caffe=spec.gradients == "caffe")


class ConvolutionOfColumns(Layer):
    """Convolution whose bottoms (N, C * pixels of a window, H, W) are what Im2col makes of those with C channels.

    ``weight`` is (O, C / group, height, width), ``bias`` (O,).
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, kernel: tuple[int, ...], channels: int, params: Params) -> None:
        super().__init__()
        self.group = params.group
        self.blob("weight", (params.num_output, channels // params.group, *kernel), params.weight_filler)
        self.bias_blob((params.num_output,), params)

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        weight = self.weight.flatten(1)[..., None, None]
        tops = tuple(F.conv2d(x, weight, self.bias, groups=self.group) for x in bottoms)
        return tops[0] if len(tops) == 1 else tops


@layer("Convolution", bottoms=(1, None), tops=(1, None), dialects=(_FORK,))
def convolution_of_segaware(spec: LayerSpec) -> nn.Module:
    params = spec.params("convolution_param")
    if not params.bottom_is_im2col:
        return convolution(spec)
    spec.one_top_each()
    spec.alike()
    images_first = spec.images()
    geometry = kernel_geometry(spec, params)
    params.ignore("engine", "force_nd_im2col")  # other ways to the same numbers
    pixels = math.prod(geometry.kernel)
    channels, rest = divmod(images_first[1], pixels)
    if geometry.axis != 1:
        spec.fail(f"axis {geometry.axis} is not supported beside bottom_is_im2col")
    if rest or params.group < 1 or channels % params.group or params.num_output % params.group or params.num_output < 1:
        spec.fail(
            f"num_output {params.num_output}, group {params.group} and a kernel of {geometry.kernel} do not fit the "
            f"columns {list(images_first)}: group must divide num_output and channels, of which each has {pixels} rows"
        )
    spec.note("Convolution of columns was never compared with outputs of the fork, only built from its source")
    return ConvolutionOfColumns(geometry.kernel, channels, params)


@layer("Im2col", bottoms=1, tops=1, dialects=(_FORK,))
def im2col_of_segaware(spec: LayerSpec) -> nn.Module:
    spec.params("convolution_param").ignore("bottom_is_im2col")  # of the convolution behind it
    return im2col(spec)
