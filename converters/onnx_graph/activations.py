"""Layers that work on each value by itself."""

from __future__ import annotations

from caffe_compat.layers.bvlc.activation import (
    BNLL,
    ELU,
    AbsVal,
    Clip,
    Exp,
    Log,
    Power,
    ReLU,
    Sigmoid,
    Swish,
    TanH,
    Threshold,
)
from caffe_compat.layers.bvlc.dropout import Dropout
from caffe_compat.layers.bvlc.prelu import PReLU
from caffe_compat.layers.forks.activation import Mish
from caffe_compat.layers.forks.convolution import ReLU6, SpatialDropout

from .emitters import emits
from .graph import Site

__all__: list[str] = []


@emits(ReLU)
def relu(site: Site) -> str:
    slope = site.module.negative_slope
    return site.op("LeakyRelu", site.bottoms[0], alpha=slope) if slope else site.op("Relu", site.bottoms[0])


@emits(ReLU6)
def relu6(site: Site) -> str:
    slope = site.module.negative_slope
    if not slope:
        return site.op("Clip", site.bottoms[0], site.floats(0), site.floats(6))
    return site.op("Min", site.op("LeakyRelu", site.bottoms[0], alpha=slope), site.floats(6))


@emits(PReLU)
def prelu(site: Site) -> str:
    slope, rank = site.module.slope, len(site.bottom_sizes[0])
    along = slope.reshape(-1, *[1] * (rank - 2)) if slope.dim() else slope
    return site.op("PRelu", site.bottoms[0], site.weight("slope", along))


@emits(AbsVal)
def abs_val(site: Site) -> str:
    return site.op("Abs", site.bottoms[0])


@emits(Sigmoid)
def sigmoid(site: Site) -> str:
    return site.op("Sigmoid", site.bottoms[0])


@emits(TanH)
def tanh(site: Site) -> str:
    return site.op("Tanh", site.bottoms[0])


@emits(BNLL)
def bnll(site: Site) -> str:
    return site.op("Softplus", site.bottoms[0])


@emits(ELU)
def elu(site: Site) -> str:
    return site.op("Elu", site.bottoms[0], alpha=site.module.alpha)


@emits(Clip)
def clip(site: Site) -> str:
    # Crossed bounds: Caffe gives the lower one, and Clip the higher.
    low, high = site.module.low, site.module.high
    return site.op("Max", site.op("Min", site.bottoms[0], site.floats(high)), site.floats(low))


@emits(Swish)
def swish(site: Site) -> str:
    x, beta = site.bottoms[0], site.module.beta
    return site.op("Mul", x, site.op("Sigmoid", x if beta == 1 else site.op("Mul", x, site.floats(beta))))


@emits(Mish)
def mish(site: Site) -> str:
    return site.op("Mul", site.bottoms[0], site.op("Tanh", site.op("Softplus", site.bottoms[0])))


@emits(Threshold)
def threshold(site: Site) -> str:
    return site.cast(site.op("Greater", site.bottoms[0], site.floats(site.module.threshold)), site.kind)


@emits(Exp)
def exp(site: Site) -> str:
    y = site.op("Exp", _affine(site, site.bottoms[0], site.module.inner_scale, 0))
    return _affine(site, y, site.module.outer_scale, 0)


@emits(Log)
def log(site: Site) -> str:
    y = site.op("Log", _affine(site, site.bottoms[0], site.module.scale, site.module.shift))
    return _affine(site, y, site.module.outer_scale, 0)


@emits(Power, wide=True)
def power(site: Site) -> str:
    m, x = site.module, site.bottoms[0]
    if m.power * m.scale == 0:
        # A constant, whatever x holds.
        value = site.floats(float(m.shift) ** m.power if m.power else 1.0)
        return site.op("Expand", value, site.shape(site.bottom_sizes[0]))
    y = _affine(site, x, m.scale, m.shift)
    return y if m.power == 1 else site.op("Pow", y, site.floats(m.power))


def _affine(site: Site, x: str, scale: float, shift: float) -> str:
    y = x if scale == 1 else site.op("Mul", x, site.floats(scale))
    return y if shift == 0 else site.op("Add", y, site.floats(shift))


@emits(Dropout)
def dropout(site: Site) -> str:
    m = site.module
    return site.bottoms[0] if m.scale_train else site.op("Mul", site.bottoms[0], site.floats(1 - m.ratio))


@emits(SpatialDropout)
def spatial_dropout(site: Site) -> str:
    return site.bottoms[0]
