from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_compat.access import FileAccess
from caffe_compat.errors import FileAccessError, LayerError
from caffe_compat.formats.weights import write_binaryproto
from tests.layers.building import build

SHAPE = (2, 5, 3, 4)


def slow_softmax_loss(
    x: np.ndarray, labels: np.ndarray, axis: int, mode: str, ignored: int | None, matrix: np.ndarray, least: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Value, Caffe's gradient and probabilities: -sum_k H[label, k] log p_k, position by position."""
    scores = np.moveaxis(x, axis, -1)
    prob, slope = np.zeros(scores.shape), np.zeros(scores.shape)
    outer, inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    total, valid = 0.0, 0
    for i, label in zip(np.ndindex(*scores.shape[:-1]), labels.flatten(), strict=True):
        powers = np.exp(scores[i] - scores[i].max())
        prob[i] = powers / powers.sum()
        if ignored is not None and label == ignored:
            continue
        row = matrix[int(label)]
        total -= (row * np.log(np.maximum(prob[i], least))).sum()
        slope[i] = prob[i] * row.sum() - row
        valid += 1
    count = max(1, {"FULL": outer * inner, "VALID": valid, "BATCH_SIZE": outer, "NONE": 1}[mode])
    return total / count, np.moveaxis(slope, -1, axis) / count, np.moveaxis(prob, -1, axis)


@pytest.mark.parametrize("ignored", [None, 0, 255, -1])
@pytest.mark.parametrize(
    ("params", "mode"),
    [
        ("", "VALID"),
        ("normalize: true", "VALID"),
        ("normalize: false", "BATCH_SIZE"),
        ("normalization: FULL", "FULL"),
        ("normalization: BATCH_SIZE normalize: true", "BATCH_SIZE"),
        ("normalization: NONE", "NONE"),
    ],
)
def test_softmax_with_loss(params: str, mode: str, ignored: int | None, device: torch.device) -> None:
    rng = np.random.default_rng(1)
    x, labels = rng.normal(0, 2, SHAPE), rng.integers(5, size=(2, 3, 4))
    ignore = ""
    if ignored is not None:
        labels[1, 1] = ignored
        ignore = f"ignore_label: {ignored}"
    module = build(f'type: "SoftmaxWithLoss" loss_param {{ {params} {ignore} }}', SHAPE, (2, 3, 4), tops=2)
    scores = torch.tensor(x, dtype=torch.float32, device=device, requires_grad=True)
    t = torch.tensor(labels, dtype=torch.float32, device=device, requires_grad=True)
    loss, prob = module(scores, t)
    (2.5 * loss).backward()
    value, slope, expected = slow_softmax_loss(x, labels, 1, mode, ignored, np.eye(5), 1e-38)
    np.testing.assert_allclose(loss.item(), value, rtol=1e-5)
    np.testing.assert_allclose(prob.detach().cpu(), expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(scores.grad.cpu(), 2.5 * slope, rtol=1e-4, atol=1e-6)
    assert t.grad is None


@pytest.mark.parametrize(("axis", "labels"), [(2, (2, 5, 4)), (-1, (2, 5, 3)), (-2, (2, 20)), (3, (2, 1, 15))])
def test_axis(axis: int, labels: tuple[int, ...], device: torch.device) -> None:
    rng = np.random.default_rng(2)
    x, t = rng.normal(size=SHAPE), rng.integers(3, size=labels)
    module = build(f'type: "SoftmaxWithLoss" softmax_param {{ axis: {axis} }}', SHAPE, labels)
    loss = module(torch.tensor(x, device=device).float(), torch.tensor(t, device=device))
    value, _, _ = slow_softmax_loss(x, t, axis % 4, "VALID", None, np.eye(SHAPE[axis]), 1e-38)
    np.testing.assert_allclose(loss.item(), value, rtol=1e-5)


def test_classes_along_the_first_axis_make_one_example() -> None:
    text = 'type: "SoftmaxWithLoss" softmax_param { axis: 0 } loss_param { normalization: BATCH_SIZE }'
    x = torch.randn(3, 6)
    labels = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]])
    loss = build(text, (3, 6), (3, 2))(x, labels)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(x.t(), labels.flatten().long(), reduction="sum"))


def test_nothing_but_ignored_labels_costs_nothing() -> None:
    module = build('type: "SoftmaxWithLoss" loss_param { ignore_label: 255 }', (2, 3), (2,))
    x = torch.randn(2, 3, requires_grad=True)
    loss = module(x, torch.full((2,), 255.0))
    loss.backward()
    assert loss == 0
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros(2, 3))


def test_a_hopeless_score_is_bounded_but_still_pulled() -> None:
    x = torch.tensor([[200.0, 0.0]], requires_grad=True)
    loss = build('type: "SoftmaxWithLoss"', (1, 2), (1,))(x, torch.tensor([1.0]))
    loss.backward()
    np.testing.assert_allclose(loss.item(), -math.log(np.finfo(np.float32).tiny), rtol=1e-6)
    assert x.grad.tolist() == [[1.0, -1.0]]
    x = x.detach().requires_grad_()
    build('type: "SoftmaxWithLoss"', (1, 2), (1,), gradients="true")(x, torch.tensor([1.0])).backward()
    assert x.grad.tolist() == [[0.0, 0.0]]


def test_gradients_through_the_probabilities_only_in_true_mode() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    labels = torch.tensor([0.0, 2.0])
    _, prob = build('type: "SoftmaxWithLoss"', (2, 3), (2,), tops=2)(x, labels)
    assert not prob.requires_grad
    _, prob = build('type: "SoftmaxWithLoss"', (2, 3), (2,), tops=2, gradients="true")(x, labels)
    assert prob.requires_grad


@pytest.mark.parametrize("gradients", ["caffe", "true"])
@pytest.mark.parametrize("kind", ["SoftmaxWithLoss", "InfogainLoss"])
def test_gradcheck(kind: str, gradients: str) -> None:
    torch.manual_seed(3)
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(4, (2, 3)).double()
    matrix = [torch.rand(4, 4, dtype=torch.float64)] if kind == "InfogainLoss" else []
    text = f'type: "{kind}" loss_param {{ ignore_label: 1 }}'
    module = build(text, (2, 4, 3), (2, 3), *(tuple(m.shape) for m in matrix), gradients=gradients)
    assert torch.autograd.gradcheck(lambda x: module(x, labels, *matrix), [x])


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    loss = build('type: "SoftmaxWithLoss"', (2, 3), (2,))(x, torch.tensor([0.0, 2.0]))
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        slope.sum().backward()


@pytest.mark.slow
def test_compiles_with_gradients() -> None:
    module = build('type: "SoftmaxWithLoss" loss_param { ignore_label: 1 }', (3, 4), (3,))
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    labels = torch.tensor([0.0, 1.0, 3.0])
    slopes = []
    for run in (module, compiled):
        x = torch.linspace(-1, 1, 12).reshape(3, 4).requires_grad_(True)
        run(x, labels).backward()
        slopes.append(x.grad)
    torch.testing.assert_close(slopes[0], slopes[1])


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(LayerError, match=r"a label for each vector along axis 1 of 'b0', \[2, 3, 4\],"):
        build('type: "SoftmaxWithLoss"', SHAPE, (2, 3, 5))
    with pytest.raises(LayerError, match=r"\[24\]; \(examples = 2, ...\)"):
        build('type: "SoftmaxWithLoss"', SHAPE, (24,))
    with pytest.raises(LayerError, match=r"softmax_param.axis 4 is out of range"):
        build('type: "SoftmaxWithLoss" softmax_param { axis: 4 }', SHAPE, (2, 3, 4))
    with pytest.raises(RuntimeError):
        build('type: "SoftmaxWithLoss"', (2, 3), (2,))(torch.zeros(4, 3), torch.zeros(2))


# InfogainLoss


@pytest.mark.parametrize(("axis", "labels"), [(1, (2, 3, 4)), (-1, (2, 5, 3))])
@pytest.mark.parametrize("mode", ["FULL", "VALID", "BATCH_SIZE", "NONE"])
def test_infogain(axis: int, labels: tuple[int, ...], mode: str, device: torch.device) -> None:
    rng = np.random.default_rng(5)
    classes = SHAPE[axis]
    x, t, h = rng.normal(size=SHAPE), rng.integers(classes, size=labels), rng.normal(size=(classes, classes))
    t[1, 1] = 2
    text = f'type: "InfogainLoss" infogain_loss_param {{ axis: {axis} }}'
    text += f" loss_param {{ normalization: {mode} ignore_label: 2 }}"
    module = build(text, SHAPE, labels, (1, 1, classes, classes), tops=2)
    scores, target, matrix = (torch.tensor(a, dtype=torch.float32, device=device) for a in (x, t, h))
    scores.requires_grad_(True)
    matrix.requires_grad_(True)
    loss, prob = module(scores, target, matrix.reshape(1, 1, classes, classes))
    loss.backward()
    value, slope, expected = slow_softmax_loss(x, t, axis % 4, mode, 2, h, 1e-20)
    np.testing.assert_allclose(loss.item(), value, rtol=1e-5)
    np.testing.assert_allclose(prob.detach().cpu(), expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(scores.grad.cpu(), slope, rtol=1e-4, atol=1e-6)
    assert matrix.grad is None


def test_infogain_probabilities_are_bounded() -> None:
    x = torch.tensor([[200.0, 0.0]])
    loss = build('type: "InfogainLoss"', (1, 2), (1,), (2, 2))(x, torch.tensor([1.0]), torch.eye(2))
    np.testing.assert_allclose(loss.item(), -math.log(1e-20), rtol=1e-6)


FROM_FILE = 'type: "InfogainLoss" infogain_loss_param { source: "h.binaryproto" }'


def test_infogain_reads_its_matrix_when_it_first_runs(tmp_path: Path) -> None:
    matrix = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    module = build(FROM_FILE, (2, 3), (2,))
    assert module.infer(torch.empty(2, 3, device="meta"), torch.empty(2, device="meta")).shape == ()
    x, labels = torch.randn(2, 3), torch.tensor([2.0, 1.0])
    with pytest.raises(FileAccessError, match=r"h\.binaryproto"):
        module(x, labels)
    write_binaryproto(tmp_path / "h.binaryproto", matrix)
    module.files = FileAccess(tmp_path)
    given = build('type: "InfogainLoss"', (2, 3), (2,), (3, 3))
    assert module(x, labels) == given(x, labels, torch.tensor(matrix).reshape(3, 3))
    (tmp_path / "h.binaryproto").unlink()
    module(x, labels)


def test_infogain_matrix_of_another_size(tmp_path: Path) -> None:
    write_binaryproto(tmp_path / "h.binaryproto", np.zeros((1, 1, 4, 4), np.float32))
    module = build(FROM_FILE, (2, 3), (2,))
    module.files = FileAccess(tmp_path)
    with pytest.raises(LayerError, match=r"h.binaryproto.*\[1, 1, 4, 4\].*3 x 3"):
        module(torch.zeros(2, 3), torch.zeros(2))


@pytest.mark.parametrize(
    ("params", "shapes", "message"),
    [
        ("", ((2, 3), (2,)), "third bottom"),
        ("", ((2, 3), (2,), (3, 4)), r"\[3, 4\]; a row of gains for each class, \[3, 3\],"),
        ("loss_param { normalize: true }", ((2, 3), (2,), (3, 3)), "normalize"),
    ],
)
def test_infogain_refuses(params: str, shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(LayerError, match=message):
        build(f'type: "InfogainLoss" {params}', *shapes)
