"""Region and DetectionOutput of YOLO's second generation against loops over boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build

FORK = "BirdeeChen/caffe_yolo_v2"
BIASES = ((1.5, 2.0), (3.0, 1.0))
DETECTIONS = (
    'type: "DetectionOutput" detection_output_param { side: 3 classes: 2 num_box: 2 coords: 4 biases: [1.5, 2, 3, 1] '
    "confidence_threshold: %s nms_threshold: 0.3 }"
)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    powers: np.ndarray = np.exp(x - x.max())
    return powers / powers.sum()


@pytest.mark.parametrize("probable", [True, False])
def test_region(probable: bool) -> None:
    x = np.random.RandomState(0).randn(2, 2 * 8, 3, 4)
    text = f"region_param {{ classes: 3 coords: 4 boxes_of_each_grid: 2 softmax: {str(probable).lower()} }}"
    module = build(f'type: "Region" {text}', x.shape, dialect=FORK)
    expected = []
    for n, i, j in np.ndindex(2, 3, 4):
        for box in x[n, :, i, j].reshape(2, 8):
            classes = softmax(box[5:]) if probable else box[5:]
            expected += [*box[:4], sigmoid(box[4]), *classes]
    assert_equals(module(torch.tensor(x)), np.reshape(expected, x.shape))


def overlap(a: list[float], b: list[float]) -> float:
    """Intersection over union of the parts in the image of (centre x, centre y, width, height)."""
    ends = [[(max(c - s / 2, 0), min(c + s / 2, 1)) for c, s in zip(box[:2], box[2:], strict=True)] for box in (a, b)]
    sides = [min(p[1], q[1]) - max(p[0], q[0]) for p, q in zip(*ends, strict=True)]
    if min(sides) <= 0:
        return 0.0
    areas = [math.prod(high - low for low, high in of_box) for of_box in ends]
    return math.prod(sides) / (sum(areas) - math.prod(sides))


def detections(x: np.ndarray, confidence: float, threshold: float) -> list[list[float]]:
    found: list[tuple[list[float], float]] = []
    for i, j, n in np.ndindex(3, 3, 2):
        box = x[0, :, i, j].reshape(2, 7)[n]
        classes, sure = softmax(box[5:]), sigmoid(box[4])
        best = int(classes.argmax())
        if sure * classes[best] >= confidence:
            place = [(j + sigmoid(box[0])) / 3, (i + sigmoid(box[1])) / 3]
            size = [math.exp(box[2]) * BIASES[n][0] / 3, math.exp(box[3]) * BIASES[n][1] / 3]
            found.append(([0, best, sure * classes[best], *place, *size], sure))
    alive = [True] * len(found)
    for i in range(len(found)):
        for j in range(i + 1, len(found)):
            if alive[i] and alive[j] and overlap(found[i][0][3:], found[j][0][3:]) >= threshold:
                alive[j if found[i][1] > found[j][1] else i] = False
    return [row for (row, _), stays in zip(found, alive, strict=True) if stays]


@pytest.mark.parametrize("seed", range(4))
def test_detections(seed: int) -> None:
    x = np.random.RandomState(seed).randn(1, 14, 3, 3)
    x[:, [2, 3, 9, 10]] -= 1
    module = build(DETECTIONS % 0.2, x.shape, dialect=FORK)
    expected = detections(x, 0.2, 0.3)
    assert 3 < len(expected) < 18
    assert_equals(module(torch.tensor(x)), np.array(expected)[None, None])
    assert module.infer(torch.empty(x.shape)).shape == (1, 1, 1, 7)


def test_no_detection_is_one_row() -> None:
    module = build(DETECTIONS % 1.5, (1, 14, 3, 3), dialect=FORK)
    assert_equals(module(torch.zeros(1, 14, 3, 3)), [[[[0, -1, -1, -1, -1, -1, -1]]]])


def test_errors() -> None:
    region = 'type: "Region" region_param { classes: 3 boxes_of_each_grid: 2 coords: %d }'
    with pytest.raises(LayerError, match="coords is 5; 4 was expected"):
        build(region % 5, (1, 18, 3, 4), dialect=FORK)
    with pytest.raises(LayerError, match=r"a map of 2 x \(5 \+ 3\) numbers"):
        build(region % 4, (1, 15, 3, 4), dialect=FORK)
    with pytest.raises(LayerError, match="at least one box"):
        build('type: "Region" region_param { classes: 0 }', (1, 15, 3, 4), dialect=FORK)
    with pytest.raises(LayerError, match="one map of side 3"):
        build(DETECTIONS % 0.2, (1, 14, 3, 4), dialect=FORK)
    with pytest.raises(LayerError, match="one map of side 3"):
        build(DETECTIONS % 0.2, (2, 14, 3, 3), dialect=FORK)
    with pytest.raises(LayerError, match="needs classes"):
        build((DETECTIONS % 0.2).replace("classes: 2", ""), (1, 14, 3, 3), dialect=FORK)
    with pytest.raises(LayerError, match="has 2 numbers in biases for num_box 2"):
        build((DETECTIONS % 0.2).replace("1.5, 2, 3, 1", "1, 2"), (1, 14, 3, 3), dialect=FORK)
