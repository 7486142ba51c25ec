"""Pooling of BannyStone's fork: of volumes, with sizes given once or for each axis, and of images as BVLC's."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build, precise

BANNY = "BannyStone/Caffe"
X = (2, 3, 4, 6, 7)


def by_hand(x: torch.Tensor, kernel: Any, stride: Any, pad: Any, mean: bool) -> torch.Tensor:
    """Window by window, as far as the volume, or for means the padding, reaches."""
    counts = []
    for n, k, s, p in zip(x.shape[2:], kernel, stride, pad, strict=True):
        count = math.ceil((n + 2 * p - k) / s) + 1
        counts.append(count - (p > 0 and (count - 1) * s >= n + p))
    out = x.new_empty(*x.shape[:2], *counts)
    for place in itertools.product(*map(range, counts)):
        starts = [i * s - p for i, s, p in zip(place, stride, pad, strict=True)]
        at: Any = (..., *(slice(max(a, 0), min(a + k, n)) for a, k, n in zip(starts, kernel, x.shape[2:], strict=True)))
        window, to = x[at].flatten(2), (..., *place)
        out[to] = window.sum(2) / math.prod(kernel) if mean else window.amax(2)
    return out


@pytest.mark.parametrize(
    ("told", "kernel", "stride", "pad"),
    [
        ("kernel_size: 2 stride: 2", (2, 2, 2), (2, 2, 2), (0, 0, 0)),  # the last windows reach over the end
        ("kernel_size: [1, 2, 3] stride: [1, 2, 2]", (1, 2, 3), (1, 2, 2), (0, 0, 0)),
        ("kernel_size: [2, 3, 3] stride: 2 pad: [0, 1, 1]", (2, 3, 3), (2, 2, 2), (0, 1, 1)),
        ("pool: AVE kernel_size: [2, 3, 3] stride: [2, 1, 2] pad: [1, 1, 1]", (2, 3, 3), (2, 1, 2), (1, 1, 1)),
        ("pool: AVE spatial_global_pooling: true", (1, 6, 7), (1, 1, 1), (0, 0, 0)),
        ("global_pooling: true", (4, 6, 7), (1, 1, 1), (0, 0, 0)),
    ],
)
def test_windows_of_volumes(told: str, kernel: Any, stride: Any, pad: Any, device: torch.device) -> None:
    x = torch.randn(X, dtype=precise(device), device=device)
    module = build(f'type: "Pooling" pooling_param {{ {told} }}', X, dialect=BANNY)
    assert_equals(module(x), by_hand(x, kernel, stride, pad, "AVE" in told).cpu())


def test_images_are_pooled_as_bvlcs() -> None:
    x = torch.randn(2, 3, 7, 6)
    text = 'type: "Pooling" pooling_param { kernel_size: [3, 2] stride: 2 pool: AVE }'
    plain = 'type: "Pooling" pooling_param { kernel_h: 3 kernel_w: 2 stride: 2 pool: AVE }'
    assert torch.equal(build(text, x.shape, dialect=BANNY)(x), build(plain, x.shape)(x))


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ("kernel_size: 0", "must be at least 1"),
        ("stride: 2", "must be at least 1"),
        ("kernel_size: [2, 2]", "kernel_size is given 2 times; once, or once for each of 3 axes"),
        ("kernel_size: 2 pool: STOCHASTIC", "STOCHASTIC is not implemented for volumes"),
        ("kernel_h: 2 kernel_w: 2", "kernel_h is for images"),
        ("kernel_size: 2 pad: 2", "above half of the kernel"),
        ("kernel_size: 9", "does not fit a bottom"),
        ("kernel_size: 1 stride: 3 pool: MAX", "would begin behind the end"),
        ("kernel_size: 2 stride: 2 pool: AVE", "AVE with windows that reach over the end"),
        ("kernel_size: 2 global_pooling: true", "goes with stride 1, pad 0 and without kernel_size"),
        ("stride: 2 spatial_global_pooling: true", "goes with stride 1"),
    ],
)
def test_poolings_that_make_no_sense(told: str, problem: str) -> None:
    with pytest.raises(LayerError, match=problem):
        build(f'type: "Pooling" pooling_param {{ {told} }}', (2, 3, 5, 6, 7), dialect=BANNY)


def test_what_is_for_volumes_or_images_alone() -> None:
    with pytest.raises(LayerError, match="has 2 tops; of volumes"):
        build('type: "Pooling" pooling_param { kernel_size: 2 }', X, dialect=BANNY, tops=2)
    with pytest.raises(LayerError, match="spatial_global_pooling is for volumes"):
        build('type: "Pooling" pooling_param { spatial_global_pooling: true }', (2, 3, 4, 5), dialect=BANNY)
    with pytest.raises(LayerError, match=r"images, channels"):
        build('type: "Pooling" pooling_param { kernel_size: 2 }', (2, 3, 4), dialect=BANNY)
