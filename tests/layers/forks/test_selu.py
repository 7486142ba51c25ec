"""SeLu, SeLuDropout and RandomNoise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build

PRIV, PULKIT = "soeaver/py-RFCN-priv", "pulkitag/caffe"
SHAPE = (40, 50, 3)
X = np.random.RandomState(0).randn(*SHAPE)


@pytest.mark.parametrize("dialect", [PRIV, "jolibrain/caffe"])
def test_selu(dialect: str, device: torch.device) -> None:
    module = build('type: "SeLu" selu_param { lambda: 1.5 alpha: 0.7 }', SHAPE, dialect=dialect)
    x = torch.tensor(X, dtype=torch.float32, device=device, requires_grad=True)
    top = module(x)
    assert_equals(top, 1.5 * np.where(X > 0, X, 0.7 * (np.exp(X) - 1)))
    assert_equals(torch.autograd.grad(top.sum(), x)[0], 1.5 * np.where(X > 0, 1, 0.7 * np.exp(X)))
    assert build('type: "SeLu"', SHAPE, dialect=dialect).alpha == pytest.approx(1.67326319)


def test_selu_dropout() -> None:
    text = 'type: "SeLuDropout" selu_dropout_param { dropout_ratio: 0.3 alpha: -1.2 }'
    x = torch.tensor(X, requires_grad=True)
    assert torch.equal(build(text, SHAPE, dialect=PRIV)(x), x)
    top = build(text, SHAPE, dialect=PRIV, phase="TRAIN")(x)
    scale = (0.7 * (1 + 1.44 * 0.3)) ** -0.5
    slopes = torch.autograd.grad(top.sum(), x)[0].numpy()
    stay = slopes != 0
    assert_equals(torch.tensor(slopes), scale * stay)
    assert_equals(top, scale * np.where(stay, X, -1.2) + scale * 0.3 * 1.2)
    assert 0.66 < stay.mean() < 0.74
    assert abs(top.mean().item()) < 0.1
    assert abs(top.std().item() - 1) < 0.1
    with pytest.raises(LayerError, match="dropout_ratio 1 must lie between"):
        build('type: "SeLuDropout" selu_dropout_param { dropout_ratio: 1 }', SHAPE, dialect=PRIV)


def test_random_noise(device: torch.device) -> None:
    x = torch.tensor(X, dtype=torch.float32, device=device, requires_grad=True)
    top = build('type: "RandomNoise" random_noise_param { mu: 2 sigma: 0.5 }', SHAPE, dialect=PULKIT)(x)
    noise = (top - x).detach().cpu()
    assert abs(noise.mean().item() - 2) < 0.03
    assert abs(noise.std().item() - 0.5) < 0.02
    assert torch.equal(torch.autograd.grad(top.sum(), x)[0], torch.ones_like(x))


def test_noise_in_proportion() -> None:
    x = torch.tensor(X, dtype=torch.float32)
    x[:20] = 0
    text = 'type: "RandomNoise" random_noise_param { adaptive_sigma: true adaptive_factor: 0.5 }'
    noise = build(text, SHAPE, dialect=PULKIT)(x) - x
    assert abs(noise[:20].std().item() / (0.5 * x.abs().mean().item()) - 1) < 0.04
    drawn = noise[20:] / (0.5 * x[20:].abs())
    assert abs(drawn.mean().item()) < 0.05
    assert abs(drawn.std().item() - 1) < 0.04


def test_noise_that_makes_no_sense() -> None:
    with pytest.raises(LayerError, match="sigma -1 must be at least 0"):
        build('type: "RandomNoise" random_noise_param { sigma: -1 }', SHAPE, dialect=PULKIT)
