"""What makes the boxes of the second stage: ProposalLayer, the Python layer of Faster R-CNN, and FrcnnProposal."""

from __future__ import annotations

import numpy as np
import torch

from caffe_compat.layers.python.anchors import shifted
from caffe_compat.layers.python.frcnn import FrcnnProposal
from caffe_compat.layers.python.proposal import ProposalLayer

from .boxes import corners, kept_places, suppressed
from .emitters import emits
from .graph import Site
from .sizes import is_fixed

__all__: list[str] = []


@emits(ProposalLayer, wide=True)
def proposal_layer(site: Site) -> str | list[str]:
    before = site.module.choice.before
    boxes, score = _candidates(site)
    if before > 0:
        boxes, score = _last_of_equal(site, boxes, score, before)
    rows, scores = _proposed(site, boxes, score, site.op("Shape", score))
    return [rows, scores] if site.module.scored else rows


@emits(FrcnnProposal, wide=True)
def frcnn_proposal(site: Site) -> str | list[str]:
    # Of equal scores, the last comes first.
    boxes, score = (site.op("Slice", x, *_backwards(site)) for x in _candidates(site))
    count = site.op("Min", site.op("Shape", score), site.ints([site.module.choice.before]))
    rows, scores = (site.op("Unsqueeze", x, site.ints([2, 3])) for x in _proposed(site, boxes, score, count))
    return [rows, scores] if site.module.scored else rows


def _backwards(site: Site) -> tuple[str, str, str, str]:
    """What ``Slice`` needs to turn around the first axis."""
    return site.ints([-1]), site.ints([-(2**62)]), site.ints([0]), site.ints([-1])


def _proposed(site: Site, boxes: str, score: str, count: str) -> tuple[str, str]:
    """Of the ``count`` boxes of the highest scores those that are kept: rows (0, x1, y1, x2, y2) and scores (N, 1)."""
    choice = site.module.choice
    score, order = site.ops("TopK", score, count, outputs=2, axis=0)
    boxes = site.op("Gather", boxes, order, axis=0)
    # With the last pixel in it, a box ends one further.
    longer = site.op("Unsqueeze", site.op("Add", boxes, site.floats([0, 0, 1, 1])), site.ints([0]))
    one = site.op("Concat", site.ints([1]), site.op("Shape", score), axis=0)
    every = site.cast(site.op("Expand", site.ints(1), one), np.bool_)
    kept = suppressed(site, longer, every, choice.overlap, choice.after if choice.after > 0 else None)
    places = kept_places(site, kept)
    rows = site.op("Pad", site.op("Gather", boxes, places, axis=0), site.ints([0, 1, 0, 0]), site.floats(0))
    return rows, site.op("Unsqueeze", site.op("Gather", score, places, axis=0), site.ints([1]))


def _candidates(site: Site) -> tuple[str, str]:
    """Boxes (N, 4) that are large enough, cut off at the image, and their scores (N,)."""
    m = site.module
    if not is_fixed(site.bottom_sizes[0]):
        site.fail("makes boxes in a number that varies with the input")
    count, (height, width) = len(m.anchors), (int(n) for n in site.bottom_sizes[0][2:] if isinstance(n, int))
    around = shifted(torch.tensor(m.anchors, dtype=torch.float32), height, width, m.stride).numpy()
    size = around[:, 2:] - around[:, :2] + np.float32(1)
    change = site.op("Transpose", site.bottoms[1], perm=[0, 2, 3, 1])
    moved, grown = corners(site, site.op("Reshape", change, site.ints([-1, 4])))
    middle = site.floats(around[:, :2] + np.float32(0.5) * size)
    centre = site.op("Add", site.op("Mul", moved, site.floats(size)), middle)
    half = site.op("Mul", site.floats(0.5), site.op("Mul", site.op("Exp", grown), site.floats(size)))
    image = site.op("Reshape", site.bottoms[2], site.ints([-1]))
    limit = site.op("Sub", site.op("Gather", image, site.ints([1, 0])), site.floats(1))
    low, high = (
        site.op("Max", site.op("Min", site.op(kind, centre, half), limit), site.floats(0)) for kind in ("Sub", "Add")
    )
    least = site.op("Mul", site.op("Gather", image, site.ints([2])), site.floats(m.choice.least))
    fits = site.op("GreaterOrEqual", site.op("Add", site.op("Sub", high, low), site.floats(1)), least)
    both = site.op("ReduceMin", site.cast(fits, np.float32), site.ints([1]), keepdims=0)
    places = site.op("Reshape", site.op("NonZero", both), site.ints([-1]))
    scores = site.op("Slice", site.bottoms[0], site.ints([count]), site.ints([2 * count]), site.ints([1]))
    score = site.op("Reshape", site.op("Transpose", scores, perm=[0, 2, 3, 1]), site.ints([-1]))
    boxes = site.op("Concat", low, high, axis=1)
    return site.op("Gather", boxes, places, axis=0), site.op("Gather", score, places, axis=0)


def _last_of_equal(site: Site, boxes: str, score: str, most: int) -> tuple[str, str]:
    """The ``most`` boxes of the highest scores, of equal ones the last, in their order."""
    total = site.op("Shape", score)
    count = site.op("Min", total, site.ints([most]))
    place = site.ops("TopK", site.op("Slice", score, *_backwards(site)), count, outputs=2, axis=0)[1]
    place = site.op("Sub", site.op("Sub", total, site.ints([1])), place)
    place = site.ops("TopK", place, count, outputs=2, axis=0, largest=0)[0]
    return site.op("Gather", boxes, place, axis=0), site.op("Gather", score, place, axis=0)
