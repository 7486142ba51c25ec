from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.network.fillers import fill
from tests.layers.building import assert_equals, build, give_values, precise


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (2, 3, 5, 4)])
@pytest.mark.parametrize("shared", [False, True])
def test_prelu(shape: tuple[int, ...], shared: bool, device: torch.device) -> None:
    module = build(f'type: "PReLU" prelu_param {{ channel_shared: {str(shared).lower()} }}', shape)
    give_values(module, device).to(precise(device))
    assert module.slope.shape == (() if shared else (3,))
    x = np.random.RandomState(0).uniform(-3, 3, shape)
    x.flat[0] = 0
    grad = np.random.RandomState(1).uniform(-1, 1, shape)
    slope = module.slope.detach().cpu().numpy() * np.ones(3)
    along = slope.reshape(1, 3, *(1,) * (len(shape) - 2))
    inputs = torch.tensor(x, dtype=precise(device), device=device, requires_grad=True)
    y = module(inputs)
    assert_equals(y, np.maximum(x, 0) + along * np.minimum(x, 0))
    y.backward(torch.tensor(grad).to(inputs))
    # At 0 the slope of the negative side holds.
    assert_equals(inputs.grad, grad * np.where(x > 0, 1, along))
    per_channel = (grad * x * (x <= 0)).sum((0, *range(2, len(shape))))
    assert_equals(module.slope.grad, per_channel.sum() if shared else per_channel)


def test_initial_values() -> None:
    for text, value in (("", 0.25), ("filler { value: 0.5 }", 0.5), ("filler { value: 0 }", 0.0)):
        module = build(f'type: "PReLU" prelu_param {{ {text} }}', (2, 3))
        assert fill(torch.full((3,), 9.0), module.fillers["slope"]).tolist() == [value] * 3


def test_half_precision() -> None:
    module = give_values(build('type: "PReLU"', (2, 3))).half()
    assert module(torch.ones(2, 3, dtype=torch.float16)).dtype == torch.float16


def test_errors() -> None:
    with pytest.raises(LayerError, match=r"\[3\]; \(images, channels, ...\) was"):
        build('type: "PReLU"', (3,))
