"""BoxFeatures and ChannelSelect (torrvision/caffe-tvg) against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_compat.errors import CaffeCompatError, LayerError
from tests.layers.building import assert_equals, build

FORK = "torrvision/caffe-tvg"
# Class, left, top, right, bottom, score: one beside the picture on two sides, one upside down, one of a pixel.
DETECTIONS = np.array(
    [[2.9, -1.5, 2, 3.9, 9, 0.25], [0, 4, 3, 1, 1, 2], [1, 5, 0, 5, 0, -1], [2, 0, 0, 4, 3, 0.5]], np.float32
).reshape(1, 4, 1, 6)


@pytest.mark.parametrize(("own", "background"), [("", 0), ("is_background_det: true background_det_score: 0.75", 0.75)])
def test_maps_for_each_detection(own: str, background: float) -> None:
    maps = np.random.RandomState(1).randn(1, 3, 5, 6)
    directories = 'detection_box_input_dir: "" detection_pixel_input_dir: ""'
    text = f'type: "BoxFeatures" box_term_param {{ {directories} {own} }}'
    x = torch.tensor(maps, requires_grad=True)
    found = build(text, maps.shape, DETECTIONS.shape, dialect=FORK)(x, torch.tensor(DETECTIONS))
    factors = np.zeros((5, 1, 5, 6))
    factors[0] = background
    for i, (_, *box, score) in enumerate(DETECTIONS.reshape(-1, 6).tolist()):
        left, top, right, bottom = (int(number) for number in box)
        for y, h in np.ndindex(5, 6):
            if left <= h <= right and top <= y <= bottom:
                factors[i + 1, 0, y, h] = math.exp(score) / (math.exp(score) + math.exp(1 - score))
    assert (factors[1:].reshape(4, -1) > 0).sum(1).tolist() == [12, 0, 1, 20]
    assert_equals(found, maps * factors)
    slope = np.random.RandomState(2).randn(*found.shape)
    found.backward(torch.tensor(slope))
    assert_equals(x.grad, (slope * factors).sum(0, keepdims=True))


def test_the_channel_of_each_class() -> None:
    maps = np.random.RandomState(1).randn(6, 3, 4, 5)
    module = build('type: "ChannelSelect"', maps.shape, DETECTIONS.shape, dialect=FORK)
    x = torch.tensor(maps, requires_grad=True)
    found = module(x, torch.tensor(DETECTIONS))
    expected = np.stack([maps[i, c] for i, c in enumerate((0, 2, 0, 1, 2))] + [np.zeros((4, 5))])[:, None]
    assert_equals(found, expected)
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.sum((2, 3)).nonzero().tolist() == [[0, 0], [1, 2], [2, 0], [3, 1], [4, 2]]
    assert x.grad.unique().tolist() == [0, 1]
    beyond = DETECTIONS.copy()
    beyond[0, 1, 0, 0] = 3
    with pytest.raises(LayerError, match="none of the 3 channels"):
        module(x, torch.tensor(beyond))


def test_errors() -> None:
    for kind, shapes, message in (
        ("BoxFeatures", [(2, 3, 4, 5), (1, 4, 1, 6)], r"\(1, channels, height, width\) was expected"),
        ("BoxFeatures", [(1, 3, 4, 5), (1, 4, 1, 5)], "six numbers for each detection"),
        ("BoxFeatures", [(1, 3, 4, 5), (2, 4, 1, 6)], r"\(1, detections, any more\) was expected|was expected"),
        ("ChannelSelect", [(4, 3, 4, 5), (1, 4, 1, 6)], "5 or more, channels"),
        ("ChannelSelect", [(4, 3, 4), (1, 3, 1, 6)], "images, channels, height, width"),
    ):
        with pytest.raises(CaffeCompatError, match=message):
            build(f'type: "{kind}"', *shapes, dialect=FORK)
