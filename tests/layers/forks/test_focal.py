"""FocalLoss beyond its recorded cases (``test_fork_cases.py``): other parameters, the true gradient, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import build

FRCNN, JOLI, WINDOWS = "makefile/frcnn", "jolibrain/caffe", "happynear/caffe-windows"
SCORES = np.random.RandomState(0).randn(3, 5, 2)
LABELS = np.random.RandomState(1).randint(0, 5, (3, 2))


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def own(prob: np.ndarray) -> np.ndarray:
    return np.take_along_axis(prob, LABELS[:, None], 1)[:, 0]


@pytest.mark.parametrize(
    ("params", "dialect", "base", "sign", "factor"),
    [
        ("alpha: 0.4 gamma: 1.7 beta: 3 type: LINEAR", FRCNN, 1, -1, 0.4),
        ("alpha: 0.4 gamma: 1.7 axis: 1", JOLI, 1, -1, 0.4),
        ("alpha: 1.2 gamma: 1.7 beta: 3 type: LINEAR", WINDOWS, 1.2, -1, 1),
        ("alpha: 1.2 gamma: 1.7 type: ONEADDP", WINDOWS, 1.2, 1, 1),
    ],
)
def test_the_formula(params: str, dialect: str, base: float, sign: int, factor: float) -> None:
    text = f'type: "FocalLoss" focal_loss_param {{ {params} }} loss_param {{ normalization: BATCH_SIZE }}'
    module = build(text, (3, 5, 2), (3, 2), tops=2, dialect=dialect, gradients="true")
    x = torch.tensor(SCORES, requires_grad=True)
    loss, prob = module(x, torch.tensor(LABELS))
    p = own(softmax(SCORES, 1))
    np.testing.assert_allclose(loss.item(), -(factor * (base + sign * p) ** 1.7 * np.log(p)).sum() / 3)
    np.testing.assert_allclose(prob.detach(), softmax(SCORES, 1))
    assert torch.autograd.gradcheck(lambda x: module(x, torch.tensor(LABELS))[0], x)
    (true,) = torch.autograd.grad(loss, x)
    module = build(text, (3, 5, 2), (3, 2), dialect=dialect)
    (found,) = torch.autograd.grad(module(x, torch.tensor(LABELS)), x)
    # caffe-windows has the slopes of a base of 1.
    assert torch.allclose(found, true) == (base == 1)


def test_the_axes_of_another_fork() -> None:
    """Probabilities along one axis, classes along another: both are parameters of its."""
    text = 'type: "FocalLoss" focal_loss_param { axis: 2 gamma: 1 } softmax_param { axis: 1 }'
    labels = np.random.RandomState(2).randint(0, 2, (3, 5))
    module = build(text, (3, 5, 2), (3, 5), dialect=JOLI)
    p = np.take_along_axis(softmax(SCORES, 1), labels[:, :, None], 2)
    expected = -(0.25 * (1 - p) * np.log(p)).sum() / 15
    np.testing.assert_allclose(module(torch.tensor(SCORES), torch.tensor(labels)).item(), expected)


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ("gamma: -1", "gamma -1 must be at least 0, and alpha 0.25 above it"),
        ("alpha: 0", "gamma 2 must be at least 0, and alpha 0 above it"),
    ],
)
def test_errors(params: str, problem: str) -> None:
    with pytest.raises(LayerError, match=problem):
        build(f'type: "FocalLoss" focal_loss_param {{ {params} }}', (3, 5, 2), (3, 2), dialect=FRCNN)


def test_labels_that_do_not_fit() -> None:
    with pytest.raises(LayerError, match=r"'b1' has shape \[3, 3\]"):
        build('type: "FocalLoss"', (3, 5, 2), (3, 3), dialect=FRCNN)
