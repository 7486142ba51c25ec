"""SegAccuracy, against counts pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build

FORK = "aharley/segaware"


def rates(scores: np.ndarray, labels: np.ndarray, ignored: tuple[int, ...]) -> list[float]:
    matrix = np.zeros((4, 4))
    for n, h, w in np.ndindex(len(scores), *scores.shape[2:]):
        label = int(labels[n, 0, h, w])
        if label not in ignored and 0 <= label < 4:
            matrix[label, max((score, k) for k, score in enumerate(scores[n, :, h, w]))[1]] += 1
    recalls = [matrix[k, k] / matrix[k].sum() for k in range(4) if matrix[k].sum()]
    unions = [matrix[k].sum() + matrix[:, k].sum() - matrix[k, k] for k in range(4)]
    overlaps = [matrix[k, k] / union if union else 1 for k, union in enumerate(unions)]
    return [np.trace(matrix) / matrix.sum(), float(np.mean(recalls)), float(np.mean(overlaps))]


def test_rates() -> None:
    draws = np.random.RandomState(1)
    scores, labels = draws.randint(0, 3, (2, 4, 3, 5)).astype(float), draws.randint(-1, 5, (2, 1, 3, 5)).astype(float)
    scores[:, 2], labels[labels == 2] = -1, 0  # a class that nobody has
    anew = build('type: "SegAccuracy" seg_accuracy_param { ignore_label: 1 }', scores.shape, labels.shape, dialect=FORK)
    given = torch.tensor(scores), torch.tensor(labels)
    for _ in range(2):
        assert_equals(anew(*given), [[[rates(scores, labels, (1,))]]])
    text = 'type: "SegAccuracy" seg_accuracy_param { reset: false metric: PixelIOU }'
    module = build(text, (1, 4, 3, 5), (1, 1, 3, 5), dialect="hszhao/PSPNet")
    for n in range(2):
        found = module(given[0][n : n + 1], given[1][n : n + 1])
    assert_equals(found, [[[rates(scores, labels, ())]]])
    module.reset_state()
    assert_equals(module(given[0][:1], given[1][:1]), [[[rates(scores[:1], labels[:1], ())]]])


def test_nothing_to_count() -> None:
    module = build('type: "SegAccuracy"', (1, 2, 1, 1), (1, 1, 1, 1), dialect=FORK)
    assert module(torch.zeros(1, 2, 1, 1), torch.full((1, 1, 1, 1), 255.0)).flatten().tolist() == [0, 0, 1]


def test_errors() -> None:
    with pytest.raises(LayerError, match="height = 3, width = 5"):
        build('type: "SegAccuracy"', (2, 4, 3, 5), (2, 1, 3, 4), dialect=FORK)
