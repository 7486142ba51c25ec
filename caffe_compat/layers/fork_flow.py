"""Layers of optical flow networks: of FlowNet and FlowNet 2, which PWC-Net shares, and of LiteFlowNet."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..params import Params
from ..registry import Layer, LayerSpec, layer
from .precision import widened

__all__ = [
    "ChannelLength",
    "Correlation",
    "Downsample",
    "ExpMax",
    "FlowWarp",
    "Grid",
    "L1Loss",
    "Mean",
    "NegSquare",
    "Resample",
    "Warp",
    "interpolated",
]

_FLOWNET2, _LITE = "lmb-freiburg/flownet2", "twhui/LiteFlowNet"
# The second and the third copied these layers from the first, but for comments.
_FORKS = (_FLOWNET2, _LITE, "liruoteng/FlowNet")


class Correlation(Layer):
    """How alike patches of two maps (N, C, H, W) are, for every displacement of the second patch.

    Both maps are padded with zeros. Channel ``row * D + column`` of the top (N, D^2, H', W') compares the patch at a
    position with the one ``row`` and ``column`` steps away, from -max_displacement to +max_displacement: the mean of
    the products of their values, or of the absolute differences (``subtract``). The gradient is the true one.

    Args:
        kernel: size of the patches. stride: from position to position. step: from displacement to displacement.
    """

    def __init__(self, kernel: int, displacement: int, pad: int, stride: int, step: int, *, subtract: bool) -> None:
        super().__init__()
        self.kernel = kernel
        self.displacement = displacement
        self.pad = pad
        self.stride = stride
        self.step = step
        self.subtract = subtract

    def top_size(self, size: int) -> int:
        """Of an axis with ``size`` values."""
        border = self.displacement + (self.kernel - 1) // 2
        return -(-(size + 2 * self.pad - 2 * border) // self.stride)

    def infer(self, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        displacements = 2 * (self.displacement // self.step) + 1
        return x.new_empty(x.shape[0], displacements**2, self.top_size(x.shape[2]), self.top_size(x.shape[3]))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        dtype = first.dtype
        first, second = (F.pad(widened(x), (self.pad,) * 4) for x in (first, second))
        # Upper left corners of patches lie at multiples of the stride from the largest displacement on.
        covered = [(self.top_size(size - 2 * self.pad) - 1) * self.stride + self.kernel for size in (first.shape[2:])]
        start = self.displacement
        patch = first[:, :, start : start + covered[0], start : start + covered[1]]
        radius = self.displacement // self.step
        shifts = [self.step * i for i in range(-radius, radius + 1)]
        channels = []
        for down in shifts:
            rows = second[:, :, start + down : start + down + covered[0]]
            for right in shifts:
                other = rows[:, :, :, start + right : start + right + covered[1]]
                compared = (patch - other).abs() if self.subtract else patch * other
                channels.append(compared.mean(1))
        top = torch.stack(channels, 1)
        if not self.kernel == self.stride == 1:
            top = F.avg_pool2d(top, self.kernel, self.stride)
        return top.to(dtype)


@layer("Correlation", bottoms=2, tops=1)
def correlation(spec: LayerSpec) -> Layer:
    params = spec.params("correlation_param")
    first, second = spec.bottom_shapes
    if len(first) != 4 or first != second:
        spec.fail(f"bottoms of {list(first)} and {list(second)}; two alike with four axes were expected")
    params.ignore("do_abs")  # which the fork reads and does not use
    if params.get("single_direction", 0) != 0:
        spec.fail("single_direction other than 0 is not supported")
    for name in ("kernel_size", "max_displacement"):
        if not params.has(name):
            spec.fail(f"needs {name}")
    if params.kernel_size % 2 == 0:
        spec.fail(f"kernel_size is {params.kernel_size}; it must be odd")
    if min(params.stride_1, params.stride_2) < 1:
        spec.fail(f"stride_1 {params.stride_1} and stride_2 {params.stride_2} must be at least 1")
    module = Correlation(
        params.kernel_size,
        params.max_displacement,
        params.pad,
        params.stride_1,
        params.stride_2,
        subtract=params.correlation_type == "SUBTRACT",
    )
    if min(module.top_size(size) for size in first[2:]) < 1:
        spec.fail(
            f"max_displacement {params.max_displacement} and kernel_size {params.kernel_size} do not fit into a map of "
            f"{first[2]} x {first[3]} with pad {params.pad}"
        )
    return module


def interpolated(x: Tensor, column: Tensor, row: Tensor, *, hold: bool) -> Tensor:
    """Values of a map (N, C, H, W) at places (N, H', W'), in cells, between cells bilinear: (N, C, H', W').

    Args:
        hold: cells beyond the edge equal those at the edge; else they are zero. The gradient is the true one.
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
            place = torch.where(inside, at_row * width + at_column, 0).long()
            values = flat.gather(2, place.flatten(1)[:, None].expand(-1, x.shape[1], -1))
            result = result + weight * values.unflatten(2, column.shape[1:])
    return result


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


@layer("FlowWarp", bottoms=2, tops=1, dialects=(_FLOWNET2,))
def flow_warp(spec: LayerSpec) -> Layer:
    _check_flow(spec)
    return FlowWarp(math.nan if spec.params("flow_warp_param").fill_value == "NOT_A_NUMBER" else 0.0)


def _check_flow(spec: LayerSpec) -> None:
    shape, flow = spec.bottom_shapes
    if len(shape) != 4 or flow != (shape[0], 2, *shape[2:]):
        spec.fail(
            f"bottoms of {list(shape)} and {list(flow)}; (images, channels, height, width) and "
            "(images, 2, height, width) were expected"
        )


class Resample(Layer):
    """Maps (N, C, H, W) in another size: each value a weighted mean of those around its place.

    Where a map shrinks and ``antialias`` is set, weights spread over as many more cells. The gradient is the true one;
    the fork has none.

    Args:
        size: height and width; None takes those of the second bottom.
        cubic: weights from a cubic (a = -1/2), not a triangle.
    """

    def __init__(self, size: tuple[int, int] | None, *, cubic: bool, antialias: bool) -> None:
        super().__init__()
        self.size = size
        self.cubic = cubic
        self.antialias = antialias

    def infer(self, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        return x.new_empty(*x.shape[:2], *(self.size or bottoms[1].shape[2:]))

    def forward(self, x: Tensor, *like: Tensor) -> Tensor:
        size = self.size or tuple(like[0].shape[2:])
        y = widened(x)
        ratios = [before / after for before, after in zip(x.shape[2:], size, strict=True)]
        spread = ratios if self.antialias and max(ratios) > 1 else [1.0, 1.0]
        rows, columns = (
            # The fork centres each axis by the ratio of the other one.
            self._weights(y, x.shape[2 + axis], size[axis], ratios[axis], ratios[1 - axis], spread[axis])
            for axis in (0, 1)
        )
        return (rows @ y @ columns.T).to(x.dtype)

    def _weights(self, x: Tensor, before: int, after: int, ratio: float, centring: float, spread: float) -> Tensor:
        """(after, before): what each cell counts for each place, 1 in all, or 0 if no cell is near."""
        place = torch.arange(after, device=x.device, dtype=x.dtype) * ratio + centring / 2 - 0.5
        distance = ((place[:, None] - torch.arange(before, device=x.device)) / spread).abs()
        if self.cubic:
            near = distance * distance * (1.5 * distance - 2.5) + 1
            far = distance * (distance * (2.5 - 0.5 * distance) - 4) + 2
            weights = torch.where(distance <= 1, near, torch.where(distance < 2, far, 0))
        else:
            weights = (1 - distance).clamp_min(0)
        total = weights.sum(1, keepdim=True)
        return torch.where(total == 0, 0, weights / total)


@layer("Resample", bottoms=(1, 2), tops=1, dialects=_FORKS)
def resample(spec: LayerSpec) -> Layer:
    params = spec.params("resample_param")
    params.ignore("factor")  # which the fork does not read
    if params.type not in ("LINEAR", "CUBIC"):
        spec.fail(f"type {params.type} is not supported; LINEAR and CUBIC are")
    return Resample(
        _map_size(spec, params, "height", "width"), cubic=params.type == "CUBIC", antialias=params.antialias
    )


class Downsample(Layer):
    """Maps (N, C, H, W) made smaller, corners staying corners: each value a mean by a triangle around its place.

    What is not a number does not count; where more than half as much weight falls on such values as on others, the
    result is none either. The gradient is that of the weighted mean; the fork has none.

    Args:
        size: height and width; None takes those of the second bottom.
    """

    def __init__(self, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.size = size

    def infer(self, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        return x.new_empty(*x.shape[:2], *(self.size or bottoms[1].shape[2:]))

    def forward(self, x: Tensor, *like: Tensor) -> Tensor:
        size = self.size or tuple(like[0].shape[2:])
        if tuple(x.shape[2:]) == size:
            return x.clone()
        y = widened(x)
        rows, columns = (self._weights(y, x.shape[2 + axis], size[axis]) for axis in (0, 1))
        valid = ~y.isnan()
        total = rows @ valid.to(y.dtype) @ columns.T
        missing = rows @ (~valid).to(y.dtype) @ columns.T
        top = rows @ torch.where(valid, y, 0) @ columns.T / total
        return torch.where(missing / total > 0.5, torch.nan, top).to(x.dtype)

    @staticmethod
    def _weights(x: Tensor, before: int, after: int) -> Tensor:
        step = (before - 1) / (after - 1)
        place = torch.arange(after, device=x.device, dtype=x.dtype) * step
        cells = torch.arange(before, device=x.device)
        return (1 - (place[:, None] - cells).abs() / step).clamp_min(0)


@layer("Downsample", bottoms=(1, 2), tops=1, dialects=_FORKS)
def downsample(spec: LayerSpec) -> Layer:
    size = _map_size(spec, spec.params("downsample_param"), "top_height", "top_width")
    shape, top = spec.bottom_shapes[0], size or spec.bottom_shapes[1][2:]
    if shape[2:] != top and min(*shape[2:], *top) < 2:
        spec.fail(f"a map of {shape[2]} x {shape[3]} cannot become one of {top[0]} x {top[1]}: corners need two cells")
    return Downsample(size)


def _map_size(spec: LayerSpec, params: Params, high: str, wide: str) -> tuple[int, int] | None:
    """Height and width in these fields, which must be positive; None with a second bottom, whose size counts."""
    for name, shape in zip(spec.bottoms, spec.bottom_shapes, strict=True):
        if len(shape) != 4 or min(shape) < 1:
            spec.fail(f"bottom {name!r} has shape {list(shape)}; (images, channels, height, width) was expected")
    if len(spec.bottoms) == 2:
        params.ignore(high, wide)
        return None
    size = (params.get(high, 0), params.get(wide, 0))
    if min(size) < 1:
        spec.fail(f"{high} {size[0]} and {wide} {size[1]} must be at least 1, or there must be a second bottom")
    return size


class _LengthGradient(torch.autograd.Function):
    """The length along the channels, whose gradient stays finite where it is zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = widened(x)
        length = (y * y).sum(1, keepdim=True).sqrt()
        ctx.save_for_backward(x, length)
        return length.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, length = ctx.saved_tensors
        return (gradient * x / (length + 1e-9)).to(x.dtype)


class ChannelLength(Layer):
    """The Euclidean length of the channels at each position: (N, 1, H, W)."""

    def infer(self, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        return x.new_empty(x.shape[0], 1, *x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        length: Tensor = _LengthGradient.apply(x)
        return length


@layer("ChannelNorm", bottoms=1, tops=1, dialects=(_FLOWNET2, _LITE))
def channel_norm(spec: LayerSpec) -> Layer:
    _check_map(spec)
    return ChannelLength()


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
    _check_map(spec)
    return Grid()


class ExpMax(Layer):
    """outer e^(inner (x - m)), m being the largest of the channels at each position, with no gradient of its own."""

    def __init__(self, inner: float, outer: float) -> None:
        super().__init__()
        self.inner = inner
        self.outer = outer

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor) -> Tensor:
        y = widened(x)
        return (((y - y.detach().amax(1, keepdim=True)) * self.inner).exp() * self.outer).to(x.dtype)


@layer("ExpMax", bottoms=1, tops=1, dialects=(_LITE,))
def exp_max(spec: LayerSpec) -> Layer:
    params = spec.params("expmax_param")
    _check_map(spec)
    if spec.bottom_shapes[0][0] != 1:
        spec.fail(f"takes one image, as the fork finds the maxima of the first only; found {spec.bottom_shapes[0][0]}")
    base = math.e if params.base == -1 else params.base
    if base <= 0:
        spec.fail(f"base {params.base:g} must be positive, or -1 for e")
    return ExpMax(math.log(base) * params.scale, base**params.shift)


class NegSquare(Layer):
    """-x^2. The gradient is the true one; the fork's reads a buffer that nothing fills."""

    def forward(self, x: Tensor) -> Tensor:
        return -(x * x)


@layer("NegSquare", bottoms=1, tops=1, dialects=(_LITE,))
def neg_square(spec: LayerSpec) -> Layer:
    return NegSquare()


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


@layer("Mean", bottoms=(1, None), tops=(1, None), dialects=_FORKS)
def mean(spec: LayerSpec) -> Layer:
    params = spec.params("mean_param")
    if params.has("file"):
        spec.fail("a mean from a file is not supported; give one value for each channel")
    if not params.value or len(spec.tops) != len(spec.bottoms):
        spec.fail(f"needs values, and as many tops as bottoms; found {len(spec.tops)} and {len(spec.bottoms)}")
    for name, shape in zip(spec.bottoms, spec.bottom_shapes, strict=True):
        if len(shape) != 4 or shape[1] % len(params.value):
            spec.fail(
                f"bottom {name!r} has shape {list(shape)}; four axes, and channels that {len(params.value)} values "
                "divide, were expected"
            )
    factor = -params.mean_scale if params.operation == "SUBTRACT" else params.mean_scale
    return Mean(params.input_scale, tuple(factor * value for value in params.value), params.output_scale)


class L1Loss(Layer):
    """Sum of absolute differences, or of their lengths along the channels, for each image or each pair of numbers.

    Of one bottom (N, C, H, W) its own values, of two their differences count. Those that are not a number count for
    nothing. At a difference of exactly 0 the gradient is that of a negative one, as in Caffe.

    Args:
        lengths: sqrt(sum over the channels of the squares + ``eps``) instead of absolute values; ``scaled`` divides
            the sum by the number of channels.
        entries: divide by how many numbers there are over the channels, not by how many images.
        plateau: smaller ones (their lengths, before ``eps``) count as zero.
    """

    def __init__(self, *, lengths: bool, scaled: bool, entries: bool, eps: float, plateau: float) -> None:
        super().__init__()
        self.lengths = lengths
        self.scaled = scaled
        self.entries = entries
        self.eps = eps
        self.plateau = plateau

    def forward(self, x: Tensor, *target: Tensor) -> Tensor:
        difference = widened(x) - widened(target[0]) if target else widened(x)
        valid = ~difference.detach().isnan()
        divisor = valid.sum() / x.shape[1] if self.entries else x.shape[0]
        difference = torch.where(valid, difference, 0)
        if self.lengths:
            squares = difference.square().sum(1) / (x.shape[1] if self.scaled else 1)
            if self.plateau > 0:
                squares = torch.where(squares < self.plateau**2, 0, squares)
            total = (squares + self.eps).sqrt().sum()
        else:
            counted = valid & (difference.detach().abs() >= self.plateau)
            sign = torch.where(difference.detach() > 0, 1.0, -1.0)
            total = torch.where(counted, difference * sign, 0).sum()
        return (total / divisor).to(x.dtype)


@layer("L1Loss", bottoms=(1, 2), tops=(0, 1), loss=True, dialects=_FORKS)
def l1_loss(spec: LayerSpec) -> Layer:
    params, shape = spec.params("l1_loss_param"), spec.bottom_shapes[0]
    if len(shape) != 4 or any(other != shape for other in spec.bottom_shapes):
        spec.fail(f"bottoms of {list(map(list, spec.bottom_shapes))}; alike, with four axes, was expected")
    return L1Loss(
        lengths=params.l2_per_location,
        scaled=params.l2_prescale_by_channels,
        entries=params.normalize_by_num_entries,
        eps=params.epsilon,
        plateau=params.plateau,
    )


def _check_map(spec: LayerSpec) -> None:
    shape = spec.bottom_shapes[0]
    if len(shape) != 4:
        spec.fail(f"bottom {spec.bottoms[0]!r} has shape {list(shape)}; (images, channels, height, width) was expected")
