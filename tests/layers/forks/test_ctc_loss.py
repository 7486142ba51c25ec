"""CTC and what goes with it, against sums over all ways to spread a text over the steps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build

CTC, OCR, CC4, JOLI, YUQJ = (
    "xmfbit/warpctc-caffe",
    "senlinuc/caffe_ocr",
    "dlunion/CC4.0",
    "jolibrain/caffe",
    "yuqj1991/caffe_train",
)
SCORES = np.random.RandomState(2).uniform(-2, 2, (4, 3, 3))  # 4 steps of 3 texts of 3 classes, the last of them blank
LABELS = np.array([[0, 1, 2], [1, 2, 2], [0, 0, 1.0]])  # and 2 stands for nothing


def read(path: tuple[int, ...]) -> list[int]:
    return [k for k, _ in itertools.groupby(path) if k != 2]


def losses() -> list[float]:
    probabilities = np.exp(SCORES) / np.exp(SCORES).sum(2, keepdims=True)
    found = []
    for n in range(3):
        wanted = [int(k) for k in LABELS[n] if k != 2]
        ways = (path for path in itertools.product(range(3), repeat=4) if read(path) == wanted)
        found.append(-np.log(sum(np.prod([probabilities[t, n, k] for t, k in enumerate(path)]) for path in ways)))
    return found


@pytest.mark.parametrize(
    ("text", "fork"),
    [
        ('type: "CtcLoss" ctc_loss_param { blank_label: 2 time_step: 4 alphabet_size: 3 }', CTC),
        ('type: "CtcLoss" warpctc_loss_param { blank_label: 2 time_step: 4 alphabet_size: 3 }', YUQJ),
        ('type: "WarpCTCLoss" ctc_loss_param { blank_index: 2 }', OCR),
        ('type: "WarpCTCLoss" ctc_loss_param { blank_label: 2 }', CC4),
    ],
)
def test_loss(text: str, fork: str) -> None:
    x, labels = torch.tensor(SCORES, requires_grad=True), torch.tensor(LABELS)
    module = build(text, SCORES.shape, LABELS.shape, dialect=fork)
    loss = module(x, labels)
    assert_equals(loss, np.mean(losses()))
    true = build(text, SCORES.shape, LABELS.shape, dialect=fork, gradients="true")
    assert torch.autograd.gradcheck(lambda y: true(y, labels), (x,))
    (slope,) = torch.autograd.grad(true(x, labels), x)
    (5 * loss).backward()
    # The sum's gradient instead of the mean's, and for warp_ctc_loss_layer.cpp whatever the loss's weight.
    assert_equals(x.grad, slope * 3 * (1 if "Warp" in text else 5))
    assert module.infer(x, labels).shape == ()


def test_a_text_that_does_not_fit_into_its_steps() -> None:
    labels = torch.tensor([[0, 0, 0.0], [1, 2, 2], [0, 2, 2]])
    module = build('type: "WarpCTCLoss" ctc_loss_param { blank_index: 2 }', (4, 3, 3), (3, 3), dialect=OCR)
    alone = build('type: "WarpCTCLoss" ctc_loss_param { blank_index: 2 }', (4, 2, 3), (2, 3), dialect=OCR)
    x = torch.tensor(SCORES)
    assert_equals(module(x, labels), alone(x[:, 1:], labels[1:]))


def test_marks_of_sequences() -> None:
    marks = [[0.0] * 2] + [[1.0] * 2] * 3
    module = build(
        'type: "ContinuationIndicator" continuation_indicator_param { time_step: 4 batch_size: 2 }', dialect=CTC
    )
    assert_equals(module(), marks)
    assert module.infer().shape == (4, 2)
    text = 'type: "ContinuationIndicator" continuation_indicator_param { time_step: 4 axis: 1 }'
    assert_equals(build(text, (3, 2), dialect=JOLI)(torch.zeros(3, 2)), marks)
    with pytest.raises(LayerError, match="0 steps of 0 streams"):
        build('type: "ContinuationIndicator" continuation_indicator_param { }', dialect=CTC)


def test_accuracy_of_texts() -> None:
    text = 'type: "LabelsequenceAccuracy" labelsequence_accuracy_param { blank_label: 2 }'
    scores = np.eye(3)[[[0, 0, 2, 1], [2, 1, 1, 1], [0, 1, 2, 1]]]  # reads 01, 1 and 011
    module = build(text, scores.shape, LABELS.shape, dialect=CTC)
    assert_equals(module(torch.tensor(scores), torch.tensor(LABELS)), 2 / 3)


def test_errors() -> None:
    for text, fork, message in (
        ("CtcLoss", CTC, "time_step 0 and alphabet_size 0"),
        ("WarpCTCLoss ctc_loss_param { blank_index: 3 }", OCR, "blank is class 3; there are 0 to 2"),
    ):
        kind, _, more = text.partition(" ")
        with pytest.raises(LayerError, match=message):
            build(f'type: "{kind}" {more}', SCORES.shape, LABELS.shape, dialect=fork)
    with pytest.raises(LayerError, match="takes scores and labels here"):
        build('type: "WarpCTCLoss" ctc_loss_param { blank_index: 2 }', SCORES.shape, (4, 3), (4, 3), dialect=OCR)
    with pytest.raises(LayerError, match="texts = 3"):
        build('type: "WarpCTCLoss" ctc_loss_param { blank_index: 2 }', SCORES.shape, (2, 3), dialect=OCR)
