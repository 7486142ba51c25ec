"""Cascade R-CNN's layers of training, against loops over cells and proposals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build

FORK = "zhaoweicai/cascade-rcnn"
MEAN, STD = (0.1, -0.1, 0.05, 0.2), (0.1, 0.2, 0.3, 0.4)
REGRESSION = (
    "bbox_reg_param {" + "".join(f" bbox_mean: {m} bbox_std: {s}" for m, s in zip(MEAN, STD, strict=True)) + " }"
)
# Two fields of each cell, so that the four maps are of two images.
SIZES = ((20, 30), (40, 26))
FIELDS = "cls_num: 3 stride: 8 bg_threshold: 0.4 " + " ".join(f"field_w: {w} field_h: {h}" for w, h in SIZES)
SHAPES = (4, 3, 3, 4), (4, 4, 3, 4), (4, 6, 3, 4)


def cells() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draws = np.random.RandomState(3)
    scores, places, labels = (draws.uniform(-2, 2, shape) for shape in SHAPES)
    labels[:, 0] = draws.randint(0, 3, (4, 3, 4)) * (draws.uniform(size=(4, 3, 4)) < 0.3)
    for n, h, w in np.ndindex(4, 3, 4):
        labels[n, 1:5, h, w] = (w + 0.5) * 8 + draws.randint(-9, 9), (h + 0.5) * 8 + draws.randint(-9, 9), 24, 1
        labels[n, 5, h, w] = draws.uniform()
    return scores, places, labels


def probability(scores: np.ndarray, n: int, h: int, w: int, label: int) -> float:
    values = np.exp(scores[n, :, h, w])
    return float(values[label] / values.sum())


def hardest(scores: np.ndarray, labels: np.ndarray, image: int, count: int, *, by_loss: bool) -> set[tuple[int, ...]]:
    found = []
    for n, h, w in np.ndindex(2, 3, 4):
        n += 2 * image
        if labels[n, 0, h, w] == 0 and labels[n, 5, h, w] < 0.4:
            background = probability(scores, n, h, w, 0)
            found.append((-math.log(background) if by_loss else 1 - background, (n, h, w)))
    return {place for _, place in sorted(found, reverse=True)[:count]}


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("ranking", ["conf_loss", "conf_prob"])
def test_loss(smooth: bool, balanced: bool, ranking: str, device: torch.device) -> None:
    scores, places, labels = cells()
    more = f'bbox_loss_type: "{"Smooth_L1" if smooth else "Euclidean_L2"}" lambda: 0.7 bg_multiple: 2 min_num_neg: 3 '
    more += f'neg_mining_type: "bootstrap" neg_ranking_type: "{ranking}" field_xyr: 1.5 field_whr: 3 '
    more += f"pos_neg_weighted: {str(balanced).lower()}"
    text = f'type: "DetectionGroupLoss" detection_group_loss_param {{ {FIELDS} {more} }} {REGRESSION}'
    kept = set()
    for image in range(2):
        own = {(n, h, w) for n, h, w in np.ndindex(4, 3, 4) if n // 2 == image and labels[n, 0, h, w] > 0}
        kept |= own | hardest(scores, labels, image, max(2 * len(own), 3), by_loss=ranking == "conf_loss")
    objects = [place for place in kept if labels[place[0], 0, place[1], place[2]] > 0]
    total, moved = 0.0, 0.0
    bounds = [
        [(sign * most - (MEAN[i] + MEAN[i + 1]) / 2) / math.sqrt(STD[i] * STD[i + 1]) for sign in (-1, 1)]
        for i, most in ((0, 1 / 1.5), (2, math.log(3)))
    ]
    for n, h, w in kept:
        label = int(labels[n, 0, h, w])
        weight = 1.0
        if balanced:
            share, count = (1 / 3, len(objects)) if label else (2 / 3, len(kept) - len(objects))
            weight = share * len(kept) / count
        total -= math.log(probability(scores, n, h, w, label)) * weight
        if label:
            (width, height), (x, y, wide, high) = SIZES[n % 2], labels[n, 1:5, h, w]
            wanted = (
                *((x - (w + 0.5) * 8) / width, (y - (h + 0.5) * 8) / height),
                *(math.log(max(wide, 2) / width), math.log(max(high, 2) / height)),
            )
            for i in range(4):
                given = min(max(places[n, i, h, w], bounds[i // 2][0]), bounds[i // 2][1])
                d = abs(given - (wanted[i] - MEAN[i]) / STD[i])
                moved += d * d / 2 if d < 1 or not smooth else d - 0.5
    classes, expected = total / len(kept), 0.7 * moved / (4 * len(objects))
    x, y = (torch.tensor(v, dtype=torch.float32, device=device, requires_grad=True) for v in (scores, places))
    module = build(text, *SHAPES, dialect=FORK)
    top = module(x, y, torch.tensor(labels, dtype=torch.float32, device=device))
    assert_equals(top, [[[[classes + expected, expected]]]])
    top[..., 0].sum().backward()
    assert x.grad is not None
    assert y.grad is not None
    assert {tuple(place) for place in x.grad.abs().sum(1).nonzero().tolist()} == kept
    assert {tuple(place) for place in y.grad.abs().sum(1).nonzero().tolist()} == set(objects)


def test_the_true_gradient_of_the_loss() -> None:
    more = "field_xyr: 1 field_whr: 2 min_num_neg: 99"
    text = f'type: "DetectionGroupLoss" detection_group_loss_param {{ {FIELDS} {more} }}'
    module = build(text, *SHAPES, dialect=FORK, gradients="true")
    scores, places, labels = (torch.tensor(x) for x in cells())
    given = scores.requires_grad_(), places.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: module(x, y, labels)[..., 0], given)


@pytest.mark.parametrize("mode", ["random", "mixture", "bootstrap"])
def test_a_number_of_cells(mode: str) -> None:
    scores, _, labels = (torch.tensor(x) for x in cells())
    text = f'type: "DetectionGroupLoss" detection_group_loss_param {{ {FIELDS} batch_size: 7 bg_multiple: 1 %s }}'
    module = build(text % f'neg_mining_type: "{mode}"', *SHAPES, dialect=FORK)
    hardness = module._hardness(scores, module.class_losses(scores, labels[:, 0].long()))
    kept = module._sampled(hardness, labels)
    own, background = labels[:, 0] > 0, (labels[:, 0] == 0) & (labels[:, 5] < 0.4)
    assert torch.equal(kept & (own | background), kept)
    for image in range(2):
        part = slice(2 * image, 2 * image + 2)
        first = min(4, int(own[part].sum()))  # half of seven, rounded up
        assert int((kept & own)[part].sum()) == first
        assert int((kept & background)[part].sum()) == 7 - first
        worst = hardest(scores.numpy(), labels.numpy(), image, {"random": 0, "mixture": 2}.get(mode, 3), by_loss=True)
        assert all(kept[place] for place in worst)


def test_without_both_bounds_there_are_none() -> None:
    scores, places, labels = (torch.tensor(x) for x in cells())
    losses = [
        build(f'type: "DetectionGroupLoss" detection_group_loss_param {{ {FIELDS} {more} }}', *SHAPES, dialect=FORK)(
            scores, 9 * places, labels
        )[..., 1]
        for more in ("", "field_xyr: 1", "field_xyr: 1 field_whr: 2")
    ]
    assert losses[0] == losses[1] != losses[2]


def common_pixels(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (first corner, width, height), 0 of less than a pixel."""
    sides = [min(a[i] + a[2 + i], b[i] + b[2 + i]) - max(a[i], b[i]) for i in range(2)]
    common = sides[0] * sides[1] if min(sides) >= 1 else 0
    return float(common / (a[2] * a[3] + b[2] * b[3] - common))


@pytest.mark.parametrize("objectness", [True, False])
def test_accuracy(objectness: bool) -> None:
    scores, places, labels = cells()
    scores[1, :, 1, 1] = 0.5  # equal scores: the first class
    labels[1, :, 1, 1] = 0
    if objectness:
        scores = scores[:, 1:]
    fields = FIELDS.replace("cls_num: 3", "cls_num: 2 objectness: true") if objectness else FIELDS
    text = f'type: "DetectionGroupAccuracy" detection_group_accuracy_param {{ {fields} field_xyr: 3 field_whr: 1.5 }}'
    shapes = (scores.shape, *SHAPES[1:])
    rates, overlap = build(f"{text} {REGRESSION}", *shapes, tops=2, dialect=FORK)(
        *(torch.tensor(x) for x in (scores, places, labels))
    )
    right: list[bool] = []
    right_objects: list[bool] = []
    overlaps: list[float] = []
    for n, h, w in np.ndindex(4, 3, 4):
        label = int(labels[n, 0, h, w])
        if label == 0 and labels[n, 5, h, w] >= 0.4:
            continue
        right.append(int(scores[n, :, h, w].argmax()) == (min(label, 1) if objectness else label))
        if label:
            right_objects.append(right[-1])
            (width, height), own = SIZES[n % 2], places[n, :, h, w] * STD + MEAN
            centre = own[:2].clip(-1 / 3, 1 / 3) * (width, height) + (np.array([w, h]) + 0.5) * 8
            size = np.exp(own[2:].clip(-math.log(1.5), math.log(1.5))) * (width, height)
            x, y, wide, high = labels[n, 1:5, h, w]
            found = np.concatenate([centre - size / 2, size])
            overlaps.append(common_pixels(found, np.array([x - wide / 2, y - high / 2, wide, high])))
    assert_equals(rates, [[[[np.mean(right), np.mean(right_objects)]]]])
    assert_equals(overlap, [[[[np.mean(overlaps)]]]])


PROPOSALS = np.array(
    [[0, 0, 0, 19, 19], [0, 2, 1, 21, 20], [1, 30, 30, 59, 59], [1, 0, 0, 9, 9], [0, 12, 0, 31, 19]], np.float64
)
TRUTH = np.array([[0, 1, 1, 20, 20, 2, 0], [-1, 0, 0, 9, 9, 1, 0], [1, 32, 30, 58, 59, 1, 0]], np.float64)
TARGET = (
    "proposal_target_param { cls_num: 3 batch_size: %d num_img_per_batch: 2 img_width: 60 img_height: 70 "
    "bg_thr_hg: 0.5 %s }"
)


def proposed(batch: int, more: str) -> list[np.ndarray]:
    text = f'type: "ProposalTarget" {TARGET % (batch, more)}'
    module = build(text, (5, 5), (3, 7), tops=7, dialect=FORK)
    return [top.numpy()[..., 0, 0] for top in module(torch.tensor(PROPOSALS), torch.tensor(TRUTH))]


def test_targets_of_proposals() -> None:
    rois, labels, _, inside, outside, matched, _ = proposed(
        -1, "append_gtbox: false bbox_thr_lw: 0.82 bbox_thr_hg: 0.902"
    )
    overlaps = (361 / 439, 380 / 420, 810 / 900)  # of the first three; the last has 171 of 629
    assert_equals(torch.tensor(rois), PROPOSALS[[0, 1, 2, 4]])
    assert labels[:, 0].tolist() == [2, 2, 1, 0]
    assert_equals(torch.tensor(matched[:3, 5]), overlaps)
    counted = np.zeros((4, 12))
    counted[0, 8:12] = counted[2, 4:8] = 1  # the second overlaps by 0.905
    assert_equals(torch.tensor(inside), counted)
    assert_equals(torch.tensor(outside), counted)
    assert len(proposed(-1, "")[0]) == 6  # true boxes, too, of image 0 and 1


def test_too_few_proposals() -> None:
    rois, labels, *_ = proposed(9, "append_gtbox: false pickup_discard: false fg_fraction: 0.5")
    assert len(rois) == 4
    rois, labels, *_ = proposed(9, "append_gtbox: false fg_fraction: 0.5")
    assert_equals(torch.tensor(rois[-1]), PROPOSALS[3])  # neither an object nor background
    assert len(rois) == 5
    rois, labels, *_ = proposed(9, "append_gtbox: false pickup_discard: false fg_thr: 0.95 bg_thr_lw: 0.49")
    assert labels.tolist() == [[0]]  # one at random
    assert (rois[0, 3:] - rois[0, 1:3] >= 31).all()


def test_hard_mining(device: torch.device) -> None:
    losses = np.array([3, 1, 2, 2, 5, 0, 4], np.float32)
    images = np.array([0, 0, 0, 0, 1, 0, 2], np.float32)
    boxes = np.concatenate([images[:, None], np.arange(28).reshape(7, 4)], 1).astype(np.float32)
    text = 'type: "HardMining" hard_mining_param { num_roi_per_image: %d num_image: 3 }'
    for count, kept in (
        (1, [0, 4, 6]),
        (2, [0, 1, 2, 3, 4, 6]),  # of image 0 first 0 and 3; 2 and 1 make up for what the others lack
        (9, list(range(7))),
    ):
        module = build(text % count, (7, 1), (7, 5), (7, 2, 1, 1), tops=2, dialect=FORK)
        found = [torch.tensor(x, device=device) for x in (losses[:, None], boxes, losses.repeat(2).reshape(7, 2, 1, 1))]
        tops = module(*found)
        assert [top.shape for top in module.infer(*found)] == [top.shape for top in tops]
        assert_equals(tops[0], boxes[sorted(kept)][..., None, None])
        assert tops[1].flatten(1)[:, 0].tolist() == losses[sorted(kept)].tolist()
    with pytest.raises(LayerError, match="of image 3; 0 to 2"):
        module(torch.zeros(7, 1), torch.full((7, 5), 3.0), torch.zeros(7, 2, 1, 1))
    for shapes, more, message in (
        (((7, 1), (6, 5)), "", "boxes = 7, 5"),
        (((7, 1), (7, 5)), "propagate_down: true propagate_down: false", "hands no gradient back"),
    ):
        with pytest.raises(LayerError, match=message):
            build(f"{text % 2} {more}", *shapes, dialect=FORK)
    with pytest.raises(LayerError, match="must be at least 1"):
        build(text % 0, (7, 1), (7, 5), dialect=FORK)


def test_errors() -> None:
    loss = 'type: "DetectionGroupLoss" detection_group_loss_param { %s %s }'
    for fields, more, shapes, message in (
        (FIELDS, "field_w: 3", SHAPES, "3 field_w and 2 field_h"),
        (FIELDS, "", ((3, 3, 3, 4), (3, 4, 3, 4), (3, 6, 3, 4)), "3 maps, which is no multiple of 2"),
        (FIELDS, "", (SHAPES[0], (4, 5, 3, 4), SHAPES[2]), "maps = 4, 4, height = 3"),
        (FIELDS, "objectness: true", SHAPES, "2 classes; cls_num is 3"),
        (FIELDS, "batch_size: 0", SHAPES, "batch_size is 0"),
        (FIELDS, 'neg_mining_type: "none"', SHAPES, "neg_mining_type 'none' is none of random"),
        (FIELDS.replace("field_w: 20", "field_w: 0"), "", SHAPES, "at least 1"),
        ("cls_num: 3", "", SHAPES, "at least one"),
    ):
        with pytest.raises(LayerError, match=message):
            build(loss % (fields, more), *shapes, dialect=FORK)
    with pytest.raises(LayerError, match="values >= 7"):
        build(f'type: "ProposalTarget" {TARGET % (4, "")}', (5, 5), (3, 6), tops=6, dialect=FORK)
