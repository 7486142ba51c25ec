"""DeformableConvolution against a definition with one loop per index, and the plain convolution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from building import assert_equals, build, give_values, precise
from torch.nn import functional

from caffe_compat.errors import LayerError

FORK = "makefile/frcnn"
TEXT = """type: "DeformableConvolution" deformable_convolution_param { num_output: 6 kernel_h: 3 kernel_w: 2 pad_h: 2
    pad_w: 1 dilation: 2 group: 2 deformable_group: 4 }"""
SHAPE, MOVES = (2, 8, 5, 6), (2, 4 * 2 * 6, 5, 6)


def _value(x: np.ndarray, row: float, column: float) -> float:
    height, width = x.shape
    if not (0 <= row < height and 0 <= column < width):
        return 0.0
    top, left = math.floor(row), math.floor(column)
    down, right = min(top + 1, height - 1), min(left + 1, width - 1)
    a, b = column - left, row - top
    return (1 - b) * ((1 - a) * x[top, left] + a * x[top, right]) + b * ((1 - a) * x[down, left] + a * x[down, right])


def test_deformable_convolution(device: torch.device) -> None:
    random = np.random.RandomState(0)
    x, moves = random.randn(*SHAPE), random.randn(*MOVES) * 1.5
    module = give_values(build(TEXT, SHAPE, MOVES, dialect=FORK), device).to(precise(device))
    assert module.weight.shape == (6, 4, 3, 2)
    weight, bias = (blob.detach().cpu().numpy() for blob in (module.weight, module.bias))
    expected = np.zeros((2, 6, 5, 6))
    for n, o, h, w in np.ndindex(*expected.shape):
        total = bias[o]
        for c, i, j in np.ndindex(4, 3, 2):
            channel = o // 3 * 4 + c
            at = (channel // 2) * 12 + 2 * (i * 2 + j)
            row, column = h - 2 + 2 * i + moves[n, at, h, w], w - 1 + 2 * j + moves[n, at + 1, h, w]
            total += weight[o, c, i, j] * _value(x[n, channel], row, column)
        expected[n, o, h, w] = total
    given = [torch.tensor(v, device=device, dtype=precise(device)) for v in (x, moves)]
    top = module(*given)
    assert_equals(top, expected)
    assert module.infer(*given).shape == top.shape
    still = module(given[0], torch.zeros_like(given[1]))
    plain = functional.conv2d(given[0], module.weight, module.bias, 1, (2, 1), 2, 2)
    torch.testing.assert_close(still, plain)
    assert module.half()(*(v.half() for v in given)).dtype == torch.float16


def test_gradients() -> None:
    random = np.random.RandomState(1)
    text = 'type: "DeformableConvolution" deformable_convolution_param { num_output: 2 kernel_size: 3 pad: 1 '
    module = give_values(build(f"{text} deformable_group: 1 }}", (1, 2, 3, 4), (1, 18, 3, 4), dialect=FORK)).double()
    x = torch.tensor(random.randn(1, 2, 3, 4), requires_grad=True)
    moves = torch.tensor(random.uniform(-0.4, 0.4, (1, 18, 3, 4)).round(1) + 0.03, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x, moves))


@pytest.mark.parametrize(
    ("text", "moves", "message"),
    [
        ("kernel_size: 3 pad: 1 stride: 2", (1, 72, 5, 6), "must keep the size of the bottom, 5 x 6"),
        ("kernel_size: 3", (1, 72, 5, 6), "must keep the size"),
        ("kernel_size: 3 pad: 1", (1, 18, 5, 6), r"\[1, 72, 5, 6\] was expected"),
        ("kernel_size: 3 pad: 1 deformable_group: 3", (1, 54, 5, 6), "deformable_group 3 must divide the 8 channels"),
    ],
)
def test_errors(text: str, moves: tuple[int, ...], message: str) -> None:
    with pytest.raises(LayerError, match=message):
        build(
            f'type: "DeformableConvolution" deformable_convolution_param {{ num_output: 2 {text} }}',
            (1, 8, 5, 6),
            moves,
            dialect=FORK,
        )
