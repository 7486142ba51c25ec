"""The Python layers of Faster R-CNN and R-FCN against slow definitions, with every setting at another value.

What they share with the recorded cases (``test_fork_cases.py``), which are of the defaults, is not repeated.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.layers.python.anchors import base_anchors
from caffe_compat.network.randomness import Randomness
from tests.layers.building import build

RFCN = "daijifeng001/caffe-rfcn"
GENTLE = (0.3, 0.4)  # how far offsets of the tests move, and scale


def layer(cls: str, param_str: str) -> str:
    module = {
        "ProposalLayer": "rpn.proposal_layer",
        "AnchorTargetLayer": "rpn.anchor_target_layer",
        "ProposalTargetLayer": "rpn.proposal_target_layer",
    }[cls]
    return f'type: "Python" python_param {{ module: "{module}" layer: "{cls}" param_str: "{param_str}" }}'


def overlap(a: Any, b: Any) -> float:
    w, h = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + 1) for i in (0, 1))
    first, second = ((c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b))
    return w * h / (first + second - w * h)


def anchors_by_hand(size: int, ratios: Any, scales: Any, height: int, width: int, stride: int) -> list[list[float]]:
    found = []
    for y in range(height):
        for x in range(width):
            for box in base_anchors(size, ratios, scales):
                found.append([corner + stride * (x, y)[i % 2] for i, corner in enumerate(box)])
    return found


def offsets_by_hand(box: Any, truth: Any) -> list[float]:
    out = []
    for i in (0, 1):
        size, true = box[i + 2] - box[i] + 1, truth[i + 2] - truth[i] + 1
        out.append((truth[i] + 0.5 * true - box[i] - 0.5 * size) / size)
        out.append(math.log(true / size))
    return [out[0], out[2], out[1], out[3]]


def test_anchors_are_the_known_ones() -> None:
    known = [(-84, -40, 99, 55), (-176, -88, 191, 103), (-360, -184, 375, 199), (-56, -56, 71, 71)]
    known += [(-120, -120, 135, 135), (-248, -248, 263, 263), (-36, -80, 51, 95), (-80, -168, 95, 183)]
    assert base_anchors(16, (0.5, 1, 2), (8, 16, 32)) == (*known, (-168, -344, 183, 359))


@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
def test_proposals(phase: str, device: torch.device) -> None:
    random = np.random.RandomState(3)
    ratios, scales, stride, size, height, width = (0.7, 2.0, 3.0), (1.5, 2.5), 10, 12, 5, 8
    scores = random.rand(1, 12, height, width).astype(np.float32)
    offsets = (random.randn(1, 24, height, width) * 0.4).astype(np.float32)
    info = (50.0, 80.0, 1.5)
    stds, means = ((0.5, 0.6, 0.7, 0.8), (0.1, 0.0, -0.1, 0.05)) if phase == "TRAIN" else ((1,) * 4, (0,) * 4)
    rows = []
    for k, anchor in enumerate(anchors_by_hand(size, ratios, scales, height, width, stride)):
        y, x, a = k // (width * 6), k // 6 % width, k % 6
        box = [0.0] * 4
        for i in (0, 1):
            move, grow = (offsets[0, 4 * a + j, y, x] * stds[j] + means[j] for j in (i, i + 2))
            side = anchor[i + 2] - anchor[i] + 1
            centre, half = move * side + anchor[i] + 0.5 * side, 0.5 * math.exp(grow) * side
            limit = info[1 - i] - 1
            box[i], box[i + 2] = (min(max(end, 0.0), limit) for end in (centre - half, centre + half))
        if all(box[i + 2] - box[i] + 1 >= 9 * info[2] for i in (0, 1)):
            rows.append((*box, float(scores[0, 6 + a, y, x])))
    kept: list[tuple[float, ...]] = []
    for row in sorted(rows, key=lambda row: -row[4])[:70]:
        if len(kept) < 13 and all(overlap(other, row) <= 0.45 for other in kept):
            kept.append(row)
    assert 70 < len(rows) < height * width * 6
    assert len(kept) == 13
    cfg = f"{{{phase}: {{RPN_PRE_NMS_TOP_N: 70, RPN_POST_NMS_TOP_N: 13, RPN_NMS_THRESH: 0.45, RPN_MIN_SIZE: 9}}}}"
    if phase == "TRAIN":
        normal = "RPN_NORMALIZE_TARGETS: True, RPN_NORMALIZE_STDS: [0.5, 0.6, 0.7, 0.8]"
        cfg = cfg.replace("{RPN_PRE", f"{{{normal}, RPN_NORMALIZE_MEANS: [0.1, 0.0, -0.1, 0.05], RPN_PRE")
    told = f"{{feat_stride: {stride}, ratios: [0.7, 2, 3], scales: [1.5, 2.5], base_size: {size}, cfg: {cfg}}}"
    shapes = (scores.shape, offsets.shape, (1, 3))
    given = [torch.tensor(v, device=device) for v in (scores, offsets, np.array([info], dtype=np.float32))]
    boxes, found = build(layer("ProposalLayer", told), *shapes, tops=2, phase=phase)(*given)
    expected = torch.tensor([(0, *row) for row in kept], dtype=torch.float32)
    torch.testing.assert_close(boxes.cpu(), expected[:, :5], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found.cpu(), expected[:, 5:])
    torch.testing.assert_close(build(layer("ProposalLayer", told), *shapes, phase=phase)(*given), boxes)
    half = build(layer("ProposalLayer", told), *shapes, phase=phase)(*(v.half() for v in given))
    assert half.dtype == torch.float16


def test_proposals_of_equal_scores_keep_their_order() -> None:
    told = "{feat_stride: 100, scales: [2], ratios: [1], cfg: {TEST.RPN_PRE_NMS_TOP_N: 3, TEST.RPN_MIN_SIZE: 1}}"
    scores = torch.zeros(1, 2, 1, 5)
    scores[0, 1, 0, 2] = 1
    boxes = build(layer("ProposalLayer", told), (1, 2, 1, 5), (1, 4, 1, 5), (1, 3))(
        scores, torch.zeros(1, 4, 1, 5), torch.tensor([[600.0, 600.0, 1.0]])
    )
    # The best, and of the equal ones the last two, first things first.
    assert [round(float(x)) for x in boxes[:, 1]] == [192, 292, 392]


@pytest.mark.parametrize(
    ("told", "shapes", "problem"),
    [
        ("{}", None, "param_str has no 'feat_stride', which this layer needs"),
        ("'feat_stride': 0", None, "feat_stride is 0; a whole number from 1 on was expected"),
        ("{'feat_stride': 16, 'scales': ['x']}", None, r"scales is \['x'\]; some numbers were expected"),
        ("{'feat_stride': 16, 'scales': [0]}", None, "must be positive"),
        ("{'feat_stride': 16, 'scale': 8}", None, "param_str says 'scale', which this layer does not know; it reads"),
        ("[16]", None, "a mapping was expected"),
        ("{", None, "param_str: line 1: a bracket stays open"),
        (
            "{'feat_stride': 16, 'cfg': {'TEST.RPN_NMS_THRESH': True}}",
            None,
            "cfg: TEST.RPN_NMS_THRESH is True; a number",
        ),
        (
            "'feat_stride': 16",
            [(1, 16, 4, 5), (1, 36, 4, 5), (1, 3)],
            "scores of 9 anchors = 18, height, width",
        ),
        ("'feat_stride': 16", [(1, 18, 4, 5), (1, 36, 5, 4), (1, 3)], "of 9 anchors = "),
        ("'feat_stride': 16", [(2, 18, 4, 5), (2, 36, 4, 5), (1, 3)], "of 9 anchors = "),
        ("'feat_stride': 16", [(1, 18, 4, 5), (1, 36, 4, 5), (1, 2)], "'b2' has shape .*height width scale >= 3"),
    ],
)
def test_proposal_layers_that_make_no_sense(told: str, shapes: Any, problem: str) -> None:
    with pytest.raises(LayerError, match=f"layer 'l' \\(Python\\): .*{problem}"):
        build(layer("ProposalLayer", told), *(shapes or [(1, 18, 4, 5), (1, 36, 4, 5), (1, 3)]))


def test_several_images_are_refused_when_it_runs() -> None:
    module = build(layer("ProposalLayer", "'feat_stride': 16"), (1, 18, 1, 1), (1, 36, 1, 1), (1, 3))
    with pytest.raises(LayerError, match="takes one image, found 2"):
        module(torch.zeros(2, 18, 1, 1), torch.zeros(2, 36, 1, 1), torch.ones(1, 3))


OBJECTS = [[10.0, 12, 60, 70, 2], [40, 5, 90, 40, 1], [85, 60, 140, 85, 3]]


def targets_by_hand(cfg: dict[str, Any], border: float, random: np.random.RandomState) -> list[np.ndarray]:
    """Labels, offsets and weights (6 x 9 cells of 4 anchors, ...) for an image of 100 x 150."""
    anchors = anchors_by_hand(14, (0.8, 1.5), (2, 3), 6, 9, 16)
    inside = [
        k
        for k, (x1, y1, x2, y2) in enumerate(anchors)
        if not cfg["inside"] or (x1 >= -border and y1 >= -border and x2 < 150 + border and y2 < 100 + border)
    ]
    table = np.array([[overlap(anchors[k], box) for box in OBJECTS] for k in inside])
    labels = np.full(len(inside), -1)
    if not cfg["clobber"]:
        labels[table.max(1) < cfg["low"]] = 0
    for j in range(len(OBJECTS)):
        labels[table[:, j] == table[:, j].max()] = 1
    labels[table.max(1) >= cfg["high"]] = 1
    if cfg["clobber"]:
        labels[table.max(1) < cfg["low"]] = 0
    for label, count in ((1, int(cfg["part"] * cfg["count"])), (0, None)):
        count = cfg["count"] - (labels == 1).sum() if count is None else count
        places = np.flatnonzero(labels == label)
        if len(places) > count:
            labels[random.choice(places, size=len(places) - count, replace=False)] = -1
    weights = {1: 1 / (labels >= 0).sum(), 0: 1 / (labels >= 0).sum()}
    if cfg["share"] > 0:
        weights = {1: cfg["share"] / (labels == 1).sum(), 0: (1 - cfg["share"]) / (labels == 0).sum()}
    tops = [np.full(len(anchors), -1.0), *(np.zeros((len(anchors), 4)) for _ in range(3))]
    for row, k in enumerate(inside):
        offsets = np.array(offsets_by_hand(anchors[k], OBJECTS[table[row].argmax()]))
        tops[0][k] = labels[row]
        tops[1][k] = (offsets - cfg["means"]) / cfg["stds"]
        tops[2][k] = np.array([1.0, 2, 3, 4]) if labels[row] == 1 else 0
        tops[3][k] = weights.get(labels[row], 0)
    return tops


PLAIN: dict[str, Any] = {
    "count": 40,
    "part": 0.3,
    "high": 0.6,
    "low": 0.35,
    "clobber": False,
    "share": -1.0,
    "inside": True,
}
PLAIN |= {"means": np.zeros(4), "stds": np.ones(4)}


@pytest.mark.parametrize(
    ("cfg", "told", "border"),
    [
        (PLAIN, "", 7),
        ({**PLAIN, "share": 0.3}, "RPN_POSITIVE_WEIGHT: 0.3,", 0),
        ({**PLAIN, "clobber": True, "low": 0.55}, "RPN_CLOBBER_POSITIVES: True,", 7),
        ({**PLAIN, "inside": False}, "ONLY_INSIDE_ANCHORS: False,", 0),
        (
            {**PLAIN, "means": np.array([0.1, 0.2, 0.3, 0.4]), "stds": np.array([0.5, 2, 3, 4])},
            "RPN_NORMALIZE_TARGETS: True, RPN_NORMALIZE_MEANS: [0.1, 0.2, 0.3, 0.4], "
            "RPN_NORMALIZE_STDS: [0.5, 2, 3, 4],",
            7,
        ),
    ],
)
def test_anchor_targets(cfg: dict[str, Any], told: str, border: float, device: torch.device) -> None:
    told += f"RPN_BATCHSIZE: {cfg['count']}, RPN_FG_FRACTION: {cfg['part']}, RPN_POSITIVE_OVERLAP: {cfg['high']}, "
    told += f"RPN_NEGATIVE_OVERLAP: {cfg['low']}, RPN_BBOX_INSIDE_WEIGHTS: [1, 2, 3, 4]"
    told = f"{{feat_stride: 16, base_size: 14, ratios: [0.8, 1.5], scales: [2, 3], allowed_border: {border}, " + (
        f"cfg: {{TRAIN: {{{told}}}}}}}"
    )
    shapes = ((1, 8, 6, 9), (3, 5), (1, 3), (1, 3, 100, 150))
    module = build(layer("AnchorTargetLayer", told), *shapes, tops=4, phase="TRAIN")
    module.randomness = Randomness(stream=np.random.RandomState(5))
    given = [torch.zeros(shapes[0]), torch.tensor(OBJECTS), torch.tensor([[100.0, 150, 1]]), torch.zeros(shapes[3])]
    found = module(*(x.to(device) for x in given))
    assert [tuple(x.shape) for x in found] == [(1, 1, 24, 9), *[(1, 16, 6, 9)] * 3]
    assert [tuple(x.shape) for x in module.infer(*(x.to("meta") for x in given))] == [tuple(x.shape) for x in found]
    expected = targets_by_hand(cfg, border, np.random.RandomState(5))
    assert {int(x) for x in expected[0]} == {-1, 0, 1}
    for top, values in zip(found, expected, strict=True):
        maps = values.reshape(6, 9, -1).transpose(2, 0, 1)
        torch.testing.assert_close(top.cpu().reshape(maps.shape), torch.tensor(maps).float(), rtol=1e-5, atol=1e-6)


def test_an_anchor_over_the_edge_by_less_than_the_border_counts() -> None:
    told = "{feat_stride: 16, base_size: 16, ratios: [1], scales: [1], allowed_border: 8}"
    module = build(layer("AnchorTargetLayer", told), (1, 2, 2, 2), (1, 5), (1, 3), tops=4, phase="TRAIN")
    info = torch.tensor([[24.0, 23.0, 1.0]])  # the second column ends a pixel too far, the second row does not
    labels = module(torch.zeros(1, 2, 2, 2), torch.tensor([[0.0, 0, 15, 15, 1]]), info)[0]
    assert labels.flatten().tolist() == [1, -1, 0, -1]


@pytest.mark.parametrize(
    ("told", "shapes", "problem"),
    [
        ("{}", None, "no 'feat_stride'"),
        ("{feat_stride: 16, allowed_border: x}", None, "allowed_border is 'x'; a number"),
        (
            "{feat_stride: 16, cfg: {TRAIN.RPN_POSITIVE_WEIGHT: 1.5}}",
            None,
            "RPN_POSITIVE_WEIGHT is 1.5; between 0 and 1",
        ),
        ("{feat_stride: 16, cfg: {TRAIN.RPN_BBOX_INSIDE_WEIGHTS: [1]}}", None, "INSIDE_WEIGHTS is .*four numbers"),
        ("feat_stride: 16", [(2, 18, 4, 5), (3, 5), (1, 3)], r"\(1, scores, height, width\) was"),
        ("feat_stride: 16", [(1, 18, 4, 5), (3, 4), (1, 3)], "x1 y1 x2 y2 class = 5"),
        ("feat_stride: 16", [(1, 18, 4, 5), (3, 5), (3,)], "height width scale >= 3"),
    ],
)
def test_anchor_target_layers_that_make_no_sense(told: str, shapes: Any, problem: str) -> None:
    with pytest.raises(LayerError, match=f"layer 'l' \\(Python\\): .*{problem}"):
        build(layer("AnchorTargetLayer", told), *(shapes or [(1, 18, 4, 5), (3, 5), (1, 3)]), tops=4)


def test_images_without_objects_or_anchors_are_refused() -> None:
    shapes = ((1, 18, 1, 1), (1, 5), (1, 3))
    module = build(layer("AnchorTargetLayer", "feat_stride: 16"), *shapes, tops=4)
    with pytest.raises(LayerError, match="the image has no object"):
        module(torch.zeros(shapes[0]), torch.zeros(0, 5), torch.ones(1, 3))
    with pytest.raises(LayerError, match="no anchor lies in the image"):
        module(torch.zeros(shapes[0]), torch.ones(1, 5), torch.tensor([[20.0, 20, 1]]))


def boxes_by_hand(cfg: dict[str, Any], rois: np.ndarray, random: np.random.RandomState) -> list[np.ndarray]:
    everything = np.concatenate([rois, [[0, *box[:4]] for box in OBJECTS]])
    table = np.array([[overlap(row[1:], box) for box in OBJECTS] for row in everything])
    objects = np.flatnonzero(table.max(1) >= cfg["above"])
    objects = random.choice(objects, size=min(cfg["objects"], len(objects)), replace=False)
    others = np.flatnonzero((table.max(1) < cfg["high"]) & (table.max(1) >= cfg["low"]))
    others = random.choice(others, size=min(cfg["count"] - len(objects), len(others)), replace=False)
    chosen = [*objects, *others]
    labels = np.array([OBJECTS[table[k].argmax()][4] if i < len(objects) else 0 for i, k in enumerate(chosen)])
    offsets, weights = (np.zeros((len(chosen), 4 * cfg["classes"])) for _ in range(2))
    for i in range(len(objects)):
        place = 4 * (1 if cfg["agnostic"] else int(labels[i]))
        told = np.array(offsets_by_hand(everything[chosen[i], 1:], OBJECTS[table[chosen[i]].argmax()]))
        offsets[i, place : place + 4] = (told - cfg["means"]) / cfg["stds"]
        weights[i, place : place + 4] = (1, 2, 0, 4)
    return [everything[chosen], labels, offsets, weights, weights > 0]


BOXES: dict[str, Any] = {
    "above": 0.4,
    "high": 0.35,
    "low": 0.05,
    "count": 25,
    "objects": 10,
    "classes": 4,
    "agnostic": False,
}
BOXES |= {"means": np.zeros(4), "stds": np.ones(4)}


@pytest.mark.parametrize(
    ("cfg", "told"),
    [
        (BOXES, "BATCH_SIZE: 25"),
        ({**BOXES, "count": 100, "objects": 100}, "BATCH_SIZE: -1"),
        ({**BOXES, "agnostic": True, "classes": 2}, "BATCH_SIZE: 25, AGNOSTIC: True"),
        (
            {**BOXES, "means": np.array([0.1, 0.2, 0.3, 0.4]), "stds": np.array([0.5, 2, 3, 4])},
            "BATCH_SIZE: 25, BBOX_NORMALIZE_TARGETS_PRECOMPUTED: True, BBOX_NORMALIZE_MEANS: [0.1, 0.2, 0.3, 0.4], "
            "BBOX_NORMALIZE_STDS: [0.5, 2, 3, 4]",
        ),
    ],
)
def test_proposal_targets(cfg: dict[str, Any], told: str, device: torch.device) -> None:
    random = np.random.RandomState(7)
    around = np.array(OBJECTS)[np.arange(40) % 3, :4] + random.randint(-12, 13, (40, 4))
    rois = np.concatenate([np.zeros((40, 1)), around], 1).astype(np.float32)
    told = f"{{{told}, FG_FRACTION: 0.4, FG_THRESH: 0.4, BG_THRESH_HI: 0.35, BG_THRESH_LO: 0.05, "
    told = f"{{num_classes: {cfg['classes']}, cfg: {{TRAIN: {told} BBOX_INSIDE_WEIGHTS: [1, 2, 0, 4]}}}}}}"
    given = [torch.tensor(rois, device=device), torch.tensor(OBJECTS, device=device)]
    expected = boxes_by_hand(cfg, rois, np.random.RandomState(5))
    assert 0 < (expected[1] > 0).sum() < len(expected[1])
    for dialect, axes in (("bvlc", ()), (RFCN, (1, 1))):
        text = layer("ProposalTargetLayer", told)
        module = build(text, (40, 5), (3, 5), tops=5, phase="TRAIN", dialect=dialect)
        module.randomness = Randomness(stream=np.random.RandomState(5))
        for top, values in zip(module(*given), expected, strict=True):
            want = torch.tensor(values).float()
            want = want.reshape(len(want), -1, *axes) if axes else want
            torch.testing.assert_close(top.cpu(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("told", "shapes", "problem"),
    [
        ("{}", None, "no 'num_classes'"),
        ("num_classes: 1", None, "num_classes is 1; a whole number from 2 on"),
        ("{num_classes: 2, cfg: {TRAIN.BATCH_SIZE: 0}}", None, "BATCH_SIZE is 0; a positive number, or -1"),
        ("num_classes: 2", [(6, 4), (3, 5)], "image x1 y1 x2 y2 = 5"),
        ("num_classes: 2", [(6, 5), (3, 5, 2)], "x1 y1 x2 y2 class = 5"),
    ],
)
def test_proposal_target_layers_that_make_no_sense(told: str, shapes: Any, problem: str) -> None:
    with pytest.raises(LayerError, match=f"layer 'l' \\(Python\\): .*{problem}"):
        build(layer("ProposalTargetLayer", told), *(shapes or [(6, 5), (3, 5)]), tops=5)


def test_boxes_that_make_no_sense_are_refused_when_it_runs() -> None:
    module = build(layer("ProposalTargetLayer", "num_classes: 3"), (1, 5), (1, 5), tops=5)
    box = torch.tensor([[0.0, 0, 0, 9, 9]])
    with pytest.raises(LayerError, match=r"an object has class 3, but num_classes is 3; .*AGNOSTIC"):
        module(box, torch.tensor([[0.0, 0, 9, 9, 3]]))
    with pytest.raises(LayerError, match="the boxes of one image"):
        module(box + 1, torch.tensor([[0.0, 0, 9, 9, 1]]))
    with pytest.raises(LayerError, match="the image has no object"):
        module(box, torch.zeros(0, 5))


def test_draws_depend_on_seed_iteration_and_layer() -> None:
    module = build(layer("ProposalTargetLayer", "num_classes: 2"), (90, 5), (1, 5), tops=5, phase="TRAIN")
    rois = torch.tensor([[0.0, i % 9, i % 7, 20 + i % 5, 20 + i % 3] for i in range(90)])

    def drawn(**changes: Any) -> torch.Tensor:
        module.randomness = Randomness(**{"seed": 1, **changes})
        return module(rois, torch.tensor([[0.0, 0, 20, 20, 1]]))[0]

    assert torch.equal(drawn(), drawn())
    assert not torch.equal(drawn(), drawn(seed=2))
    assert not torch.equal(drawn(), drawn(iteration=1))
    torch.manual_seed(4)
    first = drawn(seed=None)
    torch.manual_seed(4)
    assert torch.equal(first, drawn(seed=None))
    assert not torch.equal(first, drawn(seed=None))
