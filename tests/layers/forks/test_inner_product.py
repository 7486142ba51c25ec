"""InnerProduct with weights made 1 long, or with weights from a bottom (caffe-windows)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from caffe_compat.errors import CaffeCompatError
from caffe_compat.layers.bvlc.inner_product import InnerProduct
from tests.layers.building import assert_equals, build, give_values

FORK = "happynear/caffe-windows"
FORKS = (FORK, "GuohongWu/caffe-windows", "imistyrain/ssd", "openvinotoolkit/training_toolbox_caffe")
TEXT = 'type: "InnerProduct" inner_product_param { num_output: 4 axis: 2 %s }'
SHAPE = (2, 3, 5, 6)


@pytest.mark.parametrize("dialect", FORKS)
@pytest.mark.parametrize("bias", [True, False])
def test_every_pass_makes_the_rows_one_long(dialect: str, bias: bool) -> None:
    text = TEXT % f"normalize: true bias_term: {str(bias).lower()}"
    module = give_values(build(text, SHAPE, dialect=dialect)).double()
    x = torch.randn(SHAPE, dtype=torch.float64)
    weight = module.weight.detach().clone()
    rows = weight / (weight.square().sum(1, keepdim=True) + 1e-6).sqrt()
    expected = functional.linear(x.flatten(2), rows, module.bias.detach() if bias else None)
    found = module(x)
    assert_equals(found, expected)
    assert_equals(module.weight, rows)
    slope = torch.randn_like(found)
    found.backward(slope)
    assert_equals(module.weight.grad, slope.flatten(0, 1).T @ x.flatten(2).flatten(0, 1))
    assert module.infer(x.to("meta")).shape == (2, 3, 4)


def test_the_true_gradient_goes_through_the_length() -> None:
    module = give_values(build(TEXT % "normalize: true", SHAPE, dialect=FORK, gradients="true")).double()
    x = torch.randn(SHAPE, dtype=torch.float64)
    module(x).sum().backward()
    along = (module.weight.grad * module.weight.detach()).sum(1)
    torch.testing.assert_close(along, torch.zeros_like(along))
    assert module.weight.grad.abs().max() > 0.1


def test_weights_from_a_bottom() -> None:
    x, rows, bias = (np.random.RandomState(n).randn(*s) for n, s in enumerate((SHAPE, (7, 30), (7,))))
    given = [torch.tensor(values, requires_grad=True) for values in (x, rows, bias)]
    plain = build(TEXT % "bias_term: false", SHAPE, (7, 5, 6), dialect=FORK)
    expected = x.reshape(2, 3, 30) @ rows.T
    assert_equals(plain(given[0], given[1].reshape(7, 5, 6)), expected)
    assert plain.blob_names == ()
    top = build(TEXT % "", SHAPE, (7, 30), (7, 1), dialect=FORK)(given[0], given[1], given[2].reshape(7, 1))
    assert_equals(top, expected + bias)
    top.sum().backward()
    assert_equals(given[1].grad, np.tile(x.reshape(6, 30).sum(0), (7, 1)))
    assert_equals(given[2].grad, np.full(7, 6.0))


def test_without_either_it_is_caffes() -> None:
    assert type(build(TEXT % "", SHAPE, dialect=FORK)) is InnerProduct
    assert type(build(TEXT % "normalize: false transpose: true", SHAPE, dialect=FORK)) is InnerProduct


def test_errors() -> None:
    for more, shapes, message in (
        ("normalize: true transpose: true", (SHAPE,), "mix up the axes"),
        ("transpose: true bias_term: false", (SHAPE, (7, 30)), "mix up the axes"),
        ("", (SHAPE, (7, 30)), "has 2 bottoms and bias_term: true"),
        ("bias_term: false", (SHAPE, (7, 30), (7,)), "has 3 bottoms and bias_term: false"),
        ("bias_term: false", (SHAPE, (7, 29)), "a row of weights for each output"),
        ("", (SHAPE, (7, 30), (6,)), "a bias for each output"),
    ):
        with pytest.raises(CaffeCompatError, match=message):
            build(TEXT % more, *shapes, dialect=FORK)
    with pytest.raises(CaffeCompatError, match="num_output is 0"):
        build('type: "InnerProduct" inner_product_param { normalize: true }', SHAPE, dialect=FORK)
