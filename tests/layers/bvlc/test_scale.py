from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.network.fillers import fill
from tests.layers.building import assert_equals, build, give_values, precise

SHAPE = (2, 3, 5, 4)
# axis and num_axes, and the first and last axis of the bottom that they stand for.
PLACES = [
    (1, 1, 1, 2),
    (1, -1, 1, 4),
    (0, 2, 0, 2),
    (0, -1, 0, 4),
    (-1, 1, 3, 4),
    (-3, 2, 1, 3),
    (2, 0, 2, 2),
    (3, -1, 3, 4),
]


def values(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).uniform(-3, 5, shape)


def spread(blob: np.ndarray, first: int, last: int) -> np.ndarray:
    """A blob along the axes first..last of the bottom, element by element over the whole bottom."""
    return np.array([blob[at[first:last]] for at in np.ndindex(*SHAPE)]).reshape(SHAPE)


@pytest.mark.parametrize(("axis", "num_axes", "first", "last"), PLACES)
@pytest.mark.parametrize("bias", [False, True])
def test_scale(axis: int, num_axes: int, first: int, last: int, bias: bool, device: torch.device) -> None:
    text = f"axis: {axis} num_axes: {num_axes} bias_term: {str(bias).lower()}"
    module = build(f'type: "Scale" scale_param {{ {text} }}', SHAPE)
    give_values(module, device).to(precise(device))
    assert module.blob_names == (("weight", "bias") if bias else ("weight",))
    x = values()
    expected = x * spread(module.weight.detach().cpu().numpy(), first, last)
    if bias:
        expected = expected + spread(module.bias.detach().cpu().numpy(), first, last)
    inputs = torch.tensor(x, dtype=precise(device), device=device)
    assert_equals(module(inputs), expected)
    assert_equals(inputs, x)


@pytest.mark.parametrize(("axis", "num_axes", "first", "last"), PLACES)
@pytest.mark.parametrize("bias", [False, True])
def test_scale_by_a_bottom(axis: int, num_axes: int, first: int, last: int, bias: bool) -> None:
    # A scalar fits whatever the axis; num_axes and filler describe a blob that is not there.
    text = f'axis: {axis} num_axes: 7 bias_term: {str(bias).lower()} filler {{ type: "nonsense" }}'
    other = values(SHAPE[first:last], seed=1)
    module = build(f'type: "Scale" scale_param {{ {text} }}', SHAPE, other.shape)
    give_values(module).double()
    x = values()
    expected = x * spread(other, first, last)
    if bias:
        expected = expected + spread(module.bias.detach().numpy(), first, last)
    inputs = [torch.tensor(v, requires_grad=True) for v in (x, other)]
    assert_equals(module(*inputs), expected)
    assert module.blob_names == (("bias",) if bias else ())


@pytest.mark.parametrize(("axis", "num_axes", "first", "last"), PLACES)
def test_bias(axis: int, num_axes: int, first: int, last: int, device: torch.device) -> None:
    module = build(f'type: "Bias" bias_param {{ axis: {axis} num_axes: {num_axes} }}', SHAPE)
    give_values(module, device).to(precise(device))
    x = values()
    inputs = torch.tensor(x, dtype=precise(device), device=device)
    assert_equals(module(inputs), x + spread(module.bias.detach().cpu().numpy(), first, last))
    other = values(SHAPE[first:last], seed=1)
    module = build(f'type: "Bias" bias_param {{ axis: {axis} }}', SHAPE, other.shape)
    assert_equals(module(inputs, torch.tensor(other).to(inputs)), x + spread(other, first, last))
    assert module.blob_names == ()


def test_gradients() -> None:
    shape = (2, 3, 4)
    for kind in ("scale", "bias"):
        module = build(f'type: "{kind.capitalize()}" {kind}_param {{ axis: 0 }}', shape, (2, 3))
        inputs = [torch.tensor(values(s), requires_grad=True) for s in (shape, (2, 3))]
        assert torch.autograd.gradcheck(module, inputs)
    module = give_values(build('type: "Scale" scale_param { bias_term: true }', shape)).double()
    blobs = {n: p.detach().requires_grad_() for n, p in module.named_parameters()}

    def call(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(call, (torch.tensor(values(shape), requires_grad=True), *blobs.values()))


def test_initial_values() -> None:
    def initial(text: str) -> list[float]:
        module = build(f'type: "Scale" scale_param {{ bias_term: true {text} }}', SHAPE)
        return [fill(torch.full((3,), 9.0), module.fillers[n]).unique().item() for n in ("weight", "bias")]

    assert initial("") == [1.0, 0.0]
    assert initial("filler { value: 0 } bias_filler { value: 2 }") == [0.0, 2.0]
    # A filler that is there but says nothing fills with its own default.
    assert initial("filler { }") == [0.0, 0.0]


@pytest.mark.parametrize("kind", ["Scale", "Bias"])
def test_errors(kind: str) -> None:
    param = f"{kind.lower()}_param"
    with pytest.raises(LayerError, match="axis 4 is out of range"):
        build(f'type: "{kind}" {param} {{ axis: 4 }}', SHAPE)
    with pytest.raises(LayerError, match="num_axes is -2"):
        build(f'type: "{kind}" {param} {{ num_axes: -2 }}', SHAPE)
    with pytest.raises(LayerError, match="reach past the bottom"):
        build(f'type: "{kind}" {param} {{ axis: 2 num_axes: 3 }}', SHAPE)
    with pytest.raises(LayerError, match=r"'b1' has shape \[3, 4\]; what .* has from axis 1 on was"):
        build(f'type: "{kind}" {param} {{ axis: 1 }}', SHAPE, (3, 4))
    with pytest.raises(LayerError, match=r"'b1' has shape \[4, 1\]; what .* has from axis 3 on was"):
        build(f'type: "{kind}" {param} {{ axis: 3 }}', SHAPE, (4, 1))
