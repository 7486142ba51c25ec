"""Correlation and Warp against definitions with one loop per index."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from building import assert_equals, build, precise

from caffe_compat.errors import LayerError

FLOWNET, LITE = "lmb-freiburg/flownet2", "twhui/LiteFlowNet"


@pytest.mark.parametrize("kind", ["MULTIPLY", "SUBTRACT"])
@pytest.mark.parametrize(
    ("kernel", "displacement", "pad", "stride", "step"),
    [(1, 4, 4, 1, 2), (3, 3, 4, 2, 1), (3, 5, 6, 3, 2), (1, 0, 0, 2, 1)],
)
def test_correlation(
    kernel: int, displacement: int, pad: int, stride: int, step: int, kind: str, device: torch.device
) -> None:
    random = np.random.RandomState(0)
    a, b = random.randn(2, 3, 7, 9), random.randn(2, 3, 7, 9)
    wide = [np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)]) for x in (a, b)]
    radius, reach = kernel // 2, displacement // step
    height, width = (math.ceil((n + 2 * pad - 2 * (displacement + radius)) / stride) for n in (7, 9))
    grid = 2 * reach + 1
    expected = np.zeros((2, grid * grid, height, width))
    for channel in range(grid * grid):
        down, right = (channel // grid - reach) * step, (channel % grid - reach) * step
        for y in range(height):
            for x in range(width):
                for j in range(kernel):
                    for i in range(kernel):
                        row, column = y * stride + displacement + j, x * stride + displacement + i
                        u, v = wide[0][:, :, row, column], wide[1][:, :, row + down, column + right]
                        expected[:, channel, y, x] += (u * v if kind == "MULTIPLY" else abs(u - v)).sum(1)
    expected /= kernel * kernel * 3
    text = (
        f'type: "Correlation" correlation_param {{ kernel_size: {kernel} max_displacement: {displacement} pad: {pad} '
        f"stride_1: {stride} stride_2: {step} correlation_type: {kind} do_abs: true }}"
    )
    module = build(text, a.shape, b.shape, dialect=FLOWNET)
    given = [torch.tensor(x, device=device, dtype=precise(device)) for x in (a, b)]
    assert_equals(module(*given), expected)
    assert module.infer(*given).shape == expected.shape
    assert module(*(x.half() for x in given)).dtype == torch.float16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_displacement: 1", "needs kernel_size"),
        ("kernel_size: 1", "needs max_displacement"),
        ("kernel_size: 2 max_displacement: 1", "must be odd"),
        ("kernel_size: 1 max_displacement: 4", "do not fit into a map of 7 x 9"),
        ("kernel_size: 1 max_displacement: 1 stride_1: 0", "must be at least 1"),
        ("kernel_size: 1 max_displacement: 1 single_direction: 1", "single_direction"),
    ],
)
def test_correlation_errors(text: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        build(f'type: "Correlation" correlation_param {{ {text} }}', (2, 3, 7, 9), (2, 3, 7, 9), dialect=FLOWNET)
    with pytest.raises(LayerError, match="two alike"):
        build('type: "Correlation"', (2, 3, 7, 9), (2, 3, 7, 8), dialect=FLOWNET)


def test_warp(device: torch.device) -> None:
    random = np.random.RandomState(0)
    x = random.randn(2, 3, 4, 5)
    positions = random.uniform(-2, 6, (2, 2, 4, 5))
    positions[0, :, 0, 0] = (4, 3)  # the last pixel itself
    positions[0, :, 0, 1] = (1e30, -1e30)
    expected = np.zeros_like(x)
    for n, c, h, w in np.ndindex(*x.shape):
        px, py = positions[n, :, h, w]
        for row in (math.floor(py), math.floor(py) + 1):
            for column in (math.floor(px), math.floor(px) + 1):
                if 0 <= row < 4 and 0 <= column < 5:
                    expected[n, c, h, w] += (1 - abs(px - column)) * (1 - abs(py - row)) * x[n, c, row, column]
    module = build('type: "Warp"', x.shape, positions.shape, dialect=LITE)
    given = [torch.tensor(v, device=device, dtype=precise(device)) for v in (x, positions)]
    assert_equals(module(*given), expected)
    inner = torch.tensor(random.uniform(0.1, 2.9, (1, 2, 3, 4)), requires_grad=True)
    values = torch.tensor(random.randn(1, 2, 3, 4), requires_grad=True)
    assert torch.autograd.gradcheck(build('type: "Warp"', (1, 2, 3, 4), (1, 2, 3, 4), dialect=LITE), (values, inner))
    with pytest.raises(LayerError, match="were expected"):
        build('type: "Warp"', (1, 3, 4, 5), (1, 2, 4, 4), dialect=LITE)
