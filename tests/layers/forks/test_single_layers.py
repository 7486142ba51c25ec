"""Pooling3D, Warping, BatchNormScale, LSTMNew and Parameter of single forks, against slow definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build, give_values
from tests.networks import net_of

P3D, MPI, YUQJ = "ZhaofanQiu/pseudo-3d-residual-networks", "lxx1991/caffe_mpi", "yuqj1991/caffe_train"
SPOTTER, OPENVINO = "tonghe90/textspotter", "openvinotoolkit/training_toolbox_caffe"
VOLUMES = np.random.RandomState(0).randn(2, 3, 5, 6, 7)
WINDOWS = {
    "kernel_size: 3 stride: 2 kernel_l: 2 stride_l: 1": ((2, 3, 3), (1, 2, 2), (0, 0, 0)),
    "kernel_h: 4 kernel_w: 2 stride_h: 2 stride_w: 3 pad_h: 2 pad_w: 1 kernel_l: 3 stride_l: 2 pad_l: 1": (
        (3, 4, 2),
        (2, 2, 3),
        (1, 2, 1),
    ),
}


@pytest.mark.parametrize("pool", ["MAX", "AVE"])
@pytest.mark.parametrize("sizes", WINDOWS)
def test_pooling_of_volumes(sizes: str, pool: str) -> None:
    module = build(f'type: "Pooling3D" pooling3d_param {{ pool: {pool} {sizes} }}', VOLUMES.shape, dialect=P3D)
    kernel, stride, pad = WINDOWS[sizes]
    counts = []
    for n, k, s, p in zip(VOLUMES.shape[2:], kernel, stride, pad, strict=True):
        count = math.ceil((n + 2 * p - k) / s) + 1
        counts.append(count - 1 if any(pad) and (count - 1) * s >= n + p else count)
    expected = np.zeros((2, 3, *counts))
    for place in np.ndindex(*counts):
        starts = [i * s - p for i, s, p in zip(place, stride, pad, strict=True)]
        reach = [min(a + k, n + p) - a for a, k, n, p in zip(starts, kernel, VOLUMES.shape[2:], pad, strict=True)]
        inside = tuple(slice(max(a, 0), a + k) for a, k in zip(starts, kernel, strict=True))
        window = VOLUMES[:, :, inside[0], inside[1], inside[2]]
        axes = (2, 3, 4)
        expected[:, :, place[0], place[1], place[2]] = (
            window.max(axes) if pool == "MAX" else window.sum(axes) / math.prod(reach)
        )
    assert_equals(module(torch.tensor(VOLUMES)), expected)


def test_global_pooling_of_volumes() -> None:
    for pool, expected in (("MAX", VOLUMES.max((2, 3, 4))), ("AVE", VOLUMES.mean((2, 3, 4)))):
        text = f'type: "Pooling3D" pooling3d_param {{ pool: {pool} global_pooling: true }}'
        assert_equals(build(text, VOLUMES.shape, dialect=P3D)(torch.tensor(VOLUMES)), expected[..., None, None, None])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ("kernel_size: 3", "needs kernel_l"),
        ("kernel_l: 3", "needs kernel_l"),
        ("kernel_l: 3 kernel_size: 3 stride: 0", "must be at least 1"),
        ("kernel_l: 3 kernel_size: 3 pad: 2", "above half of the kernel"),
        ("kernel_l: 6 kernel_size: 3", "does not fit"),
        ("kernel_l: 1 kernel_size: 1 stride: 4", "would begin behind the end"),
        ("kernel_l: 1 kernel_size: 1 kernel_h: 2 kernel_w: 2", "takes kernel_size, or"),
        ("kernel_l: 1 kernel_size: 1 stride_h: 2", "takes stride, or"),
        ("global_pooling: true kernel_size: 2", "excludes"),
        ("global_pooling: true stride_l: 2", "stride 1 and pad 0"),
        ("pool: STOCHASTIC kernel_l: 1 kernel_size: 1", "not implemented in the fork"),
    ],
)
def test_pooling_of_volumes_refuses(sizes: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        build(f'type: "Pooling3D" pooling3d_param {{ {sizes} }}', VOLUMES.shape, dialect=P3D)


def test_bn_of_volumes() -> None:
    module = give_values(build('type: "BN" bn_param { eps: 0.01 }', VOLUMES.shape, dialect=P3D)).double()
    slope, bias, mean, variance = (getattr(module, n).detach().numpy()[..., None] for n in module.blob_names)
    expected = slope * (VOLUMES - mean) / np.sqrt(variance + 0.01) + bias
    assert_equals(module(torch.tensor(VOLUMES)), expected)


def test_warping() -> None:
    draws = np.random.RandomState(0)
    x, flow = draws.randn(2, 3, 4, 5), draws.uniform(-4, 4, (2, 2, 4, 5))
    expected = np.zeros_like(x)
    for n, i, j in np.ndindex(2, 4, 5):
        column, row = j + flow[n, 0, i, j], i + flow[n, 1, i, j]
        for a in (math.floor(row), math.floor(row) + 1):
            for b in (math.floor(column), math.floor(column) + 1):
                cell = x[n, :, min(max(a, 0), 3), min(max(b, 0), 4)]
                expected[n, :, i, j] += cell * (1 - abs(a - row)) * (1 - abs(b - column))
    module = build('type: "Warping"', x.shape, flow.shape, dialect=MPI)
    given = [torch.tensor(v, requires_grad=True) for v in (x, flow)]
    assert_equals(module(*given), expected)
    assert torch.autograd.gradcheck(module, given, fast_mode=True)
    with pytest.raises(LayerError, match="x and y = 2"):
        build('type: "Warping"', x.shape, (2, 3, 4, 5), dialect=MPI)


def norm_scale(more: str = "", phase: str = "TEST", top: str = "x") -> str:
    return f"""layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 3 dim: 4 }} }} }}
    layer {{ name: "l" type: "BatchNormScale" bottom: "x" top: "{top}" {more} }}"""


def test_batch_norm_scale() -> None:
    net = net_of(norm_scale("batch_norm_param { eps: 0.01 }"), dialect=YUQJ)
    net.materialize(seed=0)
    assert net.l.blob_names == ("mean", "variance", "scale_factor", "weight", "bias")
    assert net.l.weight.tolist() == [1, 1, 1]
    assert net.l.bias.tolist() == [0, 0, 0]
    give_values(net.l)
    mean, variance, factor, weight, bias = (getattr(net.l, n).detach().numpy()[:, None] for n in net.l.blob_names)
    x = np.random.RandomState(0).randn(2, 3, 4)
    expected = weight * (x - mean / factor) / np.sqrt(variance / factor + 0.01) + bias
    torch.testing.assert_close(net.run({"x": torch.tensor(x).float()})["x"].detach().double(), torch.tensor(expected))
    assert net.l.stored_order([(3,), (3,), (1,), (3,), (3,)]) == range(5)


@pytest.mark.parametrize(
    ("more", "top", "message"),
    [
        ("batch_norm_param { use_global_stats: false }", "x", "use_global_stats: true is supported"),
        ("", "y", "must be in place"),
        ("param { lr_mult: 1 }", "x", "lr_mult other than 0"),
    ],
)
def test_batch_norm_scale_refuses(more: str, top: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        net_of(norm_scale(more, top=top), dialect=YUQJ)


def test_lstm_new_is_the_lstm() -> None:
    x, marks = torch.randn(4, 2, 5, generator=torch.Generator().manual_seed(0)), torch.ones(4, 2)
    marks[2] = 0
    found = []
    for kind in ("LSTM", "LSTMNew"):
        text = f'type: "{kind}" recurrent_param {{ num_output: 3 }}'
        module = give_values(build(text, x.shape, marks.shape, dialect=SPOTTER))
        module.reset_state()
        found.append(module(x, marks))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_a_parameter_starts_with_its_filler() -> None:
    filler = 'filler { type: "constant" value: 3 }'
    text = f'layer {{ name: "l" type: "Parameter" top: "y" parameter_param {{ shape {{ dim: 2 dim: 3 }} {filler} }} }}'
    net = net_of(text, dialect=OPENVINO)
    net.materialize(seed=0)
    assert net.run({})["y"].tolist() == [[3, 3, 3], [3, 3, 3]]
