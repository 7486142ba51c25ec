"""CenterGridOutput: cells that say where the edges of a face about them lie, to a list of boxes."""

from __future__ import annotations

import numpy as np

from caffe_compat.layers.forks.center_grid import CenterGridOutput

from .boxes import corners, fixed, kept_places, numbered, rows_or, suppressed_in_a_loop
from .emitters import emits
from .graph import Site

__all__: list[str] = []

_EDGES, _POINTS = 4, 10


@emits(CenterGridOutput, wide=True)
def center_grid_output(site: Site) -> str:
    told = _EDGES + (_POINTS if site.module.settings.landmarks else 0)
    found = [_cells(site, place, told) for place in range(len(site.bottoms))]
    places, scores = (site.op("Concat", *parts, axis=1) for parts in zip(*found, strict=True))
    images = fixed(site, site.bottom_sizes[0][0])
    rows = site.op("Concat", *[_rows(site, image, places, scores, told) for image in range(images)], axis=0)
    return site.op("Unsqueeze", rows_or(site, rows, numbered(site, images, 2 + told)), site.ints([0, 1]))


def _cells(site: Site, place: int, told: int) -> tuple[str, str]:
    """Of every cell of a bottom: edges and points (N, cells, told) in pixels, and its score (N, cells)."""
    s = site.module.settings
    channels, rows, columns = (fixed(site, n) for n in site.bottom_sizes[place][1:])
    cells = site.op("Transpose", site.bottoms[place], perm=[0, 2, 3, 1])
    cells = site.op("Reshape", cells, site.ints([0, rows * columns, channels]))
    offsets, classes = site.ops("Split", cells, site.ints([told, channels - told]), outputs=2, axis=2)
    ratio = s.size[1] / columns
    down, across = np.meshgrid(np.arange(rows) + 0.5, np.arange(columns) + 0.5, indexing="ij")
    # Of a point, the fork takes the column for both coordinates.
    along = np.stack([across, down, across, down, *[across] * (told - _EDGES)], -1).reshape(-1, told)
    most = [ratio * (rows if i % 2 else columns) for i in range(told)]
    offsets = site.op("Mul", offsets, site.floats(s.scales[place]))
    if not s.softmax:
        offsets = site.op("Mul", offsets, site.floats(0.5))
    places = site.op("Sub", site.floats(np.float32(along) * np.float32(ratio)), offsets)
    places = site.op("Min", site.op("Max", places, site.floats(0)), site.floats(most))
    if s.softmax:
        return places, site.op("Gather", site.op("Softmax", classes, axis=2), site.ints(1), axis=2)
    return places, site.op("Gather", site.op("Sigmoid", classes), site.ints(0), axis=2)


def _rows(site: Site, image: int, places: str, scores: str, told: int) -> str:
    """Rows (image, 1, score, box, points) of what is kept of one image, the best first."""
    s = site.module.settings
    places, scores = (site.op("Gather", x, site.ints(image), axis=0) for x in (places, scores))
    low, high, _ = site.ops("Split", places, site.ints([2, 2, told - _EDGES]), outputs=3, axis=1)
    least = site.op("ReduceMin", site.op("Sub", high, low), site.ints([1]), keepdims=0)
    sure = site.op("GreaterOrEqual", scores, site.floats(s.least_score))
    valid = site.op("And", site.op("Greater", least, site.floats(0)), sure)
    count = site.op("ReduceSum", site.cast(valid, np.int64), site.ints([0]), keepdims=1)
    scores, order = site.ops("TopK", site.op("Where", valid, scores, site.floats(-1)), count, outputs=2, axis=0)
    places = site.op("Gather", places, order, axis=0)
    boxes = site.op("Slice", places, site.ints([0]), site.ints([_EDGES]), site.ints([1]))
    every = site.cast(site.op("Expand", site.ints(1), site.op("Concat", site.ints([1]), count, axis=0)), np.bool_)
    one = site.op("Unsqueeze", boxes, site.ints([0]))
    kept = kept_places(site, suppressed_in_a_loop(site, one, every, s.overlap, lambda a, b: _overlap(site, a, b)))
    if s.most:
        kept = site.op("Slice", kept, site.ints([0]), site.ints([s.most]))
    height, width = s.size
    parts = site.op("Div", site.op("Gather", places, kept, axis=0), site.floats([width, height] * (told // 2)))
    score = site.op("Unsqueeze", site.op("Gather", scores, kept, axis=0), site.ints([1]))
    head = site.op(
        "Expand", site.floats([[image, 1]]), site.op("Concat", site.op("Shape", kept), site.ints([2]), axis=0)
    )
    return site.op("Concat", head, score, parts, axis=1)


def _overlap(site: Site, kept: str, others: str) -> str:
    """Intersection over union; intersections count a pixel more, areas do not."""
    (low, high), (their_low, their_high) = corners(site, kept), corners(site, others)
    size = site.op("Sub", site.op("Min", high, their_high), site.op("Max", low, their_low))
    size = site.op("Max", site.op("Add", size, site.floats(1)), site.floats(0))
    sides = (size, site.op("Sub", high, low), site.op("Sub", their_high, their_low))
    common, own, their = (site.op("ReduceProd", x, site.ints([-1]), keepdims=0) for x in sides)
    return site.op("Div", common, site.op("Sub", site.op("Add", own, their), common))
