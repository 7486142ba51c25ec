"""Mish, value by value."""

from __future__ import annotations

import math

import torch

from tests.layers.building import assert_equals, build

FORK = "foss-for-synopsys-dwc-arc-processors/synopsys-caffe"
VALUES = [-30.0, -3.0, -0.5, 0.0, 0.7, 2.0, 25.0]


def test_values_and_gradients() -> None:
    x = torch.tensor(VALUES, dtype=torch.float64, requires_grad=True)
    expected = [v * math.tanh(math.log1p(math.exp(v))) for v in VALUES]
    y = build('type: "Mish"', (7,), dialect=FORK)(x)
    assert_equals(y, expected)
    y.sum().backward()
    slopes = []
    for at in expected:  # where the fork takes its derivative
        soft = math.log1p(math.exp(at))
        slopes.append(at * (1 - math.tanh(soft) ** 2) * (1 - math.exp(-soft)) + math.tanh(soft))
    assert_equals(x.grad, slopes)
    assert torch.autograd.gradcheck(build('type: "Mish"', (7,), dialect=FORK, gradients="true"), (x,))
