"""Layers with kernels and matrices: convolutions, inner products, normalization by stored statistics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from caffe_compat.layers.bvlc.batch_norm import BatchNorm
from caffe_compat.layers.bvlc.convolution import Convolution, Deconvolution
from caffe_compat.layers.bvlc.inner_product import Embed, InnerProduct
from caffe_compat.layers.bvlc.lrn import AcrossChannels, WithinChannel
from caffe_compat.layers.bvlc.scale import Bias, Scale
from caffe_compat.layers.forks.bn import MovingAverageBN
from caffe_compat.layers.forks.convolution import DepthwiseConvolution
from caffe_compat.layers.forks.norm_scale import BatchNormScale
from caffe_compat.layers.forks.nvidia import NvidiaBatchNorm

from .emitters import emits
from .graph import Site

__all__: list[str] = []


@emits(Convolution)
def convolution(site: Site) -> list[str] | None:
    return [_conv(site, "Conv", x) for x in site.bottoms] if site.module.direct else None


@emits(Deconvolution)
def deconvolution(site: Site) -> list[str] | None:
    return [_conv(site, "ConvTranspose", x) for x in site.bottoms] if site.module.direct else None


@emits(DepthwiseConvolution)
def depthwise_convolution(site: Site) -> str:
    return _conv(site, "Conv", site.bottoms[0], group=len(site.module.weight))


def _conv(site: Site, type_: str, x: str, group: int | None = None) -> str:
    m: Any = site.module
    return site.op(
        type_,
        x,
        site.weight("weight"),
        site.weight("bias"),
        kernel_shape=list(m.weight.shape[2:]),
        strides=list(m.stride),
        pads=[*m.pad, *m.pad],
        dilations=list(m.dilation),
        group=group or m.group,
    )


@emits(InnerProduct)
def inner_product(site: Site) -> str:
    m, before, after = site.module, site.bottom_sizes[0], site.top_sizes[0]
    inputs = m.weight.shape[0 if m.transpose else 1]
    rows = before[0] if m.axis == 1 else -1
    x = site.bottoms[0]
    if len(before) != 2 or m.axis != 1:
        x = site.op("Reshape", x, site.ints([-1 if not isinstance(rows, int) else rows, inputs]))
    y = site.op("Gemm", x, site.weight("weight"), site.weight("bias"), transB=0 if m.transpose else 1)
    return y if m.axis == 1 else site.reshape(y, (), after)


@emits(Embed)
def embed(site: Site) -> str:
    rows = site.op("Gather", site.weight("weight"), site.cast(site.bottoms[0], np.int64), axis=0)
    return rows if site.module.bias is None else site.op("Add", rows, site.weight("bias"))


@emits(BatchNorm, BatchNormScale, NvidiaBatchNorm)
def batch_norm(site: Site) -> str | None:
    m = site.module
    if m.use_global_stats is False:
        return None
    factor = m.divisor().reciprocal().nan_to_num(math.nan, 0.0, 0.0)
    weight = torch.ones_like(m.mean) if m.weight is None else m.weight
    bias = torch.zeros_like(m.mean) if m.bias is None else m.bias
    return _normalized(site, weight, bias, m.mean * factor, m.variance * factor)


@emits(MovingAverageBN)
def moving_average_bn(site: Site) -> str:
    m = site.module
    variance = m.variance.square().reciprocal() - m.eps if m.inverse else m.variance
    return _normalized(site, m.slope.flatten(), m.bias.flatten(), m.mean.flatten(), variance.flatten())


def _normalized(
    site: Site, weight: torch.Tensor, bias: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor
) -> str:
    named = {"weight": weight, "bias": bias, "mean": mean, "variance": variance}
    inputs = [site.weight(name, tensor) for name, tensor in named.items()]
    return site.op("BatchNormalization", site.bottoms[0], *inputs, epsilon=site.module.eps)


@emits(Scale)
def scale(site: Site) -> str:
    m, x = site.module, site.bottoms[0]
    y = site.op("Mul", x, _factor(site, "weight"))
    return y if m.bias is None else site.op("Add", y, site.weight("bias", _along(m.bias, m.trailing)))


@emits(Bias)
def bias(site: Site) -> str:
    return site.op("Add", site.bottoms[0], _factor(site, "bias"))


def _factor(site: Site, name: str) -> str:
    """The second bottom, or the blob, with axes of size 1 behind as far as it needs them."""
    trailing = site.module.trailing
    if len(site.bottoms) == 1:
        return site.weight(name, _along(getattr(site.module, name), trailing))
    sizes = site.bottom_sizes[1]
    return site.reshape(site.bottoms[1], sizes, (*sizes, *[1] * trailing))


def _along(blob: torch.Tensor, trailing: int) -> torch.Tensor:
    return blob.reshape(blob.shape + (1,) * trailing)


@emits(AcrossChannels, wide=True)
def across_channels(site: Site) -> str:
    m = site.module
    return site.op("LRN", site.bottoms[0], size=m.size, alpha=m.alpha, beta=m.beta, bias=m.k)


@emits(WithinChannel, wide=True)
def within_channel(site: Site) -> str:
    m, x = site.module, site.bottoms[0]
    around = [m.size // 2] * 4
    mean = site.op(
        "AveragePool", site.op("Mul", x, x), kernel_shape=[m.size] * 2, pads=around, strides=[1, 1], count_include_pad=1
    )
    base = site.op("Add", site.op("Mul", mean, site.floats(m.alpha)), site.floats(1))
    return site.op("Mul", x, site.op("Pow", base, site.floats(-m.beta)))
