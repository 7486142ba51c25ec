"""Small layers of many forks that rearrange values: Axpy, Flip, Reorg, Reverse, ShuffleChannel, Transpose."""

from __future__ import annotations

import math

from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer

__all__ = ["Axpy", "Flip", "Reorg", "Reverse", "ShuffleChannel", "Transpose"]


class Axpy(Layer):
    """a x + y, with one a for each channel of each example (squeeze-and-excitation networks)."""

    def forward(self, a: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return a.reshape(*x.shape[:2], *[1] * (x.dim() - 2)) * x + y


@layer("Axpy", bottoms=3, tops=1)
def axpy(spec: LayerSpec) -> Layer:
    scale, x, y = spec.bottom_shapes
    if len(x) < 2 or x != y or math.prod(scale) != x[0] * x[1] or scale[:2] != x[:2]:
        spec.fail(
            f"bottoms of {list(scale)}, {list(x)} and {list(y)}; a number per channel, and two alike, were expected"
        )
    return Axpy()


class Reverse(Layer):
    """One axis backwards."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(self.axis)


@layer("Reverse", bottoms=1, tops=1)
def reverse(spec: LayerSpec) -> Layer:
    axis, rank = spec.params("reverse_param").axis, len(spec.bottom_shapes[0])
    if not 0 <= axis < rank:
        spec.fail(f"axis {axis} must be one of the {rank} of the bottom, counted from 0")
    return Reverse(axis)


class Flip(Layer):
    """Images (N, C, H, W) mirrored along ``axes``."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(self.axes)


@layer("Flip", bottoms=1, tops=1)
def flip(spec: LayerSpec) -> Layer:
    params, shape = spec.params("flip_param"), spec.bottom_shapes[0]
    if len(shape) != 4:
        spec.fail(f"bottom {spec.bottoms[0]!r} has shape {list(shape)}; (images, channels, height, width) was expected")
    return Flip((2,) * params.flip_height + (3,) * params.flip_width)


class Transpose(Layer):
    """The axes in another order: axis i of the top is axis ``order[i]`` of the bottom."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order).contiguous()


@layer("Transpose", bottoms=1, tops=1)
def transpose(spec: LayerSpec) -> Layer:
    rank, order = len(spec.bottom_shapes[0]), spec.params("transpose_param").dim
    if sorted(order) != list(range(rank)):
        spec.fail(f"dim {list(order)} must name each of the {rank} axes of the bottom once")
    return Transpose(order)


class ShuffleChannel(Layer):
    """Channels of ``group`` groups dealt out in turn: the first of each group, then the second of each, and so on."""

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.group, -1)).transpose(1, 2).flatten(1, 2)


@layer("ShuffleChannel", bottoms=1, tops=1)
def shuffle_channel(spec: LayerSpec) -> Layer:
    shape, group = spec.bottom_shapes[0], spec.params("shuffle_channel_param").group
    if len(shape) < 2 or group < 1 or shape[1] % group:
        spec.fail(f"group {group} must divide the channels of the bottom {list(shape)}")
    return ShuffleChannel(group)


class Reorg(Layer):
    """Blocks of ``stride`` x ``stride`` cells become channels, in the order of YOLO v2's ``reorg``; or the reverse.

    The order is not that of space-to-depth: as in Darknet, the map is first read as one of C / stride^2 channels and
    stride times the size. Gradients are the true ones; the backward pass of the Caffe forks with this type reads a
    buffer that nothing fills.
    """

    def __init__(self, stride: int, *, back: bool) -> None:
        super().__init__()
        self.stride = stride
        self.back = back

    def forward(self, x: Tensor) -> Tensor:
        s = self.stride
        images, channels, height, width = x.shape
        few = channels // (s * s)
        if self.back:
            blocks = x.reshape(images, s, s, few, height, width).permute(0, 3, 4, 1, 5, 2)
            return blocks.reshape(images, few, height * s, width * s)
        blocks = x.reshape(images, few, height, s, width, s).permute(0, 3, 5, 1, 2, 4)
        return blocks.reshape(images, channels * s * s, height // s, width // s)


@layer("Reorg", bottoms=1, tops=1)
def reorg(spec: LayerSpec) -> Layer:
    shape, params = spec.bottom_shapes[0], spec.params("reorg_param")
    if not params.has("stride") or params.stride < 1:
        spec.fail("needs a stride of at least 1")
    s = params.stride
    if len(shape) != 4 or shape[1] % (s * s) or (not params.reverse and (shape[2] % s or shape[3] % s)):
        spec.fail(
            f"stride {s} does not fit the bottom {list(shape)}: its square must divide the channels, and, unless in "
            "reverse, it the height and the width"
        )
    return Reorg(s, back=params.reverse)
