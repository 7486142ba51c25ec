"""Scale and Parameter of caffe-windows: factors between bounds, and a filler by another name."""

from __future__ import annotations

import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.layers.forks.bounded_scale import BoundedScale
from caffe_compat.network.fillers import fill
from tests.layers.building import assert_equals, build, precise

FORKS = ("happynear/caffe-windows", "GuohongWu/caffe-windows")
VALUES = [-1.0, 0.25, 3.0]


@pytest.mark.parametrize("dialect", FORKS)
@pytest.mark.parametrize(
    ("bounds", "factors"),
    [
        ("min_value: 0", [0.0, 0.25, 3.0]),  # which is a bound, too
        ("max_value: 0.5", [-1.0, 0.25, 0.5]),
        ("min_value: 0.5 max_value: 2", [0.5, 0.5, 2.0]),
        ("min_value: 2 max_value: 1", [1.0, 1.0, 1.0]),
    ],
)
def test_factors_stay_between_bounds(bounds: str, factors: list[float], dialect: str, device: torch.device) -> None:
    x = torch.randn(2, 3, 4, dtype=precise(device), device=device, requires_grad=True)
    text = f'type: "Scale" scale_param {{ {bounds} bias_term: true }}'
    module = build(text, x.shape, dialect=dialect).to_empty(device=device).to(precise(device))
    with torch.no_grad():
        module.weight.copy_(torch.tensor(VALUES))
        module.bias.copy_(torch.tensor([1.0, 2, 3]))
    factor = torch.tensor(factors, dtype=x.dtype, device=device)
    expected = x * factor[:, None] + module.bias[:, None]
    assert_equals(module(x), expected.detach().cpu())
    assert module.weight.tolist() == factors  # the blob itself, as in the fork
    slopes = torch.autograd.grad(module(x).square().sum(), [x, module.weight, module.bias])
    assert_equals(slopes[0], (2 * expected * factor[:, None]).detach().cpu())
    assert_equals(slopes[1], (2 * expected * x).sum((0, 2)).detach().cpu())
    assert_equals(slopes[2], (2 * expected).sum((0, 2)).detach().cpu())


def test_without_bounds_it_is_bvlcs() -> None:
    assert not isinstance(build('type: "Scale"', (2, 3), dialect=FORKS[0]), BoundedScale)
    module = build('type: "Scale" scale_param { num_axes: 0 min_value: 0.01 }', (2, 3), dialect=FORKS[0])
    assert module.weight.shape == ()


def test_a_second_bottom_is_never_written_over() -> None:
    with pytest.raises(LayerError, match="max_value is not supported beside a second bottom"):
        build('type: "Scale" scale_param { max_value: 1 }', (2, 3), (3,), dialect=FORKS[0])


@pytest.mark.parametrize("dialect", FORKS)
def test_a_blob_with_a_filler(dialect: str, device: torch.device) -> None:
    own = 'shape { dim: 3 dim: 4 } blob_filler { type: "gaussian_unitball" }'
    module = build(f'type: "Parameter" parameter_param {{ {own} }}', dialect=dialect)
    value = fill(torch.empty(module.value.shape, device=device), module.fillers["value"])
    torch.testing.assert_close(value.square().sum(1).cpu(), torch.ones(3))
