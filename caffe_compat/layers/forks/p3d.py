"""Pooling3D of pseudo-3D residual networks: windows over length, height and width, each of its own size and padding.

Source: ZhaofanQiu/pseudo-3d-residual-networks, ``caffe_add_layers/src/pooling3d_layer.cpp``.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params

__all__ = ["VolumePooling"]

_FORK = "ZhaofanQiu/pseudo-3d-residual-networks"

Triple = tuple[int, int, int]


class VolumePooling(Layer):
    """Largest or mean value of each window of (N, C, L, H, W); windows may reach over the end.

    A mean is that over the window as far as the padding reaches, zeros counting. Without sizes, a window is all there
    is. Each triple is of length, height and width.
    """

    def __init__(self, window: tuple[Triple, Triple, Triple] | None, *, mean: bool) -> None:
        super().__init__()
        self.window = window
        self.mean = mean

    def forward(self, x: Tensor) -> Tensor:
        if self.window is None:
            return x.mean((2, 3, 4), keepdim=True) if self.mean else x.amax((2, 3, 4), keepdim=True)
        kernel, stride, pad = self.window
        if self.mean:
            return functional.avg_pool3d(x, kernel, stride, pad, ceil_mode=True)
        return functional.max_pool3d(x, kernel, stride, pad, ceil_mode=True)


@layer("Pooling3D", bottoms=1, tops=1, dialects=(_FORK,), verified=False)
def pooling_3d_of_p3d(spec: LayerSpec) -> Layer:
    params = spec.params("pooling3d_param")
    params.ignore("engine")  # it chooses between two ways to the same numbers
    shape = spec.volumes()
    if params.pool not in ("MAX", "AVE"):
        spec.fail(f"pool {params.pool} is not implemented in the fork either; MAX and AVE are")
    mean = params.pool == "AVE"
    stride = _triple(spec, params, "stride", params.stride_l)
    pad = _triple(spec, params, "pad", params.pad_l)
    if params.global_pooling:
        if any(params.has(name) for name in ("kernel_size", "kernel_h", "kernel_w")):
            spec.fail(
                "global_pooling: true takes the size of the bottom; it excludes kernel_size, kernel_h and kernel_w"
            )
        if stride != (1, 1, 1) or pad != (0, 0, 0):
            spec.fail(f"global_pooling: true goes with stride 1 and pad 0; found {list(stride)} and {list(pad)}")
        params.ignore("kernel_l")
        return VolumePooling(None, mean=mean)
    if not params.has("kernel_l") or not (params.has("kernel_size") or params.has("kernel_h")):
        spec.fail("needs kernel_l, and kernel_size or kernel_h and kernel_w")
    kernel = _triple(spec, params, "kernel", params.kernel_l)
    if min(*kernel, *stride) < 1:
        spec.fail(f"kernel {list(kernel)} and stride {list(stride)} must be at least 1")
    for n, k, s, p in zip(shape[2:], kernel, stride, pad, strict=True):
        if 2 * p > k:
            spec.fail(f"pad {list(pad)} above half of the kernel {list(kernel)} is not supported")
        if n + 2 * p < k:
            spec.fail(f"a kernel of {list(kernel)} with pad {list(pad)} does not fit a bottom of {list(shape)}")
        # torch leaves out a last window that begins behind the end, as the fork does only if anything is padded.
        if not any(pad) and math.ceil((n - k) / s) * s >= n:
            spec.fail(f"with stride {list(stride)}, a window would begin behind the end of a bottom of {list(shape)}")
    return VolumePooling((kernel, stride, pad), mean=mean)


def _triple(spec: LayerSpec, params: Params, name: str, length: int) -> Triple:
    """Length, and height and width from one field for both or from two."""
    both = f"{name}_size" if name == "kernel" else name
    high, wide = f"{name}_h", f"{name}_w"
    if params.has(high) != params.has(wide) or (params.has(high) and params.has(both)):
        spec.fail(f"takes {both}, or {high} and {wide}")
    if params.has(high):
        return length, getattr(params, high), getattr(params, wide)
    return (length, *(getattr(params, both),) * 2)
