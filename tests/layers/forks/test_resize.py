"""Resize against a definition with one loop per index."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build, precise

POSE, WINDOWS = "zimenglan-sysu-512/pose_action_caffe", "happynear/caffe-windows"


def _resized(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = x.shape[2:]
    expected = np.zeros((*x.shape[:2], *size))
    for row, column in np.ndindex(*size):
        y, z = row * height / size[0], column * width / size[1]
        top, left = math.floor(y), math.floor(z)
        for j, down in ((top, 1 - (y - top)), (top + 1, y - top)):
            for i, right in ((left, 1 - (z - left)), (left + 1, z - left)):
                if j < height and i < width:  # weights are lost behind the last cell
                    expected[:, :, row, column] += down * right * x[:, :, j, i]
    return expected


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("height: 3 width: 11", (3, 11)),
        ("height: 13 width: 4", (13, 4)),
        ("height_fac: 0.707 width_fac: 2", (7, 14)),
        ("height_fac: 0.7 width_fac: 1.5", (7, 10)),  # 10 times the nearest number to 0.7 is 7 in single precision only
    ],
)
def test_resize(text: str, size: tuple[int, int], device: torch.device) -> None:
    x = np.random.RandomState(0).randn(2, 3, 10, 7)
    given = torch.tensor(x, device=device, dtype=precise(device))
    module = build(f'type: "Resize" resize_param {{ {text} }}', x.shape, dialect=POSE)
    expected = _resized(x, size)
    assert_equals(module(given), expected)
    assert module.infer(given).shape == expected.shape
    assert module(given.half()).dtype == torch.float16


def test_second_bottom(device: torch.device) -> None:
    x = np.random.RandomState(1).randn(2, 3, 5, 4)
    given, like = torch.tensor(x, device=device, dtype=precise(device)), torch.empty(1, 1, 9, 3, device=device)
    module = build('type: "Resize"', x.shape, like.shape, dialect=POSE)
    assert_equals(module(given, like), _resized(x, (9, 3)))
    assert module.infer(given, like).shape == (2, 3, 9, 3)


def test_errors() -> None:
    with pytest.raises(LayerError, match="needs height and width"):
        build('type: "Resize" resize_param { height: 3 }', (1, 2, 4, 4), dialect=POSE)
    with pytest.raises(LayerError, match="not from both"):
        build('type: "Resize" resize_param { height: 3 width: 3 }', (1, 2, 4, 4), (1, 2, 3, 3), dialect=POSE)
    with pytest.raises(LayerError, match="holds the size"):
        build('type: "Resize"', (1, 2, 4, 4), (1, 4, 1, 1), dialect=POSE)
    with pytest.raises(LayerError, match="the top would be 0 x 0"):
        build('type: "Resize" resize_param { height_fac: 0.1 width_fac: 0.2 }', (1, 2, 4, 4), dialect=POSE)


def test_a_pyramid_of_caffe_windows() -> None:
    x = np.random.RandomState(2).randn(2, 3, 5, 4)
    sizes = "height: 9 width: 3 out_height_scale: 1.5 out_width_scale: 2"
    text = f'type: "Resize" resize_param {{{{ is_pyramid_test: {{}} {sizes} }}}}'
    for pyramid, size in (("true", (7, 8)), ("false", (9, 3))):
        module = build(text.format(pyramid), x.shape, dialect=WINDOWS)
        assert_equals(module(torch.tensor(x)), _resized(x, size))
    with pytest.raises(LayerError, match="needs height and width"):
        build('type: "Resize" resize_param { height: 9 }', x.shape, dialect=WINDOWS)
    with pytest.raises(LayerError, match="needs out_height_scale and out_width_scale"):
        build('type: "Resize" resize_param { is_pyramid_test: true height: 9 width: 3 }', x.shape, dialect=WINDOWS)
