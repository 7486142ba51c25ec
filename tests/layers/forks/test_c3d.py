"""CONVOLUTION3D, DECONVOLUTION3D and POOLING3D, and their namesakes of version 1.1, against slow definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build, give_values, precise

FORK = "facebookarchive/C3D"
NEXT = "facebookarchive/C3D:C3D-v1.1/src/caffe/proto/caffe.proto"
CONVOLUTIONS = [(FORK, "CONVOLUTION3D", "convolution_param"), (NEXT, "Convolution3D", "convolution3d_param")]
DECONVOLUTIONS = [(FORK, "DECONVOLUTION3D", "convolution_param"), (NEXT, "Deconvolution3D", "convolution3d_param")]
POOLINGS = [(FORK, "POOLING3D", "pooling_param"), (NEXT, "Pooling3D", "pooling3d_param")]


@pytest.mark.parametrize(("dialect", "kind", "param"), CONVOLUTIONS)
def test_convolution_3d(device: torch.device, dialect: str, kind: str, param: str) -> None:
    x = np.random.RandomState(0).randn(2, 3, 4, 6, 7)
    text = f"""type: "{kind}" {param} {{ num_output: 5 kernel_size: 3 kernel_depth: 2 stride: 2
    temporal_stride: 1 pad: 1 temporal_pad: 1 filter_group: 5 }}"""
    module = give_values(build(text, x.shape, dialect=dialect), device).to(precise(device))
    weight, bias = (blob.detach().cpu().numpy() for blob in (module.weight, module.bias))
    assert weight.shape == (5, 3, 2, 3, 3)
    assert bias.shape == (1, 1, 1, 1, 5)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (1, 1)))
    expected = np.empty((2, 5, 5, 3, 4))
    for t, i, j in itertools.product(range(5), range(3), range(4)):
        window = padded[:, :, t : t + 2, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        expected[:, :, t, i, j] = np.einsum("ncthw,octhw->no", window, weight) + bias[0, 0, 0, 0]
    assert_equals(module(torch.tensor(x, dtype=precise(device), device=device)), expected)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize(("dialect", "kind", "param"), POOLINGS)
def test_pooling_3d(device: torch.device, mean: bool, dialect: str, kind: str, param: str) -> None:
    x = np.random.RandomState(0).randn(2, 3, 5, 7, 8)
    pad = 1 if mean else 0
    text = f"""type: "{kind}"
    {param} {{ pool: {"AVE" if mean else "MAX"} kernel_size: 3 kernel_depth: 2 stride: 2
    temporal_stride: 2 pad: {pad} }}"""
    sizes = [math.ceil((n + 2 * p - k) / 2) + 1 for n, k, p in zip(x.shape[2:], (2, 3, 3), (0, pad, pad), strict=True)]
    expected = np.empty((2, 3, *sizes))
    for at in itertools.product(*map(range, sizes)):
        spans, count = [], 1
        for place, n, k, p in zip(at, x.shape[2:], (2, 3, 3), (0, pad, pad), strict=True):
            start = 2 * place - p
            end = min(start + k, n + p)
            count *= end - start
            spans.append(slice(max(start, 0), min(end, n)))
        window = x[:, :, spans[0], spans[1], spans[2]]
        expected[:, :, at[0], at[1], at[2]] = window.sum((2, 3, 4)) / count if mean else window.max((2, 3, 4))
    module = build(text, x.shape, dialect=dialect)
    assert_equals(module(torch.tensor(x, dtype=precise(device), device=device)), expected)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_gradient_of_equal_values(stride: int, device: torch.device) -> None:
    """The fork gives all of it to each of the largest; the derivative, to one."""
    values = np.random.RandomState(0).randint(0, 3, (2, 2, 4, 5, 6)).astype(float)
    text = f'type: "Pooling3D" pooling3d_param {{ kernel_size: 3 kernel_depth: 2 stride: {stride} temporal_stride: 2 }}'
    for gradients in ("caffe", "true"):
        module = build(text, values.shape, dialect=NEXT, gradients=gradients)
        x = torch.tensor(values, dtype=precise(device), device=device, requires_grad=True)
        top = module(x)
        assert_equals(module(x.detach()), top.detach().cpu())
        slope = torch.randn_like(top)
        top.backward(slope)
        expected = np.zeros(values.shape)
        for n, c, *at in np.ndindex(*top.shape):
            spans = tuple(slice(i * s, i * s + k) for i, s, k in zip(at, (2, stride, stride), (2, 3, 3), strict=True))
            window, found = values[n, c][spans], expected[n, c][spans]
            largest = window == window.max()
            if gradients == "true":
                largest.flat[largest.argmax() + 1 :] = False
            found[largest] += slope[n, c][tuple(at)].item()
        assert x.grad is not None
        assert_equals(x.grad, expected)


def test_group_has_no_effect() -> None:
    text = 'type: "Convolution3D" convolution3d_param { num_output: 4 kernel_size: 3 kernel_depth: 1 group: 2 }'
    assert build(text, (1, 2, 3, 4, 4), dialect=NEXT).weight.shape == (4, 2, 1, 3, 3)


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        (
            'type: "CONVOLUTION3D" convolution_param { num_output: 2 kernel_size: 3 kernel_depth: 3 }',
            (1, 2, 2, 4, 4),
            "do not fit",
        ),
        (
            'type: "CONVOLUTION3D" convolution_param { num_output: 4 filter_group: 3 kernel_size: 3 kernel_depth: 1 }',
            (1, 2, 2, 4, 4),
            "does not divide",
        ),
        ('type: "CONVOLUTION3D" convolution_param { num_output: 2 kernel_size: 3 }', (1, 2, 3, 4, 4), "at least 1"),
        ('type: "POOLING3D" pooling_param { kernel_size: 2 kernel_depth: 1 pad: 1 }', (1, 2, 3, 4, 4), "not supported"),
        (
            'type: "POOLING3D" pooling_param { kernel_size: 2 kernel_depth: 1 stride: 3 }',
            (1, 2, 3, 6, 6),
            "behind the end",
        ),
        ('type: "POOLING3D" pooling_param { kernel_size: 2 kernel_depth: 1 }', (2, 3, 4, 4), "was expected"),
    ],
)
def test_refused(text: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(LayerError, match=message):
        build(text, shape, dialect=FORK)


@pytest.mark.parametrize(("dialect", "kind", "field"), DECONVOLUTIONS)
def test_deconvolution_3d(dialect: str, kind: str, field: str, device: torch.device) -> None:
    """What a cell adds to the top, cell by cell; a bias unless convolution_param says no."""
    x = np.random.RandomState(0).randn(2, 3, 2, 4, 3)
    # Whether there is a bias, version 1.1 reads elsewhere.
    text = f"""type: "{kind}" {field} {{ num_output: 5 kernel_size: 3 kernel_depth: 2 stride: 2 temporal_stride: 3
    pad: 1 temporal_pad: 1 group: 3 filter_group: 2 bias_term: {str(dialect == FORK).lower()} }}"""
    module = give_values(build(text, x.shape, dialect=dialect), device).to(precise(device))
    weight, bias = (blob.detach().cpu().numpy() for blob in (module.weight, module.bias))
    assert weight.shape == (3, 5, 2, 3, 3)
    assert bias.shape == (1, 1, 1, 1, 5)
    whole = np.zeros((2, 5, 5, 9, 7))
    for t, h, w in np.ndindex(2, 4, 3):
        added = np.einsum("nc,codij->nodij", x[:, :, t, h, w], weight)
        whole[:, :, 3 * t : 3 * t + 2, 2 * h : 2 * h + 3, 2 * w : 2 * w + 3] += added
    expected = whole[:, :, 1:-1, 1:-1, 1:-1] + bias.reshape(5, 1, 1, 1)
    assert_equals(module(torch.tensor(x, device=device, dtype=precise(device))), expected)
    without = "convolution_param { bias_term: false }"
    plain = text.replace("bias_term: true", "bias_term: false") if dialect == FORK else f"{text} {without}"
    assert build(plain, x.shape, dialect=dialect).blob_names == ("weight",)
    with pytest.raises(LayerError, match="num_output 0, kernel"):
        build(text.replace("num_output: 5", ""), x.shape, dialect=dialect)
    with pytest.raises(LayerError, match="do not fit"):
        build(text.replace("temporal_pad: 1", "temporal_pad: 4"), x.shape, dialect=dialect)
