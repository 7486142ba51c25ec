"""Online hard example mining, against slow definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build, precise

DAI, INTEL = "Microsoft/caffe", "intel/caffe"


def _scores() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores (5, 4, 2), labels of which two are ignored, probabilities, and the loss of each position."""
    random = np.random.RandomState(3)
    x, labels = random.randn(5, 4, 2), random.randint(0, 4, (5, 2))
    labels[1, 1] = labels[2, 0] = -1
    prob = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    each = np.array(
        [[-math.log(prob[n, labels[n, i], i]) if labels[n, i] >= 0 else 0 for i in range(2)] for n in range(5)]
    )
    return x, labels, prob, each


IGNORING = 'type: "SoftmaxWithLossOHEM" loss_param { ignore_label: -1 }'


def test_softmax_ohem_gives_each_loss() -> None:
    x, labels, prob, each = _scores()
    found = build(IGNORING, (5, 4, 2), (5, 2), tops=3, dialect=DAI)(
        torch.tensor(x), torch.tensor(labels, dtype=torch.double)
    )
    for top, expected in zip(found, (each.sum() / 8, prob, each), strict=True):
        assert_equals(top, expected)
    loss = build(IGNORING, (5, 4, 2), (5, 2), dialect=DAI)(torch.tensor(x), torch.tensor(labels))
    assert_equals(loss, each.sum() / 8)


def test_intel_sums_the_first_losses_and_writes_the_probabilities_only_last() -> None:
    x, labels, prob, each = _scores()
    given = torch.tensor(x, requires_grad=True)
    loss, second, third = build(IGNORING, (5, 4, 2), (5, 2), tops=3, dialect=INTEL)(given, torch.tensor(labels))
    assert_equals(loss, each.flat[:8].sum() / 8)
    assert_equals(second, np.zeros_like(x))
    assert_equals(third, each)
    loss.backward()
    counts = labels >= 0
    slopes = (prob - (labels[:, None] == np.arange(4)[:, None])) * counts[:, None] / 8  # of all losses that count
    assert_equals(given.grad, slopes)
    _, second = build(IGNORING, (5, 4, 2), (5, 2), tops=2, dialect=INTEL)(given, torch.tensor(labels))
    assert_equals(second, prob)
    derived = torch.tensor(x, requires_grad=True)
    build(IGNORING, (5, 4, 2), (5, 2), dialect=INTEL, gradients="true")(derived, torch.tensor(labels)).backward()
    assert_equals(derived.grad, slopes * (np.arange(10).reshape(5, 1, 2) < 8))


@pytest.mark.parametrize("map_size", [(), (2, 3)])
def test_box_annotator(device: torch.device, map_size: tuple[int, ...]) -> None:
    random = np.random.RandomState(4)
    count, positions = 11, math.prod(map_size)
    boxes = random.rand(count, 5, positions) * 50
    boxes[:, 0] = random.randint(0, 3, (count, positions))
    losses, labels = (
        random.permutation(count * positions).reshape(count, 1, positions) / 7,
        random.randint(0, 5, (count, 1, positions)),
    )
    weights = random.rand(count, 8, positions)
    expected, expected_weights, left = np.full(labels.shape, -1), np.zeros(weights.shape), {0: 3, 1: 3, 2: 3}
    for flat in np.argsort(-losses.reshape(-1)):
        n, s = divmod(int(flat), positions)
        if left[int(boxes[n, 0, s])] > 0:
            left[int(boxes[n, 0, s])] -= 1
            expected[n, 0, s], expected_weights[n, :, s] = labels[n, 0, s], weights[n, :, s]
    given = [a.reshape(*a.shape[:2], *map_size) for a in (boxes, losses, labels, weights)]
    module = build(
        'type: "BoxAnnotatorOHEM" box_annotator_ohem_param { roi_per_img: 3 ignore_label: -1 }',
        *(a.shape for a in given),
        tops=2,
        dialect=DAI,
    )
    found = module(*(torch.tensor(a, dtype=precise(device), device=device) for a in given))
    height, width = map_size or (1, 1)
    assert_equals(found[0], expected.reshape(count, 1, height, width))
    assert_equals(found[1], expected_weights.reshape(count, 8, height, width))


def test_box_annotator_refuses() -> None:
    text = 'type: "BoxAnnotatorOHEM" box_annotator_ohem_param { roi_per_img: 3 }'
    with pytest.raises(LayerError, match=r"'b1' has shape \[4, 2\]; \[4, 1, 1, 1\] was expected"):
        build(text, (4, 5), (4, 2), (4, 1), (4, 8), tops=2, dialect=DAI)


@pytest.mark.parametrize(("given", "divisor"), [(5, 5), (0.2, 1)])
def test_a_fixed_normalizer(given: float, divisor: float) -> None:
    """Whatever the labels; at least 1."""
    text = f'type: "SoftmaxWithLossOHEM" loss_param {{ normalization: PRE_FIXED pre_fixed_normalizer: {given} }}'
    x, labels = torch.randn(3, 4), torch.tensor([1.0, 0, 3])
    whole = build(text.replace("PRE_FIXED", "NONE"), (3, 4), (3,), dialect="intel/caffe")(x, labels)
    found = build(text, (3, 4), (3,), dialect="intel/caffe")(x, labels)
    torch.testing.assert_close(found, whole / divisor)
