"""Correlation of optical flow networks: how alike two maps are for every displacement of the second."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...network.registry import Layer, LayerSpec, layer
from ..gradients import with_slopes
from ..precision import widened

__all__ = ["Correlation"]


class Correlation(Layer):
    """How alike patches of two maps (N, C, H, W) are, for every displacement of the second patch.

    Both maps are padded with zeros. Channel ``row * D + column`` of the top (N, D^2, H', W') compares the patch at a
    position with the one ``row`` and ``column`` steps away, from -max_displacement to +max_displacement: the mean of
    the products of their values, or of the absolute differences (``subtract``).

    The forks' gradient of a difference takes its sign from the two maps at one place: for the first map where the
    displacement leads to, for the second where it comes from. ``gradients="true"`` takes that of the difference.

    Args:
        kernel: size of the patches. stride: from position to position. step: from displacement to displacement.
    """

    def __init__(
        self, kernel: int, displacement: int, pad: int, stride: int, step: int, *, subtract: bool, gradients: str
    ) -> None:
        super().__init__()
        self.kernel = kernel
        self.displacement = displacement
        self.pad = pad
        self.stride = stride
        self.step = step
        self.subtract = subtract
        self.gradients = gradients

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
        covered = [(self.top_size(size - 2 * self.pad) - 1) * self.stride + self.kernel for size in first.shape[2:]]

        def patches(x: Tensor, down: int = 0, right: int = 0) -> Tensor:
            # Upper left corners of patches lie at multiples of the stride from the largest displacement on.
            top, left = self.displacement + down, self.displacement + right
            return x[:, :, top : top + covered[0], left : left + covered[1]]

        sign = None
        if self.subtract and self.gradients != "true":
            sign = torch.where(first.detach() >= second.detach(), 1.0, -1.0).to(first.dtype)
        patch = patches(first)
        radius = self.displacement // self.step
        shifts = [self.step * i for i in range(-radius, radius + 1)]
        channels = []
        for down in shifts:
            for right in shifts:
                other = patches(second, down, right)
                compared = (patch - other).abs() if self.subtract else patch * other
                if sign is not None:
                    slopes = (patch, patches(sign, down, right)), (other, -patches(sign))
                    compared = with_slopes(compared, *slopes)
                channels.append(compared.mean(1))
        top = torch.stack(channels, 1)
        if not self.kernel == self.stride == 1:
            top = F.avg_pool2d(top, self.kernel, self.stride)
        return top.to(dtype)


# Five forks have this type (lmb-freiburg/flownet2 and its kin), with one meaning.
@layer("Correlation", bottoms=2, tops=1)
def correlation(spec: LayerSpec) -> Layer:
    params = spec.params("correlation_param")
    *_, height, width = spec.images()
    spec.alike()
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
        gradients=spec.gradients,
    )
    if min(module.top_size(size) for size in (height, width)) < 1:
        spec.fail(
            f"max_displacement {params.max_displacement} and kernel_size {params.kernel_size} do not fit into a map of "
            f"{height} x {width} with pad {params.pad}"
        )
    return module
