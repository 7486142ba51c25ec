"""Samples in boxes beyond their recorded cases (``test_fork_cases.py``): against the fork's loops, and refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import build

FRCNN = "makefile/frcnn"
BOXES = np.array([[0, 3, 2, 60, 45], [1, 10, 20, 50, 79], [1, 70, 50, 95, 75]], np.float64)
MAP = np.random.RandomState(0).randn(2, 8, 7, 9)


def bilinear(plane: np.ndarray, row: float, column: float) -> float:
    top, left = math.floor(row), math.floor(column)
    bottom, right = math.ceil(row), math.ceil(column)
    down, across = row - top, column - left
    upper = plane[top, left] * (1 - across) + plane[top, right] * across
    return float(upper * (1 - down) + (plane[bottom, left] * (1 - across) + plane[bottom, right] * across) * down)


def aligned(scale: float, samples: int) -> np.ndarray:
    """PSROIAlign of two groups in loops."""
    top = np.zeros((3, 2, 2, 2))
    for n, o, ph, pw in np.ndindex(top.shape):
        image, x1, y1, x2, y2 = BOXES[n]
        step = [max((high + 1 - low) * scale, 0.1) / 2 for low, high in ((y1, y2), (x1, x2))]
        start, end = [], []
        for place, low, size, cells in ((ph, y1, step[0], 7), (pw, x1, step[1], 9)):
            start.append(min(max(place * size + low * scale, 0), cells - 1))
            end.append(min(max((place + 1) * size + low * scale, 0), cells - 1))
        if end[0] <= start[0] or end[1] <= start[1]:
            continue
        plane = MAP[int(image), (o * 2 + ph) * 2 + pw]
        for i in range(1, samples + 1):
            for j in range(1, samples + 1):
                row, column = (s + k * size / (samples + 1) for s, k, size in zip(start, (i, j), step, strict=True))
                if row < end[0] and column < end[1]:
                    top[n, o, ph, pw] += bilinear(plane, row, column) / samples**2
    return top


def test_psroi_align(device: torch.device) -> None:
    text = 'type: "PSROIAlign" psroi_align_param { spatial_scale: 0.11 output_dim: 2 group_size: 2 sample_num: 3 }'
    module = build(text, MAP.shape, BOXES.shape, dialect=FRCNN)
    found = module(torch.tensor(MAP, device=device).float(), torch.tensor(BOXES, device=device).float())
    np.testing.assert_allclose(found.cpu(), aligned(0.11, 3), rtol=1e-4, atol=1e-5)


def pooled(moves: np.ndarray | None, deviation: float) -> np.ndarray:
    """DeformablePSROIPooling of two groups, three samples a side and two parts, in loops."""
    top = np.zeros((3, 2, 2, 2))
    for n, o, ph, pw in np.ndindex(top.shape):
        image, x1, y1, x2, y2 = BOXES[n]
        low = [round(v) * 0.11 - 0.5 for v in (y1, x1)]
        size = [max((round(v) + 1) * 0.11 - 0.5 - w, 0.1) for v, w in zip((y2, x2), low, strict=True)]
        move = [0.0, 0.0] if moves is None else [moves[n, 2 * o + k, ph, pw] * deviation for k in (1, 0)]
        found = []
        for i, j in np.ndindex(3, 3):
            at = [
                low[k] + (place + s / 3) * size[k] / 2 + move[k] * size[k]
                for k, (place, s) in enumerate(((ph, i), (pw, j)))
            ]
            if all(-0.5 <= v <= cells - 0.5 for v, cells in zip(at, (7, 9), strict=True)):
                row, column = (min(max(v, 0), cells - 1) for v, cells in zip(at, (7, 9), strict=True))
                found.append(bilinear(MAP[int(image), (o * 2 + ph) * 2 + pw], row, column))
        top[n, o, ph, pw] = np.mean(found) if found else 0
    return top


def deformable(params: str, *more: tuple[int, ...], **options: Any) -> Any:
    for name, value in {"output_dim": 2, "group_size": 2, "sample_per_part": 3}.items():
        params += "" if name in params else f" {name}: {value}"
    text = f'type: "DeformablePSROIPooling" deformable_psroi_pooling_param {{ spatial_scale: 0.11 {params} }}'
    return build(text, options.pop("x", MAP.shape), BOXES.shape, *more, dialect=FRCNN, **options)


def test_bins_that_are_moved() -> None:
    moves = np.random.RandomState(1).uniform(-1, 1, (3, 4, 2, 2))
    module = deformable("part_size: 2 trans_std: 0.4", moves.shape)
    x, shift = torch.tensor(MAP, requires_grad=True), torch.tensor(moves, requires_grad=True)
    boxes = torch.tensor(BOXES)
    np.testing.assert_allclose(module(x, boxes, shift).detach(), pooled(moves, 0.4), rtol=1e-5, atol=1e-7)
    assert torch.autograd.gradcheck(lambda x, m: module(x, boxes, m), (x, shift), fast_mode=True)
    still = deformable("no_trans: true", moves.shape)
    np.testing.assert_allclose(still(x, boxes, shift).detach(), pooled(None, 0), rtol=1e-5, atol=1e-7)


def aligned_points(cubic: bool, four: bool, pad: float) -> np.ndarray:
    """ROIAlign of makefile/frcnn in loops, three bins by two."""
    top = np.zeros((3, 8, 3, 2))
    for n, c, ph, pw in np.ndindex(top.shape):
        image, x1, y1, x2, y2 = BOXES[n]
        start, step = [], []
        for low, high, bins, cells in ((y1, y2, 3, 7), (x1, x2, 2, 9)):
            more = (high - low + 1) * pad
            first = max((low - more) * 0.11, 0)
            last = min(round(cells / 0.11) - 1, (high + more) * 0.11)
            start.append(first)
            step.append(max(last - first + 1, 1) / bins)
        offsets = (0.25, 0.75) if four else (0.5,)
        values = []
        for down in offsets:
            for right in offsets:
                row = min(max((ph + down) * step[0] + start[0], 0), 6)
                column = min(max((pw + right) * step[1] + start[1], 0), 8)
                values.append(_point(MAP[int(image), c], row, column, cubic))
        top[n, c, ph, pw] = max(values)
    return top


def _point(plane: np.ndarray, row: float, column: float, cubic: bool) -> float:
    total = 0.0
    for r, by_row in _weights(row, 7, cubic):
        for q, by_column in _weights(column, 9, cubic):
            total += plane[r, q] * by_row * by_column
    return total


def _weights(at: float, cells: int, cubic: bool) -> list[tuple[int, float]]:
    first = int(at)
    if not cubic:
        second = min(first + 1, cells - 1)
        return [(first, second - at), (second, at - first)]
    found = []
    for i in range(4):
        apart = abs(at - first + 1 - i)
        near, far = 1 - 2 * apart**2 + apart**3, 4 - 8 * apart + 5 * apart**2 - apart**3
        found.append((min(max(first - 1 + i, 0), cells - 1), near if apart < 1 else far if apart < 2 else 0.0))
    return found


@pytest.mark.parametrize("cubic", [False, True])
@pytest.mark.parametrize("four", [False, True])
def test_roi_align(cubic: bool, four: bool) -> None:
    params = f"bi_type: {int(cubic)} is_multi_interpolate: {str(four).lower()} pad_ratio: 0.1"
    text = f'type: "ROIAlign" roi_pooling_param {{ pooled_h: 3 pooled_w: 2 spatial_scale: 0.11 {params} }}'
    module = build(text, MAP.shape, BOXES.shape, dialect=FRCNN)
    x = torch.tensor(MAP, requires_grad=True)
    found = module(x, torch.tensor(BOXES))
    np.testing.assert_allclose(found.detach(), aligned_points(cubic, four, 0.1), rtol=1e-5, atol=1e-6)
    assert torch.autograd.gradcheck(lambda x: module(x, torch.tensor(BOXES)), x, fast_mode=True)


@pytest.mark.parametrize(
    ("params", "more", "x", "problem"),
    [
        ("part_size: 2", (), MAP.shape, "needs a third bottom and part_size, found 2 bottoms and 2"),
        ("", ((3, 4, 2, 2),), MAP.shape, "needs a third bottom and part_size, found 3 bottoms and 0"),
        ("part_size: 2", ((3, 4, 3, 2),), MAP.shape, r"'b2' has shape \[3, 4, 3, 2\]"),
        ("part_size: 2", ((3, 6, 2, 2),), MAP.shape, "two channels for each of some classes"),
        ("no_trans: true", (), (2, 9, 7, 9), r"'b0' has shape \[2, 9, 7, 9\]; \(images, 8, height > 0, width > 0\)"),
        ("no_trans: true sample_per_part: 0", (), MAP.shape, "sample_per_part is 0"),
        ("no_trans: true output_dim: 0", (), MAP.shape, "output_dim 0 and group_size 2 must be at least 1"),
    ],
)
def test_errors(params: str, more: Any, x: Any, problem: str) -> None:
    with pytest.raises(LayerError, match=problem):
        deformable(params, *more, x=x)


def test_options_that_make_no_sense() -> None:
    with pytest.raises(LayerError, match="sample_num is 0; it must be at least 1"):
        build(
            'type: "PSROIAlign" psroi_align_param { spatial_scale: 1 output_dim: 2 group_size: 2 sample_num: 0 }',
            MAP.shape,
            BOXES.shape,
            dialect=FRCNN,
        )
    with pytest.raises(LayerError, match=r"'b1' has shape \[3, 4\]"):
        build('type: "ROIAlign" roi_pooling_param { pooled_h: 3 pooled_w: 2 }', MAP.shape, (3, 4), dialect=FRCNN)
