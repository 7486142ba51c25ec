"""ImResize and Nms against definitions with one loop per index, written from the fork's GPU code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build, precise

FORK = "CMU-Perceptual-Computing-Lab/caffe_rtpose"


def _cubic(v: list[float], t: float) -> float:
    a, b, c, d = v
    return (
        (-0.5 * a + 1.5 * b - 1.5 * c + 0.5 * d) * t**3
        + (a - 2.5 * b + 2 * c - 0.5 * d) * t**2
        + (-0.5 * a + 0.5 * c) * t
        + b
    )


def _neighbours(place: float, size: int, pad: int) -> tuple[list[int], float]:
    at = max(int(place + 1e-5), 0)
    return [min(max(at + i, 0), size - 1) + pad for i in (-1, 0, 1, 2)], place - at


def _resized(x: np.ndarray, size: tuple[int, int], start: float, gap: float) -> np.ndarray:
    expected = np.zeros((1, x.shape[1], *size))
    for n, c, row, column in np.ndindex(*x.shape[:2], *size):
        pads = [math.floor(s // 2 * (1 - start + n * gap)) for s in x.shape[2:]]
        inner = [s - 2 * p for s, p in zip(x.shape[2:], pads, strict=True)]
        places = [(at - (t / s / 2 - 0.5)) * (s / t) for at, s, t in zip((row, column), inner, size, strict=True)]
        rows, dy = _neighbours(places[0], inner[0], pads[0])
        columns, dx = _neighbours(places[1], inner[1], pads[1])
        lines = [_cubic([x[n, c, j, i] for i in columns], dx) for j in rows]
        expected[0, c, row, column] += _cubic(lines, dy) / len(x)
    return expected


@pytest.mark.parametrize(
    ("shape", "text", "size", "start", "gap"),
    [
        ((1, 2, 5, 7), "factor: 8", (40, 56), 1.0, 0.1),
        ((3, 2, 9, 13), "factor: 2.5 start_scale: 0.9 scale_gap: 0.3", (22, 32), 0.9, 0.3),
        ((2, 1, 8, 6), "target_spatial_height: 5 target_spatial_width: 11 scale_gap: 0.3", (5, 11), 1.0, 0.3),
    ],
)
def test_im_resize(
    shape: tuple[int, ...], text: str, size: tuple[int, int], start: float, gap: float, device: torch.device
) -> None:
    x = np.random.RandomState(0).randn(*shape)
    given = torch.tensor(x, device=device, dtype=precise(device))
    module = build(f'type: "ImResize" imresize_param {{ {text} }}', shape, dialect=FORK)
    expected = _resized(x, size, start, gap)
    assert_equals(module(given), expected)
    assert module.infer(given).shape == expected.shape
    assert module(given.half()).dtype == torch.float16


def test_im_resize_errors() -> None:
    with pytest.raises(LayerError, match="leave nothing of, or more than map 1"):
        build('type: "ImResize" imresize_param { factor: 2 scale_gap: 1 }', (2, 1, 8, 8), dialect=FORK)
    with pytest.raises(LayerError, match=r"the top would be \[0, 0\]"):
        build('type: "ImResize" imresize_param { factor: 0.1 }', (1, 1, 8, 8), dialect=FORK)


def _peaks(x: np.ndarray, threshold: float, parts: int, most: int) -> np.ndarray:
    _, _, height, width = x.shape
    flat = np.concatenate([x.ravel(), np.zeros(3 * width)])
    expected = np.zeros((1, parts, most + 1, 3))
    for c in range(parts):
        count = 0
        for row in range(1, height - 1):
            for column in range(1, width - 1):
                around = x[0, c, row - 1 : row + 2, column - 1 : column + 2].copy()
                value, around[1, 1] = around[1, 1], -np.inf
                if value <= threshold or value <= around.max():
                    continue
                count += 1
                if count > most:
                    continue
                sums = np.zeros(3)
                for j in range(row - 3, row + 4):
                    for i in range(column - 3, column + 4):
                        # The fork compares the row with the width.
                        if 0 < j < width and 0 < i < width:
                            score = flat[c * height * width + j * width + i]
                            if score > 0:
                                sums += [i * score, j * score, score]
                expected[0, c, count] = sums[0] / sums[2], sums[1] / sums[2], value
        expected[0, c, 0, 0] = count
    return expected


@pytest.mark.parametrize(("shape", "parts"), [((1, 4, 12, 17), 2), ((1, 3, 19, 11), 3), ((1, 3, 10, 14), 3)])
def test_nms(shape: tuple[int, ...], parts: int, device: torch.device) -> None:
    x = np.random.RandomState(0).randn(*shape)
    x[0, 0, 4, 4] = x[0, 0, 4, 5] = 5  # two alike side by side are no peak
    x[0, 1] = -1
    given = torch.tensor(x, device=device, dtype=precise(device))
    text = f'type: "Nms" nms_param {{ threshold: 0.3 max_peaks: 6 num_parts: {parts} num_peak: 9 }}'
    module = build(text, shape, dialect=FORK)
    expected = _peaks(x, 0.3, parts, 6)
    assert expected[0, 0, 0, 0] > 6
    assert expected[0, 1, 0, 0] == 0
    assert_equals(module(given), expected)
    assert module.infer(given).shape == expected.shape


def test_nms_of_several_images() -> None:
    """The fork steps from image to image by num_parts maps; those between do not take part."""
    x = torch.randn(2, 3, 9, 9)
    text = 'type: "Nms" nms_param { threshold: 0.3 num_parts: 2 }'
    module = build(text, x.shape, dialect=FORK)
    found = module(x)
    assert found.shape == module.infer(x).shape == (2, 2, 21, 3)
    for image, maps in enumerate(x.flatten(0, 1)[:4].unflatten(0, (2, 2))):
        assert_equals(module(maps[None])[0], found[image])


def test_nms_leaves_out_what_is_no_number() -> None:
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 4, 4], x[0, 0, 4, 6], x[0, 0, 2, 4] = 4, float("nan"), 1
    top = build('type: "Nms" nms_param { num_parts: 1 max_peaks: 1 }', x.shape, dialect=FORK)(x)
    assert_equals(top[0, 0, 1], [4, (4 * 4 + 2) / 5, 1])


def test_nms_errors() -> None:
    with pytest.raises(LayerError, match="maps >= 15"):
        build('type: "Nms"', (1, 14, 8, 8), dialect=FORK)
    with pytest.raises(LayerError, match="max_peaks 0"):
        build('type: "Nms" nms_param { max_peaks: 0 }', (1, 15, 8, 8), dialect=FORK)


def test_the_largest_value_of_each_map() -> None:
    x = np.random.RandomState(3).uniform(-1, 1, (2, 3, 4, 5))
    x[0, 0] = -np.abs(x[0, 0])
    expected = [[[[*divmod(int(one.argmax()), 5)[::-1], one.max()]] for one in maps] for maps in x]
    module = build('type: "Maximum"', x.shape, dialect=FORK)
    assert_equals(module(torch.tensor(x)), expected)
    with pytest.raises(LayerError, match="width > 0"):
        build('type: "Maximum"', (2, 3, 4, 0), dialect=FORK)
