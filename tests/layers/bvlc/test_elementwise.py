from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import build

SHAPE = (2, 3, 5, 4)


def random(*shape: int, seed: int = 0, device: torch.device | str = "cpu") -> torch.Tensor:
    array = np.random.RandomState(seed).standard_normal(shape)
    return torch.tensor(array, dtype=torch.float32, device=device).requires_grad_(True)


def numpy(x: torch.Tensor | None) -> np.ndarray:
    assert x is not None
    return x.detach().cpu().double().numpy()


# Eltwise


@pytest.mark.parametrize("coefficients", [(), (0.5, 0.0, -2.0)])
def test_eltwise_sum(coefficients: tuple[float, ...], device: torch.device) -> None:
    text = "".join(f" coeff: {c}" for c in coefficients)
    bottoms = [random(2, 3, seed=k, device=device) for k in range(3)]
    y = build(f'type: "Eltwise" eltwise_param {{ {text} }}', *[(2, 3)] * 3)(*bottoms)
    weights = coefficients or (1, 1, 1)
    np.testing.assert_allclose(numpy(y), sum(c * numpy(x) for c, x in zip(weights, bottoms, strict=True)), rtol=1e-6)
    y.backward(random(2, 3, seed=9, device=device).detach())
    for c, x in zip(weights, bottoms, strict=True):
        np.testing.assert_allclose(numpy(x.grad), c * numpy(random(2, 3, seed=9)), rtol=1e-6)


@pytest.mark.parametrize("stable", ["true", "false"])
def test_eltwise_product(stable: str, device: torch.device) -> None:
    text = f'type: "Eltwise" eltwise_param {{ operation: PROD stable_prod_grad: {stable} }}'
    bottoms = [random(2, 3, seed=k, device=device) for k in range(3)]
    y = build(text, *[(2, 3)] * 3)(*bottoms)
    y.backward(random(2, 3, seed=9, device=device).detach())
    a, b, c = map(numpy, bottoms)
    np.testing.assert_allclose(numpy(y), a * b * c, rtol=1e-6)
    for x, others in zip(bottoms, (b * c, a * c, a * b), strict=True):
        np.testing.assert_allclose(numpy(x.grad), others * numpy(random(2, 3, seed=9)), rtol=1e-5)


def test_eltwise_product_gradient_where_a_factor_is_zero() -> None:
    def gradient(parameters: str, gradients: str = "caffe") -> list[float]:
        zero, three = torch.zeros(1, requires_grad=True), torch.full((1,), 3.0, requires_grad=True)
        build(f'type: "Eltwise" eltwise_param {{ {parameters} }}', (1,), (1,), gradients=gradients)(
            zero, three
        ).backward()
        assert zero.grad is not None
        assert three.grad is not None
        return [float(zero.grad), float(three.grad)]

    assert gradient("operation: PROD") == [3, 0]
    unstable = gradient("operation: PROD stable_prod_grad: false")
    assert np.isnan(unstable[0])
    assert unstable[1] == 0
    assert gradient("operation: PROD stable_prod_grad: false", gradients="true") == [3, 0]


def test_eltwise_max_sends_the_gradient_to_one_bottom_even_on_ties(device: torch.device) -> None:
    combinations = np.array(list(itertools.product([0, 1, 2], repeat=4)), dtype=np.float32).T
    bottoms = [torch.tensor(row, device=device, requires_grad=True) for row in combinations]
    y = build('type: "Eltwise" eltwise_param { operation: MAX }', *[combinations.shape[1:]] * 4)(*bottoms)
    y.backward(torch.arange(1.0, 82.0, device=device))
    np.testing.assert_array_equal(numpy(y), combinations.max(0))
    expected = np.zeros_like(combinations)
    for i, column in enumerate(combinations.T):
        winner = 0 if column[0] > column[1] else 1
        for k in (2, 3):
            if column[k] > column[winner]:
                winner = k
        expected[winner, i] = i + 1
    np.testing.assert_array_equal(np.stack([numpy(x.grad) for x in bottoms]), expected)


@pytest.mark.parametrize(
    ("parameters", "shapes", "message"),
    [
        ("coeff: 1", [(2, 3), (2, 3)], "1 coefficients for 2 bottoms"),
        ("operation: PROD coeff: 1 coeff: 2", [(2, 3), (2, 3)], "which only operation SUM takes"),
        ("", [(2, 3), (3, 2)], r"bottom 'b1' has shape \[3, 2\]; \[2, 3\], as 'b0' has, was expected"),
        ("", [(2, 3), (2, 3), (1, 3)], "bottom 'b2'"),
    ],
)
def test_eltwise_refuses(parameters: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(LayerError, match=message):
        build(f'type: "Eltwise" eltwise_param {{ {parameters} }}', *shapes)


# Reduction


@pytest.mark.parametrize(("axis", "first"), [(0, 0), (1, 1), (-1, 3), (-4, 0)])
@pytest.mark.parametrize("coefficient", [1, -0.5, 0])
@pytest.mark.parametrize("operation", ["SUM", "ASUM", "SUMSQ", "MEAN"])
def test_reduction(operation: str, coefficient: float, axis: int, first: int, device: torch.device) -> None:
    x = random(*SHAPE, device=device)
    text = f'type: "Reduction" reduction_param {{ operation: {operation} axis: {axis} coeff: {coefficient} }}'
    y = build(text, SHAPE)(x)
    assert y.shape == SHAPE[:first]
    diff = np.random.RandomState(1).standard_normal(SHAPE[:first])
    y.backward(torch.tensor(diff, dtype=torch.float32, device=device))
    array = numpy(x)
    flat = array.reshape(*SHAPE[:first], -1)
    value = {"SUM": flat.sum(-1), "ASUM": abs(flat).sum(-1), "SUMSQ": (flat**2).sum(-1), "MEAN": flat.mean(-1)}[
        operation
    ]
    slope = {"SUM": 1, "ASUM": np.sign(array), "SUMSQ": 2 * array, "MEAN": 1 / flat.shape[-1]}[operation]
    np.testing.assert_allclose(numpy(y), coefficient * value, rtol=1e-5, atol=1e-5)
    expected = coefficient * diff.reshape(*SHAPE[:first], *[1] * (4 - first)) * slope * np.ones(SHAPE)
    np.testing.assert_allclose(numpy(x.grad), expected, rtol=1e-5, atol=1e-6)


def test_reduction_defaults_to_the_sum_of_everything() -> None:
    assert build('type: "Reduction"', (2, 3))(torch.ones(2, 3)).tolist() == 6


def test_reduction_refuses_an_axis_that_is_not_there() -> None:
    with pytest.raises(LayerError, match="axis 4 is out of range for 4 axes"):
        build('type: "Reduction" reduction_param { axis: 4 }', SHAPE)


# ArgMax


def reference_arg_max(values: np.ndarray, k: int) -> list[tuple[float, int]]:
    return sorted(((float(v), i) for i, v in enumerate(values)), reverse=True)[:k]


@pytest.mark.parametrize("with_values", [False, True])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(("axis", "place"), [(1, 1), (-2, 2), (3, 3)])
def test_arg_max_along_an_axis(axis: int, place: int, k: int, with_values: bool, device: torch.device) -> None:
    # Few different values: ties everywhere.
    array = np.random.RandomState(2).randint(0, 3, SHAPE).astype(np.float32)
    text = f"top_k: {k} axis: {axis} out_max_val: {str(with_values).lower()}"
    y = build(f'type: "ArgMax" argmax_param {{ {text} }}', SHAPE)(torch.tensor(array, device=device))
    expected = np.apply_along_axis(
        lambda v: [pair[0 if with_values else 1] for pair in reference_arg_max(v, k)], place, array
    )
    np.testing.assert_array_equal(y.cpu(), expected)


@pytest.mark.parametrize("with_values", [False, True])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("shape", [(4, 7), (4, 7, 2), SHAPE, (2, 2, 3, 1, 2)])
def test_arg_max_of_whole_items(shape: tuple[int, ...], k: int, with_values: bool, device: torch.device) -> None:
    array = np.random.RandomState(3).randint(0, 3, shape).astype(np.float32)
    text = f'type: "ArgMax" argmax_param {{ top_k: {k} out_max_val: {str(with_values).lower()} }}'
    y = build(text, shape)(torch.tensor(array, device=device))
    assert y.shape == (shape[0], 2 if with_values else 1, k, *[1] * (len(shape) - 3))
    for item, found in zip(array, y.reshape(shape[0], -1, k).cpu().numpy(), strict=True):
        largest = reference_arg_max(item.ravel(), k)
        assert found[0].tolist() == [i for _, i in largest]
        if with_values:
            assert found[1].tolist() == [v for v, _ in largest]


def test_arg_max_of_single_values() -> None:
    assert build('type: "ArgMax"', (5,))(torch.randn(5)).tolist() == [[[0]]] * 5


def test_arg_max_has_no_gradient() -> None:
    assert not build('type: "ArgMax" argmax_param { out_max_val: true }', (2, 3))(random(2, 3)).requires_grad


def test_eltwise_of_one_bottom_is_known_to_flow_networks_only() -> None:
    text = 'type: "Eltwise" eltwise_param { operation: SUM coeff: 0.25 }'
    x = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(build(text, (2, 3), dialect="twhui/LiteFlowNet")(x), 0.25 * x)
    for other, dialect in ((text, None), (text.replace("SUM coeff: 0.25", "MAX"), "twhui/LiteFlowNet")):
        with pytest.raises(LayerError, match="takes at least 2 bottoms, found 1"):
            build(other, (2, 3), dialect=dialect)


def test_arg_max_indices_are_exact_in_half_precision() -> None:
    x = torch.zeros(1, 5000, dtype=torch.float16)
    x[0, 4321] = 1
    assert build('type: "ArgMax"', (1, 5000))(x).tolist() == [[[4321]]]
    assert build('type: "ArgMax" argmax_param { axis: 1 }', (1, 5000))(x).tolist() == [[4321]]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("top_k: 0", "top_k is 0; 1 to 60"),
        ("top_k: 61", "top_k is 61; 1 to 60"),
        ("top_k: 6 axis: 2", "top_k is 6; 1 to 5"),
        ("axis: 4", "axis 4 is out of range"),
    ],
)
def test_arg_max_refuses(parameters: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        build(f'type: "ArgMax" argmax_param {{ {parameters} }}', SHAPE)


# Softmax


@pytest.mark.parametrize(
    ("parameters", "axis"), [("", 1), ("axis: 0", 0), ("axis: -1", 3), ("axis: 2 engine: CUDNN", 2)]
)
def test_softmax(parameters: str, axis: int, device: torch.device) -> None:
    x = random(*SHAPE, device=device)
    y = build(f'type: "Softmax" softmax_param {{ {parameters} }}', SHAPE)(x)
    powers = np.exp(numpy(x))
    expected = powers / powers.sum(axis, keepdims=True)
    np.testing.assert_allclose(numpy(y), expected, rtol=1e-5)
    y.backward(random(*SHAPE, seed=1, device=device).detach())
    diff = numpy(random(*SHAPE, seed=1))
    expected = expected * (diff - (diff * expected).sum(axis, keepdims=True))
    np.testing.assert_allclose(numpy(x.grad), expected, rtol=1e-4, atol=1e-6)


def test_softmax_of_large_values() -> None:
    assert build('type: "Softmax"', (1, 3))(torch.tensor([[1e4, 1e4, -1e4]])).tolist() == [[0.5, 0.5, 0]]


def test_softmax_needs_its_axis() -> None:
    with pytest.raises(LayerError, match="axis 1 is out of range for 1 axes"):
        build('type: "Softmax"', (3,))


# All


LAYERS: list[tuple[str, int]] = [
    ('type: "Eltwise" eltwise_param { coeff: 2 coeff: 3 }', 2),
    ('type: "Eltwise" eltwise_param { operation: PROD }', 2),
    ('type: "Eltwise" eltwise_param { operation: PROD stable_prod_grad: false }', 2),
    ('type: "Eltwise" eltwise_param { operation: MAX }', 3),
    ('type: "Reduction" reduction_param { axis: 1 operation: MEAN }', 1),
    ('type: "Reduction" reduction_param { axis: 1 operation: SUMSQ coeff: 2 }', 1),
    ('type: "ArgMax" argmax_param { top_k: 2 }', 1),
    ('type: "ArgMax" argmax_param { axis: 1 }', 1),
    ('type: "Softmax"', 1),
]


@pytest.mark.parametrize(("text", "count"), LAYERS)
def test_any_batch_precision_and_shape_inference(text: str, count: int) -> None:
    module: Any = build(text, *[SHAPE] * count)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        y = module(*[torch.ones(7, 3, 5, 4, dtype=dtype)] * count)
        assert y.shape[0] == 7
        assert y.dtype == dtype or "ArgMax" in text
    assert module(*[torch.ones(0, 3, 5, 4)] * count).shape[0] == 0
    meta = module(*[torch.empty(SHAPE, device="meta")] * count)
    assert meta.shape == module(*[torch.ones(SHAPE)] * count).shape


# No version of torch follows a gradient of one's own, of any number of bottoms, in the strict way, which is the default
# of torch 2.6 alone.
FOLLOWED_STRICTLY = [case for case in LAYERS if "stable_prod_grad: false" not in case[0]]


@pytest.mark.parametrize(
    ("text", "count", "strict"), [(*case, False) for case in LAYERS] + [(*case, True) for case in FOLLOWED_STRICTLY]
)
def test_exports(text: str, count: int, strict: bool) -> None:
    module = build(text, *[SHAPE] * count)
    bottoms = tuple(random(*SHAPE, seed=k).detach() for k in range(count))
    assert torch.equal(torch.export.export(module, bottoms, strict=strict).module()(*bottoms), module(*bottoms))


@pytest.mark.parametrize(("text", "count"), [case for case in LAYERS if "ArgMax" not in case[0]])
def test_gradients_are_true(text: str, count: int) -> None:
    module = build(text, *[(2, 3, 2)] * count)
    bottoms = tuple(random(2, 3, 2, seed=k).detach().double().requires_grad_(True) for k in range(count))
    assert torch.autograd.gradcheck(module, bottoms)
