"""Yolov3DetectionOutput and YoloDetectionOutput against definitions with one loop per index."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build

FORK = "eric612/MobileNet-YOLO"


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def overlap(a: list[float], b: list[float]) -> float:
    """Intersection over union of (centre x, centre y, width, height)."""
    sides = [
        min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2) - max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2) for i in (0, 1)
    ]
    shared = sides[0] * sides[1] if min(sides) >= 0 else 0.0
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def suppressed(found: list[tuple[float, int, list[float]]], threshold: float) -> np.ndarray:
    """The rows of the top from (confidence, class, box) in the order they were found."""
    found = sorted(found, key=lambda one: -one[0])
    kept: list[tuple[float, int, list[float]]] = []
    for one in found:
        if all(overlap(other[2], one[2]) < threshold for other in kept):
            kept.append(one)
    return np.array([[0, c + 1, p, x - w / 2, y - h / 2, x + w / 2, y + h / 2] for p, c, (x, y, w, h) in kept])[
        None, None
    ]


V3 = (
    'type: "Yolov3DetectionOutput" yolov3_detection_output_param { num_classes: 3 num_box: 2 mask_group_num: 2 '
    "mask: 2 mask: 3 mask: 0 mask: 1 biases: [10, 14, 23, 27, 37, 58, 81, 82] anchors_scale: 32 anchors_scale: 16 "
    "confidence_threshold: 0.3 nms_threshold: 0.4 }"
)
V3_SHAPES = ((2, 16, 3, 4), (2, 16, 6, 8))


def test_yolov3() -> None:
    random = np.random.RandomState(0)
    maps = [random.randn(*shape) * 1.5 for shape in V3_SHAPES]
    anchors = [[(37, 58), (81, 82)], [(10, 14), (23, 27)]]
    found = []
    for x, sizes, scale in zip(maps, anchors, (32, 16), strict=True):
        images, _, height, width = x.shape
        for image in range(images):
            for row in range(height):
                for column in range(width):
                    for n, (wide, high) in enumerate(sizes):
                        v = x[image, n * 8 : n * 8 + 8, row, column]
                        box = [
                            (column + sigmoid(v[0])) / width,
                            (row + sigmoid(v[1])) / height,
                            math.exp(v[2]) * wide / (width * scale),
                            math.exp(v[3]) * high / (height * scale),
                        ]
                        for c in range(3):
                            confidence = sigmoid(v[5 + c]) * sigmoid(v[4])
                            if confidence > 0.3:
                                found.append((confidence, c, box))
    expected = suppressed(found, 0.4)
    assert 5 < expected.shape[2] < len(found) - 5
    module = build(V3, *V3_SHAPES, dialect=FORK)
    assert_equals(module(*map(torch.tensor, maps)), expected)
    assert module.infer(*(torch.empty(s, device="meta") for s in V3_SHAPES)).shape == (1, 1, 1, 7)
    half = module(*(torch.tensor(x).half() for x in maps))
    assert half.dtype == torch.float16


def test_yolo_v2() -> None:
    text = (
        'type: "YoloDetectionOutput" yolo_detection_output_param { num_classes: 3 num_box: 2 biases: [1, 1.5, 3, 2] '
        "confidence_threshold: 0.2 nms_threshold: 0.3 }"
    )
    random = np.random.RandomState(1)
    maps = [random.randn(2, 16, side, side) for side in (3, 5)]
    found = []
    for x in maps:
        side = x.shape[2]
        for image in range(2):
            for row in range(side):
                for column in range(side):
                    for n, (wide, high) in enumerate([(1, 1.5), (3, 2)]):
                        v = x[image, n * 8 : n * 8 + 8, row, column]
                        p = np.exp(v[5:]) / np.exp(v[5:]).sum()
                        confidence = sigmoid(v[4]) * p.max()
                        if confidence >= 0.2:
                            box = [(column + sigmoid(v[0])) / side, (row + sigmoid(v[1])) / side]
                            box += [math.exp(v[2]) * wide / side, math.exp(v[3]) * high / side]
                            found.append((confidence, int(p.argmax()), box))
    expected = suppressed(found, 0.3)
    assert 5 < expected.shape[2] < len(found) - 5
    module = build(text, *(x.shape for x in maps), dialect=FORK)
    assert_equals(module(*map(torch.tensor, maps)), expected)


def test_boxes_go_at_the_threshold_and_nothing_is_a_row_per_image(device: torch.device) -> None:
    module = build(V3, *V3_SHAPES, dialect=FORK)
    maps = [torch.full(shape, -20.0, device=device) for shape in V3_SHAPES]
    assert module(*maps).tolist() == [[[[0.0, *[-1.0] * 6], [1.0, *[-1.0] * 6]]]]
    # One cell, two classes: the same box twice, whose overlap is 1.
    maps[0][0, 2:4, 1, 2] = 0
    maps[0][0, 4:8, 1, 2] = 20
    module.threshold = 1.0
    assert module(*maps).shape == (1, 1, 1, 7)
    module.threshold = 1.0001
    assert module(*maps).shape == (1, 1, 3, 7)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_classes: 3", "", "needs num_classes"),
        (
            "num_classes: 3",
            "num_classes: 4",
            r"\(images, 2 anchors with 5 and 4 numbers = 18, height > 0",
        ),
        ("mask_group_num: 2", "mask_group_num: 3", "mask_group_num is 3, but there are 2 bottoms"),
        ("mask: 3", "mask: 4", "the 4 anchors in biases"),
        ("mask: 0 mask: 1 ", "", "the 4 anchors in biases"),
        ("82]", "82, 1]", "a width and a height"),
        ("anchors_scale: 16", "", "1 anchors_scale for 2 bottoms"),
        ("anchors_scale: 16", "anchors_scale: 0", "must be positive"),
        ("num_box: 2", "num_box: 2 gaussian_box: true", "gaussian_box is not supported"),
    ],
)
def test_errors(old: str, new: str, message: str) -> None:
    assert old in V3
    with pytest.raises(LayerError, match=message):
        build(V3.replace(old, new), *V3_SHAPES, dialect=FORK)


def test_the_first_fork_takes_every_map_for_a_square() -> None:
    shapes = [(*shape[:2], 3, 4) for shape in V3_SHAPES]
    build(V3, *shapes, dialect=FORK)
    with pytest.raises(LayerError, match=r"\(images, channels, side, side\) was expected"):
        build(V3, *shapes, dialect="eric612/Caffe-YOLOv3-Windows")


def test_the_second_generation_takes_square_maps() -> None:
    text = 'type: "YoloDetectionOutput" yolo_detection_output_param { num_classes: 3 num_box: 1 biases: [1, 2] }'
    with pytest.raises(LayerError, match=r"\(images, channels, side, side\) was expected"):
        build(text, (1, 8, 3, 4), dialect=FORK)
    with pytest.raises(LayerError, match="0 anchors in biases for num_box 1"):
        build(text.replace("biases: [1, 2]", ""), (1, 8, 3, 3), dialect=FORK)
