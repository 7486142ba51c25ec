"""CenterLoss against the fork's own loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import build, give_values, precise

FACE, WINDOWS = "ydwen/caffe-face", "happynear/caffe-windows"
TEXT = 'type: "CenterLoss" center_loss_param { num_output: 4 center_filler { type: "xavier" } }'


@pytest.mark.parametrize(
    ("text", "dialect"), [(TEXT, FACE), (TEXT, WINDOWS), (TEXT.replace("4 ", '4 distance_type: "L1" '), WINDOWS)]
)
def test_center_loss(text: str, dialect: str, device: torch.device) -> None:
    random = np.random.RandomState(0)
    x, labels = random.randn(5, 3, 2), np.array([2, 0, 2, 2, 3])
    module = give_values(build(text, x.shape, (5,), dialect=dialect), device).to(precise(device))
    centres = module.centres.detach().cpu().double().numpy()
    difference = x.reshape(5, 6) - centres[labels]
    given = torch.tensor(x, device=device, dtype=precise(device), requires_grad=True)
    loss = module(given, torch.tensor(labels, device=device).float())
    absolute = "L1" in text
    np.testing.assert_allclose(
        loss.item(), abs(difference).sum() / 5 if absolute else (difference**2).sum() / 10, rtol=1e-6
    )
    (3 * loss).backward()
    slopes = np.sign(difference) if absolute else difference
    assert given.grad is not None
    np.testing.assert_allclose(given.grad.cpu(), 3 * slopes.reshape(x.shape) / 5, rtol=1e-5)
    moves = np.zeros_like(centres)
    for label in range(4):
        count = (labels == label).sum()
        moves[label] = -slopes[labels == label].sum(0) / (1 + count) * (count if dialect == WINDOWS else 1)
    # The weight of the loss has no say in how the centres move.
    np.testing.assert_allclose(module.centres.grad.cpu(), moves, rtol=1e-5, atol=1e-7)


def test_true_gradients() -> None:
    module = give_values(build(TEXT, (5, 6), (5, 1, 1, 1), dialect=FACE, gradients="true")).double()
    x = torch.rand(5, 6, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([2.0, 0, 2, 2, 3]).reshape(5, 1, 1, 1)

    def loss(x: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.func.functional_call(module, {"centres": centres}, (x, labels))
        return result

    assert torch.autograd.gradcheck(loss, (x, module.centres))


def test_errors() -> None:
    module = give_values(build(TEXT, (5, 6), (5,), dialect=FACE))
    with pytest.raises(LayerError, match="label 4 at position 1 is none of the 4 classes"):
        module(torch.zeros(5, 6), torch.tensor([0.0, 4, 0, 0, 0]))
    with pytest.raises(LayerError, match="axis 0 is not supported"):
        build(TEXT.replace("4 ", "4 axis: 0 "), (5, 6), (5,), dialect=FACE)
    with pytest.raises(LayerError, match="the number of classes"):
        build(TEXT.replace("4 ", "0 "), (5, 6), (5,), dialect=FACE)
    with pytest.raises(LayerError, match="distance_type 'L3'"):
        build(TEXT.replace("4 ", '4 distance_type: "L3" '), (5, 6), (5,), dialect=WINDOWS)
    with pytest.raises(LayerError, match=r"\[5, 2\]; \(labels = 5,\) was"):
        build(TEXT, (5, 6), (5, 2), dialect=FACE)
