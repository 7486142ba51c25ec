"""Inner products with a margin beyond their recorded cases (``test_fork_cases.py``)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import build, give_values

SPHERE, LARGE, WINDOWS = "wy1iu/sphereface", "wy1iu/LargeMargin_Softmax_Loss", "happynear/caffe-windows"
OPENVINO = "openvinotoolkit/training_toolbox_caffe"
X = np.random.RandomState(0).randn(5, 2, 3)
LABELS = np.array([1, 0, 3, 3, 2])
TYPES = {
    "LargeMarginInnerProduct": "largemargin_inner_product_param",
    "MarginInnerProduct": "margin_inner_product_param",
}


def margin(kind: str, params: str, *more: tuple[int, ...], tops: int = 2, **options: Any) -> Any:
    text = f'type: "{kind}" {TYPES[kind]} {{ num_output: 4 {params} }}'
    return build(text, X.shape, (5,), *more, tops=tops, dialect=WINDOWS, **options)


def curve(times: int, cos: np.ndarray) -> np.ndarray:
    """cos(times a) on the first piece, then each piece continued downwards: (-1)^k cos(times a) - 2 k."""
    angle = np.arccos(cos)
    piece = np.floor(angle * times / np.pi)
    return np.asarray((-1) ** piece * np.cos(times * angle) - 2 * piece)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("name", "times"), [("SINGLE", 1), ("DOUBLE", 2), ("TRIPLE", 3), ("QUADRUPLE", 4)])
def test_scores(kind: str, name: str, times: int) -> None:
    """Two passes, the share of the plain product annealed between them."""
    params = f"type: {name} base: 3 gamma: 0.5 power: 2 lambda_min: 0.4 iteration: 1"
    module = give_values(margin(kind, params, phase="TRAIN")).double()
    with torch.no_grad():
        module.weight.sub_(0.6)
    weight, rows = module.weight.detach().numpy().copy(), X.reshape(5, 6)
    if kind == "MarginInnerProduct":
        weight /= np.linalg.norm(weight, axis=1, keepdims=True)
    for number in (2, 3):
        share = max(3 * (1 + 0.5 * number) ** -2, 0.4)
        found, counted = module(torch.tensor(X), torch.tensor(LABELS))
        expected = rows @ weight.T
        if times > 1:
            at = np.arange(5), LABELS
            length = np.linalg.norm(rows, axis=1) * np.linalg.norm(weight, axis=1)[LABELS]
            moved = length * curve(times, expected[at] / length)
            expected[at] = (moved + share * expected[at]) / (1 + share)
        np.testing.assert_allclose(found.detach(), expected, rtol=1e-5)
        assert counted.item() == pytest.approx(share)
    module.reset_state()
    assert module(torch.tensor(X), torch.tensor(LABELS))[1].item() == pytest.approx(3 / 4)
    np.testing.assert_allclose(module.weight.detach(), weight)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", ["DOUBLE", "TRIPLE", "QUADRUPLE"])
def test_true_gradients(kind: str, name: str) -> None:
    module = give_values(margin(kind, f"type: {name} base: 0.7", tops=1, gradients="true")).double()
    with torch.no_grad():
        module.weight.sub_(0.6)
    weight = torch.nn.functional.normalize(module.weight.detach()).requires_grad_(True)
    x, labels = torch.tensor(X, requires_grad=True), torch.tensor(LABELS)

    def scores(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.func.functional_call(module, {"weight": weight.clone()}, (x, labels))
        return result

    assert torch.autograd.gradcheck(scores, (x, weight), rtol=1e-3)


def test_weights_that_are_a_bottom() -> None:
    params = "type: TRIPLE base: 2"
    own = give_values(margin("LargeMarginInnerProduct", params, tops=1)).double()
    given = margin("LargeMarginInnerProduct", params, (4, 6), tops=1)
    assert given.blob_names == ()
    bottoms = torch.tensor(X), torch.tensor(LABELS)
    assert torch.equal(given(*bottoms, own.weight), own(*bottoms))


def test_how_a_margin_is_learnt() -> None:
    """A case of a kind that no recording has: three times the angle."""
    module = give_values(margin("MarginInnerProduct", "type: TRIPLE base: 2", tops=1)).double()
    x = torch.tensor(X, requires_grad=True)
    top = module(x, torch.tensor(LABELS))
    arriving = np.random.RandomState(3).randn(5, 4)
    top.backward(torch.tensor(arriving))
    rows, weight = X.reshape(5, 6), module.weight.detach().numpy()
    expected = np.zeros((5, 6))
    for i, label in enumerate(LABELS):
        length = np.linalg.norm(rows[i])
        cos = rows[i] @ weight[label] / length
        side = np.sign(abs(cos) - 0.5)
        by_weight = side * (12 * cos**2 - 3)
        by_row = -(8 * side * cos**3 - (np.sign(cos) * (1 + side) - 2)) / length
        size = np.hypot(by_weight, by_row)
        for j in range(4):
            if j != label:
                expected[i] += arriving[i, j] / 3 * weight[j]
            else:
                expected[i] += arriving[i, j] / 3 * (by_weight * weight[j] + by_row * rows[i]) / size
            expected[i] += arriving[i, j] * 2 / 3 * weight[j]
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.reshape(5, 6), expected, rtol=1e-6)
    np.testing.assert_allclose(module.weight.grad, arriving.T @ rows, rtol=1e-6)


@pytest.mark.parametrize("kind", TYPES)
def test_errors(kind: str) -> None:
    with pytest.raises(LayerError, match="axis 0 leaves no examples"):
        margin(kind, "axis: 0")
    with pytest.raises(LayerError, match=r"'b1' has shape \[5\]; a label for each example, \[5, 2\],"):
        margin(kind, "axis: 2")
    with pytest.raises(LayerError, match="num_output is 0; the number of classes"):
        build(f'type: "{kind}"', X.shape, (5,), dialect=WINDOWS)
    with pytest.raises(LayerError, match="label 4 at position 0 is none of the 4 classes"):
        give_values(margin(kind, "type: DOUBLE"))(torch.tensor(X).float(), torch.full((5,), 4))


def test_weights_that_do_not_fit() -> None:
    with pytest.raises(LayerError, match=r"'b2' has shape \[4, 5\]; \(classes > 0, 6\)"):
        margin("LargeMarginInnerProduct", "", (4, 5))


def added(params: str, *, dialect: str = WINDOWS, phase: str = "TRAIN", tops: int = 1) -> Any:
    text = f'type: "LabelSpecificAdd" label_specific_add_param {{ {params} }}'
    return build(text, (5, 4), (5,), dialect=dialect, phase=phase, tops=tops)


SCORES = torch.tensor(np.random.RandomState(5).uniform(-1, 1, (5, 4)))


@pytest.mark.parametrize(
    ("params", "dialect", "bias"),
    [
        ("bias: -0.3", WINDOWS, -0.3),
        ("bias: 0.3", WINDOWS, 0.3),
        ("bias: 0.3 transform_test: true", OPENVINO, -0.3),
        ("bias: -0.3", OPENVINO, -0.3),
    ],
)
def test_label_specific_add(params: str, dialect: str, bias: float) -> None:
    found = added(params, dialect=dialect)(SCORES, torch.tensor(LABELS))
    expected = SCORES.clone()
    for i, label in enumerate(LABELS):
        expected[i, label] += bias if expected[i, label] > -bias else 0
    torch.testing.assert_close(found, expected)
    assert torch.equal(added(params, dialect=dialect, phase="TEST")(SCORES, torch.tensor(LABELS)), SCORES)


def test_a_bias_that_changes() -> None:
    module = added(
        "bias: 9 bias_base: -0.1 bias_gamma: 0.5 bias_power: -1 bias_min: -0.7 bias_max: -0.2 iteration: 1", tops=2
    )
    x = SCORES.clone().requires_grad_(True)
    for number in (1, 2, 3, 4):
        top, bias = module(x, torch.tensor(LABELS))
        assert bias.item() == pytest.approx(min(max(-0.1 + (1 + 0.5 * number) ** -1 - 1, -0.7), -0.2))
    assert bias.item() == pytest.approx(-0.7)
    top.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))
    module.reset_state()
    assert module(x, torch.tensor(LABELS))[1].item() == pytest.approx(-0.1 + 1 / 1.5 - 1)


def test_labels_that_do_not_fit() -> None:
    with pytest.raises(LayerError, match=r"'b1' has shape \[4\]; \(5,\) was expected"):
        build('type: "LabelSpecificAdd"', (5, 4), (4,), dialect=WINDOWS)
