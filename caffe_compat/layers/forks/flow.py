"""Layers of optical flow networks: of FlowNet and FlowNet 2, which PWC-Net shares, and of LiteFlowNet."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...network.registry import Layer, LayerSpec, layer
from ..autograd import Context
from ..gradients import without_gradient
from ..precision import widened

__all__ = [
    "FLOWNETS",
    "FLOWNETS_2",
    "ChannelLength",
    "ExpMax",
    "FlowWarp",
    "Grid",
    "L1Loss",
    "Mean",
    "NegSquare",
    "Warp",
    "interpolated",
]

_FLOWNET2, _LITE = "lmb-freiburg/flownet2", "twhui/LiteFlowNet"
# This one has the forward passes of FlowNet 2's layers for a CPU, too.
_SYNOPSYS = "foss-for-synopsys-dwc-arc-processors/synopsys-caffe"
# The others copied their layers from the first, but for comments.
FLOWNETS = (_FLOWNET2, _LITE, "liruoteng/FlowNet", _SYNOPSYS)
FLOWNETS_2 = (_FLOWNET2, _LITE, _SYNOPSYS)


def interpolated(x: Tensor, column: Tensor, row: Tensor, *, hold: bool) -> Tensor:
    """Values of a map (N, C, H, W) at places (N, H', W'), in cells, between cells bilinear: (N, C, H', W').

    Args:
        hold: cells beyond the edge equal those at the edge; else they are zero. The gradient is the true one.

    A place that is not a number gives none.
    """
    height, width = x.shape[2:]
    left, top = column.detach().floor(), row.detach().floor()
    flat = x.flatten(2)
    result = x.new_zeros(())
    for down, vertical in ((0, 1 - (row - top)), (1, row - top)):
        for right, horizontal in ((0, 1 - (column - left)), (1, column - left)):
            at_column, at_row = left + right, top + down
            if hold:
                at_column, at_row = at_column.clamp(0, width - 1), at_row.clamp(0, height - 1)
            inside = (at_column >= 0) & (at_column < width) & (at_row >= 0) & (at_row < height)
            weight = torch.where(inside, vertical * horizontal, 0)[:, None]
            # Whole numbers before they are multiplied: floats, half ones above all, soon cannot count the cells.
            place = torch.where(inside, at_row, 0).long() * width + torch.where(inside, at_column, 0).long()
            values = flat.gather(2, place.flatten(1)[:, None].expand(-1, x.shape[1], -1))
            result = result + weight * values.unflatten(2, column.shape[1:])
    nowhere = (column.isnan() | row.isnan())[:, None]
    return torch.where(nowhere, torch.nan, result)


class Warp(Layer):
    """Values of a map (N, C, H, W) at the positions (N, 2, H, W), x and y in pixels, between pixels bilinear.

    Beyond the map there are zeros. The gradient is the true one.
    """

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        return interpolated(x, positions[:, 0], positions[:, 1], hold=False)


@layer("Warp", bottoms=2, tops=1, dialects=(_LITE,))
def warp(spec: LayerSpec) -> Layer:
    _check_flow(spec)
    return Warp()


class FlowWarp(Layer):
    """Values of a map (N, C, H, W) at each pixel plus its flow (N, 2, H, W), x and y, between pixels bilinear.

    Places off the map, from 0 to less than its size, give ``fill``; the last column and row go on to the end.
    """

    def __init__(self, fill: float) -> None:
        super().__init__()
        self.fill = fill

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor, flow: Tensor) -> Tensor:
        height, width = x.shape[2:]
        column = torch.arange(width, device=x.device) + flow[:, 0]
        row = torch.arange(height, device=x.device)[:, None] + flow[:, 1]
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        top = interpolated(x, torch.where(inside, column, 0), torch.where(inside, row, 0), hold=True)
        return torch.where(inside[:, None], top, self.fill)


@layer("FlowWarp", bottoms=2, tops=1, dialects=(_FLOWNET2, _SYNOPSYS))
def flow_warp(spec: LayerSpec) -> Layer:
    _check_flow(spec)
    return FlowWarp(math.nan if spec.params("flow_warp_param").fill_value == "NOT_A_NUMBER" else 0.0)


def _check_flow(spec: LayerSpec) -> None:
    images, _, height, width = spec.images()
    spec.shaped(1, f"images = {images}", 2, f"height = {height}", f"width = {width}")


class _LengthGradient(torch.autograd.Function):
    """The length along the channels. Its gradient divides by the length plus ``added``, and is 0 where that is 0."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, added: float) -> Tensor:
        y = widened(x)
        length = (y * y).sum(1, keepdim=True).sqrt()
        ctx.save_for_backward(x, length + added)
        return length.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor, None]:
        x, divisor = ctx.saved_tensors
        return torch.where(divisor == 0, 0, gradient * x / divisor).to(x.dtype), None


class ChannelLength(Layer):
    """The Euclidean length of the channels at each position: (N, 1, H, W).

    The forks add 1e-9 to the length that their gradient divides by; ``gradients="true"`` does not.
    """

    def __init__(self, gradients: str) -> None:
        super().__init__()
        self.gradients = gradients

    def infer(self, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        return x.new_empty(x.shape[0], 1, *x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        length: Tensor = _LengthGradient.apply(x, 0.0 if self.gradients == "true" else 1e-9)
        return length


@layer("ChannelNorm", bottoms=1, tops=1, dialects=(_FLOWNET2, _LITE, _SYNOPSYS))
def channel_norm(spec: LayerSpec) -> Layer:
    spec.images()
    return ChannelLength(spec.gradients)


class Grid(Layer):
    """The column and the row of each pixel: (N, 2, H, W)."""

    def infer(self, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        return x.new_empty(x.shape[0], 2, *x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        images, _, height, width = x.shape
        columns = torch.arange(width, device=x.device, dtype=x.dtype).expand(images, height, width)
        rows = torch.arange(height, device=x.device, dtype=x.dtype)[:, None].expand(images, height, width)
        return torch.stack([columns, rows], 1)


@layer("Grid", bottoms=1, tops=1, dialects=(_LITE,))
def grid(spec: LayerSpec) -> Layer:
    spec.images()
    return Grid()


class ExpMax(Layer):
    """outer e^(inner (x - m)), m being the largest of the channels at each position, with no gradient of its own.

    As in the fork, the first image has such an m; that of any other is 0.
    """

    def __init__(self, inner: float, outer: float) -> None:
        super().__init__()
        self.inner = inner
        self.outer = outer

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor) -> Tensor:
        y = widened(x)
        first = torch.arange(len(y), device=y.device).reshape(-1, 1, 1, 1) == 0
        largest = torch.where(first, y.detach().amax(1, keepdim=True), 0)
        return (((y - largest) * self.inner).exp() * self.outer).to(x.dtype)


@layer("ExpMax", bottoms=1, tops=1, dialects=(_LITE,))
def exp_max(spec: LayerSpec) -> Layer:
    params = spec.params("expmax_param")
    spec.images()
    base = math.e if params.base == -1 else params.base
    if base <= 0:
        spec.fail(f"base {params.base:g} must be positive, or -1 for e")
    return ExpMax(math.log(base) * params.scale, base**params.shift)


class _SquaredGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor) -> Tensor:
        return -(x * x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> Tensor:
        return gradient * gradient


class NegSquare(Layer):
    """-x^2.

    The fork multiplies the gradient by what the bottom's diff held before, where it means the bottom's data. That is 0
    always, for nothing else fills it; ``in_place``, it is the gradient itself. ``gradients="true"`` gives the true one.
    """

    def __init__(self, gradients: str, *, in_place: bool) -> None:
        super().__init__()
        self.gradients = gradients
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        if self.gradients == "true":
            return -(x * x)
        if not self.in_place:
            return without_gradient(-(x * x), x)
        top: Tensor = _SquaredGradient.apply(x)
        return top


@layer("NegSquare", bottoms=1, tops=1, dialects=(_LITE,))
def neg_square(spec: LayerSpec) -> Layer:
    return NegSquare(spec.gradients, in_place=spec.bottoms[0] == spec.tops[0])


class Mean(Layer):
    """output_scale (input_scale x + offset) for each bottom, with the offsets given in turn to the channels."""

    def __init__(self, input_scale: float, offsets: tuple[float, ...], output_scale: float) -> None:
        super().__init__()
        self.input_scale = input_scale
        self.offsets = offsets
        self.output_scale = output_scale

    def forward(self, *maps: Tensor) -> Tensor | tuple[Tensor, ...]:
        tops = []
        for x in maps:
            offsets = x.new_tensor(self.offsets).repeat(x.shape[1] // len(self.offsets))[:, None, None]
            tops.append(self.output_scale * (self.input_scale * x + offsets))
        return tops[0] if len(tops) == 1 else tuple(tops)


@layer("Mean", bottoms=(1, None), tops=(1, None), dialects=FLOWNETS)
def mean(spec: LayerSpec) -> Layer:
    params = spec.params("mean_param")
    if params.has("file"):
        spec.fail("a mean from a file is not supported; give one value for each channel")
    spec.one_top_each()
    if not params.value:
        spec.fail("needs values")
    for index in range(len(spec.bottoms)):
        if spec.images(index)[1] % len(params.value):
            spec.misfit(index, f"a multiple of the {len(params.value)} values as channels")
    factor = -params.mean_scale if params.operation == "SUBTRACT" else params.mean_scale
    return Mean(params.input_scale, tuple(factor * value for value in params.value), params.output_scale)


class L1Loss(Layer):
    """Sum of absolute differences, or of their lengths along the channels, for each image or each pair of numbers.

    Of one bottom (N, C, H, W) its own values, of two their differences count. Those that are not a number count for
    nothing. At a difference of exactly 0 the gradient is that of a negative one, as in Caffe. A single bottom stays as
    it is, where the forks write zeros over what does not count.

    Args:
        lengths: (sum over the channels of the squares + ``eps``) ^ ``power`` instead of absolute values; ``scaled``
            divides the sum by the number of channels.
        entries: divide by how many numbers there are over the channels, not by how many images.
        plateau: smaller ones (their lengths, before ``eps``) count as zero.
    """

    def __init__(self, *, lengths: bool, scaled: bool, entries: bool, eps: float, plateau: float, power: float) -> None:
        super().__init__()
        self.lengths = lengths
        self.scaled = scaled
        self.entries = entries
        self.eps = eps
        self.plateau = plateau
        self.power = power

    def forward(self, x: Tensor, *target: Tensor) -> Tensor:
        difference = widened(x) - widened(target[0]) if target else widened(x)
        valid = ~difference.detach().isnan()
        divisor = valid.sum() / x.shape[1] if self.entries else x.shape[0]
        difference = torch.where(valid, difference, 0)
        if self.lengths:
            squares = difference.square().sum(1) / (x.shape[1] if self.scaled else 1)
            if self.plateau > 0:
                squares = torch.where(squares < self.plateau**2, 0, squares)
            total = (squares + self.eps).pow(self.power).sum()
        else:
            counted = valid & (difference.detach().abs() >= self.plateau)
            sign = torch.where(difference.detach() > 0, 1.0, -1.0)
            total = torch.where(counted, difference * sign, 0).sum()
        return (total / divisor).to(x.dtype)


@layer("L1Loss", bottoms=(1, 2), tops=(0, 1), loss=True, unforced=(), dialects=(*FLOWNETS, "aharley/segaware"))
def l1_loss(spec: LayerSpec) -> Layer:
    params = spec.params("l1_loss_param")
    spec.images()
    spec.alike()
    return L1Loss(
        lengths=params.l2_per_location,
        scaled=params.l2_prescale_by_channels,
        entries=params.normalize_by_num_entries,
        eps=params.epsilon,
        plateau=params.plateau,
        power=params.power if params.knows("power") else 0.5,  # LiteFlowNet's own
    )
