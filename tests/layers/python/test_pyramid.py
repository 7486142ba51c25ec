"""FPN's Python layers against slow definitions, with settings of their own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.network.randomness import Randomness
from tests.layers.building import build
from tests.layers.python.test_faster_rcnn import OBJECTS, anchors_by_hand, offsets_by_hand, overlap

STRIDES = (4, 8, 16, 32, 64)
RATIOS, SCALES = (0.8, 1.5), (3.0,)
MAPS = [(24, 36), (12, 18), (6, 9), (3, 5), (2, 3)]  # of an image of 96 x 144, or a little more
CFG = "FPNRATIOS: [0.8, 1.5], FPNRSCALES: [3]"


def layer(name: str, told: str) -> str:
    module, _, cls = name.rpartition(".")
    return f'type: "Python" python_param {{ module: "{module}" layer: "{cls}" param_str: "{told}" }}'


def proposal_text(cfg: str) -> str:
    told = f"{{feat_stride: '4,8,16,32,64', cfg: {{{CFG}, {cfg}}}}}"
    return layer("rpn.proposal_layer.ProposalLayer", told)


@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
def test_proposals_of_a_pyramid(phase: str, device: torch.device) -> None:
    random = np.random.RandomState(1)
    offsets = [(random.randn(1, 8, *size) * 0.3).astype(np.float32) for size in MAPS]
    scores = [random.rand(1, 4, *size).astype(np.float32) for size in MAPS]
    height, width, scale = 96.0, 144.0, 0.75
    rows = []
    for stride, change, score in zip(STRIDES, offsets, scores, strict=True):
        cells = (int(height / stride), int(width / stride))  # the last maps have more
        for k, anchor in enumerate(anchors_by_hand(stride, RATIOS, SCALES, *cells, stride)):
            y, x, a = k // (2 * cells[1]), k // 2 % cells[1], k % 2
            box = [0.0] * 4
            for i in (0, 1):
                move, grow = (change[0, 4 * a + j, y, x] for j in (i, i + 2))
                side = anchor[i + 2] - anchor[i] + 1
                centre, half = move * side + anchor[i] + 0.5 * side, 0.5 * math.exp(grow) * side
                limit = (width, height)[i] - 1
                box[i], box[i + 2] = (min(max(end, 0.0), limit) for end in (centre - half, centre + half))
            if all(box[i + 2] - box[i] + 1 >= 16 * scale for i in (0, 1)):
                rows.append((*box, float(score[0, 2 + a, y, x])))
    kept: list[tuple[float, ...]] = []
    for row in sorted(rows, key=lambda row: -row[4])[:80]:
        if all(overlap(other, row) <= 0.1 for other in kept):
            kept.append(row)
    more = np.random.RandomState(4).choice(len(kept), size=60 - len(kept))
    expected = torch.tensor([(0, *row[:4]) for row in (*kept, *(kept[k] for k in more))], dtype=torch.float32)
    cfg = f"{phase}: {{RPN_PRE_NMS_TOP_N: 80, RPN_POST_NMS_TOP_N: 60, RPN_NMS_THRESH: 0.1}}"
    given = [np.array([[height, width, scale]], np.float32), *offsets, *scores]
    module = build(proposal_text(cfg), *(x.shape for x in given), phase=phase)
    module.randomness = Randomness(stream=np.random.RandomState(4))
    found = module(*(torch.tensor(x, device=device) for x in given))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-4)
    short = proposal_text(cfg.replace("POST_NMS_TOP_N: 60", "POST_NMS_TOP_N: 5"))
    first = build(short, *(x.shape for x in given), phase=phase)(*(torch.tensor(x, device=device) for x in given))
    assert torch.equal(first, found[:5])


SHAPES = [(1, 3), *[(1, 8, *size) for size in MAPS], *[(1, 4, *size) for size in MAPS]]


@pytest.mark.parametrize(
    ("told", "shapes", "problem"),
    [
        ("feat_stride: 16", None, "feat_stride is 16; a text"),
        ("feat_stride: '4,8'", None, "feat_stride is '4,8'; 5 whole numbers"),
        (
            f"{{feat_stride: '4,8,16,32,64', cfg: {{{CFG}, TEST.RPN_POST_NMS_TOP_N: 0}}}}",
            None,
            "TOP_N is 0; a positive",
        ),
        ("{feat_stride: '4,8,16,32,64', cfg: {FPNRATIOS: [0]}}", None, "must be positive"),
        (f"{{feat_stride: '4,8,16,32,64', cfg: {{{CFG}}}}}", [(1, 2), *SHAPES[1:]], "height width scale >= 3"),
        (f"{{feat_stride: '4,8,16,32,64', cfg: {{{CFG}}}}}", [*SHAPES[:-1], (1, 6, 2, 3)], "scores of 2 anchors = 4"),
    ],
)
def test_pyramids_that_make_no_sense(told: str, shapes: Any, problem: str) -> None:
    with pytest.raises(LayerError, match=f"layer 'l' .Python.: .*{problem}"):
        build(layer("rpn.proposal_layer.ProposalLayer", told), *(shapes or SHAPES))


def test_maps_that_do_not_cover_the_image_and_images_without_boxes() -> None:
    module = build(proposal_text("TEST.RPN_POST_NMS_TOP_N: 9"), *SHAPES)
    maps = [torch.zeros(shape) for shape in SHAPES[1:]]
    with pytest.raises(LayerError, match=r"a map of .24, 36. cells of 4 pixels does not cover the image of 100 x 144"):
        module(torch.tensor([[100.0, 144, 1]]), *maps)
    with pytest.raises(LayerError, match="no box is large enough"):
        module(torch.tensor([[96.0, 144, 99]]), *maps)


@pytest.mark.parametrize(("count", "objects"), [(60, True), (-1, True), (60, False)])
def test_anchor_targets_of_a_pyramid(count: int, objects: bool, device: torch.device) -> None:
    truth = OBJECTS if objects else []
    levels = [anchors_by_hand(s, RATIOS, SCALES, *size, s) for s, size in zip(STRIDES, MAPS, strict=True)]
    anchors = [anchor for level in levels for anchor in level]
    counted = [
        k for k, (x1, y1, x2, y2) in enumerate(anchors) if x1 >= -9 and y1 >= -9 and x2 < 144 + 9 and y2 < 96 + 9
    ]
    labels = np.zeros(len(counted))
    table = np.array([[overlap(anchors[k], box) for box in truth] for k in counted])
    if objects:
        labels[:] = -1
        labels[table.max(1) < 0.25] = 0
        for j in range(len(truth)):
            labels[table[:, j] == table[:, j].max()] = 1
        labels[table.max(1) >= 0.5] = 1
    random = np.random.RandomState(6)
    for label, most in ((1, int(0.1 * count)), (0, None)):
        most = count - int((labels == 1).sum()) if most is None else most
        places = np.flatnonzero(labels == label)
        if count > 0 and len(places) > most:
            labels[random.choice(places, size=len(places) - most, replace=False)] = -1
    tops = [np.full(len(anchors), -1.0), *(np.zeros((len(anchors), 4)) for _ in range(3))]
    for row, k in enumerate(counted):
        tops[0][k] = labels[row]
        if labels[row] == 1:
            tops[1][k], tops[2][k] = offsets_by_hand(anchors[k], truth[table[row].argmax()]), 1
        tops[3][k] = (labels[row] >= 0) / (labels >= 0).sum()
    cfg = f"RPN_BATCHSIZE: {count}, RPN_FG_FRACTION: 0.1, RPN_POSITIVE_OVERLAP: 0.5, RPN_NEGATIVE_OVERLAP: 0.25"
    told = f"{{feat_stride: '4,8,16,32,64', allowed_border: 9, cfg: {{{CFG}, TRAIN: {{{cfg}}}}}}}"
    shapes = [*[(1, 4, *size) for size in MAPS], (3, 5), (1, 3)]
    module = build(layer("rpn.anchor_target_layer.AnchorTargetLayer", told), *shapes, tops=4, phase="TRAIN")
    module.randomness = Randomness(stream=np.random.RandomState(6))
    given = [torch.zeros(shape) for shape in shapes[:5]]
    given += [torch.tensor(truth).reshape(-1, 5), torch.tensor([[96.0, 144, 1]])]
    found = module(*(x.to(device) for x in given))
    sizes = [len(level) for level in levels]
    for top, values in zip(found, tops, strict=True):
        parts = np.split(values, np.cumsum(sizes)[:-1])
        maps = [part.reshape(*size, -1).transpose(2, 0, 1) for part, size in zip(parts, MAPS, strict=True)]
        want = [m.reshape(m.shape[0], -1) for m in maps]
        joined = np.concatenate(want, 1) if values.ndim == 2 else np.concatenate([m.reshape(-1) for m in want])
        torch.testing.assert_close(top.cpu()[0], torch.tensor(joined).float(), rtol=1e-5, atol=1e-6)
    assert [x.shape for x in module.infer(*(x.to("meta") for x in given))] == [x.shape for x in found]


BOXES = torch.tensor(
    [
        [0, 10.0, 10, 122, 122],  # 112 pixels: the second level
        [0, 10, 10, 121, 121],  # less: the first
        [0, 0, 0, 448, 448],  # the fourth
        [0, 0, 0, 2000, 2000],  # as all that are larger
        [0, 5, 5, 5, 60],  # without an area: the first
        [0, 0, 0, 224, 230],  # the third
    ]
)


def test_boxes_by_level(device: torch.device) -> None:
    told = "cfg: {TEST.RPN_POST_NMS_TOP_N: 7}"
    padded = build(layer("rpn.as_rois.As_roisLayer", told), (6, 5), tops=5)(BOXES.to(device))
    assert [tuple(x.shape) for x in padded] == [(28, 5), *[(7, 5)] * 4]
    assert torch.equal(padded[0], torch.cat(padded[1:]))
    for part, rows in zip(padded[1:], ([1, 4], [0], [5], [2, 3]), strict=True):
        assert torch.equal(part[: len(rows)].cpu(), BOXES[rows])
        assert part[len(rows) :].abs().sum() == 0
    merged = build(layer("rpn.as_rois_mrcnn.As_rois_MergeRcnnLayer", ""), (6, 5), tops=5)
    assert [len(x) for x in merged(BOXES.to(device))] == [6, 2, 1, 1, 2]
    assert [len(x) for x in merged(BOXES[:1].to(device))] == [13, 4, 1, 4, 4]
    module = build(layer("rpn.as_rois.As_roisLayer", "cfg: {TEST.RPN_POST_NMS_TOP_N: 5}"), (6, 5), tops=5)
    with pytest.raises(LayerError, match="6 boxes do not fit into 5"):
        module(BOXES)
    with pytest.raises(LayerError, match="image x1 y1 x2 y2 = 5"):
        build(layer("rpn.as_rois.As_roisLayer", ""), (6, 4), tops=5)


@pytest.mark.parametrize("padded", [True, False])
def test_box_targets_by_level(padded: bool, device: torch.device) -> None:
    """What the layer of one level makes, sorted."""
    random = np.random.RandomState(2)
    rois = torch.zeros(30, 5)
    rois[:, 1:] = torch.tensor(np.array(OBJECTS)[np.arange(30) % 3, :4] + random.randint(-9, 10, (30, 4))).float()
    rois[::2, 3:] += 90
    truth = torch.tensor(OBJECTS)
    truth[0, 2:4] += 250
    told = "{num_classes: 4, cfg: {TRAIN: {BATCH_SIZE: 20, BG_THRESH_HI: 0.45, %s}}}"
    one = build(
        layer("rpn.proposal_target_layer.ProposalTargetLayer", told % "BG_THRESH_LO: 0.0, FG_FRACTION: 0.3"),
        *((30, 5), (3, 5)),
        tops=5,
    )
    names = ("rpn.proposal_target_layer.ProposalTargetLayer", "rpn.proposal_target_layer_mrcnn")
    name = names[0] if padded else f"{names[1]}.ProposalMergeRcnnTargetLayer"
    cfg = "FG_FRACTION: 0.3, BBOX_NORMALIZE_TARGETS_PRECOMPUTED: False"
    module = build(layer(name, told % cfg), (30, 5), (3, 5), (1, 3, 9, 9), tops=8)
    for each in (one, module):
        each.randomness = Randomness(stream=np.random.RandomState(8))
    boxes, labels, offsets, inside, outside = one(rois.to(device), truth.to(device))
    found = module(rois.to(device), truth.to(device), torch.zeros(1, 3, 9, 9))
    area = ((boxes[:, 3] - boxes[:, 1]) * (boxes[:, 4] - boxes[:, 2])).cpu().clamp_min(1e-6)
    level = (4 + (area.sqrt() / 224).log2().floor()).clamp(2, 5) - 2
    assert len(level.unique()) > 1
    room = [20 if padded else max(int((level == k).sum()), 0) or 4 for k in range(4)]
    assert [len(x) for x in found[:4]] == room
    assert [len(x) for x in found[4:]] == [sum(room)] * 4
    start = 0
    for k in range(4):
        own = level == k
        count = int(own.sum())
        assert torch.equal(found[k][:count].cpu(), boxes.cpu()[own])
        assert found[k][count:].abs().sum() == 0
        for top, values, rest in zip(found[4:], (labels, offsets, inside, outside), (-1, 0, 0, 0), strict=True):
            part = top[start : start + room[k]].cpu()
            assert torch.equal(part[:count], values.cpu()[own])
            assert (part[count:] == rest).all()
        start += room[k]


def test_target_layers_that_make_no_sense() -> None:
    name = "rpn.proposal_target_layer.ProposalTargetLayer"
    with pytest.raises(LayerError, match="BATCH_SIZE is -1; a positive number was expected"):
        build(layer(name, "{num_classes: 2, cfg: {TRAIN.BATCH_SIZE: -1}}"), (3, 5), (2, 5), (1, 3, 9, 9), tops=8)
    with pytest.raises(LayerError, match="x1 y1 x2 y2 class = 5"):
        build(layer(name, "num_classes: 2"), (3, 5), (2, 4), (1, 3, 9, 9), tops=8)
