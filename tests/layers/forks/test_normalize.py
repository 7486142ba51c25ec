"""Normalize against a slow definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError, UnknownLayerError
from tests.layers.building import assert_equals, build, give_values, precise

SSD = "weiliu89/caffe@ssd"
NORMALIZE = 'type: "Normalize" norm_param { eps: 0.01 across_spatial: %s channel_shared: %s }'


@pytest.mark.parametrize("across", ["false", "true"])
@pytest.mark.parametrize("shared", ["false", "true"])
def test_normalize(device: torch.device, across: str, shared: str) -> None:
    x = np.random.RandomState(0).randn(2, 3, 4, 5)
    modules = [build(NORMALIZE % (across, shared), x.shape, dialect=SSD, gradients=g) for g in ("caffe", "true")]
    for module in modules:
        assert module.scale.shape == (() if shared == "true" else (3,))
        assert (module.fillers["scale"].type, module.fillers["scale"].value) == ("constant", 1)
        give_values(module, device).to(precise(device))
    scale = np.broadcast_to(modules[0].scale.detach().cpu().numpy(), 3)
    expected, norms = np.empty_like(x), np.empty_like(x)
    for n in range(2):
        for i in range(4):
            for j in range(5):
                part = x[n] if across == "true" else x[n, :, i, j]
                norms[n, :, i, j] = math.sqrt((part**2).sum() + 0.01)
                expected[n, :, i, j] = x[n, :, i, j] / norms[n, :, i, j] * scale
    given = torch.tensor(x, dtype=precise(device), device=device, requires_grad=True)
    for module in modules:
        assert_equals(module(given), expected)
    if given.dtype == torch.float64:
        assert torch.autograd.gradcheck(modules[1], given, fast_mode=True)

    # The fork projects the gradient as it comes, and scales it after that.
    top_diff = np.random.RandomState(1).randn(*x.shape)
    axes = (1, 2, 3) if across == "true" else 1
    along = (x * top_diff).sum(axes, keepdims=True)
    slopes = (top_diff - along * x / norms**2) / norms * scale[:, None, None]
    found = modules[0](given)
    diffs = torch.autograd.grad(found, [given, modules[0].scale], torch.tensor(top_diff).to(found))
    assert_equals(diffs[0], slopes)
    each = (x / norms * top_diff).sum((0, 2, 3))
    assert_equals(diffs[1], each.sum() if shared == "true" else each)


def test_where_the_scales_are_alike_the_gradient_is_the_derivative() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.double, requires_grad=True)
    module = give_values(build(NORMALIZE % ("false", "true"), x.shape, dialect=SSD)).double()
    assert torch.autograd.gradcheck(module, x, fast_mode=True)


def test_the_gradient_of_a_scale_of_zero_is_no_number() -> None:
    module = give_values(build(NORMALIZE % ("false", "false"), (1, 2, 2, 2), dialect=SSD))
    with torch.no_grad():
        module.scale[1] = 0
    module(torch.ones(1, 2, 2, 2)).sum().backward()
    assert module.scale.grad.isnan().tolist() == [False, True]


def test_what_forks_add() -> None:
    zeros = torch.zeros(1, 2, 2, 2)
    for dialect, nothing in (("NVIDIA/caffe", False), (SSD, True)):
        module = give_values(build('type: "Normalize" norm_param { eps: 0 }', zeros.shape, dialect=dialect))
        assert module(zeros).isnan().all() == nothing
    build('type: "Normalize" norm_param { fix_scale: false }', zeros.shape, dialect="weiliu89/caffe@fcn")
    with pytest.raises(LayerError, match="add_eps_before_sqrt is not supported"):
        build(
            'type: "Normalize" norm_param { add_eps_before_sqrt: false }',
            zeros.shape,
            dialect="foss-for-synopsys-dwc-arc-processors/synopsys-caffe",
        )


def test_normalize_keeps_what_the_file_fills_with() -> None:
    module = build(
        'type: "Normalize" norm_param { scale_filler { type: "constant" value: 20 } }', (1, 2, 3, 3), dialect=SSD
    )
    assert module.fillers["scale"].value == 20


@pytest.mark.parametrize("dialect", ["yjxiong/caffe", "pulkitag/caffe"])
def test_other_layers_of_the_name_are_not_taken_for_it(dialect: str) -> None:
    with pytest.raises(UnknownLayerError, match="not under dialect"):
        build('type: "Normalize"', (1, 2, 3, 3), dialect=dialect)


@pytest.mark.parametrize("kind", ["L1", "L2"])
@pytest.mark.parametrize("learns", [False, True])
def test_positions_of_caffe_windows(kind: str, learns: bool) -> None:
    params = f'normalize_type: "{kind}" bp_norm: {str(learns).lower()} fix_gradient: true'
    text = f'type: "Normalize" normalize_param {{ {params} }}'
    module = build(text, (2, 3, 4), tops=2, dialect="happynear/caffe-windows")
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    top, norm = module(x)
    sizes = x.detach().abs().sum(1) + 1e-6 if kind == "L1" else (x.detach().square().sum(1) + 1e-6).sqrt()
    torch.testing.assert_close(norm.detach(), sizes[:, None, :, None])
    torch.testing.assert_close(top.detach(), (x.detach() / sizes[:, None])[..., None])
    assert norm.requires_grad == learns
    assert torch.autograd.gradcheck(lambda x: module(x)[0], x)
    if learns:
        assert torch.autograd.gradcheck(lambda x: module(x)[1], x)
    with pytest.raises(LayerError, match="normalize_type 'L3' must be L1 or L2"):
        build('type: "Normalize" normalize_param { normalize_type: "L3" }', (2, 3), dialect="happynear/caffe-windows")
    with pytest.raises(LayerError, match="a pair of brackets is missing"):
        build('type: "Normalize" normalize_param { normalize_type: "L1" }', (2, 3), dialect="yuqj1991/caffe_train")
