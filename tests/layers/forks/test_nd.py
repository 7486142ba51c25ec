"""NdConvolution and NdPooling against slow definitions."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build, give_values, precise

FORK = "chuckcho/video-caffe"


def _dims(name: str, sizes: tuple[int, ...]) -> str:
    return f"{name} {{ {' '.join(f'dim: {n}' for n in sizes)} }}"


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "pad"),
    [((2, 4, 5, 6, 7), (3, 2, 1), (1, 2, 3), (1, 0, 2)), ((2, 4, 6, 7), (2, 3), (2, 1), (0, 1))],
)
def test_nd_convolution(
    shape: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], pad: tuple[int, ...], device: torch.device
) -> None:
    x = np.random.RandomState(0).randn(*shape)
    text = f"""type: "NdConvolution" convolution_param {{ num_output: 6 group: 2 {_dims("kernel_shape", kernel)}
    {_dims("stride_shape", stride)} {_dims("pad_shape", pad)} }}"""
    module = give_values(build(text, shape, dialect=FORK), device).to(precise(device))
    weight, bias = (blob.detach().cpu().numpy() for blob in (module.weight, module.bias))
    assert weight.shape == (6, 2, *kernel)
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in pad)))
    sizes = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(shape[2:], kernel, stride, pad, strict=True)]
    expected = np.empty((2, 6, *sizes))
    for o, at in itertools.product(range(6), itertools.product(*map(range, sizes))):
        spans = tuple(slice(a * s, a * s + k) for a, s, k in zip(at, stride, kernel, strict=True))
        place: Any = (slice(None), slice(o // 3 * 2, o // 3 * 2 + 2), *spans)
        window = padded[place]
        top: Any = (slice(None), o, *at)
        expected[top] = (window * weight[o]).sum(tuple(range(1, len(shape)))) + bias[o]
    given = torch.tensor(x, device=device, dtype=precise(device))
    assert_equals(module(given), expected)
    assert module.infer(given).shape == expected.shape


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "pad"),
    [
        ((2, 3, 5, 7, 8), (2, 3, 2), (2, 2, 2), (0, 0, 0)),
        ((2, 3, 5, 7, 8), (2, 3, 2), (2, 2, 3), (1, 1, 0)),
        ((2, 3, 7, 8), (3, 2), (2, 3), (1, 1)),
        ((1, 2, 4, 4), (3, 4), (1, 1), (0, 0)),
    ],
)
def test_nd_pooling(
    shape: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], pad: tuple[int, ...], device: torch.device
) -> None:
    x = np.random.RandomState(0).randn(*shape) - 5  # so that a zero from the padding would show
    text = f"""type: "NdPooling" pooling_param {{ {_dims("kernel_shape", kernel)} {_dims("stride_shape", stride)}
    {_dims("pad_shape", pad)} }}"""
    sizes = []
    for n, k, s, p in zip(shape[2:], kernel, stride, pad, strict=True):
        size = math.ceil((n + 2 * p - k) / s) + 1
        sizes.append(size - 1 if p and (size - 1) * s >= n + p else size)
    expected = np.empty((*shape[:2], *sizes))
    for at in itertools.product(*map(range, sizes)):
        spans = tuple(
            slice(max(a * s - p, 0), a * s - p + k) for a, k, s, p in zip(at, kernel, stride, pad, strict=True)
        )
        place: Any = (slice(None), slice(None), *spans)
        window = x[place]
        whole: Any = (slice(None), slice(None), *at)
        expected[whole] = window.max(tuple(range(2, len(shape))))
    given = torch.tensor(x, device=device, dtype=precise(device))
    assert_equals(build(text, shape, dialect=FORK)(given), expected)


def test_global_pooling() -> None:
    text = f'type: "NdPooling" pooling_param {{ global_pooling: true {_dims("kernel_shape", (1, 1, 1))} }}'
    x = torch.randn(2, 3, 4, 5, 6)
    torch.testing.assert_close(build(text, x.shape, dialect=FORK)(x), x.amax((2, 3, 4), keepdim=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"NdConvolution" convolution_param { num_output: 2 kernel_size: 3 }', "needs kernel_shape"),
        ('"NdConvolution" convolution_param { num_output: 2 kernel_shape { dim: 3 dim: 3 } }', "must be 3 numbers"),
        ('"NdConvolution" convolution_param { num_output: 2 kernel_shape { dim: 9 dim: 1 dim: 1 } }', "does not fit"),
        ('"NdConvolution" convolution_param { num_output: 2 kernel_shape { dim: 4 dim: 1 dim: 1 } }', "loses axes"),
        (
            '"NdConvolution" convolution_param { num_output: 2 pad: 1 kernel_shape { dim: 1 dim: 1 dim: 1 } }',
            "convolution_param.pad is not supported",
        ),
        ('"NdPooling" pooling_param { pool: AVE kernel_shape { dim: 1 dim: 1 dim: 1 } }', "pool AVE is not supported"),
        (
            '"NdPooling" pooling_param { kernel_shape { dim: 1 dim: 1 dim: 1 } stride_shape { dim: 4 dim: 1 dim: 1 } }',
            "behind the end",
        ),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        build(f"type: {text}", (1, 2, 4, 4, 4), dialect=FORK)
