"""DeformableConvolution against a definition with one loop per index, and the plain convolution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build, give_values, precise

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
    shapes = (1, 2, 3, 4), (1, 18, 3, 4)
    module = give_values(build(f"{text} deformable_group: 1 }}", *shapes, dialect=FORK, gradients="true")).double()
    x = torch.tensor(random.randn(1, 2, 3, 4), requires_grad=True)
    moves = torch.tensor(random.uniform(-0.4, 0.4, (1, 18, 3, 4)).round(1) + 0.03, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x, moves), fast_mode=True)


@pytest.mark.parametrize(("height", "width", "bias"), [(3, 3, "true"), (3, 1, "false"), (1, 3, "true")])
def test_gradients_are_the_forks(height: int, width: int, bias: str) -> None:
    """Its CUDA kernels, one thread after the other, in memory that goes on behind each blob."""
    random = np.random.RandomState(2)
    images, channels, rows, columns, outputs, parts = 2, 4, 3, 4, 2, 2
    elements, cells = height * width, rows * columns
    x, moves = random.randn(images, channels, rows, columns), random.randn(images, parts * 2 * elements, rows, columns)
    above = random.randn(images, outputs, rows, columns)
    text = f"""type: "DeformableConvolution" deformable_convolution_param {{ num_output: {outputs} kernel_h: {height}
        kernel_w: {width} pad_h: {height // 2} pad_w: {width // 2} deformable_group: {parts} bias_term: {bias} }}"""
    module = give_values(build(text, x.shape, moves.shape, dialect=FORK)).double()
    given = [torch.tensor(v, requires_grad=True) for v in (x, moves)]
    module(*given).backward(torch.tensor(above))

    weight = module.weight.detach().numpy().reshape(outputs, channels * elements)
    to_weight, to_moves = np.zeros_like(weight), np.zeros(2 * moves.size)
    to_x = np.zeros(x.size + images * max(moves[0].size, x[0].size))
    for n in range(images):
        taken, to_taken = np.zeros((channels * elements, cells)), weight.T @ above[0].reshape(outputs, cells)
        for index in range(channels * elements * cells):
            cell, element, c = index % cells, index // cells % elements, index // cells // elements
            part = c // (channels // parts)
            at = (part * elements + element) * 2
            row = cell // columns - height // 2 + element // width + moves[n, at, cell // columns, cell % columns]
            column = cell % columns - width // 2 + element % width + moves[n, at + 1, cell // columns, cell % columns]
            taken[c * elements + element, cell] = _value(x[n, c], row, column)
            passed, step = to_taken.ravel()[index], 1e-6
            slopes = [
                (_value(x[n, c], row + a * step, column + b * step) - taken[c * elements + element, cell]) / step
                for a, b in ((1, 0), (0, 1))
            ]
            for side in (0, 1):
                if at + side < 2 * height * height * parts:
                    to_moves[n * moves[0].size + (at + side) * cells + cell] += passed * slopes[side]
            if index < channels * elements:
                for i, j in np.ndindex(rows, columns):
                    one = np.zeros((rows, columns))
                    one[i, j] = 1
                    to_x[n * moves[0].size + (c * rows + i) * columns + j] += passed * _value(one, row, column)
        to_weight += above[0].reshape(outputs, cells) @ taken.T
    assert module.weight.grad is not None
    assert_equals(module.weight.grad.reshape(to_weight.shape), to_weight)
    if bias == "true":
        assert_equals(module.bias.grad, above.sum((0, 2, 3)))
    for tensor, expected in zip(given, (to_x, to_moves), strict=True):
        assert tensor.grad is not None
        found = tensor.grad.flatten()
        torch.testing.assert_close(found, torch.tensor(expected[: len(found)]), rtol=1e-4, atol=1e-4)


def test_moves_get_no_gradient_without_the_bottom() -> None:
    text = 'type: "DeformableConvolution" deformable_convolution_param { num_output: 2 kernel_size: 3 pad: 1 '
    module = give_values(build(f"{text} deformable_group: 1 }}", (1, 2, 3, 4), (1, 18, 3, 4), dialect=FORK))
    moves = torch.zeros(1, 18, 3, 4, requires_grad=True)
    (found,) = torch.autograd.grad(module(torch.rand(1, 2, 3, 4), moves).sum(), moves, allow_unused=True)
    assert found is None


@pytest.mark.parametrize(
    ("text", "moves", "message"),
    [
        ("kernel_size: 3 pad: 1 stride: 2", (1, 72, 5, 6), "must keep the size of the bottom, 5 x 6"),
        ("kernel_size: 3", (1, 72, 5, 6), "must keep the size"),
        ("kernel_size: 3 pad: 1", (1, 18, 5, 6), r"\(images = 1, moves = 72, 5, 6\) was expected"),
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
