"""Pooling of BannyStone's fork, over as many axes as the bottom has behind its channels.

Source: BannyStone/Caffe, ``src/caffe/layers/pooling_layer.cpp``; volumes are pooled by cuDNN there, and only there.
"""

from __future__ import annotations

import math

from torch import nn

from ...network.registry import LayerSpec, layer
from ...schema.params import Params
from ..bvlc.pooling import pooling
from .p3d import VolumePooling

__all__: list[str] = []

Triple = tuple[int, int, int]


@layer("Pooling", bottoms=1, tops=(1, 2), dialects=("BannyStone/Caffe",), verified=False)
def pooling_nd(spec: LayerSpec) -> nn.Module:
    params = spec.params("pooling_param")
    shape = spec.images_or_volumes()
    if len(shape) == 4:
        if params.spatial_global_pooling and not params.global_pooling:
            spec.fail("spatial_global_pooling is for volumes; global_pooling pools over a whole image")
        return pooling(spec)
    params.ignore("engine", "round_mode")  # the fork rounds up whatever it says
    if params.pool not in ("MAX", "AVE"):
        spec.fail(f"pool {params.pool} is not implemented for volumes in the fork either; MAX and AVE are")
    if len(spec.tops) == 2:
        spec.fail("has 2 tops; of volumes the fork makes no mask")
    for name in ("kernel", "stride", "pad"):
        for end in ("h", "w"):
            if params.has(f"{name}_{end}"):
                spec.fail(f"{name}_{end} is for images; volumes have one {name} or one for each of 3 axes")
    stride, pad = _triple(spec, params, "stride", 1), _triple(spec, params, "pad", 0)
    mean = params.pool == "AVE"
    if params.global_pooling or params.spatial_global_pooling:
        if params.kernel_size or stride != (1, 1, 1) or pad != (0, 0, 0):
            spec.fail("global pooling goes with stride 1, pad 0 and without kernel_size")
        if params.global_pooling:
            return VolumePooling(None, mean=mean)
        return VolumePooling(((1, shape[3], shape[4]), stride, pad), mean=mean)
    kernel = _triple(spec, params, "kernel_size", 0)
    if min(*kernel, *stride) < 1:
        spec.fail(f"kernel {list(kernel)} and stride {list(stride)} must be at least 1")
    for n, k, s, p in zip(shape[2:], kernel, stride, pad, strict=True):
        if 2 * p > k or p >= k:
            spec.fail(f"pad {list(pad)} above half of the kernel {list(kernel)} is not supported")
        if n + 2 * p < k:
            spec.fail(f"a kernel of {list(kernel)} with pad {list(pad)} does not fit a bottom of {list(shape)}")
        # torch leaves out a last window that begins behind the end, as the fork does along padded axes alone.
        if not p and math.ceil((n - k) / s) * s >= n:
            spec.fail(f"with stride {list(stride)}, a window would begin behind the end of a bottom of {list(shape)}")
        if mean and (n + 2 * p - k) % s:
            spec.fail(f"AVE with windows that reach over the end of a bottom of {list(shape)} is not supported")
    return VolumePooling((kernel, stride, pad), mean=mean)


def _triple(spec: LayerSpec, params: Params, name: str, default: int) -> Triple:
    """One number for length, height and width, or one for each."""
    values = tuple(getattr(params, name)) or (default,)
    if len(values) not in (1, 3):
        spec.fail(f"{name} is given {len(values)} times; once, or once for each of 3 axes, was expected")
    return values[0], values[len(values) // 2], values[-1]
