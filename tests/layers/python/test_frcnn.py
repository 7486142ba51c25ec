"""FrcnnProposal against a loop over anchors, with settings of a file as its programs have them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError, UsageError
from caffe_compat.network.net import CaffeNet
from caffe_compat.network.python_config import configured, read_config
from caffe_compat.network.rules import NetState
from caffe_compat.schema.prototxt import parse_message
from tests.layers.building import assert_equals, build

FORK, RICKY = "makefile/frcnn", "rickyHong/caffe-rcnn-action-recognition"
SETTINGS = """{"feat_stride": "8", "n_classes": "21", "test_nms": "0.3",
 "anchors": "-6, -10, 14, 18,
             -15, -4, 22, 11",
 "rpn_pre_nms_top_n": "30", "rpn_post_nms_top_n": "9", "rpn_nms_thresh": "0.4", "rpn_min_size": "3",
 "test_rpn_pre_nms_top_n": "25", "test_rpn_post_nms_top_n": "6", "test_rpn_nms_thresh": "0.6",
 "test_rpn_min_size": "5"}"""
ANCHORS = ((-6, -10, 14, 18), (-15, -4, 22, 11))
SHAPES = (1, 4, 4, 6), (1, 8, 4, 6), (1, 3)
NETWORK = (
    "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        + " ".join(f"dim: {n}" for n in shape)
        + " } } }\n"
        for name, shape in zip(("scores", "offsets", "info"), SHAPES, strict=True)
    )
    + 'layer { name: "proposal" type: "FrcnnProposal" bottom: "scores" bottom: "offsets" bottom: "info" top: "rois" '
    'top: "sure" %s }'
)


def overlap(a: list[float], b: list[float]) -> float:
    w, h = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + 1) for i in (0, 1))
    first, second = ((c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b))
    return w * h / (first + second - w * h)


def expected(
    scores: np.ndarray, offsets: np.ndarray, info: tuple[float, ...], stride: int, limits: tuple[int, int, float, int]
) -> list[tuple[float, list[float]]]:
    before, after, most, least = limits
    boxes: list[tuple[float, int, list[float]]] = []
    for y, x, k in np.ndindex(4, 6, 2):
        box = [0.0] * 4
        for i in (0, 1):
            low, high = (ANCHORS[k][j] + stride * (x, y)[i] for j in (i, i + 2))
            side = high - low + 1
            centre = offsets[0, 4 * k + i, y, x] * side + low + 0.5 * side
            half = 0.5 * math.exp(offsets[0, 4 * k + 2 + i, y, x]) * side
            box[i], box[i + 2] = (min(max(end, 0.0), info[1 - i] - 1) for end in (centre - half, centre + half))
        if min(box[2] - box[0], box[3] - box[1]) + 1 >= least * info[2]:
            boxes.append((float(scores[0, 2 + k, y, x]), len(boxes), box))
    kept: list[tuple[float, list[float]]] = []
    for score, _, box in sorted(boxes, reverse=True)[:before]:
        if all(overlap(box, other) <= most for _, other in kept):
            kept.append((score, box))
    return kept[:after]


@pytest.mark.parametrize("dialect", [FORK, RICKY])
@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
def test_proposals(dialect: str, phase: str, tmp_path: Path) -> None:
    path = tmp_path / "voc_config.json"
    path.write_text(SETTINGS, encoding="utf-8")
    assert read_config(path)["test_nms"] == "0.3"
    stride = 10 if dialect == FORK else 8
    more = "proposal_param { feat_stride: 10 }" if dialect == FORK else ""
    message = configured(parse_message(NETWORK % more, dialect=dialect).message, str(path))
    net = CaffeNet(message, NetState(phase), dialect=dialect)
    random = np.random.RandomState(5)
    scores = random.randint(0, 12, SHAPES[0]) / 12  # some are equal
    offsets, info = random.randn(*SHAPES[1]) * 0.3, (40.0, 60.0, 1.5)
    found = net(
        scores=torch.tensor(scores, dtype=torch.float32),
        offsets=torch.tensor(offsets, dtype=torch.float32),
        info=torch.tensor([info]),
    )
    limits = (25, 6, 0.6, 5) if phase == "TEST" else (30, 9, 0.4, 3)
    wanted = expected(scores, offsets, info, stride, limits)
    assert len(wanted) == limits[1]
    assert_equals(found["rois"], np.array([[0, *box] for _, box in wanted])[..., None, None])
    assert_equals(found["sure"], np.array([score for score, _ in wanted]).reshape(-1, 1, 1, 1))
    assert any("rpn_nms_thresh 0." in note and "instead of the defaults" in note for note in net.notes)


def test_the_defaults_are_those_of_the_forks_file() -> None:
    module = build('type: "FrcnnProposal"', (1, 18, 4, 6), (1, 36, 4, 6), (1, 3), dialect=FORK)
    assert module.anchors[0] == (-84, -40, 100, 56)
    assert len(module.anchors) == 9
    assert (module.stride, module.choice.before, module.choice.after, module.choice.overlap) == (16, 6000, 300, 0.7)
    given = torch.zeros(1, 18, 4, 6), torch.zeros(1, 36, 4, 6), torch.tensor([[64.0, 96.0, 1.0]])
    assert module.infer(*given).shape == (216, 5, 1, 1)
    assert module(*given).shape[1:] == (5, 1, 1)


@pytest.mark.parametrize(
    ("cfg", "problem"),
    [
        ("anchors: '1, 2, 3'", "3 numbers for anchors"),
        ("test_rpn_post_nms_top_n: 0", "must be at least 1"),
        ("test_rpn_nms_thresh: often", "'often'; a number was expected"),
        ("test_soft_nms: 1", "test_soft_nms and test_rpn_score_thresh"),
        ("test_rpn_score_thresh: 0.1", "test_soft_nms and test_rpn_score_thresh"),
        ("feat_stride: 0", "feat_stride is 0"),
        ("feat_stride: 16", r"offsets of 9 anchors = 36"),
    ],
)
def test_settings_that_make_no_sense(cfg: str, problem: str) -> None:
    text = f'type: "FrcnnProposal" python_param {{ param_str: "{{cfg: {{{cfg}}}}}" }}'
    offsets = 35 if "36" in problem else 36
    with pytest.raises(LayerError, match=problem):
        build(text, (1, 18, 4, 6), (1, offsets, 4, 6), (1, 3), dialect=RICKY)


def test_a_configuration_that_does_not_fit() -> None:
    message = parse_message(NETWORK % "", dialect=FORK).message
    with pytest.raises(UsageError, match="which is no key of makefile/frcnn"):
        configured(message, {"rpn_post_nms": "3"})
    with pytest.raises(UsageError, match="'many' for rpn_min_size; a whole number was expected"):
        configured(message, {"rpn_min_size": "many"})
