from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import build

SHAPE = (2, 3, 5)


def values(shape: tuple[int, ...] = SHAPE, low: float = -3, high: float = 3) -> np.ndarray:
    return np.random.RandomState(0).uniform(low, high, shape)


# Each: the layer, its formula, its derivative, and the range of inputs where both hold.
CASES = {
    "AbsVal": ('type: "AbsVal"', np.abs, np.sign, (-3, 3)),
    "BNLL": ('type: "BNLL"', lambda x: np.log(1 + np.exp(x)), lambda x: 1 / (1 + np.exp(-x)), (-9, 9)),
    "Clip": (
        'type: "Clip" clip_param { min: -1 max: 0 }',
        lambda x: np.clip(x, -1, 0),
        lambda x: ((x >= -1) & (x <= 0)) * 1.0,
        (-3, 3),
    ),
    "ELU": (
        'type: "ELU"',
        lambda x: np.where(x > 0, x, np.exp(x) - 1),
        lambda x: np.where(x > 0, 1, np.exp(x)),
        (-3, 3),
    ),
    "ELU_alpha": (
        'type: "ELU" elu_param { alpha: 0.25 }',
        lambda x: np.where(x > 0, x, 0.25 * (np.exp(x) - 1)),
        lambda x: np.where(x > 0, 1, 0.25 * np.exp(x)),
        (-3, 3),
    ),
    "ELU_zero": (
        'type: "ELU" elu_param { alpha: 0 }',
        lambda x: np.maximum(x, 0),
        lambda x: np.where(x > 0, 1, 0),
        (-3, 3),
    ),
    "Exp": ('type: "Exp"', np.exp, np.exp, (-3, 3)),
    "Exp_base": (
        'type: "Exp" exp_param { base: 2 scale: 0.5 shift: -3 }',
        lambda x: 2 ** (-3 + 0.5 * x),
        lambda x: np.log(2) * 0.5 * 2 ** (-3 + 0.5 * x),
        (-3, 3),
    ),
    "Exp_shift": (
        'type: "Exp" exp_param { shift: 0.5 }',
        lambda x: np.exp(0.5 + x),
        lambda x: np.exp(0.5 + x),
        (-3, 3),
    ),
    "Exp_scale_zero": (
        'type: "Exp" exp_param { base: 4 scale: 0 shift: 0.5 }',
        lambda x: np.full_like(x, 2),
        np.zeros_like,
        (-3, 3),
    ),
    "Log": ('type: "Log"', np.log, lambda x: 1 / x, (0.1, 3)),
    "Log_base": (
        'type: "Log" log_param { base: 10 scale: 0.5 shift: 0.25 }',
        lambda x: np.log10(0.25 + 0.5 * x),
        lambda x: 0.5 / (0.25 + 0.5 * x) / np.log(10),
        (0.1, 3),
    ),
    "Power": ('type: "Power"', lambda x: x, np.ones_like, (-3, 3)),
    "Power_affine": (
        'type: "Power" power_param { scale: -2 shift: 0.5 }',
        lambda x: 0.5 - 2 * x,
        lambda x: np.full_like(x, -2),
        (-3, 3),
    ),
    "Power_square": (
        'type: "Power" power_param { power: 2 scale: 0.5 shift: 1 }',
        lambda x: (1 + 0.5 * x) ** 2,
        lambda x: 1 + 0.5 * x,
        (-3, 3),
    ),
    "Power_fraction": (
        'type: "Power" power_param { power: -1.5 scale: 0.5 shift: 0.25 }',
        lambda x: (0.25 + 0.5 * x) ** -1.5,
        lambda x: -0.75 * (0.25 + 0.5 * x) ** -2.5,
        (0.1, 3),
    ),
    "ReLU": ('type: "ReLU"', lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0, (-3, 3)),
    "ReLU_leaky": (
        'type: "ReLU" relu_param { negative_slope: 0.125 engine: CAFFE }',
        lambda x: np.where(x > 0, x, 0.125 * x),
        lambda x: np.where(x > 0, 1, 0.125),
        (-3, 3),
    ),
    "Sigmoid": (
        'type: "Sigmoid" sigmoid_param { engine: CUDNN }',
        lambda x: 1 / (1 + np.exp(-x)),
        lambda x: np.exp(-x) / (1 + np.exp(-x)) ** 2,
        (-3, 3),
    ),
    "Swish": (
        'type: "Swish" swish_param { beta: 1.5 }',
        lambda x: x / (1 + np.exp(-1.5 * x)),
        lambda x: (1 + np.exp(-1.5 * x) * (1 + 1.5 * x)) / (1 + np.exp(-1.5 * x)) ** 2,
        (-3, 3),
    ),
    "Swish_zero": ('type: "Swish" swish_param { beta: 0 }', lambda x: x / 2, lambda x: np.full_like(x, 0.5), (-3, 3)),
    "TanH": ('type: "TanH"', np.tanh, lambda x: 1 - np.tanh(x) ** 2, (-3, 3)),
}


@pytest.mark.parametrize("case", CASES)
def test_formula_and_gradient(case: str, device: torch.device) -> None:
    text, formula, derivative, (low, high) = CASES[case]
    array = values(low=low, high=high)
    x = torch.tensor(array, dtype=torch.float32, device=device, requires_grad=True)
    given = torch.tensor(np.random.RandomState(1).standard_normal(SHAPE), dtype=torch.float32, device=device)
    before = x.detach().clone()
    y = build(text, SHAPE)(x)
    y.backward(given)
    expected = formula(x.detach().cpu().double().numpy())
    np.testing.assert_allclose(y.detach().cpu(), expected, rtol=1e-5, atol=1e-6)
    expected = derivative(x.detach().cpu().double().numpy()) * given.cpu().double().numpy()
    np.testing.assert_allclose(x.grad.cpu(), expected, rtol=1e-5, atol=2e-6)
    assert torch.equal(x.detach(), before)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_keeps_precision_and_any_size(case: str, dtype: torch.dtype) -> None:
    text, formula, _, (low, high) = CASES[case]
    module = build(text, SHAPE)
    x = torch.tensor(values(low=low, high=high), dtype=dtype)
    y = module(x)
    assert y.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float64 else 0.05
    np.testing.assert_allclose(y.double(), formula(x.double().numpy()), rtol=tolerance, atol=tolerance)
    assert module(torch.empty(0, 7, dtype=dtype)).shape == (0, 7)
    assert module(torch.empty(4, 3, device="meta")).shape == (4, 3)


def test_values_at_the_seams() -> None:
    def gradient(text: str, at: float) -> float:
        x = torch.tensor([float(at)], requires_grad=True)
        build(text, (1,))(x).sum().backward()
        assert x.grad is not None
        return float(x.grad)

    assert gradient('type: "AbsVal"', 0) == 0
    assert gradient('type: "ReLU"', 0) == 0
    assert gradient('type: "ReLU" relu_param { negative_slope: 0.5 }', 0) == 0.5
    assert gradient('type: "ELU" elu_param { alpha: 0.5 }', 0) == 0.5
    assert gradient('type: "Clip" clip_param { min: -1 max: 1 }', 1) == 1
    assert gradient('type: "Clip" clip_param { min: -1 max: 1 }', 1.01) == 0
    assert gradient('type: "BNLL"', 60) == 1


def test_bnll_of_large_values() -> None:
    x = torch.tensor([-200.0, -60.0, 45.0, 60.0, 200.0])
    assert build('type: "BNLL"', (5,))(x).tolist() == pytest.approx([0, 0, 45, 60, 200], abs=1e-20)


def test_clip_with_crossed_bounds_gives_min_everywhere() -> None:
    x = torch.tensor([-5.0, 0.0, 2.0, 9.0], requires_grad=True)
    y = build('type: "Clip" clip_param { min: 2 max: -1 }', (4,))(x)
    y.sum().backward()
    assert y.tolist() == [2, 2, 2, 2]
    assert x.grad.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("power: 0", 1.0),
        ("power: 0 shift: -2 scale: 3", 1.0),
        ("power: 3 shift: 2 scale: 0", 8.0),
        ("power: -1 shift: 0 scale: 0", float("inf")),
    ],
)
def test_power_without_scale_or_power_is_a_constant(parameters: str, expected: float) -> None:
    x = torch.tensor([0.0, -1.5, float("nan")], requires_grad=True)
    y = build(f'type: "Power" power_param {{ {parameters} }}', (3,))(x)
    assert y.tolist() == [expected] * 3
    assert not y.requires_grad


def test_power_of_a_negative_number_to_a_fraction_is_not_a_number() -> None:
    assert build('type: "Power" power_param { power: 0.5 shift: -1 scale: 0 }', (1,))(torch.ones(1)).isnan().all()


def test_threshold_is_strict_and_has_no_gradient() -> None:
    x = torch.tensor([0.5, 0.5000001, -1.0, 2.0], requires_grad=True)
    y = build('type: "Threshold" threshold_param { threshold: 0.5 }', (4,))(x)
    assert y.tolist() == [0, 1, 0, 1]
    assert y.dtype == x.dtype
    assert not y.requires_grad
    assert build('type: "Threshold"', (2,))(torch.tensor([0.0, 1e-30])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('type: "Exp" exp_param { base: 0 }', "base is 0"),
        ('type: "Log" log_param { base: -2 }', "base is -2"),
        ('type: "Log" log_param { base: 1 }', "no logarithm to base 1"),
        ('type: "Exp" exp_param { base: 10 shift: 400 }', "overflows"),
        ('type: "Exp" exp_param { shift: 1000 }', "overflows"),
        ('type: "Clip"', "both min and max"),
    ],
)
def test_refuses_what_makes_no_sense(text: str, message: str) -> None:
    with pytest.raises(LayerError, match=rf"layer 'l' \(\w+\): .*{message}"):
        build(text, SHAPE)


def test_exports() -> None:
    for text, _, _, (low, high) in CASES.values():
        module = build(text, SHAPE)
        x = torch.tensor(values(low=low, high=high), dtype=torch.float32)
        exported = torch.export.export(module, (x,)).module()
        assert torch.equal(exported(x), module(x))
