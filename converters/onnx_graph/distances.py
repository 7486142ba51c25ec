"""InnerDistance: how far rows are from centres. The labels of who learns from whom are no matter of a file's."""

from __future__ import annotations

import numpy as np

from caffe_compat.layers.forks.distances import InnerDistance

from .boxes import fixed
from .emitters import emits
from .graph import Site

__all__: list[str] = []


@emits(InnerDistance, wide=True)
def inner_distance(site: Site) -> str:
    m, sizes = site.module, site.bottom_sizes[0]
    values = int(np.prod([fixed(site, n) for n in sizes[m.axis :]]))
    rows = site.reshape(site.bottoms[0], sizes, (*sizes[: m.axis], 1, values))
    if len(site.bottoms) > 1:
        centres = site.reshape(site.bottoms[1], site.bottom_sizes[1], (site.bottom_sizes[1][0], values))
    else:
        centres = _made_long(site) if m.normalized else site.weight("weight")
    apart = site.op("Sub", rows, centres)
    size = site.op("Abs", apart) if m.absolute else site.op("Mul", apart, apart)
    return site.op("ReduceSum", size, site.ints([-1]), keepdims=0)


def _made_long(site: Site) -> str:
    """The blob's centres, each 1 long."""
    centres = site.weight("weight")
    squares = site.op("ReduceSum", site.op("Mul", centres, centres), site.ints([1]), keepdims=1)
    return site.op("Div", centres, site.op("Sqrt", site.op("Add", squares, site.floats(1e-6))))
