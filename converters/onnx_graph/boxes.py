"""Boxes of detectors in a graph: decoding, overlap, and the suppression of boxes that overlap a better one.

Suppression is ONNX's ``NonMaxSuppression`` where that measures overlap as the layer does, and otherwise a loop over the
boxes, the best first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .graph import Site
from .sizes import Size

__all__ = [
    "Measure",
    "corners",
    "decoded",
    "fixed",
    "kept_places",
    "looped",
    "numbered",
    "pixel_overlap",
    "ratio",
    "rows_or",
    "suppressed",
    "suppressed_in_a_loop",
]

Measure = Callable[[str, str], str]
"""From boxes (rows, 1, 4), which are kept, and others (rows, boxes, 4) to how much they overlap, (rows, boxes)."""


def corners(site: Site, boxes: str, axis: int = -1) -> tuple[str, str]:
    """The first two and the last two of four numbers."""
    low, high = site.ops("Split", boxes, site.ints([2, 2]), outputs=2, axis=axis)
    return low, high


def decoded(site: Site, offsets: str, priors: str, variances: str, code: str) -> str:
    """As :func:`caffe_compat.layers.forks.boxes.decode`; empty ``variances`` for none."""
    if variances:
        offsets = site.op("Mul", offsets, variances)
    if code == "CORNER":
        return site.op("Add", priors, offsets)
    low, high = corners(site, priors)
    size = site.op("Sub", high, low)
    if code == "CORNER_SIZE":
        return site.op("Add", priors, site.op("Mul", offsets, site.op("Concat", size, size, axis=-1)))
    moved, grown = corners(site, offsets)
    middle = site.op("Div", site.op("Add", low, high), site.floats(2))
    centre = site.op("Add", site.op("Mul", moved, size), middle)
    half = site.op("Div", site.op("Mul", site.op("Exp", grown), size), site.floats(2))
    return site.op("Concat", site.op("Sub", centre, half), site.op("Add", centre, half), axis=-1)


def suppressed(site: Site, boxes: str, candidates: str, threshold: float, limit: int | None = None) -> str:
    """Which boxes are kept, by the intersection over the union: (rows, boxes), truths.

    Args:
        boxes: (rows, boxes, 4), the best first. candidates: (rows, boxes), truths.
    """
    if threshold < 0:
        site.fail(f"lets no two boxes stay, by a threshold of {threshold:g}, which NonMaxSuppression does not take")
    shape = site.op("Shape", candidates)
    count = site.op("Shape", candidates, start=1, end=2)
    # Scores that only say the order, so that none are equal.
    rank = site.op("Range", site.ints(0), site.op("Squeeze", count, site.ints([0])), site.ints(1))
    order = site.op("Sub", site.cast(count, np.float32), site.cast(rank, np.float32))
    scores = site.op("Where", candidates, order, site.floats(0))
    most = site.ints([limit]) if limit is not None else count
    chosen = site.op(
        "NonMaxSuppression",
        boxes,
        site.op("Unsqueeze", scores, site.ints([1])),
        most,
        site.floats([min(threshold, 1.0)]),
        site.floats([0.5]),
    )
    places = site.op("Gather", chosen, site.ints([0, 2]), axis=1)
    ones = site.op("Expand", site.ints(1), site.op("Shape", chosen, start=0, end=1))
    kept = site.op("ScatterND", site.op("Expand", site.ints(0), shape), places, ones)
    return site.cast(kept, np.bool_)


@contextmanager
def _inside(site: Site) -> Iterator[list[Any]]:
    """Nodes that are added within go into a graph of their own."""
    outer: list[Any] = site.graph.nodes
    inner: list[Any] = []
    site.graph.nodes = inner
    try:
        yield inner
    finally:
        site.graph.nodes = outer


def suppressed_in_a_loop(
    site: Site,
    boxes: str,
    candidates: str,
    threshold: float,
    measure: Measure,
    *,
    eta: float = 1.0,
    limit: int | None = None,
) -> str:
    """As :func:`suppressed`, with any ``measure``; ``eta`` and ``limit`` as :func:`..boxes.suppress` has them."""
    rows = site.op("Shape", candidates, start=0, end=1)
    count = site.op("Squeeze", site.op("Shape", candidates, start=1, end=2), site.ints([0]))

    def round_(number: str, worst: str, limits: str, taken: str) -> list[str]:
        one = site.op("Unsqueeze", number, site.ints([0]))
        here = site.op("Squeeze", site.op("Gather", candidates, one, axis=1), site.ints([1]))
        overlap = site.op("Squeeze", site.op("Gather", worst, one, axis=1), site.ints([1]))
        kept = site.op("And", here, site.op("LessOrEqual", overlap, limits))
        if limit is not None:
            kept = site.op("And", kept, site.op("Less", taken, site.ints(limit)))
        found = measure(site.op("Gather", boxes, one, axis=1), boxes)
        larger = site.op("Max", worst, found)
        next_worst = site.op("Where", site.op("Unsqueeze", kept, site.ints([1])), larger, worst)
        next_limits = limits
        if eta < 1:
            lowers = site.op("And", kept, site.op("Greater", limits, site.floats(0.5)))
            next_limits = site.op("Where", lowers, site.op("Mul", limits, site.floats(eta)), limits)
        return [next_worst, next_limits, site.op("Add", taken, site.cast(kept, np.int64)), kept]

    # What goes from round to round: the most that a box overlaps a kept one, the thresholds, and how many are kept.
    state = [
        (site.op("Expand", site.floats(-np.inf), site.op("Shape", candidates)), np.float32, 2),
        (site.op("Expand", site.floats(threshold), rows), np.float32, 1),
        (site.op("Expand", site.ints(0), rows), np.int64, 1),
    ]
    by_round = looped(site, count, state, round_, gathers=[(np.bool_, 1)])[3]
    # Without a single round, what the loop has gathered would have one axis only.
    shape = site.op("Concat", site.op("Unsqueeze", count, site.ints([0])), rows, axis=0)
    return site.op("Transpose", site.op("Reshape", by_round, shape, allowzero=1), perm=[1, 0])


def looped(
    site: Site,
    rounds: str,
    state: Sequence[tuple[str, type, int]],
    round_: Callable[..., Sequence[str]],
    gathers: Sequence[tuple[type, int]] = (),
) -> list[str]:
    """A loop: what becomes of ``state`` in it, and what it gathers along a new first axis.

    Args:
        rounds: how many there are, (). state: values before the first, with their types and how many axes they have.
        round_: from the number of a round, (), and the values, to what they become and what is gathered of it.
        gathers: the types of the latter, and how many axes they have in each round.
    """
    from onnx import TensorProto, helper

    def told(name: str, kind: type, rank: int) -> Any:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), [None] * rank)

    name = site.node.module_name
    number, go_on, *before = (site.graph.fresh(f"{name}/{what}") for what in ("round", "on", *["state"] * len(state)))
    with _inside(site) as nodes:
        # What goes out of a round has a name of its own, even if it stays what it was.
        after = [site.op("Identity", x) for x in (go_on, *round_(number, *before))]
    kinds = [(kind, rank) for _, kind, rank in state]
    body = helper.make_graph(
        nodes,
        site.graph.fresh(f"{name}/rounds"),
        [
            helper.make_tensor_value_info(number, TensorProto.INT64, []),
            helper.make_tensor_value_info(go_on, TensorProto.BOOL, []),
            *(told(x, *kind) for x, kind in zip(before, kinds, strict=True)),
        ],
        [
            helper.make_tensor_value_info(after[0], TensorProto.BOOL, []),
            *(told(x, *kind) for x, kind in zip(after[1:], [*kinds, *gathers], strict=True)),
        ],
    )
    true = site.graph.constant(np.asarray(True))
    first = [x for x, _, _ in state]
    return site.ops("Loop", rounds, true, *first, outputs=len(state) + len(gathers), body=body)


def kept_places(site: Site, kept: str) -> str:
    """Where the truths of (1, boxes) are, in their order: (places,)."""
    return site.op("Reshape", site.op("NonZero", site.op("Squeeze", kept, site.ints([0]))), site.ints([-1]))


def pixel_overlap(site: Site, kept: str, others: str, mode: str, *, meeting: str) -> str:
    """How much boxes overlap that have their last pixels in them.

    Args:
        mode: ``IOU``, ``IOMU`` or ``IOFU``, as in :mod:`caffe_compat.layers.forks.proposals`.
        meeting: which boxes meet: ``"cascade"``, a column is enough and a row is not; ``"corners"``, those whose
            corners do not say that they lie apart; ``"pixels"``, those that have a pixel in common.
    """
    (low, high), (their_low, their_high) = corners(site, kept), corners(site, others)
    size = site.op("Sub", site.op("Min", high, their_high), site.op("Max", low, their_low))
    one, zero = site.floats(1), site.floats(0)
    shared = _product(site, site.op("Max", site.op("Add", size, one), zero))
    if meeting == "cascade":
        across, down = site.ops("Split", size, site.ints([1, 1]), outputs=2, axis=-1)
        apart = site.op("Or", site.op("Less", across, zero), site.op("LessOrEqual", down, zero))
        shared = site.op("Where", site.op("Squeeze", apart, site.ints([-1])), zero, shared)
    areas = [
        _product(site, site.op("Add", site.op("Sub", b, a), one)) for a, b in ((low, high), (their_low, their_high))
    ]
    if meeting == "cascade":
        areas = [
            site.op("Where", _any_negative(site, site.op("Sub", b, a)), zero, area)
            for (a, b), area in zip(((low, high), (their_low, their_high)), areas, strict=True)
        ]
    found = ratio(site, shared, areas[0], areas[1], mode)
    if meeting == "corners":
        found = site.op("Where", _any_negative(site, size), zero, found)
    return found


def _product(site: Site, pairs: str) -> str:
    return site.op("ReduceProd", pairs, site.ints([-1]), keepdims=0)


def _any_negative(site: Site, pairs: str) -> str:
    least = site.op("ReduceMin", pairs, site.ints([-1]), keepdims=0)
    return site.op("Less", least, site.floats(0))


def ratio(site: Site, shared: str, kept: str, others: str, mode: str) -> str:
    """``shared`` over what ``mode`` says, 0 for boxes without area."""
    zero = site.floats(0)
    if mode == "IOMU":
        whole = site.op("Min", kept, others)
    elif mode == "IOFU":
        whole = site.op("Identity", kept)
    else:
        whole = site.op("Sub", site.op("Add", kept, others), shared)
    least = site.op("Min", site.op("Min", kept, others), whole)
    return site.op("Where", site.op("Greater", least, zero), site.op("Div", shared, whole), zero)


def rows_or(site: Site, rows: str, instead: str) -> str:
    """``rows`` (rows, values), or ``instead`` if there are none."""
    count = site.op("Shape", rows, start=0, end=1)
    none = site.op("Equal", count, site.ints([0]))
    end = site.op("Where", none, site.op("Shape", instead, start=0, end=1), site.ints([0]))
    return site.op("Concat", rows, site.op("Slice", instead, site.ints([0]), end, site.ints([0])), axis=0)


def numbered(site: Site, images: int | Size, values: int = 6) -> str:
    """For every image a row (image, -1 ...), with as many -1 as there are ``values``."""
    number = site.op("Range", site.ints(0), site.op("Squeeze", site.size(images), site.ints([0])), site.ints(1))
    first = site.op("Unsqueeze", site.cast(number, np.float32), site.ints([1]))
    rest = site.op("Expand", site.floats(-1), site.op("Concat", site.size(images), site.ints([values]), axis=0))
    return site.op("Concat", first, rest, axis=1)


def fixed(site: Site, size: int | Size) -> int:
    """A size that a layer needs as a number; LayerError if it varies."""
    if isinstance(size, Size):
        site.fail("makes boxes in a number that varies with the input")
    return size
