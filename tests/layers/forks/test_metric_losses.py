"""Losses on distances against the fork's own loops, with every parameter at another value than its default."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import build

WINDOWS, WU = "happynear/caffe-windows", "GuohongWu/caffe-windows"
LABELS = np.array([2, 0, 3, 1, 0, 2])
DISTANCES = np.random.RandomState(4).uniform(0.05, 1.4, (6, 4)).astype(np.float32)
WEIGHTS = np.array([0.5, 2, 1, 0.25, 3, 1.5], np.float32)


def run(
    text: str, *bottoms: np.ndarray, tops: int = 1, dialect: str = WINDOWS, gradients: str = "caffe"
) -> tuple[list[np.ndarray], np.ndarray, Any]:
    """The tops, twice the gradient of the first bottom, and the module."""
    module = build(text, *(x.shape for x in bottoms), tops=tops, dialect=dialect, gradients=gradients)
    given = [torch.tensor(x, dtype=torch.float32) for x in bottoms]
    given[0].requires_grad_(True)
    out = module(*given)
    found = list(out) if isinstance(out, tuple) else [out]
    assert [tuple(x.shape) for x in found] == [tuple(x.shape) for x in _inferred(module, given)]
    (2 * found[0]).backward()
    assert given[0].grad is not None
    return [x.detach().numpy() for x in found], given[0].grad.numpy() / 2, module


def _inferred(module: Any, given: list[torch.Tensor]) -> list[torch.Tensor]:
    out = module.infer(*(x.to("meta") for x in given))
    return list(out) if isinstance(out, tuple) else [out]


def contrastive(d: np.ndarray, p: dict[str, Any], bound: float) -> tuple[float, np.ndarray, list[float]]:
    """GeneralContrastiveLoss in loops: loss, slopes and distances."""
    n, classes = d.shape
    terms, slopes = np.zeros_like(d), np.zeros_like(d)
    near = far = 0.0
    worst, nearest = 0, np.zeros(n, int)
    for i in range(n):
        for j in range(classes):
            if j == LABELS[i]:
                cut = min(p["outlier"], max(0, d[i, j] - p["near"]))
                terms[i, j] = cut * p["near_weight"]
                near += cut
                if p["one_near"] and terms[i, j] < terms[worst, LABELS[worst]]:
                    worst = i
            elif d[i, j] < bound:
                terms[i, j] = (np.exp(-d[i, j]) if p["exponential"] else bound - d[i, j]) * p["far_weight"]
                far += bound - d[i, j]
                if p["one_far"] and terms[i, j] > terms[i, nearest[i]]:
                    nearest[i] = j
    skipped = [p["first"] is not None and d[i, LABELS[i]] > p["first"] for i in range(n)]
    total = 0.0
    for i in range(n):
        for j in range(classes):
            own = j == LABELS[i]
            if (skipped[i] and not own) or (p["one_near"] and own and i != worst):
                terms[i, j] = 0
            if p["one_far"] and not own and j != nearest[i]:
                terms[i, j] = 0
            if own:
                inside = p["near"] < d[i, j] < p["outlier"] and not (p["one_near"] and i != worst)
                slopes[i, j] = p["near_weight"] if skipped[i] or inside else 0
            elif not skipped[i] and d[i, j] < bound and not (p["one_far"] and j != nearest[i]):
                slopes[i, j] = -(np.exp(-d[i, j]) if p["exponential"] else 1) * p["far_weight"]
                total -= slopes[i, j]
    if p["norm"] is not None and abs(total) / p["norm"] / n > p["near_weight"]:
        for i in range(n):
            slopes[i, np.arange(classes) != LABELS[i]] /= abs(total) / p["norm"] / n
    return np.abs(terms).sum() / n, slopes / n, [near / n, far / n / (classes - 1)]


PLAIN: dict[str, Any] = {
    "near": 0.1,
    "far": 0.9,
    "near_weight": 0.7,
    "far_weight": 1.3,
    "outlier": 1.1,
    "one_far": False,
    "one_near": False,
    "exponential": False,
    "first": None,
    "norm": None,
}
TEXT = (
    'type: "GeneralContrastiveLoss" general_contrastive_loss_param { positive_margin: 0.1 negative_margin: 0.9 '
    "positive_weight: 0.7 negative_weight: 1.3 positive_outlier_thresh: 1.1 "
)


@pytest.mark.parametrize(
    ("params", "changed"),
    [
        ("square: true", {}),
        ("max_negative_only: true", {"one_far": True}),
        ("max_positive_only: true", {"one_near": True}),
        ("exp_negative_weight: true", {"exponential": True}),
        ("positive_first: true positive_upper_bound: 0.6", {"first": 0.6}),
        ("normalize_negative: 0.4", {"norm": 0.4}),
        ("normalize_negative: 0.4 exp_negative_weight: true max_negative_only: true", {}),
    ],
)
def test_general_contrastive_loss(params: str, changed: dict[str, Any]) -> None:
    settings = {**PLAIN, **changed}
    if "0.4 exp" in params:
        settings |= {"norm": 0.4, "exponential": True, "one_far": True}
    (loss, log), slopes, _ = run(f"{TEXT} {params} }}", DISTANCES, LABELS, tops=2)
    expected, gradient, distances = contrastive(DISTANCES, settings, settings["far"])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(slopes, gradient, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(log, distances, rtol=1e-5)


def test_a_margin_that_grows() -> None:
    """By the mean of own distances of the passes before, up to a limit."""
    text = f"{TEXT} add_intra_mae: true max_negative_margin: 0.003 }}"
    (loss, log), _, module = run(text, DISTANCES, LABELS, tops=2)
    expected, _, distances = contrastive(DISTANCES, PLAIN, 0.9)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    mean = 0.01 * distances[0]
    np.testing.assert_allclose(log, [*distances, min(mean, 0.003)], rtol=1e-5)
    assert mean > 0.003
    second, log = module(torch.tensor(DISTANCES), torch.tensor(LABELS))
    np.testing.assert_allclose(second, contrastive(DISTANCES, PLAIN, 0.903)[0], rtol=1e-5)
    module.reset_state()
    np.testing.assert_allclose(module(torch.tensor(DISTANCES), torch.tensor(LABELS))[0], expected, rtol=1e-5)


def test_a_third_bottom() -> None:
    expected, gradient, _ = contrastive(DISTANCES, PLAIN, 0.9)
    other = DISTANCES[::-1].copy()
    (loss,), slopes, _ = run(f"{TEXT} }}", other, LABELS, DISTANCES)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(slopes, gradient, rtol=1e-5, atol=1e-7)
    (loss,), slopes, _ = run(f"{TEXT} }}", DISTANCES, LABELS, WEIGHTS, dialect=WU)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(slopes, gradient * WEIGHTS[:, None] / WEIGHTS.mean(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("square", [False, True])
def test_soft_contrastive_loss(square: bool) -> None:
    text = (
        'type: "SoftContrastiveLoss" soft_contrastive_loss_param { positive_margin: 0.1 negative_margin: 0.9 '
        f"positive_weight: 0.7 negative_weight: 1.3 exponent_scale: 5 square: {str(square).lower()} }} "
        "general_contrastive_loss_param { positive_outlier_thresh: 1.1 }"
    )
    (loss, log), slopes, _ = run(text, DISTANCES, LABELS, WEIGHTS, tops=2)
    power = 2 if square else 1
    expected, near, far = 0.0, 0.0, 0.0
    gradient = np.zeros_like(DISTANCES)
    for i, label in enumerate(LABELS):
        row = DISTANCES[i]
        others = [j for j in range(4) if j != label and row[j] < 0.9]
        cut = min(1.1, max(0, row[label] - 0.1))
        total = sum(np.exp((0.9 - row[j]) ** power * 1.3) for j in others)
        expected += cut**power * 0.7 + (np.log(total) if total > 0 else 0)
        near, far = near + cut, far + sum(0.9 - row[j] for j in others)
        if 0.1 < row[label] < 1.1:
            gradient[i, label] = 0.7 * (row[label] if square else 1)
        for j in others:
            gradient[i, j] = -1.3 * np.exp((0.9 - row[j]) ** power * 1.3) / total * (0.9 - row[j] if square else 1)
    np.testing.assert_allclose(loss, expected / 6, rtol=1e-5)
    np.testing.assert_allclose(log, [near / 6, far / 6 / 3], rtol=1e-5)
    np.testing.assert_allclose(slopes, gradient / 6 * WEIGHTS[:, None] / WEIGHTS.mean(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("one_each", [False, True])
def test_batch_contrastive_loss(one_each: bool) -> None:
    d = np.random.RandomState(1).uniform(0.1, 1.4, (6, 6)).astype(np.float32)
    text = (
        'type: "BatchContrastiveLoss" batch_contrastive_loss_param { positive_margin: 0.3 negative_margin: 0.8 '
        f"positive_weight: 0.7 negative_weight: 1.3 max_only: {str(one_each).lower()} }}"
    )
    (loss, log), slopes, _ = run(text, d, LABELS, tops=2)
    pairs = [(i, j) for i in range(6) for j in range(i + 1, 6)]
    same = [pair for pair in pairs if LABELS[pair[0]] == LABELS[pair[1]]]
    other = [pair for pair in pairs if pair not in same]
    near, far = [p for p in same if d[p] > 0.3], [p for p in other if d[p] < 0.8]
    if one_each:
        near, far = [max(near, key=lambda p: d[p])], [min(far, key=lambda p: d[p])]
    expected = sum(0.7 * (d[p] - 0.3) for p in near) + sum(1.3 * (0.8 - d[p]) for p in far)
    gradient = np.zeros_like(d)
    for place in near:
        gradient[place] = 0.7
    for place in far:
        gradient[place] = -1.3
    np.testing.assert_allclose(loss, expected if one_each else expected / 15, rtol=1e-5)
    np.testing.assert_allclose(slopes, gradient / (2 if one_each else 6), rtol=1e-5)
    np.testing.assert_allclose(log, [np.mean([d[p] for p in part]) for part in (same, other)], rtol=1e-5)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("one_far", [False, True])
@pytest.mark.parametrize("first", [None, 0.8])
def test_general_triplet_loss(centred: bool, one_far: bool, first: float | None) -> None:
    d = DISTANCES.copy()
    d[3, 2] = 0  # the nearest other, and exactly 0
    text = (
        'type: "GeneralTripletLoss" general_triplet_loss_param { margin: 0.3 positive_weight: 0.7 negative_weight: 1.3 '
        f"add_center_loss: {str(centred).lower()} hardest_only: {str(one_far).lower()} "
        + (f"positive_first: true positive_upper_bound: {first} }}" if first else "}")
    )
    (loss, log), slopes, _ = run(text, d, LABELS, WEIGHTS, tops=2)
    terms, gradient = np.zeros_like(d), np.zeros_like(d)
    for i, label in enumerate(LABELS):
        own = d[i, label]
        for j in range(4):
            terms[i, j] = 0 if j == label else max(0, own + 0.3 - d[i, j]) * 1.3
        if one_far and terms[i].any():
            terms[i, np.arange(4) != terms[i].argmax()] = 0
        if first is not None and own > first:
            terms[i] = 0
            gradient[i, label] = 0.7
            continue
        learnt = [j for j in range(4) if terms[i, j] > 0]
        for j in learnt:
            gradient[i, j] = terms[i, j] if one_far and d[i, j] == 0 else -1.3
        if centred or any(not one_far or d[i, j] != 0 for j in learnt):
            gradient[i, label] = 0.7
    np.testing.assert_allclose(loss, terms.sum() / 6, rtol=1e-5)
    np.testing.assert_allclose(slopes, gradient / 6 * WEIGHTS[:, None], rtol=1e-5, atol=1e-7)
    others = d[np.arange(4) != LABELS[:, None]]
    np.testing.assert_allclose(log, [d[np.arange(6), LABELS].mean(), others.sum() / 6 / 3], rtol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        f"{TEXT} exp_negative_weight: true }}",
        'type: "SoftContrastiveLoss" soft_contrastive_loss_param { negative_margin: 2 square: true }',
        'type: "GeneralTripletLoss" general_triplet_loss_param { margin: 0.4 }',
    ],
)
def test_true_gradients(text: str) -> None:
    module = build(text, (6, 4), (6,), dialect=WINDOWS, gradients="true").double()
    x = torch.tensor(DISTANCES, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x, torch.tensor(LABELS)))


def test_triplet_loss() -> None:
    rows = [torch.randn(5, 6, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    module = build('type: "TripletLoss" triplet_loss_param { margin: 9 }', *[(5, 6)] * 3, dialect=WINDOWS)
    assert torch.autograd.gradcheck(module, rows)
    a, p, n = (x.detach().numpy() for x in rows)
    each = np.maximum(0, 9 + ((a - p) ** 2).sum(1) - ((a - n) ** 2).sum(1))
    assert module(*rows).item() == pytest.approx(each.sum() / 10)


@pytest.mark.parametrize(
    ("text", "shapes", "problem"),
    [
        (f"{TEXT} }}", [(6, 4), (5,)], r"'b1' has shape \[5\]; \(6,\) was expected"),
        (f"{TEXT} }}", [(6, 4), (6,), (6, 5)], r"'b2' has shape \[6, 5\]; \[6, 4\], as 'b0' has,"),
        ('type: "SoftContrastiveLoss"', [(6, 4), (6,), (5,)], r"'b2' has shape \[5\]; \(6,\) was expected"),
        ('type: "BatchContrastiveLoss"', [(6, 4), (6,)], r"'b0' has shape \[6, 4\]; \(examples >= 2, 6\)"),
        ('type: "TripletLoss"', [(5, 6), (5, 6), (5, 7)], r"'b2' has shape \[5, 7\]; \[5, 6\]"),
        ('type: "TripletLoss"', [(5, 6, 2)] * 3, r"'b0' has shape \[5, 6, 2\]; \(examples > 0, channels\)"),
    ],
)
def test_errors(text: str, shapes: Any, problem: str) -> None:
    with pytest.raises(LayerError, match=problem):
        build(text, *shapes, dialect=WINDOWS)


def test_a_label_of_no_class() -> None:
    with pytest.raises(LayerError, match="label 4 at position 2 is none of the 4 classes"):
        run(f"{TEXT} }}", DISTANCES, np.array([0, 1, 4, 0, 0, 0]))
