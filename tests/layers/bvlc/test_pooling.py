from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from caffe_compat.errors import LayerError
from caffe_compat.layers.bvlc.pooling import Windows
from caffe_compat.network.randomness import Randomness
from tests.layers.building import assert_equals, build, precise

LOWEST = float(np.finfo(np.float32).min)


def counts(size: Any, kernel: Any, stride: Any, pad: Any, ceil: bool) -> list[int]:
    """How many windows Caffe takes along each axis."""
    found = []
    for n, k, s, p in zip(size, kernel, stride, pad, strict=True):
        count = (math.ceil if ceil else math.floor)((n + 2 * p - k) / s) + 1
        if any(pad) and (count - 1) * s >= n + p:
            count -= 1
        found.append(count)
    return found


def slow_pooling(
    x: np.ndarray, method: str, kernel: Any, stride: Any, pad: Any, ceil: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Values and mask, window by window."""
    size = x.shape[2:]
    y = np.zeros((*x.shape[:2], *counts(size, kernel, stride, pad, ceil)))
    mask = np.full(y.shape, -1.0)
    for n, c, *at in np.ndindex(*y.shape):
        place = tuple(at)
        start = [a * s - p for a, s, p in zip(at, stride, pad, strict=True)]
        end = [min(b + k, m + p) for b, k, m, p in zip(start, kernel, size, pad, strict=True)]
        share = (end[0] - start[0]) * (end[1] - start[1])
        inside = [range(max(b, 0), min(e, m)) for b, e, m in zip(start, end, size, strict=True)]
        best, total = LOWEST, 0.0
        for row, column in itertools.product(*inside):
            total += x[n, c, row, column]
            if x[n, c, row, column] > best:
                best, mask[n, c][place] = x[n, c, row, column], row * size[1] + column
        if method == "MAX":
            y[n, c][place] = best
        else:
            y[n, c][place] = total / share if share else math.nan
    return y, mask


GEOMETRIES = [
    (size, kernel, stride, pad, ceil)
    for size in (1, 2, 3, 5, 6)
    for kernel in (1, 2, 3, 4)
    for stride in (1, 2, 3)
    for pad in range(kernel)
    for ceil in (True, False)
    if counts((size,), (kernel,), (stride,), (pad,), ceil)[0] > 0
]


@pytest.mark.parametrize("method", ["MAX", "AVE"])
def test_every_geometry(method: str) -> None:
    """Along one axis everything small; the other axis has a fixed geometry that fits torch."""
    rs = np.random.RandomState(0)
    for size, kernel, stride, pad, ceil in GEOMETRIES:
        # Few distinct values, so that there are many equal maxima.
        x = rs.randint(-3, 3, (1, 1, size, 5)).astype(np.float32)
        text = (
            f"pool: {method} kernel_h: {kernel} kernel_w: 2 stride_h: {stride} stride_w: 2 pad_h: {pad} pad_w: 1 "
            f"round_mode: {'CEIL' if ceil else 'FLOOR'}"
        )
        module = build(f'type: "Pooling" pooling_param {{ {text} }}', x.shape, tops=2 if method == "MAX" else 1)
        expected = slow_pooling(x, method, (kernel, 2), (stride, 2), (pad, 1), ceil)
        found = module(torch.tensor(x))
        if method == "MAX":
            assert_equals(found[1], expected[1])
            found = found[0]
        assert_equals(found, expected[0])
        assert module(torch.empty(x.shape, device="meta"))[0].is_meta


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [((6, 5), (1, 2), (3, 2)), ((5, 7), (1, 1), (3, 5)), ((3, 5), (4, 6), (2, 3))]
)
def test_windows_beyond_an_image_without_padding(
    method: str, size: Any, kernel: Any, stride: Any, device: torch.device
) -> None:
    x = np.random.RandomState(1).uniform(-1, 1, (2, 3, *size)).astype(np.float32)
    text = f"pool: {method} kernel_h: {kernel[0]} kernel_w: {kernel[1]} stride_h: {stride[0]} stride_w: {stride[1]}"
    module = build(f'type: "Pooling" pooling_param {{ {text} }}', x.shape, tops=2 if method == "MAX" else 1)
    expected = slow_pooling(x, method, kernel, stride, (0, 0), True)
    inputs = torch.tensor(x, device=device, requires_grad=True)
    found = module(inputs)
    if method == "MAX":
        assert_equals(found[1], expected[1])
        found = found[0]
    assert_equals(found, expected[0])
    found.nansum().backward()
    assert inputs.grad is not None
    assert torch.isfinite(inputs.grad).all()


@pytest.mark.parametrize("pad", [0, 1, 2])
def test_the_first_of_equal_maxima_gets_the_gradient(pad: int, device: torch.device) -> None:
    x = torch.zeros(1, 1, 4, 6, device=device, requires_grad=True)
    module = build(f'type: "Pooling" pooling_param {{ kernel_size: 3 stride: 3 pad: {pad} }}', x.shape, tops=2)
    y, mask = module(x)
    expected = np.zeros(24)
    np.add.at(expected, mask.long().flatten().cpu().numpy(), 1)
    y.sum().backward()
    assert_equals(x.grad, expected.reshape(x.shape))
    assert_equals(mask, slow_pooling(np.zeros(x.shape), "MAX", (3, 3), (3, 3), (pad, pad), True)[1])


@pytest.mark.parametrize(
    "text", ["kernel_size: 3 stride: 2 pad: 1", "kernel_size: 3 stride: 2 pad: 2", "kernel_size: 1 stride: 2"]
)
@pytest.mark.parametrize("method", ["MAX", "AVE"])
def test_gradient(method: str, text: str) -> None:
    module = build(f'type: "Pooling" pooling_param {{ pool: {method} {text} }}', (1, 2, 5, 7))
    x = torch.randperm(70, generator=torch.Generator().manual_seed(0)).double().view(1, 2, 5, 7).requires_grad_()
    assert gradcheck(module, x, fast_mode=True)


def test_global_pooling_follows_the_size_of_the_image(device: torch.device) -> None:
    for method, expected in (
        ("MAX", lambda x: x.amax((2, 3), keepdim=True)),
        ("AVE", lambda x: x.mean((2, 3), keepdim=True)),
    ):
        module = build(f'type: "Pooling" pooling_param {{ pool: {method} global_pooling: true }}', (2, 3, 4, 5))
        for shape in ((2, 3, 4, 5), (1, 3, 7, 2)):
            x = torch.rand(shape, device=device)
            torch.testing.assert_close(module(x), expected(x))


def test_mask_of_half_precision_counts_beyond_2048() -> None:
    x = torch.zeros(1, 1, 60, 61, dtype=torch.float16)
    x[0, 0, 59, 60] = 1
    module = build('type: "Pooling" pooling_param { global_pooling: true }', x.shape, tops=2)
    y, mask = module(x)
    assert y.dtype == torch.float16
    assert mask.item() == 60 * 61 - 1


def test_ceil_mode_of_forks() -> None:
    for ceil in ("true", "false"):
        text = f'type: "Pooling" pooling_param {{ kernel_size: 2 stride: 2 ceil_mode: {ceil} }}'
        module = build(text, (1, 1, 5, 7), dialect="soeaver/py-RFCN-priv")
        assert module(torch.rand(1, 1, 5, 7)).shape[2:] == ((3, 4) if ceil == "true" else (2, 3))


def test_stochastic_test_phase_weighs_values_by_themselves(device: torch.device) -> None:
    x = np.maximum(np.random.RandomState(0).uniform(-1, 1, (2, 3, 5, 6)), 0)
    x[0, 0, :2, :2] = 0
    module = build('type: "Pooling" pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }', x.shape)
    y = module(torch.tensor(x, dtype=precise(device), device=device))
    expected = np.zeros((2, 3, 3, 3))
    for n, c, i, j in np.ndindex(*expected.shape):
        window = x[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        expected[n, c, i, j] = (window**2).sum() / window.sum() if window.sum() > 0 else 0
    assert_equals(y, expected)
    assert gradcheck(module, torch.rand(1, 1, 3, 4, dtype=torch.float64, requires_grad=True))


def test_stochastic_training_draws_in_proportion(device: torch.device) -> None:
    shape = (1000, 1, 2, 3)
    module = build('type: "Pooling" pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }', shape, phase="TRAIN")
    module.randomness = Randomness(seed=3)
    # The second window hangs over: it has the pixels 4 and 0 only.
    x = torch.tensor([[0.0, 1.0, 4.0], [2.0, 5.0, 0.0]], device=device).expand(shape).clone().requires_grad_()
    y = module(x)
    assert y.shape == (1000, 1, 1, 2)
    assert set(y[..., 0].flatten().tolist()) == {1.0, 2.0, 5.0}
    assert (y[..., 1] == 4).all()
    for value in (1.0, 2.0, 5.0):
        share = (y[..., 0] == value).float().mean().item()
        # Six standard deviations.
        assert abs(share - value / 8) < 6 * (value / 8 * (1 - value / 8) / 1000) ** 0.5
    y.sum().backward()
    torch.testing.assert_close((x * x.grad).sum(), y.sum())
    assert x.grad.sum() == y.numel()
    torch.testing.assert_close(module(x), y)
    module.randomness.iteration = 1
    assert not torch.equal(module(x), y)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found none"),
        ("kernel_h: 2", "found kernel_h"),
        ("kernel_size: 0", "kernel_size is 0"),
        ("kernel_h: 2 kernel_w: 0", "at least 1"),
        ("kernel_size: 2 kernel_h: 2 kernel_w: 2", "exclude each other"),
        ("kernel_size: 2 stride: 0", "stride is 0"),
        ("kernel_size: 2 stride_h: 2", "stride_h and stride_w together"),
        ("kernel_size: 2 stride: 1 stride_h: 2 stride_w: 2", "no stride beside them"),
        ("kernel_size: 2 pad_w: 1", "pad_h and pad_w together"),
        ("kernel_size: 2 pad: 2", "must be smaller than the kernel"),
        ("kernel_size: 2 pad: 1 pool: STOCHASTIC", "no padding"),
        ("kernel_size: 9 round_mode: FLOOR", "does not fit"),
        ("global_pooling: true kernel_size: 2", "kernel_size must not be set"),
        ("global_pooling: true pad: 1", "pad 0 and stride 1"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        build(f'type: "Pooling" pooling_param {{ {text} }}', (2, 3, 5, 6))


def test_errors_of_bottoms_and_tops() -> None:
    with pytest.raises(LayerError, match=r"\(images, channels, height, width\) was"):
        build('type: "Pooling" pooling_param { kernel_size: 2 }', (2, 3, 5))
    with pytest.raises(LayerError, match="only MAX has a second top"):
        build('type: "Pooling" pooling_param { kernel_size: 2 pool: AVE }', (2, 3, 5, 6), tops=2)


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("size", [(9, 8), (7, 12), (4, 4)])
def test_spp(method: str, size: tuple[int, int], device: torch.device) -> None:
    x = np.random.RandomState(0).uniform(-1, 1, (2, 3, *size)).astype(np.float32)
    module = build(f'type: "SPP" spp_param {{ pyramid_height: 3 pool: {method} }}', x.shape)
    levels = []
    for bins in (1, 2, 4):
        kernel = [math.ceil(n / bins) for n in size]
        pad = [(k * bins - n + 1) // 2 for k, n in zip(kernel, size, strict=True)]
        levels.append(slow_pooling(x, method, kernel, kernel, pad, True)[0].reshape(2, -1))
    assert_equals(module(torch.tensor(x, device=device)), np.concatenate(levels, 1))


def test_spp_of_one_level_keeps_its_axes() -> None:
    x = torch.rand(2, 3, 4, 5)
    module = build('type: "SPP" spp_param { pyramid_height: 1 pool: AVE }', x.shape)
    torch.testing.assert_close(module(x), x.mean((2, 3), keepdim=True))


def test_spp_stochastic_draws_in_training_only() -> None:
    x = torch.rand(2, 3, 4, 8)
    module = build('type: "SPP" spp_param { pyramid_height: 2 pool: STOCHASTIC }', x.shape, phase="TRAIN")
    assert not torch.equal(module(x), module(x))
    assert torch.equal(module.eval()(x), module(x))


def test_spp_errors() -> None:
    with pytest.raises(LayerError, match="pyramid_height is 0"):
        build('type: "SPP"', (2, 3, 5, 6))
    with pytest.raises(LayerError, match=r"\(images, channels, height > 0, width > 0\) was"):
        build('type: "SPP" spp_param { pyramid_height: 1 }', (2, 3, 5))
    module = build('type: "SPP" spp_param { pyramid_height: 3 }', (2, 3, 5, 6))
    with pytest.raises(LayerError, match=r"layer 'l'.*5 x 6 pixels is too small for 4 windows"):
        module(torch.rand(2, 3, 5, 6))
    module = build('type: "SPP" spp_param { pyramid_height: 2 pool: STOCHASTIC }', (2, 3, 5, 6))
    with pytest.raises(LayerError, match="needs padding for 2 windows"):
        module(torch.rand(2, 3, 5, 6))


def test_torch_does_the_work_where_it_can() -> None:
    assert Windows((3, 3), (2, 2)).torch_ceil_mode(9, 8) is True
    assert Windows((3, 3), (2, 2), ceil=False).torch_ceil_mode(9, 8) is False
    assert Windows((3, 3), (2, 2), (2, 2)).torch_ceil_mode(9, 8) is None
    assert Windows((1, 1), (3, 3)).torch_ceil_mode(5, 5) is None
