"""SpatialTransformer against a definition with one loop per index."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build, precise

FORK = "daerduoCarey/SpatialTransformerLayer"


def _moved(x: np.ndarray, theta: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    images, channels, height, width = x.shape
    expected = np.zeros((images, channels, *size))
    for n, c, s, t in np.ndindex(*expected.shape):
        place = np.array([s / size[0] * 2 - 1, t / size[1] * 2 - 1, 1])
        px, py = theta[n].reshape(2, 3) @ place
        row, column = (px + 1) / 2 * height, (py + 1) / 2 * width
        for m in (math.floor(row), math.floor(row) + 1):
            for k in (math.floor(column), math.floor(column) + 1):
                if 0 <= m < height and 0 <= k < width:
                    expected[n, c, s, t] += (1 - abs(row - m)) * (1 - abs(column - k)) * x[n, c, m, k]
    return expected


@pytest.mark.parametrize(("text", "size"), [("", (4, 7)), ("output_H: 6 output_W: 3", (6, 3)), ("output_W: 5", (4, 5))])
def test_spatial_transformer(text: str, size: tuple[int, int], device: torch.device) -> None:
    random = np.random.RandomState(0)
    x, theta = random.randn(3, 2, 4, 7), random.uniform(-1.2, 1.2, (3, 6))
    theta[1] = (1, 0, 0, 0, 1, 0)  # the map itself where the size is the same
    given = [torch.tensor(v, device=device, dtype=precise(device)) for v in (x, theta)]
    module = build(f'type: "SpatialTransformer" st_param {{ {text} }}', x.shape, (3, 6), dialect=FORK)
    expected = _moved(x, theta, size)
    assert_equals(module(*given), expected)
    assert module.infer(*given).shape == expected.shape
    if size == (4, 7):
        assert_equals(module(*given)[1], x[1])


def test_fixed_numbers(device: torch.device) -> None:
    random = np.random.RandomState(1)
    x, theta = random.randn(2, 3, 5, 4), random.uniform(-0.5, 0.5, (2, 2))
    full = np.array([[0.5, 0, row[0], -0.25, 0.75, row[1]] for row in theta])
    text = 'type: "SpatialTransformer" st_param { theta_1_1: 0.5 theta_1_2: 0 theta_2_1: -0.25 theta_2_2: 0.75 }'
    module = build(text, x.shape, (2, 2, 1, 1), dialect=FORK)
    given = [torch.tensor(v, device=device, dtype=precise(device)) for v in (x, theta[..., None, None])]
    assert_equals(module(*given), _moved(x, full, (5, 4)))


@pytest.mark.parametrize("backward", [True, False])
def test_gradients(backward: bool) -> None:
    random = np.random.RandomState(2)
    x = torch.tensor(random.randn(1, 2, 4, 5), requires_grad=backward)
    theta = torch.tensor([[0.83, 0.11, 0.07, -0.13, 0.71, 0.05]], dtype=torch.float64, requires_grad=True)
    text = f'type: "SpatialTransformer" st_param {{ output_H: 3 to_compute_dU: {str(backward).lower()} }}'
    module = build(text, x.shape, theta.shape, dialect=FORK)
    assert torch.autograd.gradcheck(module, (x, theta))
    x.requires_grad_()
    (found,) = torch.autograd.grad(module(x, theta).sum(), x, allow_unused=True)
    assert (found is not None) == backward


def test_gradient_at_the_identity() -> None:
    # Places lie on the cells but for rounding, which decides between which two of them the slope is taken.
    random = np.random.RandomState(3)
    height, width = 6, 9
    x = random.randn(1, 1, height, width).astype(np.float32)
    theta = torch.tensor([[1.0, 0, 0, 0, 1, 0]], requires_grad=True)
    top = build('type: "SpatialTransformer"', x.shape, (1, 6), dialect=FORK)(torch.tensor(x), theta)
    above = random.randn(*x.shape).astype(np.float32)
    top.backward(torch.tensor(above))
    map_ = np.pad(x[0, 0], 1)
    expected = np.zeros(6)
    sides = []
    for s, t in np.ndindex(height, width):
        row, column = ((np.float32(i / n * 2 - 1) + np.float32(1)) / 2 * n for i, n in ((s, height), (t, width)))
        m, k = math.floor(row), math.floor(column)
        sides.append((m - s, k - t))
        a, b = map_[m + 1 : m + 3, k + 1 : k + 3].astype(np.float64)
        down = above[0, 0, s, t] * height / 2 * ((b - a) * (1 - column + k, column - k)).sum()
        right = above[0, 0, s, t] * width / 2 * ((a[1] - a[0]) * (1 - row + m) + (b[1] - b[0]) * (row - m))
        place = np.array([s / height * 2 - 1, t / width * 2 - 1, 1])
        expected += [*(down * place), *(right * place)]
    assert len(set(sides)) > 1
    assert theta.grad is not None
    assert_equals(theta.grad[0], expected)


def test_errors() -> None:
    text = 'type: "SpatialTransformer" st_param { theta_1_1: 1 }'
    with pytest.raises(LayerError, match=r"\(images = 2, numbers = 5\) was"):
        build(text, (2, 3, 4, 5), (2, 6), dialect=FORK)
    with pytest.raises(LayerError, match="'tps'"):
        build('type: "SpatialTransformer" st_param { transform_type: "tps" }', (2, 3, 4, 5), (2, 6), dialect=FORK)
    with pytest.raises(LayerError, match="output_H 0"):
        build('type: "SpatialTransformer" st_param { output_H: 0 }', (2, 3, 4, 5), (2, 6), dialect=FORK)
