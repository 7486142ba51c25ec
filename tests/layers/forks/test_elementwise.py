"""Arccos, Cosine, ChannelScale, GRN and NegReLU beyond their recorded cases (``test_fork_cases.py``)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import build

WINDOWS, OPENVINO, FLOWNET2 = (
    "happynear/caffe-windows",
    "openvinotoolkit/training_toolbox_caffe",
    "lmb-freiburg/flownet2",
)


def test_a_steep_arc_cosine(device: torch.device) -> None:
    x = torch.tensor([[0.5, 0.995, -0.995]], device=device, requires_grad=True)
    top = build('type: "Arccos"', (1, 3), dialect=WINDOWS)(x)
    torch.testing.assert_close(top.detach().cpu(), torch.tensor([[0.5, 0.995, -0.995]]).acos())
    top.sum().backward()
    kept = torch.tensor([[0.5, 0.99, -0.995]])
    assert x.grad is not None
    torch.testing.assert_close(x.grad.cpu(), -1 / (1 - kept.square()).sqrt())
    true = build('type: "Arccos"', (1, 3), dialect=WINDOWS, gradients="true")
    assert torch.autograd.gradcheck(true, x.detach().cpu().double().requires_grad_(True))


def test_the_gradient_of_a_cosine() -> None:
    """The derivative if that is asked for; the fork's does not depend on what arrives."""
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(build('type: "Cosine"', (2, 3), dialect=WINDOWS, gradients="true"), x)
    top = build('type: "Cosine"', (2, 3), dialect=WINDOWS)(x)
    assert torch.equal(torch.autograd.grad(top, x, torch.randn(2, 3, dtype=torch.float64))[0], -x.detach().sin())


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("feature", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_a_channel_scale(forward: bool, feature: bool, scale: bool) -> None:
    fields = {"do_forward": forward, "do_backward_feature": feature, "do_backward_scale": scale}
    params = " ".join(f"{name}: {str(value).lower()}" for name, value in fields.items())
    text = f'type: "ChannelScale" channel_scale_param {{ {params} max_global_scale: 3 }}'
    module = build(text, (2, 3, 4, 5), (2, 4, 5), dialect=WINDOWS)
    x, factors = torch.randn(2, 3, 4, 5, requires_grad=True), torch.randn(2, 4, 5, requires_grad=True)
    top, arriving = module(x, factors), torch.randn(2, 3, 4, 5)
    wide = factors.detach()[:, None]
    torch.testing.assert_close(top.detach(), x.detach() * wide if forward else x.detach())
    by_x, by_scale = torch.autograd.grad(top, (x, factors), arriving)
    torch.testing.assert_close(by_x, arriving * wide if feature else arriving)
    expected = (arriving * x.detach()).sum(1) if scale else torch.zeros(2, 4, 5)
    torch.testing.assert_close(by_scale, expected)


def test_the_true_gradient_of_a_channel_scale() -> None:
    text = 'type: "ChannelScale" channel_scale_param { do_backward_feature: false }'
    module = build(text, (2, 3, 2), (2, 1, 2), dialect=WINDOWS, gradients="true")
    x, factors = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 2), (2, 1, 2)))
    assert torch.autograd.gradcheck(module, (x, factors))


def test_grn(device: torch.device) -> None:
    x = np.random.RandomState(0).randn(2, 3, 4)
    given = torch.tensor(x, dtype=torch.float32, device=device, requires_grad=True)
    top = build('type: "GRN" grn_param { bias: 0.5 dummy_backward: true }', x.shape, dialect=OPENVINO)(given)
    np.testing.assert_allclose(top.detach().cpu(), x / np.sqrt((x**2).sum(1, keepdims=True) + 0.5), rtol=1e-5)
    arriving = torch.randn(2, 3, 4, device=device)
    assert torch.equal(torch.autograd.grad(top, given, arriving)[0], arriving)
    true = build('type: "GRN" grn_param { dummy_backward: true }', (2, 3, 4), dialect=OPENVINO, gradients="true")
    assert torch.autograd.gradcheck(true, torch.tensor(x, requires_grad=True))


def test_a_slope_of_neg_relu() -> None:
    x = torch.tensor([-2.0, 0, 3], requires_grad=True)
    top = build('type: "NegReLU" relu_param { negative_slope: 0.5 }', (3,), dialect=FLOWNET2)(x)
    assert top.tolist() == [-2, 0, 1.5]
    assert torch.autograd.grad(top.sum(), x)[0].tolist() == [1, 0.5, 0.5]


@pytest.mark.parametrize(
    ("text", "shapes", "dialect", "problem"),
    [
        ("GRN", [(2,)], OPENVINO, r"'b0' has shape \[2\]; \(images, channels, ...\)"),
        ("GRN", [(2, 0, 3)], OPENVINO, "one with values was expected"),
        ("ChannelScale", [(2, 3, 4), (3, 4)], WINDOWS, r"'b1' has shape \[3, 4\]; \(2, ...\)"),
        ("ChannelScale", [(2, 3, 4), (2, 5)], WINDOWS, "a factor for each position"),
    ],
)
def test_errors(text: str, shapes: list[tuple[int, ...]], dialect: str, problem: str) -> None:
    with pytest.raises(LayerError, match=problem):
        build(f'type: "{text}"', *shapes, dialect=dialect)


def test_options_that_are_not_built() -> None:
    with pytest.raises(LayerError, match="bias -1 must be at least 0"):
        build('type: "GRN" grn_param { bias: -1 }', (2, 3), dialect=OPENVINO)
    with pytest.raises(LayerError, match="global_scale: true is not supported"):
        build('type: "ChannelScale" channel_scale_param { global_scale: true }', (2, 3), (2,), dialect=WINDOWS)
