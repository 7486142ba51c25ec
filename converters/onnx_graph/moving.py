"""Layers that combine blobs, or move values without computing."""

from __future__ import annotations

import functools

import numpy as np

from caffe_compat.layers.bvlc.elementwise import ArgMax, EltwiseMax, EltwiseProduct, EltwiseSum, Reduction, Softmax
from caffe_compat.layers.bvlc.shape import (
    BatchReindex,
    Concat,
    Crop,
    Filter,
    Flatten,
    Reshape,
    Silence,
    Slice,
    Split,
    Tile,
)
from caffe_compat.layers.forks.shape import Transpose
from caffe_compat.layers.forks.ssd import Permute

from .emitters import emits
from .graph import Site
from .sizes import Size

__all__: list[str] = []


@emits(EltwiseSum)
def eltwise_sum(site: Site) -> str:
    terms = [
        x if factor == 1 else site.op("Mul", x, site.floats(factor))
        for x, factor in zip(site.bottoms, site.module.coefficients, strict=True)
    ]
    return functools.reduce(lambda a, b: site.op("Add", a, b), terms)


@emits(EltwiseProduct)
def eltwise_product(site: Site) -> str:
    return functools.reduce(lambda a, b: site.op("Mul", a, b), site.bottoms)


@emits(EltwiseMax)
def eltwise_max(site: Site) -> str:
    return functools.reduce(lambda a, b: site.op("Max", a, b), site.bottoms)


@emits(Softmax)
def softmax(site: Site) -> str:
    return site.op("Softmax", site.bottoms[0], axis=site.module.axis)


@emits(Reduction, wide=True)
def reduction(site: Site) -> str:
    m, x = site.module, site.bottoms[0]
    axes = site.ints(list(range(m.axis, len(site.bottom_sizes[0]))))
    type_ = {"MEAN": "ReduceMean", "ASUM": "ReduceL1", "SUMSQ": "ReduceSumSquare"}.get(m.operation, "ReduceSum")
    y = site.op(type_, x, axes, keepdims=0)
    return y if m.coefficient == 1 else site.op("Mul", y, site.floats(m.coefficient))


@emits(ArgMax, wide=True)
def arg_max(site: Site) -> str | None:
    m = site.module
    if m.top_k != 1 or m.axis is None or m.with_values:
        return None
    place = site.op("ArgMax", site.bottoms[0], axis=m.axis, keepdims=1, select_last_index=1)
    return site.cast(place, np.float32)


@emits(Concat)
def concat(site: Site) -> str:
    return site.op("Concat", *site.bottoms, axis=site.module.axis)


@emits(Slice)
def slice_(site: Site) -> list[str]:
    axis = site.module.axis
    if any(isinstance(sizes[axis], Size) for sizes in site.top_sizes):
        site.fail("pieces of an axis whose size varies")
    if len(site.top_sizes) == 1:
        return [site.bottoms[0]]
    pieces = site.ints([sizes[axis] for sizes in site.top_sizes])
    return site.ops("Split", site.bottoms[0], pieces, outputs=len(site.top_sizes), axis=axis)


@emits(Split)
def split(site: Site) -> list[str]:
    return [site.bottoms[0]] * len(site.top_sizes)


@emits(Silence)
def silence(site: Site) -> list[str]:
    return []


@emits(Reshape, Flatten)
def reshape(site: Site) -> str:
    return site.reshape(site.bottoms[0], site.bottom_sizes[0], site.top_sizes[0])


@emits(Crop)
def crop(site: Site) -> str:
    m = site.module
    axes = list(range(m.axis, m.axis + len(m.offsets)))
    starts = site.ints(m.offsets)
    sizes = [site.bottom_sizes[1][axis] for axis in axes]
    ends = site.op("Add", site.shape(sizes), starts) if any(isinstance(n, Size) for n in sizes) else None
    if ends is None:
        ends = site.ints([n + o for n, o in zip(sizes, m.offsets, strict=True) if isinstance(n, int)])
    return site.op("Slice", site.bottoms[0], starts, ends, site.ints(axes))


@emits(Tile)
def tile(site: Site) -> str:
    m = site.module
    return site.op(
        "Tile",
        site.bottoms[0],
        site.ints([m.tiles if axis == m.axis else 1 for axis in range(len(site.bottom_sizes[0]))]),
    )


@emits(BatchReindex)
def batch_reindex(site: Site) -> str:
    return site.op("Gather", site.bottoms[0], site.cast(site.bottoms[1], np.int64), axis=0)


@emits(Filter)
def filter_(site: Site) -> list[str]:
    flat = site.op("Reshape", site.bottoms[-1], site.ints([-1]))
    places = site.op("Reshape", site.op("NonZero", flat), site.ints([-1]))
    return [site.op("Gather", x, places, axis=0) for x in site.bottoms[:-1]]


@emits(Permute, Transpose)
def permute(site: Site) -> str:
    return site.op("Transpose", site.bottoms[0], perm=list(site.module.order))
