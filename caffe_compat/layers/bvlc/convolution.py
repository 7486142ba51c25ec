"""Layers that slide a kernel: Convolution, Deconvolution, and Im2col, which only cuts out the windows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params

__all__ = ["Convolution", "Deconvolution", "Geometry", "Im2col", "check_room", "kernel_geometry", "windows_as_columns"]


@dataclass(frozen=True)
class Geometry:
    """How a kernel slides: the channel axis, then one number per spatial axis behind it."""

    axis: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """Pixels from a kernel's first to its last element."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def room(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """By how many pixels the kernel can move in an image of ``size``, padding included."""
        return tuple(n + 2 * p - e for n, p, e in zip(size, self.pad, self.extent, strict=True))

    def overhang(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """By how much the kernel is larger than the image of ``size``, padding included.

        Caffe divides the (then negative) room by the stride with C's rounding towards zero, so a kernel that is larger
        by less than a stride has one position; what hangs over is zero.
        """
        return tuple(-r if -s < r < 0 else 0 for r, s in zip(self.room(size), self.stride, strict=True))

    def add_overhang(self, x: Tensor) -> Tensor:
        """``x`` with zeros behind, so that a kernel larger than the image fits."""
        over = self.overhang(x.shape[self.axis + 1 :])
        return F.pad(x, [n for o in reversed(over) for n in (0, o)]) if any(over) else x


def kernel_geometry(spec: LayerSpec, params: Params) -> Geometry:
    """Read kernel, stride, pad and dilation from a ConvolutionParameter."""
    shape = spec.bottom_shapes[0] if params.knows("axis") else spec.channels()
    axis = spec.axis(params.axis, len(shape)) if params.knows("axis") else 1
    spatial = len(shape) - axis - 1

    def per_axis(name: str, default: int | None, least: int, short: str | None = None) -> tuple[int, ...]:
        short = short or name
        names = (f"{short}_h", f"{short}_w")
        if any(params.has(n) for n in names):
            if spatial != 2:
                spec.fail(f"{names[0]} and {names[1]} are for two spatial axes, and the bottom {shape} has {spatial}")
            if params.has(name):
                spec.fail(f"{name} and {names[0]}/{names[1]} exclude each other; set one or the other")
            found = tuple(getattr(params, n) for n in names)
        else:
            # Schemas older than N-d convolution have one number here, not a list.
            value = getattr(params, name) if params.has(name) else ()
            found = value if isinstance(value, tuple) else (value,)
            if not found and default is not None:
                found = (default,)
            if len(found) not in (1, spatial):
                spec.fail(
                    f"{name} is given {len(found)} times; it needs 1, or {spatial} for the {spatial} spatial axes"
                )
            found = found * spatial if len(found) == 1 else found
        if any(n < least for n in found):
            spec.fail(f"{name} is {found}; every number must be at least {least}")
        return found

    kernel, stride, pad = per_axis("kernel_size", None, 1, "kernel"), per_axis("stride", 1, 1), per_axis("pad", 0, 0)
    # DeepLab's first versions call dilation a hole.
    hole = any(params.has(name) for name in ("hole", "hole_h", "hole_w"))
    return Geometry(axis, kernel, stride, pad, per_axis("hole" if hole else "dilation", 1, 1))


class Convolution(Layer):
    """Cross-correlation of each bottom with ``weight``, plus ``bias``; all bottoms share them.

    Bottom (..., C, spatial...) with C at ``geometry.axis`` gives (..., O, spatial'...), where
    spatial' = floor((size + 2 pad - extent) / stride) + 1. ``weight`` is (O, C / group, kernel...), ``bias`` (O,).
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    _by_axes: ClassVar[dict[int, Any]] = {0: F.conv1d, 1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

    def __init__(self, geometry: Geometry, channels: int, outputs: int, params: Params) -> None:
        super().__init__()
        self.geometry = geometry
        self.outputs = outputs
        self.group = params.group
        self.blob("weight", self.weight_shape(channels, outputs), params.weight_filler)
        self.bias_blob((outputs,), params)
        # torch takes (N, C, 1 to 3 axes); anything else is brought into that form first.
        self.direct = geometry.axis == 1 and len(geometry.kernel) > 0
        self.fits = True
        self.slide_function = self._by_axes[len(geometry.kernel)]
        # Without a spatial axis, torch gets one of size 1.
        self.stride, self.pad = geometry.stride or (1,), geometry.pad or (0,)
        self.dilation = geometry.dilation or (1,)

    def weight_shape(self, channels: int, outputs: int) -> tuple[int, ...]:
        """Shape of the first blob."""
        return (outputs, channels // self.group, *self.geometry.kernel)

    def top_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial size of the top for that of a bottom."""
        # Room for less than a stride, too little by less than a stride: one position.
        return tuple(max(r, 0) // s + 1 for r, s in zip(self.geometry.room(size), self.geometry.stride, strict=True))

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        axis = self.geometry.axis
        tops = [
            x.new_empty((*x.shape[:axis], self.outputs, *self.top_size(tuple(x.shape[axis + 1 :])))) for x in bottoms
        ]
        return tops[0] if len(tops) == 1 else tuple(tops)

    def slide(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.slide_function(x, weight, self.bias, self.stride, self.pad, self.dilation, self.group)

    def forward(self, x: Tensor, *more: Tensor) -> Tensor | tuple[Tensor, ...]:
        y = self.slide(x, self.weight) if self.direct else self._reshaped(x)
        if more:
            return (y, *(self.slide(b, self.weight) if self.direct else self._reshaped(b) for b in more))
        return y

    def _reshaped(self, x: Tensor) -> Tensor:
        lead = x.shape[: self.geometry.axis]
        if not self.fits:
            x = self.geometry.add_overhang(x)
        x = x.reshape(math.prod(lead), *x.shape[self.geometry.axis :])
        if self.geometry.kernel:
            y = self.slide(x, self.weight)
        else:
            y = self.slide(x.unsqueeze(-1), self.weight.unsqueeze(-1)).squeeze(-1)
        return y.reshape(*lead, *y.shape[1:])


class Deconvolution(Convolution):
    """The transposed :class:`Convolution`, its gradient by the bottom taken as a forward pass.

    spatial' = stride (size - 1) + extent - 2 pad. ``weight`` is (C, O / group, kernel...).
    """

    _by_axes: ClassVar[dict[int, Any]] = {
        0: F.conv_transpose1d,
        1: F.conv_transpose1d,
        2: F.conv_transpose2d,
        3: F.conv_transpose3d,
    }

    def weight_shape(self, channels: int, outputs: int) -> tuple[int, ...]:
        return (channels, outputs // self.group, *self.geometry.kernel)

    def top_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        g = self.geometry
        return tuple(s * (n - 1) + e - 2 * p for n, e, s, p in zip(size, g.extent, g.stride, g.pad, strict=True))

    def slide(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.slide_function(x, weight, self.bias, self.stride, self.pad, 0, self.group, self.dilation)


def _sliding(spec: LayerSpec) -> tuple[Geometry, int, int, Params]:
    """Geometry, input channels, output channels; what Convolution and Deconvolution check alike."""
    params = spec.params("convolution_param")
    # It chooses between two ways to the same numbers.
    params.ignore("force_nd_im2col")
    geometry = kernel_geometry(spec, params)
    spec.one_top_each()
    shape = spec.alike()
    channels, outputs = shape[geometry.axis], params.num_output
    if len(geometry.kernel) > 3:
        spec.fail(f"the bottom {shape} has {len(geometry.kernel)} spatial axes; at most 3 are supported")
    if outputs < 1:
        spec.fail(f"num_output is {outputs}; it must be at least 1")
    if params.group < 1 or channels % params.group or outputs % params.group:
        spec.fail(f"group {params.group} must divide the {channels} channels of the bottom and num_output {outputs}")
    return geometry, channels, outputs, params


@layer("Convolution", bottoms=(1, None), tops=(1, None))
def convolution(spec: LayerSpec) -> Layer:
    geometry, channels, outputs, params = _sliding(spec)
    module = Convolution(geometry, channels, outputs, params)
    size = spec.bottom_shapes[0][geometry.axis + 1 :]
    check_room(spec, geometry, size)
    module.fits = not any(geometry.overhang(size))
    module.direct = module.direct and module.fits
    return module


@layer("Deconvolution", bottoms=(1, None), tops=(1, None))
def deconvolution(spec: LayerSpec) -> Layer:
    geometry, channels, outputs, params = _sliding(spec)
    size = spec.bottom_shapes[0][geometry.axis + 1 :]
    for n, extent, stride, pad in zip(size, geometry.extent, geometry.stride, geometry.pad, strict=True):
        if stride * (n - 1) + extent - 2 * pad < 1:
            spec.fail(f"pad {geometry.pad} leaves nothing of the output of a bottom of size {size}")
    return Deconvolution(geometry, channels, outputs, params)


class Im2col(Layer):
    """:func:`windows_as_columns` of the bottom."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry

    def forward(self, x: Tensor) -> Tensor:
        return windows_as_columns(x, self.geometry)


def windows_as_columns(x: Tensor, g: Geometry) -> Tensor:
    """Every window as a column: (..., C, spatial...) gives (..., C * kernel elements, positions...)."""
    lead, spatial = x.shape[: g.axis + 1], len(g.kernel)
    x = g.add_overhang(F.pad(x, [n for p in reversed(g.pad) for n in (p, p)]))
    for i in range(spatial):
        x = x.unfold(g.axis + 1 + i, g.extent[i], g.stride[i])[..., :: g.dilation[i]]
    # (..., C, positions..., kernel...) -> (..., C, kernel..., positions...)
    first = g.axis + 1
    order = [*range(first), *range(first + spatial, first + 2 * spatial), *range(first, first + spatial)]
    positions = x.shape[first : first + spatial]
    return x.permute(order).reshape(*lead[:-1], lead[-1] * math.prod(g.kernel), *positions)


@layer("Im2col", bottoms=1, tops=1)
def im2col(spec: LayerSpec) -> Layer:
    params = spec.params("convolution_param")
    # It has no weights, and one way to the same numbers is as good as another.
    params.ignore("num_output", "bias_term", "group", "weight_filler", "bias_filler", "force_nd_im2col")
    geometry = kernel_geometry(spec, params)
    if not geometry.kernel:
        spec.fail(f"the bottom {spec.bottom_shapes[0]} has no spatial axis behind axis {geometry.axis}")
    check_room(spec, geometry, spec.bottom_shapes[0][geometry.axis + 1 :])
    return Im2col(geometry)


def check_room(spec: LayerSpec, geometry: Geometry, size: tuple[int, ...]) -> None:
    """Refuse a kernel that has no position in a bottom whose spatial axes are of ``size``."""
    for room, stride in zip(geometry.room(size), geometry.stride, strict=True):
        if room <= -stride:
            spec.fail(
                f"a kernel of extent {geometry.extent} (kernel_size {geometry.kernel}, dilation {geometry.dilation}) "
                f"does not fit into a bottom of size {size} with pad {geometry.pad}"
            )
