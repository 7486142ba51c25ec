"""Layers of MyCaffe: InnerProduct with noise, and BVLC's LSTM under its name there."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from caffe_compat.errors import CaffeCompatError, LayerError
from caffe_compat.layers.bvlc.inner_product import InnerProduct
from caffe_compat.layers.bvlc.recurrent import LSTM
from caffe_compat.network.fillers import fill
from tests.layers.building import assert_equals, build, give_values

FORK = "MyCaffe/MyCaffe"
SHAPE = (2, 3, 5)
TEXT = 'type: "InnerProduct" inner_product_param { num_output: 4 axis: 2 enable_noise: true sigma_init: 0.5 %s }'


def test_noise_in_training_only() -> None:
    module = give_values(build(TEXT % "", SHAPE, phase="TRAIN", dialect=FORK)).double()
    assert module.blob_names == ("weight", "bias", "sigma_weight", "sigma_bias")
    module.randomness.seed = 3
    x = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
    plain = functional.linear(x, module.weight, module.bias)
    found = module(x)
    weight_noise = (module(torch.eye(5).double()[None]) - module(torch.zeros(1, 1, 5).double()))[0].T - module.weight
    drawn = (weight_noise / module.sigma_weight).detach()
    assert drawn.abs().max() <= 1
    assert drawn.std() > 0.3
    moved = functional.linear(x, module.weight + module.sigma_weight * drawn)
    bias = (found - moved)[0, 0].detach()
    bias_drawn = (bias - module.bias.detach()) / module.sigma_bias.detach()
    assert 0 < bias_drawn.abs().max() <= 1
    assert_equals(found, moved + bias)
    slope = torch.randn_like(found)
    found.backward(slope)
    by_weight = slope.flatten(0, 1).T @ x.detach().flatten(0, 1)
    assert_equals(module.weight.grad, by_weight)
    assert_equals(module.sigma_weight.grad, by_weight * drawn)
    assert_equals(module.bias.grad, slope.sum((0, 1)))
    assert_equals(module.sigma_bias.grad, slope.sum((0, 1)) * bias_drawn)
    assert_equals(x.grad, slope @ module.weight)  # the noise has no part in it
    module.eval()
    assert_equals(module(x), plain)


def test_the_true_gradient_knows_the_noise() -> None:
    text = TEXT % "bias_term: false"
    module = give_values(build(text, SHAPE, phase="TRAIN", dialect=FORK, gradients="true")).double()
    module.randomness.seed = 3
    assert module.blob_names == ("weight", "sigma_weight")
    assert torch.autograd.gradcheck(module, (torch.randn(SHAPE, dtype=torch.float64, requires_grad=True),))
    assert module.infer(torch.empty(SHAPE, device="meta")).shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("filler", "low", "high"),
    [
        ('type: "constant" value: 2', 2, 2),
        ('type: "uniform" min: -1 max: 3', -1, 3),
        ('type: "xavier"', -math.sqrt(3 / 5), math.sqrt(3 / 5)),
        ('type: "gaussian" mean: 7 std: 0.01', 6.9, 7.1),
    ],
)
def test_where_blobs_start(filler: str, low: float, high: float) -> None:
    text = TEXT % f"weight_filler {{ {filler} }} bias_filler {{ {filler.replace('xavier', 'constant')} }}"
    module = build(text, SHAPE, phase="TRAIN", dialect=FORK)
    blobs = {name: fill(torch.empty(getattr(module, name).shape), module.fillers[name]) for name in module.blob_names}
    part = 1 / math.sqrt(5)
    assert low * part - 1e-6 <= blobs["weight"].min() <= blobs["weight"].max() <= high * part + 1e-6
    if "xavier" not in filler:
        assert low * part - 1e-6 <= blobs["bias"].min() <= blobs["bias"].max() <= high * part + 1e-6
    assert_equals(blobs["sigma_weight"], np.full((4, 5), 0.5 * part))
    assert_equals(blobs["sigma_bias"], np.full(4, 0.5 / 2))


def test_without_noise() -> None:
    text = 'type: "InnerProduct" inner_product_param { num_output: 4 min_top_axes: 2 bias_grad_scale: 10 %s }'
    assert isinstance(build(text % "output_contains_predictions: true", SHAPE, dialect=FORK), InnerProduct)
    with pytest.raises(LayerError, match="min_top_axes: 3 is not supported"):
        build((text % "").replace("axes: 2", "axes: 3"), SHAPE, dialect=FORK)


def test_errors() -> None:
    for more, message in (
        ("transpose: true", "transpose is not supported beside enable_noise"),
        ('weight_filler { type: "msra" }', "filler 'msra' is not supported beside enable_noise"),
        ("axis: 3", "axis 3 is out of range"),
    ):
        with pytest.raises(CaffeCompatError, match=message):
            build((TEXT % more).replace("axis: 2", "") if "axis" in more else TEXT % more, SHAPE, dialect=FORK)


LSTM_TEXT = 'type: "Lstm" recurrent_param { num_output: 4 num_layers: 2 dropout_ratio: 0.5 dropout_seed: 3 %s }'


def test_lstm_is_bvlcs() -> None:
    module = build(LSTM_TEXT % "bidirectional: true cudnn_enable_tensor_cores: true", (6, 2, 3), (6, 2), dialect=FORK)
    assert isinstance(module, LSTM)
    for more in ("batch_first: true", "auto_repeat_hidden_states_across_layers: true", "engine: CUDNN"):
        with pytest.raises(LayerError, match=f"{more} is not supported"):
            build(LSTM_TEXT % more, (6, 2, 3), (6, 2), dialect=FORK)
