"""Resize of several forks: maps in another size, bilinear from their first corner on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ..precision import widened
from .sized_map import Size, SizedMap

__all__ = ["Resize"]


class Resize(SizedMap):
    """Maps (N, C, H, W) in another size; the first cell stays the first, cells behind the last are zero."""

    def forward(self, x: Tensor, *like: Tensor) -> Tensor:
        y = widened(x)
        size = self.top_size(x, *like)
        rows, columns = (self._weights(y, before, after) for before, after in zip(x.shape[2:], size, strict=True))
        return (rows @ y @ columns.T).to(x.dtype)

    @staticmethod
    def _weights(x: Tensor, before: int, after: int) -> Tensor:
        """(after, before): what each cell counts for each place."""
        place = torch.arange(after, device=x.device, dtype=x.dtype) * (before / after)
        return (1 - (place[:, None] - torch.arange(before, device=x.device)).abs()).clamp_min(0)


@layer("Resize", bottoms=(1, 2), tops=1, dialects=("zimenglan-sysu-512/pose_action_caffe",))
def resize(spec: LayerSpec) -> Layer:
    for index in range(len(spec.bottoms)):
        spec.images(index, filled=True)
    if len(spec.bottoms) == 2:
        like = spec.bottom_shapes[1]
        if spec.message.HasField("resize_param"):
            spec.fail("takes its size from resize_param or from a second bottom, not from both")
        if like[0] * like[1] * like[2] * like[3] == 4:
            spec.fail(
                f"a second bottom of {list(like)} is no map to the fork, but holds the size: that is not supported"
            )
        return Resize(None)
    params = spec.params("resize_param")
    names, factors = ("height", "width"), ("height_fac", "width_fac")
    given, scaled = (all(params.has(name) for name in pair) for pair in (names, factors))
    if given == scaled:
        spec.fail("needs height and width, or height_fac and width_fac, or a second bottom")
    if given:
        return Resize(_positive(spec, (params.height, params.width)))
    return Resize(_scaled(spec, (params.height_fac, params.width_fac)))


@layer("RESIZE", bottoms=1, tops=1, dialects=("xiaolonw/caffe-3dnormal_joint_pose",), verified=False)
def resize_of_normals(spec: LayerSpec) -> Layer:
    """The same code, in a fork of the first generation."""
    return _resize(spec)


@layer("Resize", bottoms=1, tops=1, dialects=("happynear/caffe-windows", "GuohongWu/caffe-windows"))
def resize_of_windows(spec: LayerSpec) -> Layer:
    return _resize(spec)


def _resize(spec: LayerSpec) -> Layer:
    spec.images(filled=True)
    params = spec.params("resize_param")
    names = ("out_height_scale", "out_width_scale") if params.is_pyramid_test else ("height", "width")
    if not all(params.has(name) for name in names):
        spec.fail(f"needs {names[0]} and {names[1]}")
    if params.is_pyramid_test:
        params.ignore("height", "width")
        return Resize(_scaled(spec, (params.out_height_scale, params.out_width_scale)))
    params.ignore("out_height_scale", "out_width_scale")
    return Resize(_positive(spec, (params.height, params.width)))


def _scaled(spec: LayerSpec, factors: tuple[float, float]) -> Size:
    # In single precision, as the fork does, for the product is cut off.
    height, width = (
        int(np.float32(n) * np.float32(f)) for n, f in zip(spec.bottom_shapes[0][2:], factors, strict=True)
    )
    return _positive(spec, (height, width))


def _positive(spec: LayerSpec, size: Size) -> Size:
    if min(size) < 1:
        spec.fail(f"the top would be {size[0]} x {size[1]}; height and width must be at least 1")
    return size
