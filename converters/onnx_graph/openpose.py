"""OpenPose's layers: maps of several scales added up, and the peaks of maps."""

from __future__ import annotations

import functools

import numpy as np
import torch

from caffe_compat.layers.forks.openpose import REACH, ImResize, Nms

from .emitters import emits
from .graph import Site
from .sizes import is_fixed

__all__: list[str] = []


@emits(ImResize, wide=True)
def im_resize(site: Site) -> str:
    """Each image is multiplied from both sides by matrices that depend on sizes only."""
    m, sizes = site.module, site.bottom_sizes[0]
    images, _, height, width = (n if isinstance(n, int) else 0 for n in sizes)
    if not is_fixed(sizes):
        site.fail("adds up images in a number, or of a size, that varies")
    like, (after_height, after_width) = torch.zeros(()), m.top_size((height, width))
    parts = []
    for image in range(images):
        rows = m._weights(like, height, after_height, m.crop(height, image))
        columns = m._weights(like, width, after_width, m.crop(width, image))
        maps = site.op("Gather", site.bottoms[0], site.ints([image]), axis=0)
        parts.append(site.op("MatMul", site.op("MatMul", site.floats(rows), maps), site.floats(columns.T)))
    return site.op("Div", functools.reduce(lambda a, b: site.op("Add", a, b), parts), site.floats(images))


@emits(Nms, wide=True)
def nms(site: Site) -> str:
    m, sizes = site.module, site.bottom_sizes[0]
    if not is_fixed(sizes):
        site.fail("numbers the cells of maps, whose size must not vary")
    images, channels, height, width = (int(n) for n in sizes if isinstance(n, int))
    maps = images * m.parts
    every = site.op("Reshape", site.bottoms[0], site.ints([images * channels, height * width]))
    own = site.op("Slice", every, site.ints([0]), site.ints([maps]), site.ints([0]))
    peak = _peaks(site, own, (maps, height, width))
    number = site.op("CumSum", site.cast(peak, np.int64), site.graph.constant(np.asarray(1, np.int64)))
    listed = site.op("And", peak, site.op("LessOrEqual", number, site.ints(m.peaks)))
    at = site.op("Transpose", site.op("NonZero", listed), perm=[1, 0])
    part, cell = site.ops("Split", at, site.ints([1, 1]), outputs=2, axis=1)
    centre = _centres(site, every, part, cell, (images * channels, height, width))
    rows = site.op("Concat", *centre, site.op("Unsqueeze", site.op("GatherND", own, at), site.ints([1])), axis=1)
    places = site.op("Concat", part, site.op("Unsqueeze", site.op("GatherND", number, at), site.ints([1])), axis=1)
    empty = site.floats(np.zeros((maps, m.peaks + 1, 3)))
    top = site.op("ScatterND", empty, places, rows)
    count = site.op("Slice", number, site.ints([-1]), site.ints([2**62]), site.ints([1]))
    heads = site.ints([[i, 0, 0] for i in range(maps)])
    top = site.op("ScatterND", top, heads, site.op("Reshape", site.cast(count, np.float32), site.ints([maps])))
    return site.op("Reshape", top, site.ints([images, m.parts, m.peaks + 1, 3]))


def _peaks(site: Site, maps: str, shape: tuple[int, int, int]) -> str:
    """Which cells are above the threshold and their eight neighbours, and not at the edge: (maps, cells)."""
    count, height, width = shape
    image = site.op("Reshape", maps, site.ints(shape))

    def shifted(down: int, right: int) -> str:
        starts, ends = site.ints([1 + down, 1 + right]), site.ints([height - 1 + down, width - 1 + right])
        return site.op("Slice", image, starts, ends, site.ints([1, 2]))

    inner = shifted(0, 0)
    peak = site.op("Greater", inner, site.floats(site.module.threshold))
    for down, right in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
        peak = site.op("And", peak, site.op("Greater", inner, shifted(down, right)))
    whole = site.op("Pad", site.cast(peak, np.float32), site.ints([0, 1, 1, 0, 1, 1]))
    return site.cast(site.op("Reshape", whole, site.ints([count, height * width])), np.bool_)


def _centres(site: Site, every: str, part: str, cell: str, shape: tuple[int, int, int]) -> list[str]:
    """Column and row of each peak, (peaks, 1) each: the mean around it, as the layer takes it."""
    _, height, width = shape
    reach = np.arange(-REACH, REACH + 1)
    three = site.ints([1])
    rest = site.op("Mod", cell, site.ints(width))
    row = site.op("Div", site.op("Sub", cell, rest), site.ints(width))
    rows = site.op("Add", site.op("Unsqueeze", row, three), site.ints(reach[:, None]))
    columns = site.op("Add", site.op("Unsqueeze", rest, three), site.ints(reach))
    limits = [
        site.op("And", site.op("Greater", x, site.ints(0)), site.op("Less", x, site.ints(width)))
        for x in (rows, columns)
    ]
    counted = site.op("And", *limits)
    first = site.op("Unsqueeze", site.op("Mul", part, site.ints(height * width)), three)
    place = site.op("Add", site.op("Add", first, site.op("Mul", rows, site.ints(width))), columns)
    padded = site.op("Pad", site.op("Reshape", every, site.ints([-1])), site.ints([0, REACH * width]))
    values = site.op("Gather", padded, site.op("Where", counted, place, site.ints(0)))
    positive = site.op("And", counted, site.op("Greater", values, site.floats(0)))
    values = site.op("Where", positive, values, site.floats(0))
    axes = site.ints([1, 2])
    total = site.op("ReduceSum", values, axes, keepdims=0)
    return [
        site.op(
            "Unsqueeze",
            site.op(
                "Div", site.op("ReduceSum", site.op("Mul", values, site.cast(x, np.float32)), axes, keepdims=0), total
            ),
            three,
        )
        for x in (columns, rows)
    ]
