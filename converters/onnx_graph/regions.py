"""ROIPooling: ONNX's ``MaxRoiPool``, whose bins are Caffe's. Where a fork takes corners to cells in a way of its own,
that is done before."""

from __future__ import annotations

import numpy as np

from caffe_compat.layers.forks.roi import ROIPooling, c_round

from .boxes import corners
from .emitters import emits
from .graph import Site

__all__: list[str] = []


@emits(ROIPooling, wide=True)
def roi_pooling(site: Site) -> str:
    m = site.module
    boxes = site.op("Reshape", site.bottoms[1], site.ints([-1, 5]))
    scale = m.scale[0]
    if m.pad_ratio or m.scale[0] != m.scale[1] or m.rounded is not c_round:
        boxes, scale = _in_cells(site, boxes), 1.0
    return site.op("MaxRoiPool", site.bottoms[0], boxes, pooled_shape=list(m.pooled), spatial_scale=scale)


def _in_cells(site: Site, boxes: str) -> str:
    """Boxes with their corners in whole cells of the map."""
    m = site.module
    image, rest = site.ops("Split", boxes, site.ints([1, 4]), outputs=2, axis=1)
    low, high = corners(site, rest)
    if m.pad_ratio:
        size = site.op("Add", site.op("Sub", high, low), site.floats(1))
        pad = site.op("Mul", size, site.floats(m.pad_ratio))
        low, high = site.op("Sub", low, pad), site.op("Add", high, pad)
    scale = site.floats([m.scale[1], m.scale[0]])  # horizontal, vertical
    cells = [_whole(site, site.op("Mul", x, scale)) for x in (low, high)]
    return site.op("Concat", image, *cells, axis=1)


def _whole(site: Site, x: str) -> str:
    if site.module.rounded is c_round:
        # Halves away from zero.
        whole = site.op("Floor", site.op("Add", site.op("Abs", x), site.floats(0.5)))
        return site.op("Mul", site.op("Sign", x), whole)
    half = site.graph.constant(np.asarray(0.5, np.float64))
    exact = site.op("Add", site.cast(x, np.float64), half)
    return site.op("Floor", site.cast(exact, np.float32))
