"""NdConvolution and NdPooling of video-caffe: any number of spatial axes, sizes given as shapes."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..bvlc.convolution import Convolution, Geometry

__all__ = ["NdMaxPooling"]

# The second copied them from the first.
_FORKS = ("chuckcho/video-caffe", "BoLiu-SVCL/video-caffe")

Sizes = tuple[int, ...]


def _sizes(spec: LayerSpec, params: Params) -> tuple[Sizes, Sizes, Sizes]:
    """Kernel, stride and pad, each with a number for each axis behind the channels."""
    axes = len(spec.images_or_volumes()) - 2
    if not params.has("kernel_shape"):
        spec.fail("needs kernel_shape")
    found = []
    for name, default in (("kernel_shape", 1), ("stride_shape", 1), ("pad_shape", 0)):
        sizes = tuple(getattr(params, name).dim) if params.has(name) else (default,) * axes
        least = 0 if name == "pad_shape" else 1
        if len(sizes) != axes or min(sizes) < least:
            spec.fail(f"{name} {list(sizes)} must be {axes} numbers of at least {least}")
        found.append(sizes)
    kernel, stride, pad = found
    return kernel, stride, pad


def _check_room(spec: LayerSpec, kernel: Sizes, pad: Sizes) -> None:
    shape = spec.bottom_shapes[0]
    if any(n + 2 * p < k for n, k, p in zip(shape[2:], kernel, pad, strict=True)):
        spec.fail(f"a kernel of {list(kernel)} with pad {list(pad)} does not fit into a bottom of {list(shape)}")


@layer("NdConvolution", bottoms=(1, None), tops=(1, None), dialects=_FORKS, verified=False)
def nd_convolution(spec: LayerSpec) -> nn.Module:
    """A :class:`Convolution`, but for how its sizes are given."""
    params, shape = spec.params("convolution_param"), spec.bottom_shapes[0]
    kernel, stride, pad = _sizes(spec, params)
    _check_room(spec, kernel, pad)
    spec.one_top_each()
    spec.alike()
    outputs, group = params.num_output, params.group
    if outputs < 1 or group < 1 or shape[1] % group or outputs % group:
        spec.fail(f"group {group} must divide the {shape[1]} channels of the bottom and num_output {outputs}")
    module = Convolution(Geometry(1, kernel, stride, pad, (1,) * len(kernel)), shape[1], outputs, params)
    if 1 in module.top_size(shape[2:]):
        spec.fail(f"the top would be {list(module.top_size(shape[2:]))}; the fork loses axes with a single position")
    return module


class NdMaxPooling(Layer):
    """The largest value of each window; the last windows may reach over the end."""

    def __init__(self, kernel: Sizes, stride: Sizes, pad: Sizes) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        pool = functional.max_pool2d if len(self.kernel) == 2 else functional.max_pool3d
        return pool(x, self.kernel, self.stride, self.pad, ceil_mode=True)


@layer("NdPooling", bottoms=1, tops=1, dialects=_FORKS, verified=False)
def nd_pooling(spec: LayerSpec) -> Layer:
    params, shape = spec.params("pooling_param"), spec.bottom_shapes[0]
    if params.pool != "MAX":
        spec.fail(f"pool {params.pool} is not supported; MAX is")
    kernel, stride, pad = _sizes(spec, params)
    if params.global_pooling:
        kernel = shape[2:]
    _check_room(spec, kernel, pad)
    for n, k, s, p in zip(shape[2:], kernel, stride, pad, strict=True):
        if 2 * p > k:
            spec.fail(f"pad_shape {list(pad)} must be at most half of the kernel {list(kernel)}")
        # Without padding, the fork has a window there, of which nothing is known.
        if p == 0 and math.ceil((n - k) / s) * s >= n:
            spec.fail(f"with stride {list(stride)}, a window would begin behind the end of a bottom of {list(shape)}")
    return NdMaxPooling(kernel, stride, pad)
