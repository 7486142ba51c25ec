"""Proposal against a slow definition, and its anchors against the well-known ones of Faster R-CNN."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.layers.forks.rpn import _quicksorted, base_anchors
from tests.layers.building import assert_equals, build

PVANET, MINI = "sanghoon/caffe@dev_pvanet", "luoyetx/mini-caffe"
WINDOWS, WU = "happynear/caffe-windows", "GuohongWu/caffe-windows"

# Those in the comment of py-faster-rcnn's generate_anchors.py, which are counted from 1.
_KNOWN = [
    (-83, -39, 100, 56),
    (-175, -87, 192, 104),
    (-359, -183, 376, 200),
    (-55, -55, 72, 72),
    (-119, -119, 136, 136),
    (-247, -247, 264, 264),
    (-35, -79, 52, 96),
    (-79, -167, 96, 184),
    (-167, -343, 184, 360),
]


def test_base_anchors() -> None:
    found = base_anchors(16, (0.5, 1, 2), (8, 16, 32))
    assert found == tuple(tuple(corner - 1 for corner in box) for box in _KNOWN)


def _overlap(a: Any, b: Any) -> float:
    w, h = (max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + 1) for i in (0, 1))
    first, second = ((c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b))
    return w * h / (first + second - w * h)


@pytest.mark.parametrize(("dialect", "info"), [(MINI, (60, 90, 1.5)), (PVANET, (60, 90, 1.5, 0.75))])
def test_proposal(dialect: str, info: tuple[float, ...], device: torch.device) -> None:
    random = np.random.RandomState(0)
    ratios, scales, stride, size = (0.5, 2.0), (1.0, 2.0, 3.0), 12, 10
    scores = random.rand(1, 12, 5, 8).astype(np.float32)
    offsets = (random.randn(1, 24, 5, 8) * 0.5).astype(np.float32)
    anchors = base_anchors(size, ratios, scales)
    boxes = []
    for h in range(5):
        for w in range(8):
            for k, anchor in enumerate(anchors):
                ends = []
                for axis, at, limit in ((0, w, info[1]), (1, h, info[0])):
                    low, high = anchor[axis] + at * stride, anchor[axis + 2] + at * stride
                    side = high - low + 1
                    centre = offsets[0, 4 * k + axis, h, w] * side + low + 0.5 * side
                    half = 0.5 * math.exp(offsets[0, 4 * k + 2 + axis, h, w]) * side
                    ends.append([min(max(end, 0), limit - 1) for end in (centre - half, centre + half)])
                (x1, x2), (y1, y2) = ends
                fits = x2 - x1 + 1 >= 9 * info[-1] and y2 - y1 + 1 >= 9 * info[2]
                boxes.append((x1, y1, x2, y2, float(scores[0, 6 + k, h, w]) * fits))
    boxes = sorted(boxes, key=lambda box: -box[4])[:100]
    kept: list[tuple[float, ...]] = []
    for box in boxes:
        if len(kept) < 15 and all(_overlap(other, box) <= 0.3 for other in kept):
            kept.append(box)
    assert len(kept) == 15
    text = f"""type: "Proposal" proposal_param {{ feat_stride: {stride} base_size: {size} min_size: 9
    {" ".join(f"ratio: {r}" for r in ratios)} {" ".join(f"scale: {s}" for s in scales)}
    pre_nms_topn: 100 post_nms_topn: 15 nms_thresh: 0.3 }}"""
    shapes = (scores.shape, offsets.shape, (1, len(info)))
    given = [torch.tensor(v, device=device) for v in (scores, offsets, np.array([info], dtype=np.float32))]
    module = build(text, *shapes, tops=2, dialect=dialect)
    found, found_scores = module(*given)
    expected = torch.tensor([(0, *box) for box in kept], dtype=torch.float32)
    torch.testing.assert_close(found.cpu(), expected[:, :5], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found_scores.cpu(), expected[:, 5])
    torch.testing.assert_close(build(text, *shapes, dialect=dialect)(*given), found)
    assert [tuple(top.shape) for top in module.infer(*given)] == [(15, 5), (15,)]


def _swapping(score: Any, places: list[int], first: int, last: int, count: int) -> None:
    """PVANet's quicksort, step by step."""
    pivot, left, right = score[places[first]], first + 1, last
    while left <= right:
        while left <= last and score[places[left]] >= pivot:
            left += 1
        while right > first and score[places[right]] <= pivot:
            right -= 1
        if left <= right:
            places[left], places[right] = places[right], places[left]
            left, right = left + 1, right - 1
    places[first], places[right] = places[right], places[first]
    if first < right - 1:
        _swapping(score, places, first, right - 1, count)
    if right + 1 < count and right + 1 < last:
        _swapping(score, places, right + 1, last, count)


def _filling(score: Any, places: list[int], first: int, last: int, count: int) -> None:
    """mini-caffe's."""
    low, high, key = first, last, places[first]
    while low < high:
        while low < high and score[places[high]] <= score[key]:
            high -= 1
        places[low] = places[high]
        while low < high and score[places[low]] >= score[key]:
            low += 1
        places[high] = places[low]
    places[low] = key
    if first < low - 1:
        _filling(score, places, first, low - 1, count)
    if low + 1 < count and low + 1 < last:
        _filling(score, places, low + 1, last, count)


@pytest.mark.parametrize("swaps", [True, False])
def test_equal_scores_come_as_the_forks_sort_leaves_them(swaps: bool) -> None:
    random, moved = np.random.RandomState(1), 0
    for _ in range(200):
        length = random.randint(1, 50)
        score = random.randint(0, random.randint(1, 30), length).astype(np.float32)
        count = random.randint(1, length + 1)
        places = list(range(length))
        (_swapping if swaps else _filling)(score, places, 0, length - 1, count)
        found = _quicksorted(score, count, swaps=swaps)[:count]
        assert found.tolist() == places[:count]
        moved += found.tolist() != np.argsort(-score, kind="stable")[:count].tolist()
    assert moved > 100


@pytest.mark.parametrize(("dialect", "step"), [(PVANET, _swapping), (MINI, _filling)])
def test_boxes_that_are_too_small_stand_in_that_order(dialect: str, step: Any) -> None:
    """All but two boxes are too small, and all are kept: their order shows."""
    text = """type: "Proposal" proposal_param { feat_stride: 30 base_size: 10 min_size: 9 ratio: 1 scale: 1
    pre_nms_topn: 20 post_nms_topn: 20 nms_thresh: 0.9 }"""
    scores, offsets = torch.rand(1, 2, 3, 4), torch.zeros(1, 4, 3, 4)
    offsets[:, 2:] = -1.0
    offsets[:, 2:, 0, 1] = offsets[:, 2:, 2, 2] = 0
    info = torch.tensor([[200.0, 200, 1, 1]])[:, : 4 if dialect == PVANET else 3]
    found, kept = build(text, (1, 2, 3, 4), (1, 4, 3, 4), info.shape, tops=2, dialect=dialect)(scores, offsets, info)
    flat = torch.zeros(12)
    flat[[1, 10]] = scores[0, 1].flatten()[[1, 10]]
    places = list(range(12))
    step(flat.tolist(), places, 0, 11, 20)
    assert_equals(kept, flat[places])
    corner = [(30.0 * (p % 4), 30.0 * (p // 4)) for p in places]
    torch.testing.assert_close((found[:, 1:3] / 30).floor() * 30, torch.tensor(corner))


def test_pvanet_sees_no_overlap_where_corners_lie_apart() -> None:
    """Of two boxes one ends a quarter of a pixel before the other starts: three quarters are in both."""
    text = """type: "Proposal" proposal_param { feat_stride: 1 base_size: 1 min_size: 0 ratio: 1 scale: 1
    pre_nms_topn: 9 post_nms_topn: 9 nms_thresh: 0.1 }"""
    offsets = torch.zeros(1, 4, 1, 2)
    offsets[0, 0] = torch.tensor([2.0, 3.25])
    offsets[0, 2:] = math.log(2)
    for dialect, count in ((MINI, 1), (PVANET, 2)):
        info = torch.tensor([[50.0, 50, 1, 1]])[:, : 4 if dialect == PVANET else 3]
        scores = torch.tensor([[[[0.0, 0]], [[0.9, 0.8]]]])
        found = build(text, (1, 2, 1, 2), (1, 4, 1, 2), info.shape, dialect=dialect)(scores, offsets, info)
        assert len(found) == count


def test_errors() -> None:
    text = 'type: "Proposal" proposal_param { ratio: 1 scale: 8 }'
    with pytest.raises(LayerError, match=r"a blob of 4 numbers .*\(3 under luoyetx/mini-caffe\)"):
        build(text, (1, 2, 3, 4), (1, 4, 3, 4), (1, 3), dialect=PVANET)
    with pytest.raises(LayerError, match=r"\(1, scores of 1 anchors = 2, height, width\) was"):
        build(text, (1, 4, 3, 4), (1, 4, 3, 4), (1, 3), dialect=MINI)
    with pytest.raises(LayerError, match="needs a ratio and a scale"):
        build('type: "Proposal"', (1, 2, 3, 4), (1, 4, 3, 4), (1, 3), dialect=MINI)
    with pytest.raises(LayerError, match="a blob of 3 numbers, or of 4"):
        build(text, (1, 2, 3, 4), (1, 4, 3, 4), (1, 2), dialect=WINDOWS)


@pytest.mark.parametrize(("dialect", "divisor"), [(WINDOWS, 4), (WU, 1)])
def test_caffe_windows(dialect: str, divisor: int) -> None:
    """Sides of anchors are rounded last; a fourth number of the image, where there is one, is its scale in width."""
    text = 'type: "Proposal" proposal_param { base_size: 4 feat_stride: 5 min_size: 3 ratio: 2 scale: 9 scale: 6 }'
    module = build(text, (1, 4, 2, 3), (1, 8, 2, 3), (1, 4), tops=2, dialect=dialect)
    width = math.sqrt(16 / 2)
    for anchor, scale in zip(module.settings.anchors, (9, 6), strict=True):
        half = [0.5 * int(side * scale / divisor - 1 + 0.5) for side in (width, 2 * width)]
        assert anchor == (1.5 - half[0], 1.5 - half[1], 1.5 + half[0], 1.5 + half[1])
    scores, offsets = torch.rand(1, 4, 2, 3), torch.zeros(1, 8, 2, 3)
    found = [module(scores, offsets, torch.tensor([[90.0, 90, 1, by]]))[1] for by in (1, 50)]
    assert bool((found[0] > 0).any())
    assert not bool((found[1] > 0).any())
    three = build(text, (1, 4, 2, 3), (1, 8, 2, 3), (1, 3), tops=2, dialect=dialect)
    assert torch.equal(three(scores, offsets, torch.tensor([[90.0, 90, 1]]))[1], found[0])
