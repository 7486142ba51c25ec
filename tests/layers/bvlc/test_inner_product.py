from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build, give_values, precise

SHAPE = (2, 3, 5, 4)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -4])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_inner_product(axis: int, transpose: bool, bias: bool, device: torch.device) -> None:
    text = f"num_output: 6 axis: {axis} transpose: {str(transpose).lower()} bias_term: {str(bias).lower()}"
    module = give_values(build(f'type: "InnerProduct" inner_product_param {{ {text} }}', SHAPE), device).to(
        precise(device)
    )
    x = np.random.RandomState(3).uniform(-1, 1, SHAPE)
    lead = SHAPE[: axis % 4]
    inputs = int(np.prod(SHAPE[axis % 4 :]))
    w = module.weight.detach().cpu().numpy()
    assert w.shape == ((inputs, 6) if transpose else (6, inputs))
    assert module.blob_names == (("weight", "bias") if bias else ("weight",))
    expected = x.reshape(*lead, inputs) @ (w if transpose else w.T)
    if bias:
        expected = expected + module.bias.detach().cpu().numpy()
    assert_equals(module(torch.tensor(x, dtype=precise(device), device=device)), expected)


def test_inner_product_gradient_and_empty_batch() -> None:
    module = give_values(
        build('type: "InnerProduct" inner_product_param { num_output: 3 transpose: true }', (2, 4))
    ).double()
    x = torch.rand(2, 4, dtype=torch.float64, requires_grad=True)
    w, b = module.weight.detach().requires_grad_(), module.bias.detach().requires_grad_()

    def call(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, {"weight": w, "bias": b}, (x,))

    assert torch.autograd.gradcheck(call, (x, w, b))
    assert module(x[:0]).shape == (0, 3)


def test_inner_product_errors() -> None:
    with pytest.raises(LayerError, match="num_output is 0"):
        build('type: "InnerProduct"', SHAPE)
    with pytest.raises(LayerError, match="axis 4 is out of range for 4 axes"):
        build('type: "InnerProduct" inner_product_param { num_output: 2 axis: 4 }', SHAPE)


@pytest.mark.parametrize("bias", [False, True])
def test_embed(bias: bool, device: torch.device) -> None:
    text = f"num_output: 5 input_dim: 7 bias_term: {str(bias).lower()}"
    module = give_values(build(f'type: "Embed" embed_param {{ {text} }}', (3, 4)), device)
    # A value is cut off, not rounded, as C does.
    x = torch.tensor([[0, 6, 2, 2], [1, 1.9, 5, 0], [6, 6, 6, 3]], device=device)
    index = np.array([[0, 6, 2, 2], [1, 1, 5, 0], [6, 6, 6, 3]])
    y = module(x)
    expected = module.weight.detach().cpu().numpy()[index]
    if bias:
        expected = expected + module.bias.detach().cpu().numpy()
    assert_equals(y, expected)

    grad = np.random.RandomState(1).uniform(-1, 1, y.shape).astype(np.float32)
    y.backward(torch.tensor(grad, device=device))
    rows = np.zeros((7, 5), np.float32)
    np.add.at(rows, index, grad)
    np.testing.assert_allclose(module.weight.grad.cpu().numpy(), rows, atol=1e-6)
    if bias:
        np.testing.assert_allclose(module.bias.grad.cpu().numpy(), grad.sum((0, 1)), rtol=1e-5)


def test_embed_refuses_rows_that_are_not_there() -> None:
    module = give_values(build('type: "Embed" embed_param { num_output: 5 input_dim: 7 }', (3,)))
    for row in (-1, 7):
        with pytest.raises(IndexError):
            module(torch.tensor([0.0, row, 1.0]))


@pytest.mark.parametrize(
    ("text", "message"), [("num_output: 5", "input_dim is 0"), ("input_dim: 5", "num_output is 0")]
)
def test_embed_errors(text: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        build(f'type: "Embed" embed_param {{ {text} }}', (3,))
