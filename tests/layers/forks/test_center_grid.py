"""CenterGridOutput, against one loop per cell and one per pair of boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build

FORK = "yuqj1991/caffe_train"
SETTINGS = (
    "detection_output_param {{ num_classes: {} class_type: {} bias_scale: 20 bias_scale: 30 bias_scale: 50 "
    "net_width: 64 net_height: 64 nms_thresh: 0.35 confidence_threshold: 0.4 {} }}"
)


def maps_of(channels: int) -> list[np.ndarray]:
    draws = np.random.RandomState(7)
    maps = []
    for size in (8, 4, 2):
        one = draws.uniform(-1, 1, (2, channels, size, size))
        one[:, :2], one[:, 2:4] = np.abs(one[:, :2]) * 1.5, -np.abs(one[:, 2:4]) * 1.5
        one[0, 2, 0, 0] = 1.9  # no width
        maps.append(one)
    return maps


def expected(maps: list[np.ndarray], *, softmax: bool, landmarks: bool, most: int) -> list[list[float]]:
    rows = []
    for image in range(2):
        found = []
        for one, scale in zip(maps, (20, 30, 50), strict=True):
            size = one.shape[2]
            ratio = 64 / size
            for h, w in np.ndindex(size, size):
                cell = one[image, :, h, w]

                def place(value: float, along: int, ratio: float = ratio, scale: float = scale) -> float:
                    offset = value * scale / ratio / (1 if softmax else 2)
                    return float(min(max((along + 0.5 - offset) * ratio, 0), 64))

                box = [place(cell[i], h if i % 2 else w) for i in range(4)]
                # The column for both coordinates of a point, as in the fork.
                points = [place(value, w) / 64 for value in cell[4:14]] if landmarks else []
                score = 1 / (1 + math.exp(cell[-2] - cell[-1])) if softmax else 1 / (1 + math.exp(-cell[4]))
                if box[2] > box[0] and box[3] > box[1] and score >= 0.4:
                    found.append((score, box, points))
        kept: list[tuple[float, list[float], list[float]]] = []
        for entry in sorted(found, key=lambda entry: -entry[0]):
            if all(overlap(entry[1], other[1]) <= 0.35 for other in kept):
                kept.append(entry)
        rows += [[image, 1, score, *(v / 64 for v in box), *points] for score, box, points in kept[: most or None]]
    return rows


def overlap(a: list[float], b: list[float]) -> float:
    common = max(min(a[2], b[2]) - max(a[0], b[0]) + 1, 0) * max(min(a[3], b[3]) - max(a[1], b[1]) + 1, 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return common / (areas - common)


@pytest.mark.parametrize(
    ("softmax", "landmarks", "most"), [(False, False, 0), (True, False, 3), (True, True, 0)], ids=str
)
def test_boxes(softmax: bool, landmarks: bool, most: int) -> None:
    maps = maps_of(4 + 10 * landmarks + 1 + softmax)
    more = f"keep_top_k: {most} has_lm: {str(landmarks).lower()}"
    text = SETTINGS.format(1 + softmax, "SOFTMAX" if softmax else "SIGMOID", more)
    module = build(f'type: "CenterGridOutput" {text}', *(one.shape for one in maps), dialect=FORK)
    rows = expected(maps, softmax=softmax, landmarks=landmarks, most=most)
    found = module(*map(torch.tensor, maps))
    assert len(rows) > 4
    assert_equals(found, [[rows]])
    assert module.infer(*map(torch.tensor, maps)).shape == (1, 1, 1, len(rows[0]))


def test_no_box() -> None:
    maps = [torch.full((2, 5, n, n), -9.0) for n in (8, 4, 2)]
    text = SETTINGS.format(1, "SIGMOID", "")
    module = build(f'type: "CenterGridOutput" {text}', *(one.shape for one in maps), dialect=FORK)
    assert module(*maps).tolist() == [[[[0.0, *[-1.0] * 6], [1.0, *[-1.0] * 6]]]]


def test_errors() -> None:
    shapes = [(2, 5, n, n) for n in (8, 4, 2)]
    for text, given, message in (
        (SETTINGS.format(2, "SIGMOID", ""), shapes, "num_classes is 2"),
        (SETTINGS.format(1, "SIGMOID", "bias_scale: 9"), shapes, "4 values; one for each of 3 bottoms"),
        (SETTINGS.format(1, "SIGMOID", "has_lm: true"), shapes, "has_lm needs class_type SOFTMAX"),
        (SETTINGS.format(1, "SIGMOID", ""), [(2, 6, 8, 8), *shapes[1:]], "channels = 5"),
        (SETTINGS.format(1, "SIGMOID", ""), [(2, 5, 8, 9), *shapes[1:]], "a square map"),
    ):
        with pytest.raises(LayerError, match=message):
            build(f'type: "CenterGridOutput" {text}', *given, dialect=FORK)
