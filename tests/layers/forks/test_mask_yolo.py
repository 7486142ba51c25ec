"""MaskYolo's regions, samples in them and larger maps (leon-liangwu/MaskYolo_Caffe) against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_compat.errors import CaffeCompatError
from tests.layers.building import assert_equals, build

FORK = "leon-liangwu/MaskYolo_Caffe"
OWN = "num_class: 0 num_object: 2 anchor_x: 1.5 anchor_x: 3 anchor_y: 2.5 anchor_y: 1"
REGIONS = f'type: "RoiGen" roi_gen_param {{ {OWN} %s }}'
SHAPE = (2, 10, 3, 4)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def overlap(a: list[float], b: list[float]) -> float:
    sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1)]
    shared = max(sides[0], 0) * max(sides[1], 0)
    return shared / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - shared)


def regions(x: np.ndarray, threshold: float) -> list[list[float]]:
    rows = []
    for i in range(len(x)):
        found: list[tuple[float, int, list[float]]] = []
        for n, h, w in np.ndindex(2, 3, 4):
            moved = x[i, 5 * n : 5 * n + 5, h, w].tolist()
            if sigmoid(moved[4]) > threshold:
                middle = ((w + sigmoid(moved[0])) / 4, (h + sigmoid(moved[1])) / 3)
                half = (math.exp(moved[2]) * (1.5, 3)[n] / 8, math.exp(moved[3]) * (2.5, 1)[n] / 6)
                box = [m + s * side for s in (-1, 1) for m, side in zip(middle, half, strict=True)]
                found.append((moved[4], len(found), box))
        kept: list[tuple[float, int, list[float]]] = []
        for one in sorted(found, reverse=True):
            if all(overlap(one[2], other[2]) <= 0.4 for other in kept):
                kept.append(one)
        assert 1 < len(kept) < len(found)
        for _, _, box in sorted(kept, key=lambda one: one[1]):
            rows.append([i, *(min(max(side, 0), 1) * (96, 80)[k % 2] for k, side in enumerate(box))])
    return rows


@pytest.mark.parametrize("room", [3, 40])
def test_regions(room: int) -> None:
    x = np.random.RandomState(3).randn(*SHAPE)
    module = build(
        REGIONS % f"thresh: 0.45 prop_num: {room} net_w: 96 net_h: 80 softmax: false", SHAPE, tops=2, dialect=FORK
    )
    boxes, labels = module(torch.tensor(x))
    expected = np.zeros((room, 5))
    rows = regions(x, 0.45)[:room]
    expected[: len(rows)] = rows
    assert_equals(boxes, expected)
    assert labels.tolist() == [1] * len(rows) + [0] * (room - len(rows))


def test_errors_of_regions() -> None:
    for text, shape, message in (
        (REGIONS.replace("num_class: 0", "") % "", SHAPE, "num_class is 20"),
        (REGIONS % "num_coord: 5", SHAPE, "num_coord 5"),
        (REGIONS % "anchor_x: 3", SHAPE, r"there are \(3, 2\)"),
        (REGIONS % "prop_num: 0", SHAPE, "prop_num is 0"),
        (REGIONS % "net_w: 0", SHAPE, "net_w is 0"),
        (REGIONS % "", (2, 12, 3, 4), "10"),
    ):
        with pytest.raises(CaffeCompatError, match=message):
            build(text, shape, tops=2, dialect=FORK)


BOXES = np.array([[0, 4, 2, 9, 11], [1, -9, 3, 30, 90], [0, 5, 5, 2, 1], [1, 6.5, 0.5, 6.75, 4]])
SAMPLES = 'type: "ROIAlignment" roi_alignment_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.5 }'


@pytest.mark.parametrize("gradients", ["caffe", "true"])
def test_samples(gradients: str) -> None:
    maps = np.random.RandomState(4).randn(2, 3, 6, 7)
    x = torch.tensor(maps, requires_grad=True)
    found = build(SAMPLES, maps.shape, BOXES.shape, dialect=FORK, gradients=gradients)(x, torch.tensor(BOXES))
    slope = np.random.RandomState(5).randn(4, 3, 2, 3)
    expected, gradient = np.zeros(found.shape), np.zeros(maps.shape)
    for r, ph, pw in np.ndindex(4, 2, 3):
        image, *box = int(BOXES[r, 0]), *(BOXES[r, 1:] / 2)
        middle = []
        for k, bins, p, size in ((1, 2, ph, 6), (0, 3, pw, 7)):
            step = max(box[k + 2] - box[k] + 1, 1) / bins
            edges = [min(max(box[k] + q * step, 0), size - 1) for q in (p, p + 1)]
            middle.append(sum(edges) / 2)
        for y, by_y in ((math.floor(middle[0]), 0), (math.ceil(middle[0]), 1)):
            for z, by_z in ((math.floor(middle[1]), 0), (math.ceil(middle[1]), 1)):
                parts = [m - math.floor(m) for m in middle]
                part = (parts[0] if by_y else 1 - parts[0]) * (parts[1] if by_z else 1 - parts[1])
                expected[r, :, ph, pw] += part * maps[image, :, y, z]
                near = box[0] - 1 <= z <= box[2] + 1 and box[1] - 1 <= y <= box[3] + 1
                if near or gradients == "true":
                    gradient[image, :, y, z] += part * slope[r, :, ph, pw]
    assert_equals(found, expected)
    found.backward(torch.tensor(slope))
    assert_equals(x.grad, gradient)
    with pytest.raises(CaffeCompatError, match="pooled_h 0"):
        build(SAMPLES.replace("pooled_h: 2", ""), maps.shape, BOXES.shape, dialect=FORK)
    with pytest.raises(CaffeCompatError, match="image x1 y1 x2 y2 = 5"):
        build(SAMPLES, maps.shape, (4, 4), dialect=FORK)


@pytest.mark.parametrize(
    ("own", "size"),
    [("height: 5 width: 4", (5, 4)), ("is_pyramid_test: true out_height_scale: 1.5 out_width_scale: 2.5", (4, 10))],
)
@pytest.mark.parametrize("gradients", ["caffe", "true"])
def test_larger_maps(own: str, size: tuple[int, int], gradients: str) -> None:
    maps = np.random.RandomState(6).randn(2, 2, 3, 4)
    x = torch.tensor(maps, requires_grad=True)
    found = build(f'type: "Resize" resize_param {{ {own} }}', maps.shape, dialect=FORK, gradients=gradients)(x)
    slope = np.random.RandomState(7).randn(2, 2, *size)
    expected, gradient = np.zeros(found.shape), np.zeros(maps.shape)
    for h, w in np.ndindex(*size):
        y, z = h * 3 / size[0], w * 4 / size[1]
        cell = math.floor(y), math.floor(z)
        expected[:, :, h, w] = maps[:, :, cell[0], cell[1]]
        part = (1 - (y - cell[0])) * (1 - (z - cell[1])) if gradients == "caffe" else 1
        gradient[:, :, cell[0], cell[1]] += part * slope[:, :, h, w]
    assert_equals(found, expected)
    found.backward(torch.tensor(slope))
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor(gradient), rtol=1e-5, atol=1e-6)


def test_errors_of_larger_maps() -> None:
    for own, message in (
        ("height: 5", "needs height and width above 0"),
        ("is_pyramid_test: true out_height_scale: 2", "needs out_height_scale and out_width_scale"),
        ("is_pyramid_test: true out_height_scale: 0.25 out_width_scale: 2", "leaves nothing"),
    ):
        with pytest.raises(CaffeCompatError, match=message):
            build(f'type: "Resize" resize_param {{ {own} }}', (1, 2, 3, 4), dialect=FORK)
