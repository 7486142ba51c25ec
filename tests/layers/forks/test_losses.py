"""Losses of single forks against their formulas, value by value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build
from tests.layers.sweep import from_text, outcome

PULKIT, POSE_ACTION, NORMALS = (
    "pulkitag/caffe",
    "zimenglan-sysu-512/pose_action_caffe",
    "xiaolonw/caffe-3dnormal_joint_pose",
)
SHAPE = (2, 3, 4)
X = np.random.RandomState(0).randn(*SHAPE)


def gradients_of(module: Any, *given: np.ndarray, device: torch.device | str = "cpu") -> tuple[Any, list[Any]]:
    """The loss, and 3 times its gradient by each bottom (None where there is none)."""
    tensors = [torch.tensor(x, dtype=torch.float32, device=device, requires_grad=True) for x in given]
    top = module(*tensors)
    (3 * top).backward()
    return top, [x.grad for x in tensors]


def test_abs_loss(device: torch.device) -> None:
    other = np.random.RandomState(1).randn(2, 12)
    other[0, 0] = X[0, 0, 0]
    top, (by_a, by_b) = gradients_of(build('type: "AbsLoss"', SHAPE, (2, 12)), X, other, device=device)
    difference = X.reshape(2, 12) - other
    assert_equals(top, np.abs(difference).sum() / 2)
    sign = np.sign(difference.astype(np.float32))
    assert_equals(by_a, 1.5 * sign.reshape(SHAPE))
    assert_equals(by_b, -1.5 * sign)


def test_balanced_cross_entropy(device: torch.device) -> None:
    target = np.random.RandomState(2).choice([0, 0, 1, 0.5], SHAPE)
    total, slopes = 0.0, np.zeros(SHAPE)
    for n, c, i in np.ndindex(SHAPE):
        ones, zeros = (target[n] == 1).sum(), (target[n] == 0).sum()
        p, t = 1 / (1 + math.exp(-X[n, c, i])), target[n, c, i]
        slopes[n, c, i] = p - t
        if t in (0, 1):
            weight = (zeros if t == 1 else ones) / (ones + zeros)
            total -= weight * math.log(p if t == 1 else 1 - p)
            slopes[n, c, i] *= weight
    text = 'type: "SigmoidCrossEntropyBalanceLoss"'
    top, (by_x, by_target) = gradients_of(build(text, SHAPE, SHAPE), X, target, device=device)
    assert_equals(top, total / 2)
    assert_equals(by_x, 1.5 * slopes)
    assert by_target is None
    true = build(text, SHAPE, SHAPE, gradients="true")
    assert torch.autograd.gradcheck(lambda x: true(x, torch.tensor(target)), torch.tensor(X, requires_grad=True))


def test_sigmoid_loss() -> None:
    labels = np.random.RandomState(2).choice([0, 1, 1.7, -1], SHAPE)
    inputs = "".join(f'input: "{name}" input_dim: 2 input_dim: 3 input_dim: 4 input_dim: 1 ' for name in "xt")
    layer = 'layers { name: "l" type: SIGMOID_LOSS bottom: "x" bottom: "t" %s }'
    base = from_text(
        f"{inputs} force_backward: true {layer % ''}",
        dialect=NORMALS,
        x=X[..., None].astype(np.float32),
        t=labels[..., None].astype(np.float32),
    )
    found = outcome(base, base.message)
    assert "refused" not in found, found
    module = build('type: "SIGMOID_LOSS"', SHAPE, SHAPE, tops=0, dialect=NORMALS)
    p, t = 1 / (1 + np.exp(-X)), np.trunc(labels) == 1
    top, (by_x, _) = gradients_of(module, X, labels)
    assert_equals(top, -np.log(np.where(t, p, 1 - p)).sum() / 2)
    assert_equals(by_x, 1.5 * (p - t))
    low, _ = gradients_of(module, np.full(SHAPE, -200.0), np.ones(SHAPE))
    assert_equals(low, 12 * -math.log(np.finfo(np.float32).tiny))
    with pytest.raises(LayerError, match="loss_weight other than 1"):
        build('type: "SIGMOID_LOSS" loss_weight: 2', SHAPE, SHAPE, tops=0, dialect=NORMALS)


@pytest.mark.parametrize("marks", [(1, 1), (1, 0), (0, 0)])
def test_euclidean_loss_of_marked_examples(marks: tuple[int, int]) -> None:
    target = np.random.RandomState(1).randn(2, 4, 4)
    for n, mark in enumerate(marks):
        target.reshape(2, 16)[n, 12] = mark
    module = build('type: "EuclideanLossWithIgnore"', SHAPE, (2, 4, 4), dialect=PULKIT)
    top, (by_x, by_target) = gradients_of(module, X, target)
    difference = (X.reshape(2, 12) - target.reshape(2, 16)[:, :12]) * np.array(marks)[:, None]
    count = max(sum(marks), 1)
    assert_equals(top, (difference**2).sum() / count / 2)
    assert_equals(by_x, 3 * difference.reshape(SHAPE) / count)
    assert by_target is None


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("least", [-1, 1000])
def test_similarity_of_two(alike: bool, least: float) -> None:
    labels = np.array([4, 4 if alike else 3])
    text = f"learn_lr: 0.5 loss_bias: 3 loss_thresh: {least}"
    text = f'type: "SimilaryEuclideanLoss" similary_euclidean_loss_param {{ {text} }}'
    difference, sign = X[0] - X[1], 1 if alike else -1
    loss = sign * (0.5 * (difference**2).sum() - 3) / 2
    top, (by_x, _) = gradients_of(build(text, SHAPE, (2,), dialect=POSE_ACTION), X, labels)
    assert_equals(top, loss)
    slope = 3 * sign * 0.5 * difference / 2 * (loss >= least)
    assert_equals(by_x, np.stack([slope, -slope]))
    true = build(text, SHAPE, (2,), dialect=POSE_ACTION, gradients="true")
    assert torch.autograd.gradcheck(lambda x: true(x, torch.tensor(labels)), torch.tensor(X, requires_grad=True))


@pytest.mark.parametrize(
    ("text", "shapes", "dialect", "problem"),
    [
        ("AbsLoss", [SHAPE, (2, 11)], None, "a value for each of 'b0'"),
        ("SigmoidCrossEntropyBalanceLoss", [SHAPE, (3, 12)], None, "examples = 2"),
        ("EuclideanLossWithIgnore", [SHAPE, SHAPE], PULKIT, "values and a mark = 4"),
        ("EuclideanLossWithIgnore", [SHAPE, (2, 4, 5)], PULKIT, "a target for each value"),
        (
            'EuclideanLossWithIgnore" euclideanloss_param { is_normalized: true } #',
            [SHAPE, (2, 4, 4)],
            PULKIT,
            "is_norm",
        ),
        ("SimilaryEuclideanLoss", [SHAPE, (2,)], POSE_ACTION, "needs similary_euclidean_loss_param"),
        ("SimilaryEuclideanLoss", [(3, 4), (3,)], POSE_ACTION, r"\(2, ...\) was expected"),
        ("SimilaryEuclideanLoss", [SHAPE, (3,)], POSE_ACTION, "labels = 2"),
    ],
)
def test_errors(text: str, shapes: list[tuple[int, ...]], dialect: str | None, problem: str) -> None:
    with pytest.raises(LayerError, match=problem):
        build(f'type: "{text}"\n', *shapes, dialect=dialect)
