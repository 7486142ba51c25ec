"""InnerDistance, Pairwise and Gram beyond their recorded cases (``test_fork_cases.py``)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import build, give_values

WINDOWS, BNKANG = "happynear/caffe-windows", "bnkang/caffe-windows-for-fr"
X = np.random.RandomState(0).randn(5, 2, 3)
CENTRES = np.random.RandomState(1).randn(4, 6)
LABELS = np.array([1, 0, 3, 3, 2])
ARRIVING = np.random.RandomState(2).randn(5, 4)


def distance(params: str, *more: tuple[int, ...], x: tuple[int, ...] = X.shape, **options: Any) -> Any:
    return build(f'type: "InnerDistance" inner_distance_param {{ {params} }}', x, *more, dialect=WINDOWS, **options)


def learnt(module: Any, *bottoms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The top, and the gradients of the rows and the centres for ``ARRIVING``."""
    given = [torch.tensor(x) for x in bottoms]
    centres = given[1].requires_grad_(True) if len(given) > 1 else module.weight
    x = given[0].requires_grad_(True)
    top = module(*given)
    top.backward(torch.tensor(ARRIVING))
    assert x.grad is not None
    assert centres.grad is not None
    return top.detach().numpy(), x.grad.numpy().reshape(5, 6), centres.grad.numpy()


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("kind", ["L1", "L2"])
def test_centres_that_are_a_bottom(kind: str, own: bool) -> None:
    params = f'distance_type: "{kind}" update_center_only: {str(own).lower()}'
    bottoms = (X, CENTRES, LABELS) if own else (X, CENTRES)
    module = distance(params, *(x.shape for x in bottoms[1:]))
    assert module.blob_names == ()
    top, by_row, by_centre = learnt(module, *bottoms)
    rows = X.reshape(5, 6)
    gap = rows[:, None] - CENTRES
    np.testing.assert_allclose(top, np.abs(gap).sum(2) if kind == "L1" else (gap**2).sum(2))
    arriving = ARRIVING[:, :, None]
    if kind == "L2":
        from_rows, from_centres = 2 * arriving * gap, -2 * arriving * gap
    else:  # below takes 1 away, whatever arrives
        from_rows = arriving * (gap > 0) - (gap < 0)
        from_centres = arriving * (gap < 0) - (gap > 0)
    if own:
        from_centres = from_centres * (np.arange(4) == LABELS[:, None])[:, :, None]
    np.testing.assert_allclose(by_row, from_rows.sum(1))
    np.testing.assert_allclose(by_centre, from_centres.sum(0))


@pytest.mark.parametrize("kind", ["L1", "L2"])
def test_true_gradients(kind: str) -> None:
    module = distance(f'distance_type: "{kind}" update_center_only: true', (4, 6), (5,), gradients="true")
    x, centres = torch.tensor(X, requires_grad=True), torch.tensor(CENTRES, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, c: module(x, c, torch.tensor(LABELS)), (x, centres))


def test_centres_made_1_long() -> None:
    module = give_values(distance("num_output: 4 normalize: true")).double()
    weight = module.weight.detach().numpy().copy()
    weight /= np.sqrt((weight**2).sum(1, keepdims=True) + 1e-6)
    found = module(torch.tensor(X)).detach()
    np.testing.assert_allclose(found, ((X.reshape(5, 1, 6) - weight) ** 2).sum(2))
    np.testing.assert_allclose(module.weight.detach(), weight)


def test_an_axis_further_on() -> None:
    module = give_values(distance("num_output: 4 axis: 2")).double()
    assert module(torch.tensor(X)).shape == (5, 2, 4)


@pytest.mark.parametrize(
    ("params", "more", "problem"),
    [
        ("num_output: 4 axis: 0", (), "axis 0 leaves no rows"),
        ("num_output: 4 transpose: true", (), "transpose: true is not supported"),
        ('num_output: 4 distance_type: "L3"', (), "distance_type 'L3' must be L1 or L2"),
        ("", (), "num_output is 0; the number of centres"),
        ("num_output: 4 update_center_only: true", (), "has 1 bottoms and update_center_only: true"),
        ("", ((4, 6), (5,)), "has 3 bottoms and update_center_only: false"),
        ("", ((4, 5),), r"'b1' has shape \[4, 5\]; \(centres > 0, 6\)"),
        ("update_center_only: true", ((4, 6), (4,)), r"'b2' has shape \[4\]; a label for each row"),
    ],
)
def test_errors(params: str, more: tuple[tuple[int, ...], ...], problem: str) -> None:
    with pytest.raises(LayerError, match=problem):
        distance(params, *more)


@pytest.mark.parametrize("params", ["coeff: 2 coeff: -3", "operation: PROD", "operation: MAX"])
def test_pairwise(params: str) -> None:
    module = build(f'type: "Pairwise" pairwise_param {{ {params} }}', (3, 6), (4, 6, 1, 1), dialect=WINDOWS)
    a = torch.tensor(X.reshape(5, 6)[:3], requires_grad=True)
    b = torch.tensor(CENTRES.reshape(4, 6, 1, 1), requires_grad=True)
    left, right = X.reshape(5, 6)[:3, None], CENTRES[None]
    expected = {"coeff": 2 * left - 3 * right, "PROD": left * right, "MAX": np.maximum(left, right)}
    np.testing.assert_allclose(module(a, b).detach(), expected[params.split()[-1] if "op" in params else "coeff"])
    assert torch.autograd.gradcheck(module, (a, b))


@pytest.mark.parametrize(
    ("params", "shapes", "problem"),
    [
        ("coeff: 2", [(3, 6), (4, 6)], r"coeff \[2.0\] was given for SUM; two are for SUM"),
        ("operation: PROD coeff: 2 coeff: 3", [(3, 6), (4, 6)], "was given for PROD"),
        ("", [(3, 6), (4, 5)], r"'b1' has shape \[4, 5\]; \(rows, 6\)"),
        ("", [(3, 6, 2), (4, 6)], r"'b0' has shape \[3, 6, 2\]; \(rows, channels\)"),
    ],
)
def test_pairs_that_do_not_fit(params: str, shapes: Any, problem: str) -> None:
    with pytest.raises(LayerError, match=problem):
        build(f'type: "Pairwise" pairwise_param {{ {params} }}', *shapes, dialect=WINDOWS)


def test_half_of_the_gradient_of_a_gram_matrix() -> None:
    """bnkang's fork: (D with its diagonal twice) x, where others have (D + D^T) x."""
    x, arriving = np.random.RandomState(3).randn(2, 3, 4, 5), np.random.RandomState(4).randn(2, 3, 3, 1)
    given = torch.tensor(x, requires_grad=True)
    top = build('type: "Gram"', x.shape, dialect=BNKANG)(given)
    rows = x.reshape(2, 3, 20)
    np.testing.assert_allclose(top.detach()[..., 0], rows @ rows.transpose(0, 2, 1) / 60)
    top.backward(torch.tensor(arriving))
    doubled = arriving[..., 0] * (1 + np.eye(3))
    assert given.grad is not None
    np.testing.assert_allclose(given.grad.reshape(2, 3, 20), doubled @ rows / 60)
    true = build('type: "Gram"', x.shape, dialect=BNKANG, gradients="true")
    assert torch.autograd.gradcheck(true, given)
    with pytest.raises(LayerError, match=r"'b0' has shape \[2, 3\]"):
        build('type: "Gram"', (2, 3), dialect=WINDOWS)
