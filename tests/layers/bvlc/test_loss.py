from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import build


def tensors(device: torch.device, *arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.tensor(a, dtype=torch.float32, device=device) for a in arrays]


def check_gradient(module: torch.nn.Module, *bottoms: torch.Tensor) -> None:
    """Against finite differences, in double precision; the first bottom is the one that gets a gradient."""
    first = bottoms[0].detach().cpu().double().requires_grad_(True)
    rest = [b.detach().cpu().double() for b in bottoms[1:]]
    assert torch.autograd.gradcheck(lambda x: module(x, *rest), [first])


# SigmoidCrossEntropyLoss


def slow_sigmoid_loss(x: np.ndarray, t: np.ndarray, mode: str, ignored: int | None) -> tuple[float, np.ndarray]:
    """Value and Caffe's gradient, one value after the other."""
    total, valid, slope = 0.0, 0, np.zeros(x.shape)
    for i in np.ndindex(*x.shape):
        if ignored is not None and int(t[i]) == ignored:
            continue
        p = 1 / (1 + math.exp(-x[i]))
        total -= t[i] * math.log(p) + (1 - t[i]) * math.log(1 - p)
        slope[i] = p - t[i]
        valid += 1
    count = {"FULL": x.size, "VALID": valid, "BATCH_SIZE": x.shape[0], "NONE": 1}[mode]
    return total / max(1, count), slope / max(1, count)


@pytest.mark.parametrize("ignored", [None, 0, 1, -1])
@pytest.mark.parametrize(
    ("params", "mode"),
    [
        ("", "BATCH_SIZE"),
        ("normalize: true", "VALID"),
        ("normalize: false", "BATCH_SIZE"),
        ("normalization: FULL", "FULL"),
        ("normalization: VALID", "VALID"),
        ("normalization: NONE", "NONE"),
        ("normalization: NONE normalize: true", "NONE"),
    ],
)
def test_sigmoid_cross_entropy(params: str, mode: str, ignored: int | None, device: torch.device) -> None:
    rng = np.random.default_rng(1)
    x, t = rng.normal(0, 3, (3, 4, 5)), rng.choice([0.0, 1.0, -1.0, 0.25], (3, 4, 5))
    ignore = "" if ignored is None else f"ignore_label: {ignored}"
    module = build(f'type: "SigmoidCrossEntropyLoss" loss_param {{ {params} {ignore} }}', x.shape, t.shape)
    scores, target = tensors(device, x, t)
    scores.requires_grad_(True)
    target.requires_grad_(True)
    loss = module(scores, target)
    (2.5 * loss).backward()
    value, slope = slow_sigmoid_loss(x, t, mode, ignored)
    np.testing.assert_allclose(loss.item(), value, rtol=1e-5)
    np.testing.assert_allclose(scores.grad.cpu(), 2.5 * slope, rtol=1e-4, atol=1e-6)
    assert target.grad is None


def test_sigmoid_cross_entropy_survives_large_scores_and_ignored_nonsense() -> None:
    module = build('type: "SigmoidCrossEntropyLoss" loss_param { ignore_label: 7 }', (1, 4), (1, 4))
    x = torch.tensor([[200.0, -200.0, float("nan"), float("inf")]], requires_grad=True)
    loss = module(x, torch.tensor([[0.0, 1.0, 7.0, 7.0]]))
    loss.backward()
    assert loss.item() == 400
    assert x.grad.tolist() == [[1.0, -1.0, 0.0, 0.0]]


def test_sigmoid_cross_entropy_takes_targets_of_another_shape() -> None:
    module = build('type: "SigmoidCrossEntropyLoss"', (2, 3, 1, 1), (2, 3))
    x = torch.linspace(-1, 1, 6)
    t = torch.tensor([0.0, 1, 1, 0, 0, 1])
    flat = build('type: "SigmoidCrossEntropyLoss"', (2, 3), (2, 3))
    assert module(x.reshape(2, 3, 1, 1), t.reshape(2, 3)) == flat(x.reshape(2, 3), t.reshape(2, 3))


# EuclideanLoss


def test_euclidean_loss_and_both_gradients(device: torch.device) -> None:
    rng = np.random.default_rng(2)
    x, t = rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 20))
    a, b = (v.requires_grad_(True) for v in tensors(device, x, t))
    loss = build('type: "EuclideanLoss"', x.shape, t.shape)(a, b)
    (3 * loss).backward()
    difference = x - t.reshape(x.shape)
    np.testing.assert_allclose(loss.item(), (difference**2).sum() / 6, rtol=1e-5)
    np.testing.assert_allclose(a.grad.cpu(), difference, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(b.grad.cpu(), -difference.reshape(t.shape), rtol=1e-5, atol=1e-6)


def test_euclidean_loss_never_broadcasts() -> None:
    module = build('type: "EuclideanLoss"', (4, 5), (4, 5))
    with pytest.raises(RuntimeError):
        module(torch.zeros(4, 5), torch.zeros(1, 5))


# HingeLoss


@pytest.mark.parametrize("norm", ["L1", "L2"])
def test_hinge(norm: str, device: torch.device) -> None:
    rng = np.random.default_rng(3)
    x, labels = rng.normal(size=(4, 3, 2)), np.array([0, 5, 3, 1])
    module = build(f'type: "HingeLoss" hinge_loss_param {{ norm: {norm} }}', x.shape, (4, 1, 1))
    scores, t = tensors(device, x, labels.reshape(4, 1, 1))
    scores.requires_grad_(True)
    loss = module(scores, t)
    loss.backward()
    total, slope = 0.0, np.zeros((4, 6))
    for n, row in enumerate(x.reshape(4, 6)):
        for k, value in enumerate(row):
            sign = -1 if k == labels[n] else 1
            margin = max(0, 1 + sign * value)
            total += margin if norm == "L1" else margin**2
            slope[n, k] = (sign * (margin > 0)) if norm == "L1" else 2 * sign * margin
    np.testing.assert_allclose(loss.item(), total / 4, rtol=1e-5)
    np.testing.assert_allclose(scores.grad.cpu(), slope.reshape(x.shape) / 4, rtol=1e-5, atol=1e-6)


def test_hinge_reads_one_label_per_example_from_the_front() -> None:
    x = torch.linspace(-1, 1, 12).reshape(3, 4)
    one = build('type: "HingeLoss"', (3, 4), (3,))(x, torch.tensor([2.0, 0.0, 3.0]))
    more = build('type: "HingeLoss"', (3, 4), (3, 2))(x, torch.tensor([[2.0, 0.0], [3.0, 1.0], [1.0, 1.0]]))
    assert one == more


def test_hinge_is_l1_by_default() -> None:
    x, t = torch.full((1, 2), 3.0), torch.zeros(1)
    assert build('type: "HingeLoss"', (1, 2), (1,))(x, t) == 4


# MultinomialLogisticLoss


def test_multinomial_logistic_loss_and_its_gradient_below_the_threshold(device: torch.device) -> None:
    prob = np.array([[0.1, 0.7, 0.2], [0.5, 0.0, 0.5]])
    module = build('type: "MultinomialLogisticLoss"', (2, 3), (2, 1, 1, 1))
    p, t = tensors(device, prob, np.array([2, 1]).reshape(2, 1, 1, 1))
    p.requires_grad_(True)
    loss = module(p, t)
    (2 * loss).backward()
    np.testing.assert_allclose(loss.item(), -(math.log(0.2) + math.log(1e-20)) / 2, rtol=1e-6)
    np.testing.assert_allclose(p.grad.cpu(), np.array([[0, 0, -5], [0, -1e20, 0]]), rtol=1e-5)


def test_multinomial_logistic_loss_true_gradient() -> None:
    module = build('type: "MultinomialLogisticLoss"', (2, 3), (2,), gradients="true")
    p = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.0, 0.5]], requires_grad=True)
    module(p, torch.tensor([2.0, 1.0])).backward()
    np.testing.assert_allclose(p.grad.numpy(), np.array([[0, 0, -2.5], [0, 0, 0]]), rtol=1e-5)
    for gradients in ("caffe", "true"):
        inner = build('type: "MultinomialLogisticLoss"', (2, 3, 2), (2,), gradients=gradients)
        check_gradient(inner, torch.rand(2, 3, 2) + 0.1, torch.tensor([5.0, 1.0]))


# ContrastiveLoss


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("gradients", ["caffe", "true"])
def test_contrastive(legacy: bool, gradients: str, device: torch.device) -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(0, 0.8, (6, 3)), rng.normal(0, 0.8, (6, 3))
    similar = np.array([1, 0, 0, 2, 0, 0])
    margin = 2.5
    params = f"margin: {margin} legacy_version: {str(legacy).lower()}"
    text = f'type: "ContrastiveLoss" contrastive_loss_param {{ {params} }}'
    module = build(text, (6, 3, 1, 1), (6, 3), (6,), gradients=gradients)
    left, right, t = tensors(device, a.reshape(6, 3, 1, 1), b, similar)
    left.requires_grad_(True)
    right.requires_grad_(True)
    loss = module(left, right, t)
    (2 * loss).backward()
    total, slope = 0.0, np.zeros((6, 3))
    guard = 1e-4 if gradients == "caffe" else 0
    for n in range(6):
        difference = a[n] - b[n]
        squared = (difference**2).sum()
        distance = math.sqrt(squared)
        if similar[n]:
            total, slope[n] = total + squared, difference
        elif legacy and margin > squared:
            total, slope[n] = total + margin - squared, -difference
        elif not legacy and margin > distance:
            total += (margin - distance) ** 2
            slope[n] = -(margin - distance) / (distance + guard) * difference
    np.testing.assert_allclose(loss.item(), total / 12, rtol=1e-5)
    np.testing.assert_allclose(left.grad.cpu().reshape(6, 3), slope / 3, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(right.grad.cpu(), -slope / 3, rtol=2e-5, atol=1e-6)


def test_contrastive_gradient_is_finite_at_zero_distance() -> None:
    for gradients in ("caffe", "true"):
        module = build('type: "ContrastiveLoss"', (2, 3), (2, 3), (2,), gradients=gradients)
        a = torch.ones(2, 3, requires_grad=True)
        loss = module(a, torch.ones(2, 3), torch.tensor([0.0, 1.0]))
        loss.backward()
        assert loss == 0.25
        assert a.grad is not None
        assert torch.equal(a.grad, torch.zeros(2, 3))


# All of them

ALL = [
    ('type: "SoftmaxWithLoss"', (3, 4), (3,)),
    ('type: "SigmoidCrossEntropyLoss"', (3, 4), (3, 4)),
    ('type: "EuclideanLoss"', (3, 4), (3, 4)),
    ('type: "HingeLoss"', (3, 4), (3,)),
    ('type: "MultinomialLogisticLoss"', (3, 4), (3,)),
]


@pytest.mark.parametrize(("text", "shape", "labels"), ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_precision(
    text: str, shape: tuple[int, ...], labels: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    torch.manual_seed(0)
    if dtype == torch.float64 and device.type == "mps":
        return
    x = torch.rand(shape).add(0.1).to(device, dtype).requires_grad_(True)
    t = torch.randint(2, labels).to(device, dtype)
    module = build(text, shape, labels)
    loss = module(x, t)
    loss.backward()
    wide = x.detach().float().requires_grad_(True)
    expected = module(wide, t.float())
    expected.backward()
    assert loss.dtype == x.grad.dtype == dtype
    assert loss.shape == ()
    exact = {torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.float64: 1e-5}[dtype]
    torch.testing.assert_close(loss.float(), expected, rtol=exact, atol=0)
    torch.testing.assert_close(x.grad.float(), wide.grad, rtol=exact, atol=exact)


@pytest.mark.parametrize(("text", "shape", "labels"), ALL)
def test_shapes_follow_on_the_meta_device(text: str, shape: tuple[int, ...], labels: tuple[int, ...]) -> None:
    module = build(text, shape, labels)
    assert module(torch.empty(shape, device="meta"), torch.empty(labels, device="meta")).shape == ()


@pytest.mark.parametrize(("text", "shape", "labels"), ALL)
def test_exports(text: str, shape: tuple[int, ...], labels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module = build(text, shape, labels)
    x, t = torch.rand(shape), torch.randint(2, labels).float()
    assert torch.equal(torch.export.export(module, (x, t)).module()(x, t), module(x, t))


@pytest.mark.parametrize("kind", ["HingeLoss", "MultinomialLogisticLoss", "SoftmaxWithLoss"])
@pytest.mark.parametrize("label", [4, -1, float("nan")])
def test_labels_out_of_range(kind: str, label: float) -> None:
    module = build(f'type: "{kind}"', (3, 4), (3,))
    with pytest.raises(LayerError, match=r"layer 'l': label (4|-1|nan) at position 1 is none of the 4 classes"):
        module(torch.rand(3, 4), torch.tensor([0.0, label, 2.0]))


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        ('type: "EuclideanLoss"', ((3, 4), (2, 6)), r"'b1' has shape \[2, 6\]; \(examples = 3, ...\)"),
        ('type: "EuclideanLoss"', ((3, 4), (3, 5)), r"\[3, 5\]; a value for each of 'b0', \[3, 4\],"),
        ('type: "EuclideanLoss"', ((), ()), r"'b0' has shape \[\]; \(examples, ...\)"),
        ('type: "SigmoidCrossEntropyLoss"', ((3, 4), (3, 5)), "a value for each of 'b0'"),
        ('type: "HingeLoss"', ((3, 4), (2,)), r"\(examples = 3, ...\)"),
        ('type: "MultinomialLogisticLoss"', ((3, 4), (3, 2)), r"\[3, 2\]; \(labels = 3,\)"),
        ('type: "ContrastiveLoss"', ((3, 4), (3, 5), (3,)), r"'b1' has shape \[3, 5\]; \(3, 4\) was"),
        ('type: "ContrastiveLoss"', ((3, 4, 2), (3, 4, 2), (3,)), r"\[3, 4, 2\]; \(3, 4\) was"),
        ('type: "ContrastiveLoss"', ((3, 4), (3, 4), (3, 2)), r"\[3, 2\]; \(pairs >= 3,\)"),
        ('type: "ContrastiveLoss"', ((3, 4), (3, 4), (2,)), r"\[2\]; \(pairs >= 3,\)"),
    ],
)
def test_shapes_that_do_not_fit(text: str, shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(LayerError, match=message):
        build(text, *shapes)


def test_normalizations_of_forks_are_refused() -> None:
    text = 'type: "SigmoidCrossEntropyLoss" loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 128 }'
    with pytest.raises(LayerError, match="PRE_FIXED is not supported; FULL, VALID, BATCH_SIZE, NONE are"):
        build(text, (3, 4), (3, 4), dialect="daijifeng001/caffe-rfcn")


def test_an_empty_batch_of_class_labels_costs_nothing() -> None:
    assert build('type: "SigmoidCrossEntropyLoss"', (0, 4), (0, 4))(torch.empty(0, 4), torch.empty(0, 4)) == 0
    assert build('type: "SoftmaxWithLoss"', (0, 4), (0,))(torch.empty(0, 4), torch.empty(0)) == 0
