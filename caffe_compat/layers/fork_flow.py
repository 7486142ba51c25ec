"""Layers of optical flow networks: FlowNet's Correlation and LiteFlowNet's Warp."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..registry import Layer, LayerSpec, layer
from .precision import widened

__all__ = ["Correlation", "Warp"]


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


@layer("Correlation", bottoms=2, tops=1, verified=False)
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


class Warp(Layer):
    """Values of a map (N, C, H, W) at the positions (N, 2, H, W), x and y in pixels, between pixels bilinear.

    Beyond the map there are zeros. The gradient is the true one.
    """

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        height, width = x.shape[2:]
        left, top = positions.detach().floor().unbind(1)
        right_part, lower_part = positions[:, 0] - left, positions[:, 1] - top
        flat = x.flatten(2)
        result = torch.zeros_like(x)
        for down, vertical in ((0, 1 - lower_part), (1, lower_part)):
            for right, horizontal in ((0, 1 - right_part), (1, right_part)):
                column, row = left + right, top + down
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                weight = torch.where(inside, vertical * horizontal, 0)[:, None]
                place = torch.where(inside, row * width + column, 0).long()
                values = flat.gather(2, place.flatten(1)[:, None].expand(-1, x.shape[1], -1)).view_as(x)
                result = result + weight * values
        return result


@layer("Warp", bottoms=2, tops=1, dialects=("twhui/LiteFlowNet",), verified=False)
def warp(spec: LayerSpec) -> Layer:
    shape, positions = spec.bottom_shapes
    if len(shape) != 4 or positions != (shape[0], 2, *shape[2:]):
        spec.fail(
            f"bottoms of {list(shape)} and {list(positions)}; (images, channels, height, width) and "
            "(images, 2, height, width) were expected"
        )
    return Warp()
