"""Layers that end in a list of boxes: DetectionOutput, Proposal, BoxOutput and its kin, and those of YOLO.

As everywhere in this library, boxes of equal scores keep their order; where a fork's own sort would shuffle them
(Proposal), a file does not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from caffe_compat.layers.forks.proposals import BoxGroupOutput, BoxOutput, FrcnnOutput, ScaleRoute
from caffe_compat.layers.forks.rpn import Proposal
from caffe_compat.layers.forks.ssd import DetectionOutput
from caffe_compat.layers.forks.ssd_extended import DetectionOutputExtended
from caffe_compat.layers.forks.yolo import YoloDetectionOutput, Yolov3DetectionOutput

from .boxes import (
    corners,
    decoded,
    fixed,
    kept_places,
    numbered,
    pixel_overlap,
    ratio,
    rows_or,
    suppressed,
    suppressed_in_a_loop,
)
from .emitters import emits
from .graph import Site
from .sizes import is_fixed

__all__: list[str] = []


@emits(DetectionOutput, wide=True)
def detection_output(site: Site) -> str:
    return _detections(site)


@emits(DetectionOutputExtended, wide=True)
def detection_output_extended(site: Site) -> str:
    m = site.module

    def anchor_and_cell(place: str) -> str:
        rest, around = _divided(site, place, m.anchors)
        row, column = _divided(site, rest, m.width)
        return site.op("Concat", around, column, row, axis=1)

    return _detections(site, 3, anchor_and_cell)


def _divided(site: Site, x: str, by: int) -> tuple[str, str]:
    """The quotient of whole numbers, and what is left."""
    return site.op("Div", x, site.ints(by)), site.op("Mod", x, site.ints(by))


def _detections(site: Site, more: int = 0, described: Callable[[str], str] | None = None) -> str:
    """Rows (image, class, score, box) and ``more`` values, which ``described`` makes of the places of prior boxes.

    Both the places and what is made of them are whole numbers: (detections, 1) and (detections, more).
    """
    s = site.module.settings
    images, boxes = site.bottom_sizes[0][0], fixed(site, site.bottom_sizes[2][2]) // 4
    classes = [c for c in range(s.classes) if c != s.background]
    count = boxes if s.top_k < 0 else min(s.top_k, boxes)
    none = site.floats(np.full((1, 7), -1)) if s.first else numbered(site, images, 6 + more)
    if count == 0:
        return none if s.flat else site.op("Unsqueeze", none, site.ints([0, 1]))
    own = _decoded_boxes(site, boxes)
    scores = site.reshape(site.bottoms[1], (), (images, boxes, s.classes))
    wanted = site.op("Gather", site.op("Transpose", scores, perm=[0, 2, 1]), site.ints(classes), axis=1)
    ranked, place = site.ops("TopK", wanted, site.ints([count]), outputs=2, axis=2)
    if s.shared:
        flat = site.reshape(place, (), (images, len(classes) * count, 1))
        best = site.op("GatherND", site.op("Squeeze", own, site.ints([1])), flat, batch_dims=1)
    else:
        own = site.op("Gather", own, site.ints(classes), axis=1)
        best = site.op("GatherND", own, site.op("Unsqueeze", place, site.ints([3])), batch_dims=2)
    rows = site.op("Reshape", best, site.ints([-1, count, 4]))
    confidence = max(s.confidence, float(np.finfo(np.float32).min))
    sure = site.op("Reshape", site.op("Greater", ranked, site.floats(confidence)), site.ints([-1, count]))
    if s.eta < 1:
        kept = suppressed_in_a_loop(
            site, rows, sure, s.threshold, lambda a, b: _plain_overlap(site, a, b, "IOU"), eta=s.eta
        )
    else:
        kept = suppressed(site, rows, sure, s.threshold)
    if s.keep >= 0:
        kept = _best_of_images(site, kept, ranked, s.keep, len(classes) * count)
    kept = site.op("Reshape", kept, site.ints([-1, len(classes), count]))
    at = site.op("Transpose", site.op("NonZero", kept), perm=[1, 0])
    found = site.op("Reshape", best, site.ints([-1, len(classes), count, 4]))
    box = site.op("GatherND", found, at)
    if s.first:
        box = site.op("Clip", box, site.floats(0), site.floats(1))
    image, number, _ = site.ops("Split", at, site.ints([1, 1, 1]), outputs=3, axis=1)
    label = site.op("Gather", site.floats(classes), number, axis=0)
    score = site.op("Unsqueeze", site.op("GatherND", ranked, at), site.ints([1]))
    columns = [site.cast(image, np.float32), label, score, box]
    if described is not None:
        prior = site.op("Unsqueeze", site.op("GatherND", place, at), site.ints([1]))
        columns.append(site.cast(described(prior), np.float32))
    top = rows_or(site, site.op("Concat", *columns, axis=1), none)
    return top if s.flat else site.op("Unsqueeze", top, site.ints([0, 1]))


def _decoded_boxes(site: Site, boxes: int) -> str:
    """The boxes of each image and location, (images, locations, boxes, 4)."""
    s = site.module.settings
    locations = 1 if s.shared else s.classes
    prior, variance = site.ops(
        "Split", site.op("Reshape", site.bottoms[2], site.ints([2, boxes, 1, 4])), site.ints([1, 1]), outputs=2, axis=0
    )
    offsets = site.reshape(site.bottoms[0], (), (site.bottom_sizes[0][0], boxes, locations, 4))
    found = decoded(site, offsets, prior, "" if s.encoded else variance, s.code)
    return site.op("Transpose", found, perm=[0, 2, 1, 3])


def _plain_overlap(site: Site, kept: str, others: str, mode: str) -> str:
    """Of boxes whose corners are points."""
    (low, high), (their_low, their_high) = corners(site, kept), corners(site, others)
    zero = site.floats(0)
    size = site.op("Max", site.op("Sub", site.op("Min", high, their_high), site.op("Max", low, their_low)), zero)
    sides = [site.op("Max", site.op("Sub", b, a), zero) for a, b in ((low, high), (their_low, their_high))]
    shared, mine, theirs = (site.op("ReduceProd", x, site.ints([-1]), keepdims=0) for x in (size, *sides))
    return ratio(site, shared, mine, theirs, mode)


def _best_of_images(site: Site, kept: str, ranked: str, keep: int, boxes: int) -> str:
    """Of what is kept the best of each image, over its classes."""
    flat = site.op("Reshape", kept, site.ints([-1, boxes]))
    scores = site.op("Where", flat, site.op("Reshape", ranked, site.ints([-1, boxes])), site.floats(-np.inf))
    place = site.ops("TopK", scores, site.ints([min(keep, boxes)]), outputs=2, axis=1)[1]
    none = site.op("Expand", site.ints(0), site.op("Shape", flat))
    ones = site.op("Expand", site.ints(1), site.op("Shape", place))
    chosen = site.cast(site.op("ScatterElements", none, place, ones, axis=1), np.bool_)
    return site.op("And", flat, chosen)


@emits(Proposal, wide=True)
def proposal(site: Site) -> str | list[str]:
    s = site.module.settings
    if not is_fixed(site.bottom_sizes[0]):
        site.fail("makes boxes in a number that varies with the input")
    height, width = (fixed(site, n) for n in site.bottom_sizes[0][2:])
    count = len(s.anchors)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    places = np.float32(s.anchors) + np.stack([x, y, x, y], -1)[:, :, None] * np.float32(s.stride)
    size = places[..., 2:] - places[..., :2] + np.float32(1)
    change = site.op("Reshape", site.bottoms[1], site.ints([count, 4, height, width]))
    moved, grown = corners(site, site.op("Transpose", change, perm=[2, 3, 0, 1]))
    middle = site.floats(places[..., :2] + np.float32(0.5) * size)
    centre = site.op("Add", site.op("Mul", moved, site.floats(size)), middle)
    half = site.op("Mul", site.op("Mul", site.floats(0.5), site.op("Exp", grown)), site.floats(size))
    info = site.op("Reshape", site.bottoms[2], site.ints([-1]))
    limit = site.op("Sub", site.op("Gather", info, site.ints([1, 0])), site.floats(1))
    low, high = (
        site.op("Max", site.op("Min", site.op(kind, centre, half), limit), site.floats(0)) for kind in ("Sub", "Add")
    )
    factor = site.op("Gather", info, site.ints([3, 2] if site.module.numbers > 3 else [2, 2]))
    least = site.op("Mul", factor, site.floats(s.least))
    fits = site.op("GreaterOrEqual", site.op("Add", site.op("Sub", high, low), site.floats(1)), least)
    both = site.op("ReduceMin", site.cast(fits, np.float32), site.ints([-1]), keepdims=0)
    scores = site.op("Slice", site.bottoms[0], site.ints([count]), site.ints([2 * count]), site.ints([1]))
    here = site.op("Transpose", site.op("Squeeze", scores, site.ints([0])), perm=[1, 2, 0])
    score = site.op("Reshape", site.op("Mul", here, both), site.ints([-1]))
    total = min(s.before, height * width * count)
    score, order = site.ops("TopK", score, site.ints([total]), outputs=2, axis=0)
    boxes = site.op("Reshape", site.op("Concat", low, high, axis=-1), site.ints([-1, 4]))
    boxes = site.op("Gather", boxes, order, axis=0)
    one = site.op("Unsqueeze", boxes, site.ints([0]))
    every = site.graph.constant(np.ones((1, total), np.bool_))
    if s.apart:
        kept = suppressed_in_a_loop(
            site,
            one,
            every,
            s.overlap,
            lambda a, b: pixel_overlap(site, a, b, "IOU", meeting="corners"),
            limit=s.after,
        )
    else:
        # With the last pixel in it, a box ends one further.
        longer = site.op("Add", one, site.floats([0, 0, 1, 1]))
        kept = suppressed(site, longer, every, s.overlap, s.after)
    chosen = kept_places(site, kept)
    rows = site.op("Gather", boxes, chosen, axis=0)
    rows = site.op("Pad", rows, site.ints([0, 1, 0, 0]), site.floats(0))
    return [rows, site.op("Gather", score, chosen, axis=0)] if site.module.scored else rows


@emits(BoxOutput, BoxGroupOutput, wide=True)
def box_output(site: Site) -> str | list[str]:
    m = site.module
    grouped = isinstance(m, BoxGroupOutput)
    images = fixed(site, site.bottom_sizes[0][0]) // (len(m.fields[0]) if grouped else 1)
    parts: list[list[tuple[str, str]]] = [[] for _ in range(images)]
    for i in range(len(m.fields)):
        low, high, score, fits = (_of_group if grouped else _of_map)(site, i, images)
        boxes = site.op("Concat", low, high, axis=-1)
        for image in range(images):
            one = [site.op("Gather", x, site.ints(image), axis=0) for x in (boxes, score, fits)]
            flat = [
                site.op("Reshape", x, site.ints(shape)) for x, shape in zip(one, ([-1, 4], [-1], [-1]), strict=True)
            ]
            places = site.op("Reshape", site.op("NonZero", flat[2]), site.ints([-1]))
            parts[image].append((site.op("Gather", flat[0], places), site.op("Gather", flat[1], places)))
    rows = site.op("Concat", *[_chosen(site, image, own, grouped) for image, own in enumerate(parts)], axis=0)
    plain = site.op("Slice", rows, site.ints([0]), site.ints([5]), site.ints([1]))
    tops = [rows_or(site, plain, site.floats([[0, 1, 1, 10, 10]]))]
    if m.scored:
        tops.append(rows_or(site, rows, site.floats(np.zeros((1, 6)))))
    return [site.op("Unsqueeze", top, site.ints([2, 3])) for top in tops]


def _of_map(site: Site, i: int, images: int) -> tuple[str, str, str, str]:
    """First and last corners, scores and which fit, of one bottom of BoxOutput: (images, height, width, ...)."""
    m, s = site.module, site.module.settings
    channels, height, width = (fixed(site, n) for n in site.bottom_sizes[i][1:])
    x, stride = site.bottoms[i], m.strides[i]
    background, classes, offsets = site.ops("Split", x, site.ints([1, channels - 5, 4]), outputs=3, axis=1)
    change = site.op("Transpose", offsets, perm=[0, 2, 3, 1])
    low, size = _field(site, change, np.float32(m.fields[i]), stride, height, width)
    low = site.op("Max", low, site.floats(0))
    size = site.op("Min", size, site.op("Sub", site.floats([width * stride, height * stride]), low))
    best = site.op("ReduceMax", classes, site.ints([1]), keepdims=0)
    score = site.op("Sub", best, site.op("Squeeze", background, site.ints([1])))
    return low, site.op("Add", low, size), score, _fitting(site, score, size, s.least_score, s.least_size)


def _of_group(site: Site, i: int, images: int) -> tuple[str, str, str, str]:
    """The same of BoxGroupOutput: (images, fields, height, width, ...)."""
    m, s = site.module, site.module.settings
    fields, stride = m.fields[i], m.strides[i]
    height, width = (fixed(site, n) for n in site.bottom_sizes[2 * i][2:])
    prob = site.op("Slice", site.bottoms[2 * i], site.ints([0]), site.ints([1]), site.ints([1]))
    score = site.op("Reshape", prob, site.ints([images, len(fields), height, width]))
    offsets = site.op("Reshape", site.bottoms[2 * i + 1], site.ints([images, len(fields), 4, height, width]))
    change = site.op("Transpose", offsets, perm=[0, 1, 3, 4, 2])
    low, size = _field(site, change, np.float32(fields)[:, None, None, :], stride, height, width)
    last = site.op("Sub", site.op("Add", low, size), site.floats(1))
    high = site.op("Min", last, site.floats([width * stride, height * stride]))
    low = site.op("Max", low, site.floats(0))
    score = site.op("Sub", site.floats(1), score)
    inside = site.op("Add", site.op("Sub", high, low), site.floats(1))
    return low, high, score, _fitting(site, score, inside, s.least_score, s.least_size)


def _field(site: Site, change: str, fields: np.ndarray, stride: float, height: int, width: int) -> tuple[str, str]:
    """First corners and sizes by adjustments (..., height, width, 4) of fields."""
    s = site.module.settings
    change = site.op("Add", site.op("Mul", change, site.floats(s.std)), site.floats(s.mean))
    moved, grown = corners(site, change)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    places = (np.stack([x, y], -1) + np.float32(0.5)) * np.float32(stride)
    near = site.op("Clip", moved, site.floats(-s.shift), site.floats(s.shift))
    centre = site.op("Add", site.op("Mul", near, site.floats(fields)), site.floats(places))
    bounded = site.op("Clip", grown, site.floats(-s.factor), site.floats(s.factor))
    size = site.op("Mul", site.op("Exp", bounded), site.floats(fields))
    return site.op("Sub", centre, site.op("Div", size, site.floats(2))), size


def _fitting(site: Site, score: str, size: str, least_score: float, least_size: float) -> str:
    smaller = site.op("ReduceMin", size, site.ints([-1]), keepdims=0)
    return site.op(
        "And",
        site.op("GreaterOrEqual", score, site.floats(least_score)),
        site.op("GreaterOrEqual", smaller, site.floats(least_size)),
    )


def _chosen(site: Site, image: int, parts: list[tuple[str, str]], grouped: bool) -> str:
    """Rows (image, x1, y1, x2, y2, score) of what is kept of one image."""
    s = site.module.settings
    boxes = site.op("Concat", *[box for box, _ in parts], axis=0)
    score = site.op("Concat", *[part for _, part in parts], axis=0)
    # Of equal scores, the last comes first.
    back = (site.ints([-1]), site.ints([-(2**62)]), site.ints([0]), site.ints([-1]))
    boxes, score = site.op("Slice", boxes, *back), site.op("Slice", score, *back)
    count = site.op("Shape", score)
    if s.before > 0:
        count = site.op("Min", count, site.ints([s.before]))
    score, order = site.ops("TopK", score, count, outputs=2, axis=0)
    boxes = site.op("Gather", boxes, order, axis=0)
    one = site.op("Unsqueeze", boxes, site.ints([0]))
    every = site.cast(site.op("Expand", site.ints(1), site.op("Concat", site.ints([1]), count, axis=0)), np.bool_)
    limit = s.after or None
    if grouped:
        kept = suppressed_in_a_loop(
            site, one, every, s.overlap, lambda a, b: pixel_overlap(site, a, b, s.mode, meeting="cascade"), limit=limit
        )
    elif s.mode == "IOU":
        kept = suppressed(site, one, every, s.overlap, limit)
    else:
        kept = suppressed_in_a_loop(
            site, one, every, s.overlap, lambda a, b: _plain_overlap(site, a, b, s.mode), limit=limit
        )
    places = kept_places(site, kept)
    rows = site.op("Gather", boxes, places, axis=0)
    last = site.op("Unsqueeze", site.op("Gather", score, places, axis=0), site.ints([1]))
    rows = site.op("Pad", rows, site.ints([0, 1, 0, 0]), site.floats(image))
    return site.op("Concat", rows, last, axis=1)


@emits(FrcnnOutput, wide=True)
def frcnn_output(site: Site) -> str:
    m = site.module
    classes = int(np.prod([fixed(site, n) for n in site.bottom_sizes[0][1:]]))
    prob = site.op("Reshape", site.bottoms[0], site.ints([-1, classes]))
    boxes = site.op("Reshape", site.bottoms[2], site.ints([-1, _row_length(site, 2)]))
    before = site.op("Slice", boxes, site.ints([1]), site.ints([5]), site.ints([1]))
    change = site.op("Reshape", site.bottoms[1], site.ints([-1, classes if m.aware else 2, 4]))
    change = site.op("Add", site.op("Mul", change, site.floats(m.std)), site.floats(m.mean))
    low, high = _adjusted(site, site.op("Unsqueeze", before, site.ints([1])), change)
    limit = site.op("Gather", site.op("Reshape", site.bottoms[3], site.ints([-1])), site.ints([1, 0]))
    found = site.op("Concat", site.op("Max", low, site.floats(0)), site.op("Min", high, limit), axis=-1)
    if m.aware:
        own = site.op("Gather", found, site.ints(list(range(1, classes))), axis=1)
    else:
        own = site.op("Gather", found, site.ints([1] * (classes - 1)), axis=1)
    own = site.op("Transpose", own, perm=[1, 0, 2])
    wanted = site.op("Gather", site.op("Transpose", prob, perm=[1, 0]), site.ints(list(range(1, classes))), axis=0)
    count = site.op("Shape", prob, start=0, end=1)
    ranked, place = site.ops("TopK", wanted, count, outputs=2, axis=1)
    best = site.op("GatherND", own, site.op("Unsqueeze", place, site.ints([2])), batch_dims=1)
    sure = site.op("GreaterOrEqual", ranked, site.floats(m.confidence))
    kept = suppressed_in_a_loop(
        site, best, sure, m.overlap, lambda a, b: pixel_overlap(site, a, b, m.mode, meeting="cascade")
    )
    at = site.op("Transpose", site.op("NonZero", kept), perm=[1, 0])
    label = site.op("Add", site.op("Slice", at, site.ints([0]), site.ints([1]), site.ints([1])), site.ints(1))
    score = site.op("Unsqueeze", site.op("GatherND", ranked, at), site.ints([1]))
    rows = site.op("Concat", site.op("GatherND", best, at), site.cast(label, np.float32), score, axis=1)
    if m.most > 0:
        most = site.op("Min", site.op("Shape", rows, start=0, end=1), site.ints([m.most]))
        chosen = site.ops("TopK", site.op("Reshape", score, site.ints([-1])), most, outputs=2, axis=0)[1]
        in_order = site.ops("TopK", chosen, most, outputs=2, axis=0, largest=0)[0]
        rows = site.op("Gather", rows, in_order, axis=0)
    rows = site.op("Pad", rows, site.ints([0, 1, 0, 0]), site.floats(0))
    first = site.floats([[0, *[-1] * 6]])
    return site.op("Unsqueeze", site.op("Concat", first, rows, axis=0), site.ints([2, 3]))


def _row_length(site: Site, bottom: int) -> int:
    return int(np.prod([fixed(site, n) for n in site.bottom_sizes[bottom][1:]]))


def _adjusted(site: Site, boxes: str, change: str) -> tuple[str, str]:
    """Corners of boxes, their last pixels in them, moved by parts of their size and changed in size."""
    (low, high), (moved, grown) = corners(site, boxes), corners(site, change)
    size = site.op("Add", site.op("Sub", high, low), site.floats(1))
    middle = site.op("Mul", site.op("Add", low, high), site.floats(0.5))
    centre = site.op("Add", site.op("Mul", moved, size), middle)
    size = site.op("Sub", site.op("Mul", site.op("Exp", grown), size), site.floats(1))
    start = site.op("Sub", centre, site.op("Div", size, site.floats(2)))
    return start, site.op("Add", start, size)


@emits(ScaleRoute, wide=True)
def scale_route(site: Site) -> list[str]:
    m = site.module
    boxes = site.op("Reshape", site.bottoms[0], site.ints([-1, 5]))
    low, high = corners(site, site.op("Slice", boxes, site.ints([1]), site.ints([5]), site.ints([1])))
    size = site.op("Sub", high, low)
    sides = site.op("ReduceProd", site.op("Add", size, site.floats(1)), site.ints([1]), keepdims=0)
    negative = site.op("Less", site.op("ReduceMin", size, site.ints([1]), keepdims=0), site.floats(0))
    scale = site.op("Sqrt", site.op("Where", negative, site.floats(0), sides))
    inside = site.op("GreaterOrEqual", scale, site.floats(m.low))
    if np.isfinite(m.high):
        inside = site.op("And", inside, site.op("Less", scale, site.floats(m.high)))
    distance = site.op("Abs", site.op("Log", site.op("Div", scale, site.floats(m.middle))))
    nearest = site.op("ArgMin", distance, axis=0, keepdims=1)
    chosen = site.op("Reshape", site.op("NonZero", inside), site.ints([-1, 1]))
    places = site.op("Reshape", rows_or(site, chosen, site.op("Unsqueeze", nearest, site.ints([1]))), site.ints([-1]))
    tops = []
    for x, sizes in zip(site.bottoms, site.bottom_sizes, strict=True):
        top = site.op("Gather", x, places, axis=0)
        more = list(range(len(sizes), 4))
        tops.append(site.op("Unsqueeze", top, site.ints(more)) if more else top)
    return tops


@emits(YoloDetectionOutput, Yolov3DetectionOutput, wide=True)
def yolo_detection_output(site: Site) -> str:
    m = site.module
    found = [_yolo_candidates(site, i, x) for i, x in enumerate(site.bottoms)]
    boxes, confidences, labels = (site.op("Concat", *parts, axis=0) for parts in zip(*found, strict=True))
    count = site.op("Shape", confidences)
    ranked, order = site.ops("TopK", confidences, count, outputs=2, axis=0)
    boxes, labels = site.op("Gather", boxes, order, axis=0), site.op("Gather", labels, order, axis=0)
    every = site.cast(site.op("Expand", site.ints(1), site.op("Concat", site.ints([1]), count, axis=0)), np.bool_)
    # Boxes go at the threshold itself, too.
    below = float(np.nextafter(np.float32(m.threshold), np.float32(-1)))
    kept = suppressed(site, site.op("Unsqueeze", boxes, site.ints([0])), every, below)
    places = kept_places(site, kept)
    label = site.cast(site.op("Add", site.op("Gather", labels, places, axis=0), site.ints(1)), np.float32)
    columns = [site.op("Unsqueeze", x, site.ints([1])) for x in (label, site.op("Gather", ranked, places, axis=0))]
    rows = site.op("Concat", *columns, site.op("Gather", boxes, places, axis=0), axis=1)
    rows = site.op("Pad", rows, site.ints([0, 1, 0, 0]), site.floats(0))
    top = rows_or(site, rows, numbered(site, site.bottom_sizes[0][0]))
    return site.op("Unsqueeze", top, site.ints([0, 1]))


def _yolo_candidates(site: Site, i: int, x: str) -> tuple[str, str, str]:
    """Corners (K, 4), confidences (K,) and classes (K,), in the order of images, rows, columns and anchors."""
    m, anchors = site.module, np.float32(site.module.anchors[i])
    images = site.bottom_sizes[i][0]
    channels, height, width = (fixed(site, n) for n in site.bottom_sizes[i][1:])
    each = channels // len(anchors)
    split = site.reshape(x, (), (images, len(anchors), each, height, width))
    cells = site.op("Transpose", split, perm=[0, 3, 4, 1, 2])
    place, size, sure, classes = site.ops("Split", cells, site.ints([2, 2, 1, each - 5]), outputs=4, axis=-1)
    column, row = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    grid = site.floats(np.stack([column, row], -1)[:, :, None])
    whole = site.floats([width, height])
    centre = site.op("Div", site.op("Add", grid, site.op("Sigmoid", place)), whole)
    half = site.op("Mul", site.op("Exp", size), site.floats(anchors))
    half = site.op("Div", site.op("Div", half, whole), site.floats(2))
    sure = site.op("Sigmoid", sure)
    if isinstance(m, Yolov3DetectionOutput):
        confidences = site.op("Mul", site.op("Sigmoid", classes), sure)
        count = site.op("Greater", confidences, site.floats(m.confidence))
    else:
        confidences = site.op("Mul", site.op("Softmax", classes, axis=-1), sure)
        best = site.op("ArgMax", classes, axis=-1, keepdims=1)
        first = site.op("Equal", best, site.ints(np.arange(each - 5)))
        count = site.op("And", first, site.op("GreaterOrEqual", confidences, site.floats(m.confidence)))
    at = site.op("Transpose", site.op("NonZero", count), perm=[1, 0])
    cell, label = site.ops("Split", at, site.ints([4, 1]), outputs=2, axis=1)
    box = site.op("Concat", site.op("Sub", centre, half), site.op("Add", centre, half), axis=-1)
    return (
        site.op("GatherND", box, cell),
        site.op("GatherND", confidences, at),
        site.op("Squeeze", label, site.ints([1])),
    )
