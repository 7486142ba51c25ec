"""Correlation of optical flow networks: how alike two maps are for every displacement of the second."""

from __future__ import annotations

from collections.abc import Sequence

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
        level: displacements are along the rows alone, (N, D, H', W'), and so is the padding.
    """

    def __init__(
        self,
        kernel: int,
        displacement: int,
        pad: int,
        stride: int,
        step: int,
        *,
        subtract: bool,
        gradients: str,
        level: bool = False,
    ) -> None:
        super().__init__()
        self.kernel = kernel
        # Down and to the right.
        self.displacement = (0 if level else displacement, displacement)
        self.pad = (0 if level else pad, pad)
        self.stride = stride
        self.step = step
        self.subtract = subtract
        self.gradients = gradients

    def top_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Height and width of the top for maps of that ``size``."""
        borders = [displacement + (self.kernel - 1) // 2 for displacement in self.displacement]
        padded = [n + 2 * pad for n, pad in zip(size, self.pad, strict=True)]
        return tuple(-(-(n - 2 * border) // self.stride) for n, border in zip(padded, borders, strict=True))

    def infer(self, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        down, right = (2 * (displacement // self.step) + 1 for displacement in self.displacement)
        return x.new_empty(x.shape[0], down * right, *self.top_size(x.shape[2:]))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        dtype = first.dtype
        covered = [(n - 1) * self.stride + self.kernel for n in self.top_size(first.shape[2:])]
        around = (self.pad[1], self.pad[1], self.pad[0], self.pad[0])
        first, second = (F.pad(widened(x), around) for x in (first, second))

        def patches(x: Tensor, down: int = 0, right: int = 0) -> Tensor:
            # Upper left corners of patches lie at multiples of the stride from the largest displacement on.
            top, left = self.displacement[0] + down, self.displacement[1] + right
            return x[:, :, top : top + covered[0], left : left + covered[1]]

        sign = None
        if self.subtract and self.gradients != "true":
            sign = torch.where(first.detach() >= second.detach(), 1.0, -1.0).to(first.dtype)
        patch = patches(first)
        radii = [displacement // self.step for displacement in self.displacement]
        shifts = [[self.step * i for i in range(-radius, radius + 1)] for radius in radii]
        channels = []
        for down in shifts[0]:
            for right in shifts[1]:
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
    return _correlation(spec, level=False)


@layer("Correlation1D", bottoms=2, tops=1)
def correlation_1d(spec: LayerSpec) -> Layer:
    """Three forks have this type, with one meaning."""
    return _correlation(spec, level=True)


def _correlation(spec: LayerSpec, *, level: bool) -> Layer:
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
        level=level,
    )
    if min(module.top_size((height, width))) < 1:
        spec.fail(
            f"max_displacement {params.max_displacement} and kernel_size {params.kernel_size} do not fit into a map of "
            f"{height} x {width} with pad {params.pad}"
        )
    return module
