from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build, precise

SHAPE = (2, 3, 5, 4)


def values(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).uniform(-3, 5, shape)


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("divide", [False, True])
@pytest.mark.parametrize("gradients", ["caffe", "true"])
def test_mvn(across: bool, divide: bool, gradients: str, device: torch.device) -> None:
    text = f"across_channels: {str(across).lower()} normalize_variance: {str(divide).lower()} eps: 0.25"
    module = build(f'type: "MVN" mvn_param {{ {text} }}', SHAPE, gradients=gradients)
    x, grad = values(), values(seed=1)
    axes = (1, 2, 3) if across else (2, 3)

    def mean(v: np.ndarray) -> np.ndarray:
        return v.mean(axes, keepdims=True)

    divisor = x.std(axes, keepdims=True) + 0.25 if divide else 1.0
    y = (x - mean(x)) / divisor
    inputs = torch.tensor(x, dtype=precise(device), device=device, requires_grad=True)
    found = module(inputs)
    assert_equals(found, y)
    found.backward(torch.tensor(grad).to(inputs))
    if not divide:
        expected = grad - mean(grad)
    elif gradients == "caffe":
        expected = (grad - mean(grad) - y * mean(grad * y)) / divisor
    else:
        # The standard deviation without eps is what the derivative of the square root divides by.
        expected = (grad - mean(grad) - y * mean(grad * y) * divisor / (divisor - 0.25)) / divisor
    assert_equals(inputs.grad, expected)


def test_true_gradient() -> None:
    module = build('type: "MVN" mvn_param { eps: 0.5 }', (1, 2, 3, 4), gradients="true")
    assert torch.autograd.gradcheck(module, torch.tensor(values((1, 2, 3, 4)), requires_grad=True))


def test_default_eps_and_constant_images() -> None:
    module = build('type: "MVN"', SHAPE)
    x = torch.full(SHAPE, 2.0, requires_grad=True)
    y = module(x)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(SHAPE))
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert module.eps == pytest.approx(1e-9)


def test_fewer_axes_are_filled_up_behind() -> None:
    x = values((2, 6))
    found = build('type: "MVN" mvn_param { across_channels: true }', (2, 6))(torch.tensor(x))
    y = (x - x.mean(1, keepdims=True)) / (x.std(1, keepdims=True) + 1e-9)
    assert_equals(found, y.reshape(2, 6, 1, 1))


def test_half_precision_and_empty_batch() -> None:
    module = build('type: "MVN"', SHAPE)
    x = torch.tensor(values())
    half = module(x.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), module(x), rtol=0.02, atol=0.02)
    assert module(x[:0]).shape == (0, 3, 5, 4)


def test_errors() -> None:
    with pytest.raises(LayerError, match="at most 4 axes"):
        build('type: "MVN"', (1, 2, 3, 4, 5))
