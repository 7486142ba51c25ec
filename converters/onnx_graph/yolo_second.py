"""Detections of YOLO's second generation in BirdeeChen's fork, where boxes are looked at in the order of cells."""

from __future__ import annotations

import numpy as np

from caffe_compat.layers.forks.yolo_second import RegionDetections

from .boxes import fixed, looped, numbered, rows_or
from .emitters import emits
from .graph import Site

__all__: list[str] = []


@emits(RegionDetections, wide=True)
def region_detections(site: Site) -> str:
    m, anchors = site.module, np.float32(site.module.anchors)
    _, channels, side, _ = (fixed(site, n) for n in site.bottom_sizes[0])
    each = channels // len(anchors)
    split = site.op("Reshape", site.bottoms[0], site.ints([len(anchors), each, side, side]))
    cells = site.op("Transpose", split, perm=[2, 3, 0, 1])
    place, size, sure, classes = site.ops("Split", cells, site.ints([2, 2, 1, each - 5]), outputs=4, axis=-1)
    column, row = np.meshgrid(np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32))
    grid, whole = site.floats(np.stack([column, row], -1)[:, :, None]), site.floats(side)
    centre = site.op("Div", site.op("Add", site.op("Sigmoid", place), grid), whole)
    size = site.op("Div", site.op("Mul", site.op("Exp", size), site.floats(anchors)), whole)
    sure = site.op("Sigmoid", sure)
    probable = site.op("Softmax", classes, axis=-1)
    label = site.cast(site.op("ArgMax", probable, axis=-1, keepdims=1), np.float32)
    score = site.op("Mul", sure, site.op("ReduceMax", probable, site.ints([-1]), keepdims=1))
    found = site.op("Squeeze", site.op("GreaterOrEqual", score, site.floats(m.confidence)), site.ints([-1]))
    at = site.op("Transpose", site.op("NonZero", found), perm=[1, 0])
    rows = site.op("GatherND", site.op("Concat", label, score, centre, size, axis=-1), at)
    kept = _kept(site, *(site.op("GatherND", x, at) for x in (centre, size, sure)))
    rows = site.op("Compress", site.op("Pad", rows, site.ints([0, 1, 0, 0]), site.floats(0)), kept, axis=0)
    return site.op("Unsqueeze", rows_or(site, rows, numbered(site, 1)), site.ints([0, 1]))


def _kept(site: Site, centre: str, size: str, sure: str) -> str:
    """As :meth:`RegionDetections._kept`: which of the boxes (K, 2) and (K, 2) stay, (K,); ``sure`` is (K, 1)."""
    zero, half = site.floats(0), site.op("Div", size, site.floats(2))
    low = site.op("Max", site.op("Sub", centre, half), zero)
    high = site.op("Min", site.op("Add", centre, half), site.floats(1))
    area = _product(site, site.op("Max", site.op("Sub", high, low), zero))
    count = site.op("Squeeze", site.op("Shape", sure, start=0, end=1), site.ints([0]))
    places = site.op("Range", site.ints(0), count, site.ints(1))
    sure = site.op("Squeeze", sure, site.ints([1]))

    def round_(number: str, kept: str) -> list[str]:
        one = site.op("Unsqueeze", number, site.ints([0]))
        own_low, own_high, own_area, own_sure, here = (
            site.op("Gather", x, one, axis=0) for x in (low, high, area, sure, kept)
        )
        sides = site.op("Sub", site.op("Min", high, own_high), site.op("Max", low, own_low))
        common = _product(site, site.op("Max", sides, zero))
        union = site.op("Sub", site.op("Add", own_area, area), common)
        shared = site.op("Where", site.op("Greater", common, zero), site.op("Div", common, union), zero)
        behind = site.op("And", site.op("And", kept, here), site.op("Greater", places, number))
        rivals = site.op("And", behind, site.op("GreaterOrEqual", shared, site.floats(site.module.threshold)))
        surer = site.cast(site.op("And", rivals, site.op("GreaterOrEqual", sure, own_sure)), np.int64)
        surer = site.op("CumSum", surer, site.ints(0))
        # The first that is at least as sure takes this one away; those before it are less sure, and go.
        goes = site.op("And", rivals, site.op("Equal", surer, site.ints(0)))
        taken = site.op("And", site.op("Equal", places, number), site.op("Greater", _last(site, surer), site.ints(0)))
        return [site.op("And", kept, site.op("Not", site.op("Or", goes, taken)))]

    every = site.op("GreaterOrEqual", places, site.ints(0))
    return looped(site, count, [(every, np.bool_, 1)], round_)[0]


def _product(site: Site, pairs: str) -> str:
    return site.op("ReduceProd", pairs, site.ints([-1]), keepdims=0)


def _last(site: Site, sums: str) -> str:
    return site.op("Slice", sums, site.ints([-1]), site.ints([np.iinfo(np.int64).max]))
