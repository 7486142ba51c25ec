"""Python layers of single projects: CTPN's proposals, OpenVINO's actions, VNet's loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_compat.errors import CaffeCompatError, LayerError
from tests.layers.building import assert_equals, build
from tests.layers.python.test_others import layer

# CTPN

HEIGHTS = [11, 16, 23, 33, 48, 68, 97, 139, 198, 283]
TEXT = layer("layers.text_proposal_layer.ProposalLayer", "'feat_stride': 8")


def test_strips_of_text() -> None:
    random = np.random.RandomState(1)
    scores, moves = random.rand(1, 20, 3, 2), random.randn(1, 20, 3, 2) / 2
    module = build(TEXT, scores.shape, moves.shape, (1, 3), tops=2)
    strips, kept = module(*map(torch.tensor, (scores, moves, np.array([[20.0, 21, 1]]))))
    expected, best = [], []
    for y, x, k in np.ndindex(3, 2, 10):
        # Of an anchor of h pixels, in Python 2, where h / 2 is whole.
        top, bottom = int(7.5 - HEIGHTS[k] // 2) + 8 * y, int(7.5 + HEIGHTS[k] // 2) + 8 * y
        tall = bottom - top + 1
        height = math.exp(moves[0, 2 * k + 1, y, x]) * tall
        first = moves[0, 2 * k, y, x] * tall + (top + bottom) / 2 - height / 2
        strip = [8 * x, first, 8 * x + 15, first + height]
        expected.append([min(max(side, 0), (20, 19)[i % 2]) for i, side in enumerate(strip)])
        best.append(scores[0, 10 + k, y, x])
    assert_equals(strips, expected)
    assert_equals(kept[:, 0], best)
    assert [top.shape for top in module.infer(*(torch.empty(s, device="meta") for s in (scores.shape,) * 2))] == [
        (60, 4),
        (60, 1),
    ]


# OpenVINO

ACTIONS = "caffe.custom_layers.actions_detection_output_layer.ActionsDetectionOutputLayer"
# Image, class, score, left, top, right, bottom, anchor, column, row.
PEOPLE = np.array(
    [
        [0, 1, 0.5, 0, 0, 10, 10, 0, 2, 1],
        [1, 1, 0.75, 1, 0, 11, 10, 1, 0, 0],
        [0, 1, 0.25, 2, 0, 12, 10, 1, 1, 1],
        [0, 1, 0.125, 40, 0, 50, 10, 0, 0, 0],
    ],
    np.float32,
)
SCORES = np.random.RandomState(2).rand(2, 2, 2, 3, 4).astype(np.float32)


def _rows() -> list[list[float]]:
    rows = []
    for image, _, score, *box, anchor, x, y in PEOPLE.tolist():
        own = SCORES[int(anchor), int(image), int(y), int(x)]
        rows.append([image, float(own.argmax()), score, float(own.max()), *box])
    return rows


def actions(told: str, people: np.ndarray = PEOPLE) -> torch.Tensor:
    module = build(layer(ACTIONS, told), (1, 1, len(people), 10), *[SCORES.shape[1:]] * 2)
    found: torch.Tensor = module(torch.tensor(people)[None, None], *map(torch.tensor, SCORES))
    return found


def test_what_people_do() -> None:
    assert_equals(actions("{num_anchors: 2, min_iou: 0.4}"), np.array(_rows())[None, None])


def test_votes_of_those_who_overlap() -> None:
    rows = _rows()
    votes = np.zeros(4)
    votes[int(rows[1][1])] = 1
    votes[int(rows[0][1])] += rows[0][3]
    votes[int(rows[2][1])] += rows[2][3]
    best = [*rows[1][:1], votes.argmax(), *rows[1][2:]]
    assert_equals(
        actions("{num_anchors: 2, use_nms: true, num_valid_actions: 4}"), np.array([best, rows[3]])[None, None]
    )
    # 8 of 12 overlap: of the last with the first, above whose overlap of 9 of 11 it lies as well.
    few = actions("{num_anchors: 2, use_nms: true, num_valid_actions: 4, min_overlap: 0.7}")
    assert few[0, 0, :, 4].tolist() == [1, 40]
    few = actions("{num_anchors: 2, use_nms: true, num_valid_actions: 4, min_overlap: 0.9}")
    assert_equals(few, np.array([rows[i] for i in (1, 0, 2, 3)])[None, None])


def test_errors_of_actions() -> None:
    for told, message in (
        ("{num_anchors: 3}", "the scores of num_anchors = 3, found 3 bottoms"),
        ("{num_anchors: 2, least: 3}", "which this layer does not know"),
        ("{num_anchors: 2, use_nms: true}", "no 'num_valid_actions'"),
        ("{num_anchors: 2, use_nms: true, num_valid_actions: 1}", "num_valid_actions is 1"),
    ):
        with pytest.raises(CaffeCompatError, match=message):
            actions(told)
    for column, value, message in ((7, 2, "anchor 2; there are 2"), (8, 3, "column 3 of image 0"), (9, -1, "row -1")):
        people = PEOPLE.copy()
        people[0, column] = value
        with pytest.raises(LayerError, match=message):
            actions("{num_anchors: 2}", people)
    with pytest.raises(CaffeCompatError, match="rows of 10 numbers was expected"):
        build(layer(ACTIONS, "{num_anchors: 1}"), (3, 9), (2, 2, 3, 4))


# VNet


def test_dice() -> None:
    random = np.random.RandomState(3)
    scores, truth = random.rand(2, 2, 7), random.rand(2, 1, 7)
    x = torch.tensor(scores, requires_grad=True)
    loss = build(layer("pyLayer.DiceLoss"), scores.shape, truth.shape)(x, torch.tensor(truth))
    total, gradient = 0.0, np.zeros(scores.shape)
    for i in range(2):
        found, real = scores[i].argmax(0), (truth[i, 0] > 0.5).astype(float)
        union, common = found.sum() + real.sum(), (found * real).sum()
        total += 2 * common / (union + 0.00001)
        gradient[i, 0] = 2 * (real * union / union**2 - 2 * scores[i, 1] * common / union**2)
        gradient[i, 1] = -gradient[i, 0]
    assert_equals(loss, [total])
    loss.backward(torch.tensor([5.0], dtype=torch.float64))
    assert_equals(x.grad, gradient)
    with pytest.raises(CaffeCompatError, match="was expected"):
        build(layer("pyLayer.DiceLoss"), (2, 3, 7), (2, 1, 7))
