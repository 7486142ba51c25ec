"""Quant, BinaryConvolution and BinaryInnerProduct against loops written from the fork's formulas."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from caffe_compat import CaffeNet
from caffe_compat.errors import LayerError
from caffe_compat.network.graph import NetState
from caffe_compat.schema.prototxt import parse_message
from tests.layers.building import assert_equals, build, give_values, precise

FORK = "zhaoweicai/hwgq"
CENTERS = (0.538, 1.076, 1.614)


def _value(x: float, kind: str, slope: float) -> float:
    if kind == "sign":
        return 1 if x >= 0 else -1
    if kind == "hard_tanh":
        return min(max(x, -1), 1)
    if kind == "relu":
        return max(x, 0) + slope * min(x, 0)
    if x <= 0:
        return -slope
    bounds = [(a + b) / 2 for a, b in itertools.pairwise(CENTERS)]
    return CENTERS[next((i for i, bound in enumerate(bounds) if x <= bound), 2)]


def _slope(x: float, kind: str, slope: float, clip: float) -> float:
    clip = clip if clip > 0 else np.inf
    if kind == "hard_tanh":
        return float(-clip <= x <= clip)
    return ((x > 0) + slope * (x <= 0)) * (x <= clip)


@pytest.mark.parametrize("forward", ["sign", "hard_tanh", "hwgq", "relu"])
@pytest.mark.parametrize(("backward", "clip"), [("relu", 1.614), ("relu", 0), ("hard_tanh", 0.75), ("hard_tanh", 0)])
def test_quant(forward: str, backward: str, clip: float, device: torch.device) -> None:
    values = np.concatenate([np.random.RandomState(0).randn(38) * 1.5, [0, 5]]).reshape(2, 4, 5)
    x = torch.tensor(values, device=device, dtype=precise(device), requires_grad=True)
    centers = " ".join(f"centers: {c}" for c in CENTERS)
    text = f"""type: "Quant" quant_param {{ forward_func: "{forward}" backward_func: "{backward}" clip_thr: {clip}
    negative_slope: 0.25 {centers if forward == "hwgq" else ""} }}"""
    module = build(text, x.shape, dialect=FORK)
    top = module(x)
    expected = np.vectorize(lambda v: float(_value(v, forward, 0.25)))(values)
    torch.testing.assert_close(top.detach().cpu().double(), torch.tensor(expected), rtol=1e-6, atol=1e-6)
    top.backward(torch.full_like(top, 2))
    assert x.grad is not None
    assert_equals(x.grad, 2 * np.vectorize(lambda v: float(_slope(v, backward, 0.25, clip)))(values))
    assert module(x.detach().half()).dtype == torch.float16


def test_quant_of_no_numbers() -> None:
    centers = " ".join(f"centers: {c}" for c in CENTERS)
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 9.0], requires_grad=True)
    for backward, slopes in (("relu", [0, 0, 0.25, 1]), ("hard_tanh", [0, 0, 0, 1])):
        text = f'quant_param {{ negative_slope: 0.25 backward_func: "{backward}" {centers} }}'
        top = build(f'type: "Quant" {text}', (4,), dialect=FORK)(x)
        assert_equals(top, [0, 0, -0.25, CENTERS[-1]])
        (slope,) = torch.autograd.grad(top.sum(), x)
        assert_equals(slope, slopes)


def test_quant_errors() -> None:
    with pytest.raises(LayerError, match="centers"):
        build('type: "Quant"', (2, 3), dialect=FORK)
    with pytest.raises(LayerError, match="must be sign, hard_tanh, hwgq or relu"):
        build('type: "Quant" quant_param { forward_func: "tanh" }', (2, 3), dialect=FORK)


def _binary(weight: np.ndarray, scaled: bool) -> np.ndarray:
    result = np.zeros_like(weight)
    for i, own in enumerate(weight):
        result[i] = np.where(own >= 0, 1, -1) * (np.abs(own).mean() if scaled else 1)
    return result


def _with_weights(module: Any, device: torch.device) -> np.ndarray:
    """Fill ``module`` with weights of both signs, and a zero."""
    give_values(module, device).to(precise(device))
    weight = np.random.RandomState(5).randn(*module.weight.shape)
    weight.flat[1] = 0
    with torch.no_grad():
        module.weight.copy_(torch.tensor(weight))
    return weight


@pytest.mark.parametrize("scaled", [False, True])
def test_binary_convolution(scaled: bool, device: torch.device) -> None:
    text = f"""type: "BinaryConvolution" convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 stride: 2 }}
    binary_convolution_param {{ use_alpha: {str(scaled).lower()} }}"""
    module = build(text, (2, 3, 6, 7), dialect=FORK)
    weight = _with_weights(module, device)
    x = torch.tensor(
        np.random.RandomState(1).randn(2, 3, 6, 7), device=device, dtype=precise(device), requires_grad=True
    )
    top = module(x)
    # The same convolution, of weights that are binary already.
    plain = torch.tensor(_binary(weight, scaled), device=device, dtype=x.dtype, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    expected = functional.conv2d(other, plain, module.bias.detach(), 2, 1)
    assert_equals(top, expected.detach().cpu())
    slope = torch.randn_like(top)
    top.backward(slope)
    expected.backward(slope)
    for found, wanted in ((x.grad, other.grad), (module.weight.grad, plain.grad)):
        assert wanted is not None
        assert_equals(found, wanted.cpu())


@pytest.mark.parametrize("scaled", [False, True])
def test_binary_inner_product(scaled: bool, device: torch.device) -> None:
    text = f"""type: "BinaryInnerProduct" inner_product_param {{ num_output: 4 bias_term: false }}
    binary_inner_product_param {{ use_alpha: {str(scaled).lower()} }}"""
    module = build(text, (2, 3, 5), dialect=FORK)
    weight = _with_weights(module, device)
    x = np.random.RandomState(1).randn(2, 3, 5)
    top = module(torch.tensor(x, device=device, dtype=precise(device)))
    assert_equals(top, x.reshape(2, 15) @ _binary(weight, scaled).T)
    top.sum().backward()
    assert_equals(module.weight.grad, np.tile(x.reshape(2, 15).sum(0), (4, 1)))
    with pytest.raises(LayerError, match="transpose"):
        build(text.replace("bias_term: false", "transpose: true"), (2, 15), dialect=FORK)


def test_without_binarization() -> None:
    for kind, param in (("BinaryConvolution", "convolution_param"), ("BinaryInnerProduct", "inner_product_param")):
        switch = "binary_convolution_param" if kind == "BinaryConvolution" else "binary_inner_product_param"
        size = "kernel_size: 1" if kind == "BinaryConvolution" else ""
        text = (
            f'type: "{kind}" {param} {{ num_output: 2 bias_term: false {size} }} {switch} {{ use_binarization: false }}'
        )
        module = give_values(build(text, (1, 3, 1, 1), dialect=FORK))
        top = module(torch.ones(1, 3, 1, 1))
        assert_equals(top.flatten(), module.weight.detach().flatten(1).sum(1))


def test_optimized() -> None:
    """Folding a BatchNorm into weights that count by their signs would change them: it must not happen."""
    text = """
    layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 5 dim: 5 } } }
    layer { name: "conv" type: "BinaryConvolution" bottom: "data" top: "conv" convolution_param { num_output: 3
      kernel_size: 3 } binary_convolution_param { use_alpha: true } }
    layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
    layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
    layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
    """
    parsed = parse_message(text, dialect=FORK)
    net = CaffeNet(parsed.message, NetState("TEST"), dialect=parsed.schema.name)
    net.materialize(0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for blob in (*net.parameters(), *net.buffers()):
            blob.uniform_(-1, 1, generator=generator) if blob.dim() > 1 else blob.uniform_(
                0.5, 1.5, generator=generator
            )
    x = torch.randn(1, 2, 5, 5, generator=generator)
    net.eval()
    with torch.no_grad():
        before = net(data=x)["conv"]
        after = net.optimize()(data=x)["conv"]
    assert before.abs().max() > 0
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
