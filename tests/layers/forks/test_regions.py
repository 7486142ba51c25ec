"""R*CNN's layers of pose_action_caffe, against loops over regions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build

FORK = "zimenglan-sysu-512/pose_action_caffe"
SCORES = np.random.RandomState(4).uniform(-1, 1, (6, 5))  # 2 images of 3 regions


def test_sum_of_blobs() -> None:
    module = build('type: "CrossBlobsSum"', (2, 3), (2, 3), (2, 3), dialect=FORK)
    x = [torch.rand(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert_equals(module(*x), x[0].detach() + x[1].detach() + x[2].detach())
    assert torch.autograd.gradcheck(module, x)
    with pytest.raises(LayerError, match=r"\[2, 3\], as 'b0' has"):
        build('type: "CrossBlobsSum"', (2, 3), (2, 4), dialect=FORK)


def test_the_first_region_of_each_image() -> None:
    module = build('type: "ExtractPrimary" extract_primary_param { ims_per_batch: 2 }', (6, 5), tops=2, dialect=FORK)
    x = torch.tensor(SCORES, requires_grad=True)
    first, others = module(x)
    assert_equals(first, SCORES[[0, 3]])
    assert_equals(others, SCORES[[1, 2, 4, 5]])
    assert torch.autograd.gradcheck(module, x)
    small = build('type: "ExtractPrimary" extract_primary_param { ims_per_batch: 1 }', (1, 5), tops=2, dialect=FORK)
    assert [top.shape for top in small.infer(torch.empty(1, 5, device="meta"))] == [(1, 5), (1, 5)]
    assert_equals(small(x)[1], SCORES[1:])
    with pytest.raises(LayerError, match="at least 2 regions"):
        small(x[:1])
    with pytest.raises(LayerError, match="6 rows"):
        build('type: "ExtractPrimary" extract_primary_param { ims_per_batch: 4 }', (6, 5), tops=2, dialect=FORK)
    with pytest.raises(LayerError, match="takes 1 bottom here"):
        build('type: "ExtractPrimary"', (6, 5), (6, 1, 1, 1), tops=2, dialect=FORK)


@pytest.mark.parametrize(("how", "function"), [("MAX", np.max), ("SUM", np.sum), ("AVE", np.mean)])
def test_scores_of_regions(how: str, function: np.ufunc) -> None:
    text = f"secondary_regions_op_scores_param {{ n_secondary_regions: 4 has_scene_branch: true op_scores: {how} }}"
    module = build(f'type: "SecondaryRegionsOpScores" {text}', (6, 5), dialect=FORK)
    x = torch.tensor(SCORES, requires_grad=True)
    assert_equals(module(x), np.stack([function(SCORES[:3], axis=0), function(SCORES[3:], axis=0)]))
    weights = torch.rand(2, 5, dtype=torch.float64)
    (module(x) * weights).sum().backward()
    slopes = np.zeros((6, 5))
    for row, column in np.ndindex(6, 5):
        image = SCORES[row // 3 * 3 : row // 3 * 3 + 3, column]
        share = float(SCORES[row, column] == image.max()) if how == "MAX" else 1 / 3  # of a sum, too
        slopes[row, column] = weights[row // 3, column] * share
    assert_equals(x.grad, slopes)
    true = build(f'type: "SecondaryRegionsOpScores" {text}', (6, 5), dialect=FORK, gradients="true")
    assert torch.autograd.gradcheck(true, x)


def test_which_region_it_was() -> None:
    text = "secondary_regions_op_scores_param { n_secondary_regions: 3 }"
    module = build(f'type: "SecondaryRegionsOpScores" {text}', (6, 5), tops=3, dialect=FORK)
    best, rows, cells = module(torch.tensor(SCORES))
    expected = np.stack([SCORES[:3].argmax(0), SCORES[3:].argmax(0) + 3])
    assert_equals(rows, expected)
    assert_equals(cells, expected * 5 + np.arange(5))
    assert_equals(best, SCORES.reshape(-1)[expected * 5 + np.arange(5)])
    with pytest.raises(LayerError, match="only MAX knows a row"):
        build(f'type: "SecondaryRegionsOpScores" {text[:-1]} op_scores: AVE }}', (6, 5), tops=2, dialect=FORK)
    with pytest.raises(LayerError, match="images of 4 regions"):
        build(f'type: "SecondaryRegionsOpScores" {text.replace("3", "4")}', (6, 5), dialect=FORK)


def test_regions_that_a_bottom_counts() -> None:
    module = build('type: "SecondaryRegionsOpScores"', (6, 5), (1, 1, 1, 1), dialect=FORK)
    for told in (6.0, 0.0):
        assert_equals(module(torch.tensor(SCORES), torch.full((1, 1, 1, 1), told)), SCORES.max(0)[None])
    with pytest.raises(LayerError, match=r"\[4\.0\] regions"):
        module(torch.tensor(SCORES), torch.full((1, 1, 1, 1), 4.0))
