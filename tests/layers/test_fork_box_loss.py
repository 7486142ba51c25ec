"""SmoothL1Loss in its generations and online hard example mining, against slow definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from building import assert_equals, build, precise

from caffe_compat.errors import LayerError

FAST, FASTER, RFCN = (
    "rbgirshick/caffe-fast-rcnn@fast-rcnn",
    "rbgirshick/caffe-fast-rcnn@fast-rcnn-cleanup",
    "intel/caffe",
)
SHAPE = (3, 4, 2, 5)


def _f(d: float, sigma: float = 1.0) -> float:
    return 0.5 * sigma**2 * d * d if abs(d) < 1 / sigma**2 else abs(d) - 0.5 / sigma**2


def _slope(d: float, sigma: float = 1.0) -> float:
    return sigma**2 * d if abs(d) < 1 / sigma**2 else math.copysign(1, d)


def _inputs(seed: int, count: int) -> list[np.ndarray]:
    random = np.random.RandomState(seed)
    return [random.randn(*SHAPE) * 2, random.randn(*SHAPE), random.uniform(0, 2, SHAPE), random.uniform(0, 2, SHAPE)][
        :count
    ]


@pytest.mark.parametrize("gradients", ["caffe", "true"])
@pytest.mark.parametrize("bottoms", [2, 3, 4])
def test_smooth_l1(device: torch.device, bottoms: int, gradients: str) -> None:
    sigma = 3.0 if bottoms == 4 else 1.0
    a, b, *weights = _inputs(0, bottoms)
    inside = weights[0] if weights else np.ones(SHAPE)
    outside = weights[1] if bottoms == 4 else np.ones(SHAPE)
    d = inside * (a - b)
    loss = sum(o * _f(v, sigma) for o, v in zip(outside.flat, d.flat, strict=True)) / SHAPE[0]
    slopes = (
        np.array([o * _slope(v, sigma) for o, v in zip(outside.flat, d.flat, strict=True)]).reshape(SHAPE) / SHAPE[0]
    )
    if bottoms == 4 or gradients == "true":
        slopes = slopes * inside
    param = "smooth_l1_loss_param { sigma: 3 }" if bottoms == 4 else ""
    module = build(
        f'type: "SmoothL1Loss" {param}',
        *[SHAPE] * bottoms,
        gradients=gradients,
        dialect=FASTER if bottoms == 4 else FAST,
    )
    given = [
        torch.tensor(v, dtype=precise(device), device=device, requires_grad=i < 2)
        for i, v in enumerate((a, b, *weights))
    ]
    top = module(*given)
    (2 * top).backward()
    assert_equals(top, loss)
    assert_equals(given[0].grad, 2 * slopes)
    assert_equals(given[1].grad, -2 * slopes)


@pytest.mark.parametrize(
    ("param", "count"),
    [
        ("", 30),
        ("loss_param { normalization: FULL }", 30),
        ("loss_param { normalize: false }", 3),
        ("loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 7 }", 7),
        ("loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 0.5 }", 1),
        ("loss_param { normalization: NONE }", 1),
    ],
)
def test_smooth_l1_ohem(param: str, count: float) -> None:
    a, b, inside = _inputs(1, 3)
    errors = np.array([_f(v) for v in (inside * (a - b)).flat]).reshape(SHAPE)
    module = build(f'type: "SmoothL1LossOHEM" {param}', *[SHAPE] * 3, tops=2, dialect=RFCN)
    loss, each = module(*map(torch.tensor, (a, b, inside)))
    assert_equals(loss, errors.sum() / count)
    assert_equals(each, errors.sum(1, keepdims=True))


def test_rfcn_divides_by_positions() -> None:
    a, b = _inputs(2, 2)
    expected = sum(map(_f, (a - b).flat))
    for dialect, count in (("daijifeng001/caffe-rfcn", 30), (FAST, 3)):
        loss = build('type: "SmoothL1Loss"', SHAPE, SHAPE, dialect=dialect)(torch.tensor(a), torch.tensor(b))
        assert_equals(loss, expected / count)


def test_smooth_l1_refuses() -> None:
    with pytest.raises(LayerError, match="must be alike"):
        build('type: "SmoothL1Loss"', SHAPE, (3, 4, 5, 2), dialect=FAST)
    with pytest.raises(LayerError, match="one bottom of weights"):
        build('type: "SmoothL1Loss" smooth_l1_loss_param { sigma: 2 }', *[SHAPE] * 3, dialect=FASTER)


def test_softmax_ohem_gives_each_loss() -> None:
    random = np.random.RandomState(3)
    x, labels = random.randn(5, 4, 2), random.randint(0, 4, (5, 2))
    labels[1, 1] = -1
    prob = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    each = np.array(
        [[-math.log(prob[n, labels[n, i], i]) if labels[n, i] >= 0 else 0 for i in range(2)] for n in range(5)]
    )
    text = 'type: "SoftmaxWithLossOHEM" loss_param { ignore_label: -1 }'
    found = build(text, (5, 4, 2), (5, 2), tops=3, dialect=RFCN)(
        torch.tensor(x), torch.tensor(labels, dtype=torch.double)
    )
    for top, expected in zip(found, (each.sum() / 9, prob, each), strict=True):
        assert_equals(top, expected)
    loss = build(text, (5, 4, 2), (5, 2), dialect=RFCN)(torch.tensor(x), torch.tensor(labels))
    assert_equals(loss, each.sum() / 9)


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
        dialect=RFCN,
    )
    found = module(*(torch.tensor(a, dtype=precise(device), device=device) for a in given))
    assert_equals(found[0], expected.reshape(given[2].shape))
    assert_equals(found[1], expected_weights.reshape(given[3].shape))


def test_box_annotator_refuses() -> None:
    text = 'type: "BoxAnnotatorOHEM" box_annotator_ohem_param { roi_per_img: 3 }'
    with pytest.raises(LayerError, match=r"'b1' has shape \[4, 2, 1, 1\]; \[4, 1, 1, 1\] was expected"):
        build(text, (4, 5), (4, 2), (4, 1), (4, 8), tops=2, dialect=RFCN)
