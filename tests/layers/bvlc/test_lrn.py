from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build, precise

SHAPE = (2, 7, 5, 4)


def values(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.RandomState(0).uniform(-3, 3, shape)


@pytest.mark.parametrize(
    ("text", "size", "alpha", "beta", "k"),
    [
        ("", 5, 1.0, 0.75, 1.0),
        ("local_size: 3 alpha: 0.5 beta: 0.25 k: 2", 3, 0.5, 0.25, 2.0),
        ("local_size: 1 alpha: 2", 1, 2.0, 0.75, 1.0),
        ("local_size: 9 alpha: 2", 9, 2.0, 0.75, 1.0),
        ("local_size: 21", 21, 1.0, 0.75, 1.0),
        ("alpha: 0 k: 4", 5, 0.0, 0.75, 4.0),
    ],
)
def test_across_channels(text: str, size: int, alpha: float, beta: float, k: float, device: torch.device) -> None:
    x = values()
    scale = np.zeros(SHAPE)
    for c in range(7):
        near = x[:, max(0, c - size // 2) : c + size // 2 + 1]
        scale[:, c] = k + alpha / size * (near**2).sum(1)
    module = build(f'type: "LRN" lrn_param {{ {text} }}', SHAPE)
    assert_equals(module(torch.tensor(x, dtype=precise(device), device=device)), x * scale**-beta)


@pytest.mark.parametrize(
    ("text", "size", "alpha", "beta"),
    [("", 5, 1.0, 0.75), ("local_size: 3 alpha: 0.5 beta: 0.25 k: 2", 3, 0.5, 0.25), ("local_size: 9", 9, 1.0, 0.75)],
)
def test_within_channel_ignores_k(text: str, size: int, alpha: float, beta: float, device: torch.device) -> None:
    x = values()
    scale = np.zeros(SHAPE)
    half = size // 2
    for i, j in np.ndindex(SHAPE[2:]):
        near = x[:, :, max(0, i - half) : i + half + 1, max(0, j - half) : j + half + 1]
        scale[:, :, i, j] = 1 + alpha / size**2 * (near**2).sum((2, 3))
    module = build(f'type: "LRN" lrn_param {{ norm_region: WITHIN_CHANNEL {text} }}', SHAPE)
    assert_equals(module(torch.tensor(x, dtype=precise(device), device=device)), x * scale**-beta)


@pytest.mark.parametrize("region", ["ACROSS_CHANNELS", "WITHIN_CHANNEL"])
def test_gradient_empty_batch_and_half_precision(region: str) -> None:
    module = build(f'type: "LRN" lrn_param {{ norm_region: {region} local_size: 3 }}', (1, 4, 3, 2))
    x = torch.rand(1, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, x)
    assert module(x[:0]).shape == (0, 4, 3, 2)
    half = module(x.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), module(x), rtol=5e-3, atol=1e-3)


def test_errors() -> None:
    with pytest.raises(LayerError, match="local_size is 4; it must be odd"):
        build('type: "LRN" lrn_param { local_size: 4 }', SHAPE)
    with pytest.raises(LayerError, match="local_size is 0; it must be odd"):
        build('type: "LRN" lrn_param { local_size: 0 }', SHAPE)
    with pytest.raises(LayerError, match=r"\[2, 7, 5\]; \(images, channels, height, width\) was"):
        build('type: "LRN"', (2, 7, 5))
