"""FrcnnAnchorTarget and FrcnnProposalTarget against loops over anchors and boxes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import CaffeCompatError, LayerError
from tests.layers.building import assert_equals, build
from tests.layers.python.test_frcnn import ANCHORS, FORK, RICKY, overlap

TRUTH: list[list[float]] = [[3, 5, 19, 33, 2], [24, 2, 55, 15, 1], [30, 20, 33, 24, 2]]
INFO = torch.tensor([[40.0, 60, 1.5]])
FOUR = "[1.5, 0.5, 2, 3]"


def targets(kind: str, cfg: str, *shapes: tuple[int, ...], tops: int, dialect: str = FORK, more: str = "") -> Any:
    text = f'type: "{kind}" {more} python_param {{ param_str: "{{cfg: {{{cfg}}}}}" }}'
    return build(text, *shapes, tops=tops, phase="TRAIN", dialect=dialect)


def anchor_target(cfg: str, dialect: str = FORK) -> Any:
    anchors = ", ".join(str(n) for anchor in ANCHORS for n in anchor)
    own = f"anchors: '{anchors}', feat_stride: 8, {cfg}"
    return targets("FrcnnAnchorTarget", own, (1, 4, 4, 6), (3, 5), (1, 3), tops=4, dialect=dialect)


def offsets(box: list[float], truth: list[float]) -> list[float]:
    first, second = [], []
    for i in (0, 1):
        side, wanted = box[i + 2] - box[i] + 1, truth[i + 2] - truth[i] + 1
        first.append((truth[i] + wanted / 2 - box[i] - side / 2) / side)
        second.append(math.log(wanted / side))
    return [*first, *second]


@pytest.mark.parametrize("dialect", [FORK, RICKY])
@pytest.mark.parametrize("clobber", [0, 1])
@pytest.mark.parametrize("weight", [-1, 0.25])
def test_what_anchors_learn(dialect: str, clobber: int, weight: float) -> None:
    cfg = f"rpn_positive_overlap: 0.45, rpn_negative_overlap: 0.3, rpn_clobber_positives: {clobber}, "
    cfg += f"rpn_positive_weight: {weight}, rpn_allowed_border: 2, rpn_bbox_inside_weights: {FOUR}, eps: 0.001"
    found = anchor_target(cfg, dialect)(torch.rand(1, 4, 4, 6), torch.tensor(TRUTH, dtype=torch.float32), INFO)
    labels, values = np.full((2, 4, 6), -1.0), np.zeros((2, 4, 4, 6))
    inside = {}
    for y, x, k in np.ndindex(4, 6, 2):
        box = [ANCHORS[k][i] + 8.0 * (x, y)[i % 2] for i in range(4)]
        if min(box[:2]) >= -2 and box[2] < 62 and box[3] < 42:
            inside[k, y, x] = box
    all_overlaps = {place: [overlap(box, truth) for truth in TRUTH] for place, box in inside.items()}
    best = [max(row[j] for row in all_overlaps.values()) for j in range(3)]
    for place, row in all_overlaps.items():
        k, y, x = place
        values[k, :, y, x] = offsets(inside[place], TRUTH[row.index(max(row))])
        object_ = max(row) >= 0.45 or any(best[j] - row[j] <= 0.001 for j in range(3))
        nothing = max(row) < 0.3
        labels[place] = 0 if nothing and (clobber or not object_) else 1 if object_ else -1
    assert {-1, 0, 1} == set(labels.flatten())
    assert_equals(found[0], labels.reshape(1, 1, 8, 6))
    assert_equals(found[1], values.reshape(1, 8, 4, 6))
    first, second = (labels == 1).sum(), (labels == 0).sum()
    inner = (labels == 1)[:, None] * np.array([1.5, 0.5, 2, 3])[None, :, None, None]
    assert_equals(found[2], inner.reshape(1, 8, 4, 6))
    if weight < 0:
        outer = (labels >= 0) / (first + second)
    else:
        outer = (labels == 1) * 0.25 / first + (labels == 0) * 0.75 / second
    assert_equals(found[3], np.repeat(outer[:, None], 4, 1).reshape(1, 8, 4, 6))


def test_so_many_anchors_at_most() -> None:
    cfg = "rpn_positive_overlap: 0.3, rpn_negative_overlap: 0.29, rpn_batchsize: 5, rpn_fg_fraction: 0.59"
    labels = anchor_target(cfg)(torch.rand(1, 4, 4, 6), torch.tensor(TRUTH, dtype=torch.float32), INFO)[0]
    assert ((labels == 1).sum(), (labels == 0).sum()) == (2, 3)


def test_errors_of_anchors() -> None:
    with pytest.raises(LayerError, match="does not lie in the image"):
        anchor_target("eps: 0")(torch.rand(1, 4, 4, 6), torch.tensor([[3.0, 5, 19, 41, 2]]), INFO)
    for cfg, message in (
        ("rpn_positive_weight: 1", "rpn_positive_weight is 1; between 0 and 1"),
        ("rpn_bbox_inside_weights: [1, 2]", "four numbers were expected"),
        ("rpn_batchsize: many", "a whole number was expected"),
    ):
        with pytest.raises(CaffeCompatError, match=message):
            anchor_target(cfg)
    with pytest.raises(LayerError, match="feat_stride is 0"):
        targets("FrcnnAnchorTarget", "feat_stride: 0", (1, 18, 4, 6), (3, 5), (1, 3), tops=4)


ROIS: list[list[float]] = [
    [0, 3, 6, 19, 30],
    [0, 5, 5, 25, 33],
    [0, 24, 2, 50, 15],
    [0, 40, 30, 59, 39],
    [0, 0, 0, 12, 12],
]


def proposal_target(cfg: str, dialect: str = FORK, more: str = "") -> Any:
    own = f"n_classes: 4, bbox_inside_weights: {FOUR}, {cfg}"
    return targets("FrcnnProposalTarget", own, (5, 5), (3, 5), tops=5, dialect=dialect, more=more)


def sampled(module: Any) -> tuple[list[list[float]], list[float], list[np.ndarray]]:
    """Boxes, classes, and the three values for each class, as lists; what is at the class is as it should be."""
    rois, labels, *values = (
        top.squeeze(-1).squeeze(-1)
        for top in module(torch.tensor(ROIS, dtype=torch.float32), torch.tensor(TRUTH, dtype=torch.float32))
    )
    assert rois.shape[1] == 5
    assert (rois[:, 0] == 0).all()
    return rois[:, 1:].tolist(), labels.flatten().tolist(), [v.reshape(-1, 4, 4).numpy() for v in values]


@pytest.mark.parametrize("dialect", [FORK, RICKY])
@pytest.mark.parametrize("normalised", [0, 1])
def test_what_proposals_learn(dialect: str, normalised: int) -> None:
    spread = "bbox_normalize_means: [0.1, 0.2, 0.3, 0.4], bbox_normalize_stds: [0.5, 0.25, 2, 4]"
    cfg = f"batch_size: 20, fg_fraction: 0.5, bg_thresh_lo: 0.01, bbox_normalize_targets: {normalised}, {spread}"
    boxes, labels, (values, inner, outer) = sampled(proposal_target(cfg, dialect))
    everything = [row[1:] for row in ROIS] + [row[:4] for row in TRUTH]
    most = [max(overlap(box, truth) for truth in TRUTH) for box in everything]
    objects = [box for box, m in zip(everything, most, strict=True) if m >= 0.5]
    others = [box for box, m in zip(everything, most, strict=True) if 0.01 <= m < 0.5]
    assert sorted(boxes[: len(objects)]) == sorted(objects)
    rest = boxes[len(objects) :]
    assert {tuple(box) for box in rest} == {tuple(box) for box in others}
    assert len(rest) == (20 - len(objects) if dialect == FORK else len(others))
    means, stds = ([0.1, 0.2, 0.3, 0.4], [0.5, 0.25, 2, 4]) if normalised else ([0.0] * 4, [1.0] * 4)
    for box, label, value, weight, other in zip(boxes, labels, values, inner, outer, strict=True):
        row = [overlap(box, truth) for truth in TRUTH]
        truth = TRUTH[row.index(max(row))]
        assert label == (truth[4] if max(row) >= 0.5 else 0)
        expected = np.zeros((3, 4, 4))
        if label:
            expected[0, int(label)] = (np.array(offsets(box, truth)) - np.array(means)) / np.array(stds)
            expected[1, int(label)] = np.array([1.5, 0.5, 2, 3])
            expected[2, int(label)] = 1
        np.testing.assert_allclose(np.stack([value, weight, other]), expected, rtol=1e-5, atol=1e-6)


def test_so_many_proposals_at_most() -> None:
    _, labels, _ = sampled(proposal_target("batch_size: 4, fg_fraction: 0.75, bg_thresh_lo: 0"))
    assert [label > 0 for label in labels] == [True, True, True, False]
    _, labels, _ = sampled(proposal_target("batch_size: 6, fg_fraction: 0, fg_thresh: 0.8"))
    assert labels == [0] * 6


def test_background_is_filled_up() -> None:
    """Where none lies between the bounds, with what overlaps less."""
    cfg = "batch_size: 9, fg_fraction: 1, bg_thresh_lo: 0.5, bg_thresh_hi: 0.5"
    boxes, labels, _ = sampled(proposal_target(cfg))
    assert sum(label > 0 for label in labels) == 6
    assert boxes[6:] == [[40, 30, 59, 39], [0, 0, 12, 12], [40, 30, 59, 39]]
    none = "batch_size: 9, fg_fraction: 0, bg_thresh_lo: 0.3, bg_thresh_hi: 0.3"
    boxes, labels, _ = sampled(proposal_target(none))
    assert sorted(boxes[:2]) == [[0, 0, 12, 12], [40, 30, 59, 39]]
    assert boxes[2:] == [ROIS[0][1:]] * 7
    assert len(sampled(proposal_target(none, RICKY))[0]) == 0


def test_later_stages_of_a_cascade() -> None:
    more = "proposal_target_param { stage: 2 gt_iou_thr: 0.75 }"
    boxes, labels, _ = sampled(proposal_target("batch_size: 20, bg_thresh_lo: 0, fg_fraction: 0.5", more=more))
    assert ROIS[0][1:] not in boxes, "it lies on an object already"
    assert sorted(box for box, label in zip(boxes, labels, strict=True) if label) == sorted(t[:4] for t in TRUTH)
    assert ROIS[1][1:] in boxes, "0.7 is asked of an object"


def test_errors_of_proposals() -> None:
    module = proposal_target("batch_size: 20")
    rois, truth = torch.tensor(ROIS, dtype=torch.float32), torch.tensor(TRUTH, dtype=torch.float32)
    for given, message in (
        ((rois, truth[:0]), "the image has no object"),
        ((rois + 1, truth), "takes the boxes of one image"),
        ((rois, truth + torch.tensor([0.0, 0, 0, 0, 2])), "none of the classes 1 to 3"),
        ((rois, truth - torch.tensor([0.0, 0, 0, 0, 1])), "none of the classes 1 to 3"),
    ):
        with pytest.raises(LayerError, match=message):
            module(*given)
    for cfg, message in (("batch_size: 0", "batch_size 0 must be"), ("bbox_normalize_stds: [1, 2]", "four numbers")):
        with pytest.raises(CaffeCompatError, match=message):
            proposal_target(cfg)
    with pytest.raises(CaffeCompatError, match="x1 y1 x2 y2 class = 5"):
        targets("FrcnnProposalTarget", "", (5, 5), (3, 4), tops=5)
