"""MS-CNN's layers of training, against loops over cells and proposals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build

FORK = "zhaoweicai/mscnn"
MEAN, STD = (0.1, -0.1, 0.05, 0.2), (0.1, 0.2, 0.3, 0.4)
REGRESSION = (
    "bbox_reg_param {" + "".join(f" bbox_mean: {m} bbox_std: {s}" for m, s in zip(MEAN, STD, strict=True)) + " }"
)
FIELDS = "cls_num: 3 field_w: 20 field_h: 30 downsample_rate: 8 field_whr: 3 field_xyr: 1.5 bg_threshold: 0.4"
SHAPES = (2, 7, 3, 4), (2, 6, 3, 4)


def cells() -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.RandomState(3)
    maps, labels = draws.uniform(-2, 2, SHAPES[0]), np.zeros(SHAPES[1])
    labels[:, 0] = draws.randint(0, 3, (2, 3, 4)) * (draws.uniform(size=(2, 3, 4)) < 0.5)
    for n, h, w in np.ndindex(2, 3, 4):
        labels[n, 1:5, h, w] = (w + 0.5) * 8 + draws.randint(-9, 9), (h + 0.5) * 8 + draws.randint(-9, 9), 24, 1
        labels[n, 5, h, w] = draws.uniform()
    labels[0, 0, 0, 0], labels[1, 0, 2, 3] = 2, 1
    return maps, labels


def kept_background(maps: np.ndarray, labels: np.ndarray, multiple: int) -> np.ndarray:
    """The bootstrap: of each class, the cells of background with its highest scores."""
    kept = np.zeros((2, 3, 4), bool)
    for n in range(2):
        free = [c for c in np.ndindex(3, 4) if labels[n, 0][c] == 0 and labels[n, 5][c] < 0.4]
        for label in (1, 2):
            count = max(int((labels[n, 0] == label).sum()) * multiple, 4)
            for cell in sorted(free, key=lambda c: -maps[n, label][c])[:count]:
                kept[n][cell] = True
    return kept


def expected_loss(
    maps: np.ndarray, labels: np.ndarray, kept: np.ndarray, *, multiple: int, smooth: bool, weighed: bool
) -> tuple[float, float]:
    weights = np.ones((2, 3, 4))
    objects = labels[:, 0] > 0
    if weighed:
        weights[objects] = labels[:, 5][objects]
        count, share = kept.sum() + objects.sum(), 1 / (1 + multiple)
        positive, negative = weights[objects].sum(), weights[kept].sum()
        weights[objects] *= share * count / positive
        weights[~objects] *= (1 - share) * count / negative
    total, seen, places, found = 0.0, 0, 0.0, 0
    xyr = [(sign / 1.5 - (MEAN[0] + MEAN[1]) / 2) / math.sqrt(STD[0] * STD[1]) for sign in (-1, 1)]
    whr = [(sign * math.log(3) - (MEAN[2] + MEAN[3]) / 2) / math.sqrt(STD[2] * STD[3]) for sign in (-1, 1)]
    for n, h, w in np.ndindex(2, 3, 4):
        label = int(labels[n, 0, h, w])
        if label or kept[n, h, w]:
            scores = np.exp(maps[n, :3, h, w])
            total -= math.log(scores[label] / scores.sum()) * weights[n, h, w]
            seen += 1
        if not label:
            continue
        x, y, width, height = labels[n, 1:5, h, w]
        wanted = (
            (x - (w + 0.5) * 8) / 20,
            (y - (h + 0.5) * 8) / 30,
            math.log(max(width, 2) / 20),
            math.log(max(height, 2) / 30),
        )
        for i in range(4):
            bounds = xyr if i < 2 else whr
            given = min(max(maps[n, 3 + i, h, w], bounds[0]), bounds[1])
            d = abs(given - (wanted[i] - MEAN[i]) / STD[i])
            places += d * d / 2 if d < 1 or not smooth else d - 0.5
            found += 1
    return total / seen, places / found


@pytest.mark.parametrize(("smooth", "weighed"), [(True, False), (False, True)])
def test_loss(smooth: bool, weighed: bool) -> None:
    maps, labels = cells()
    more = f"bb_smooth: {str(smooth).lower()} lambda: 0.7 bg_multiple: 2"
    more += " iou_weighted: true pos_neg_weighted: true" if weighed else ""
    text = f'type: "DetectionLoss" detection_loss_param {{ {FIELDS} {more} sample_mode: "bootstrap" }} {REGRESSION}'
    module = build(text, *SHAPES, dialect=FORK)
    kept = kept_background(maps, labels, 2)
    classes, places = expected_loss(maps, labels, kept, multiple=2, smooth=smooth, weighed=weighed)
    x = torch.tensor(maps, requires_grad=True)
    found = module(x, torch.tensor(labels))
    assert_equals(found, [[[[classes + 0.7 * places, 0.7 * places]]]])
    true = build(text, *SHAPES, dialect=FORK, gradients="true")
    assert torch.autograd.gradcheck(lambda y: true(y, torch.tensor(labels))[..., 0], (x,))
    found[..., 0].sum().backward()
    assert x.grad is not None
    free = np.argwhere(labels[:, 0] > 0)
    assert all(np.all(x.grad[n, 3:, h, w].numpy() != 0) for n, h, w in free), "beyond the bounds, too"
    still = ~kept & (labels[:, 0] == 0)
    assert not x.grad.movedim(1, -1)[torch.tensor(still)].any()


def test_other_samplings_of_background() -> None:
    maps, labels = (torch.tensor(x) for x in cells())
    free = (labels[:, 0] == 0) & (labels[:, 5] < 0.4)
    for mode in ("all", "random", "mixture"):
        text = f'type: "DetectionLoss" detection_loss_param {{ {FIELDS} bg_multiple: 1 sample_mode: "{mode}" }}'
        module = build(text, *SHAPES, dialect=FORK)
        kept = module._background(maps, labels)
        assert torch.equal(kept & free, kept)
        assert mode != "all" or torch.equal(kept, free)
        assert kept.any()
    fields = FIELDS.replace("cls_num: 3", "cls_num: 2")
    one = build(
        f'type: "DetectionLoss" detection_loss_param {{ {fields} objectness: true }} loss_param {{ ignore_label: 1 }}',
        (2, 6, 3, 4),
        SHAPES[1],
        dialect=FORK,
    )
    assert one(maps[:, 1:], labels)[..., 0].item() != one(maps[:, 1:], labels)[..., 1].item()


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two boxes: first corner, width, height."""
    common = 1.0
    for i in range(2):
        common *= max(min(a[i] + a[2 + i], b[i] + b[2 + i]) - max(a[i], b[i]), 0)
    return float(common / (a[2] * a[3] + b[2] * b[3] - common))


def test_accuracy() -> None:
    maps, labels = cells()
    text = f'type: "DetectionAccuracy" detection_accuracy_param {{ {FIELDS} top_k: 2 }} {REGRESSION}'
    found = build(text, *SHAPES, tops=2, dialect=FORK)(torch.tensor(maps), torch.tensor(labels))
    hits: list[tuple[int, bool]] = []
    overlaps = []
    for n, h, w in np.ndindex(2, 3, 4):
        label = int(labels[n, 0, h, w])
        if label == 0 and labels[n, 5, h, w] >= 0.4:
            continue
        best = sorted(range(3), key=lambda k: (-maps[n, k, h, w], -k))[:2]
        hits.append((label, label in best))
        if label:
            given = maps[n, 3:, h, w] * STD + MEAN
            moved, grown = np.clip(given[:2], -1 / 1.5, 1 / 1.5), np.exp(np.clip(given[2:], -math.log(3), math.log(3)))
            size = grown * (20, 30)
            centre = moved * (20, 30) + ((w + 0.5) * 8, (h + 0.5) * 8)
            x, y, width, height = labels[n, 1:5, h, w]
            true = np.array([x - width / 2, y - height / 2, width, height])
            overlaps.append(iou(np.concatenate([centre - size / 2, size]), true))
    assert_equals(found[0], [[[[np.mean([hit for _, hit in hits]), np.mean([hit for k, hit in hits if k])]]]])
    assert_equals(found[1], [[[[np.mean(overlaps)]]]])


def test_overlap_of_adjusted_proposals() -> None:
    draws = np.random.RandomState(5)
    given = draws.uniform(-1, 1, (5, 12))
    boxes = np.array([[0, 2, 3, 20, 30], [0, 5, 5, 25, 20], [1, 0, 0, 9, 9], [1, 4, 4, 30, 30], [1, 1, 2, 8, 9.0]])
    truth = np.array(
        [[1, 1, 1, 22, 28, 0.6], [2, 8, 4, 20, 22, 0.5], [0] * 6, [2, 4, 4, 30, 30, 1], [1, 1, 1, 9, 9, 0.9]]
    )
    found = build(f'type: "BboxAccuracy" {REGRESSION}', (5, 12), (5, 5), (5, 6), tops=2, dialect=FORK)(
        *map(torch.tensor, (given, boxes, truth))
    )
    before, after = [], []
    for i in (0, 1, 4):  # the others are background, or the true box itself
        label = int(truth[i, 0])
        x, y, w, h = given[i, 4 * label : 4 * label + 4] * STD + MEAN
        place, size = boxes[i, 1:3], boxes[i, 3:5] - boxes[i, 1:3] + 1
        grown = size * np.exp((w, h))
        centre = size * (x, y) + place + size / 2
        true = np.concatenate([truth[i, 1:3], truth[i, 3:5] - truth[i, 1:3] + 1])
        before.append(iou(np.concatenate([place, size]), true))
        after.append(iou(np.concatenate([centre - grown / 2, grown]), true))
    assert_equals(found[0], [[[[np.mean(after)]]]])
    assert_equals(found[1], [[[[np.mean(before)]]]])
    none = build('type: "BboxAccuracy"', (5, 12), (5, 5), (5, 6), dialect=FORK)
    assert none(*map(torch.tensor, (given, boxes, truth * 0))).item() == -1


TARGET = "proposal_target_param { cls_num: 3 batch_size: %d num_img_per_batch: 2 img_width: 60 img_height: 50 %s }"
PROPOSALS = np.array([[0, 0, 0, 19, 19], [0, 2, 1, 20, 22], [0, 30, 30, 40, 40], [1, 5, 5, 14, 24], [1, 0, 0, 9, 9.0]])
TRUTH = np.array([[0, 1, 0, 20, 20, 2, 0], [0, 28, 28, 45, 45, 1, 0], [1, 30, 30, 39, 49, 1, 1.0]])


def test_targets_of_proposals() -> None:
    text = TARGET % (-1, "fg_thr: 0.5 bg_thr_hg: 0.4 bg_thr_lw: 0.1 iou_weighted: true fg_fraction: 0.4")
    module = build(f'type: "ProposalTarget" {text} {REGRESSION}', (5, 5), (3, 7), tops=7, dialect=FORK)
    rois, labels, targets, inside, outside, matched, weights = (
        top.numpy()[..., 0, 0] for top in module(torch.tensor(PROPOSALS), torch.tensor(TRUTH))
    )
    boxes = np.concatenate([PROPOSALS, TRUTH[:, :5]])
    sides = [np.concatenate([row[1:3], row[3:5] - row[1:3] + 1]) for row in (*boxes, *TRUTH)]
    objects, background = [], []
    for i, row in enumerate(boxes):
        overlaps = [(iou(sides[i], sides[8 + j]), -j) for j in range(3) if TRUTH[j, 0] == row[0]]
        best, j = max(overlaps)
        if best >= 0.5 and not TRUTH[-j, 6]:
            objects.append((i, -j, best))
        elif 0.1 <= best < 0.4:
            background.append(i)
    assert objects
    assert background
    assert_equals(torch.tensor(rois), boxes[[i for i, *_ in objects] + background])
    assert labels[:, 0].tolist() == [TRUTH[j, 5] for _, j, _ in objects] + [0] * len(background)
    expected, counts, true = np.zeros((len(rois), 12)), np.zeros((len(rois), 12)), np.zeros((len(rois), 6))
    for row, (i, j, best) in enumerate(objects):
        own, wanted, first = sides[i], sides[8 + j], 4 * int(TRUTH[j, 5])
        moved = ((wanted[:2] + wanted[2:] / 2) - (own[:2] + own[2:] / 2)) / own[2:]
        expected[row, first : first + 4] = (np.concatenate([moved, np.log(wanted[2:] / own[2:])]) - MEAN) / STD
        counts[row, first : first + 4] = 1
        true[row] = TRUTH[j, 5], *TRUTH[j, 1:5], best
    assert_equals(torch.tensor(targets), expected)
    assert_equals(torch.tensor(inside), counts)
    assert_equals(torch.tensor(outside), counts)
    assert_equals(torch.tensor(matched), true)
    share = [best for *_, best in objects]
    scaled = [0.4 * len(rois) * best / sum(share) for best in share]
    assert_equals(torch.tensor(weights[:, 0]), scaled + [0.6 * len(rois) / len(background)] * len(background))


def test_as_many_proposals_as_asked_for() -> None:
    settings = "fg_thr: 0.5 bg_thr_hg: 0.4 bg_thr_lw: 0.1 fg_fraction: 0.25"
    text = f"{TARGET % (12, settings)} bbox_reg_param {{ cls_aware: false }}"
    module = build(f'type: "ProposalTarget" {text}', (5, 5), (3, 7), tops=6, dialect=FORK)
    given = torch.tensor(PROPOSALS), torch.tensor(TRUTH)
    assert [tuple(top.shape) for top in module.infer(*given)] == [tuple(top.shape) for top in module(*given)]
    rois, labels, targets, *_ = (top[..., 0, 0] for top in module(*given))
    assert (labels[:3] > 0).all()
    assert not labels[3:].any()
    assert targets.shape == (12, 8)
    drawn = rois[-4:]
    assert (drawn[:, 1:] >= 0).all()
    sizes = drawn[:, 3:] - drawn[:, 1:3] + 1
    assert (sizes >= 32).all()


def test_errors() -> None:
    loss = f'type: "DetectionLoss" detection_loss_param {{ {FIELDS} %s }}'
    for more, shapes, message in (
        ("", ((2, 6, 3, 4), SHAPES[1]), "channels = 7"),
        ("", (SHAPES[0], (2, 5, 3, 4)), "images = 2, 6, height = 3"),
        ("coord_num: 5", SHAPES, "cls_num 3 and coord_num 5"),
        ("objectness: true", SHAPES, "2 classes; cls_num is 3"),
    ):
        with pytest.raises(LayerError, match=message):
            build(loss % more, *shapes, dialect=FORK)
    with pytest.raises(LayerError, match="top_k is 4"):
        build(f'type: "DetectionAccuracy" detection_accuracy_param {{ {FIELDS} top_k: 4 }}', *SHAPES, dialect=FORK)
    for text, message in (
        (TARGET % (0, ""), "batch_size is 0"),
        (TARGET % (4, "fg_thr: 0.3"), "below bg_thr_hg"),
        ((TARGET % (4, "")).replace("60", "32"), "above 32"),
    ):
        with pytest.raises(LayerError, match=message):
            build(f'type: "ProposalTarget" {text}', (5, 5), (3, 7), tops=6, dialect=FORK)
