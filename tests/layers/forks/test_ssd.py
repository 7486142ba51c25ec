"""Permute and DetectionOutput of SSD against slow definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.network.net import CaffeNet
from caffe_compat.network.registry import check_count, find_layer
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.schema.upgrade import upgrade_net
from tests.layers.building import assert_equals, build, precise

SSD, OPENVINO = "weiliu89/caffe@ssd", "openvinotoolkit/training_toolbox_caffe"


def test_permute() -> None:
    x = np.random.RandomState(0).randn(2, 3, 4, 5)
    for order, full in (((0, 2, 3, 1), (0, 2, 3, 1)), ((2,), (2, 0, 1, 3)), ((3, 0), (3, 0, 1, 2)), ((), (0, 1, 2, 3))):
        text = f'type: "Permute" permute_param {{ {" ".join(f"order: {i}" for i in order)} }}'
        top = build(text, x.shape, dialect=SSD)(torch.tensor(x))
        assert_equals(top, x.transpose(full))
        assert top.is_contiguous()
    for wrong in ("order: 1 order: 1", "order: 4"):
        with pytest.raises(LayerError, match="each at most once"):
            build(f'type: "Permute" permute_param {{ {wrong} }}', x.shape, dialect=SSD)


def _iou(a: Any, b: Any) -> float:
    w, h = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def _decoded(offset: Any, prior: Any, variance: Any, code: str) -> Any:
    offset, size = offset * variance, prior[2:] - prior[:2]
    if code == "CORNER":
        return prior + offset
    if code == "CORNER_SIZE":
        return prior + offset * np.concatenate([size, size])
    centre, size = offset[:2] * size + (prior[:2] + prior[2:]) / 2, np.exp(offset[2:]) * size
    return np.concatenate([centre - size / 2, centre + size / 2])


@pytest.mark.parametrize(
    "change",
    [{}, {"code": "CORNER"}, {"code": "CORNER_SIZE"}, {"shared": False}, {"encoded": True}, {"keep": 5}, {"top": 4},
     {"eta": 0.8}, {"background": -1}, {"least": 2.0}],
)  # fmt: skip
def test_detection_output(device: torch.device, change: dict[str, Any]) -> None:
    o = {
        "code": "CENTER_SIZE",
        "shared": True,
        "encoded": False,
        "keep": -1,
        "top": -1,
        "eta": 1.0,
        "background": 0,
        "least": 0.3,
        **change,
    }
    classes, boxes, images = 3, 19, 2
    random = np.random.RandomState(5)
    low = random.uniform(0, 0.5, (boxes, 2))
    prior = np.concatenate([low, low + random.uniform(0.3, 0.5, (boxes, 2))], 1)
    variance = random.uniform(0.1, 0.3, (boxes, 4))
    priors = np.stack([prior.reshape(-1), variance.reshape(-1)])[None]
    offsets, scores = (
        random.randn(images, boxes * 4 * (1 if o["shared"] else classes)),
        random.rand(images, boxes * classes),
    )
    expected = []
    for n in range(images):
        found = []
        for c in range(classes):
            if c == o["background"]:
                continue
            own = offsets[n].reshape(boxes, -1, 4)[:, 0 if o["shared"] else c]
            score = scores[n].reshape(boxes, classes)[:, c]
            corners = [_decoded(own[i], prior[i], 1 if o["encoded"] else variance[i], o["code"]) for i in range(boxes)]
            order = [i for i in np.argsort(-score) if score[i] > o["least"]]
            order = order[: o["top"]] if o["top"] >= 0 else order
            kept: list[int] = []
            limit = 0.6
            for i in order:
                if all(_iou(corners[i], corners[k]) <= limit for k in kept):
                    kept.append(i)
                    if o["eta"] < 1 and limit > 0.5:
                        limit *= o["eta"]
            found += [(n, c, score[i], *corners[i]) for i in kept]
        if 0 <= o["keep"] < len(found):
            found = sorted(sorted(found, key=lambda row: -row[2])[: o["keep"]], key=lambda row: row[1])
        expected += found
    if not expected:
        expected = [(n, *[-1] * 6) for n in range(images)]
    text = f"""type: "DetectionOutput" detection_output_param {{ num_classes: {classes} code_type: {o["code"]}
    share_location: {str(o["shared"]).lower()} variance_encoded_in_target: {str(o["encoded"]).lower()}
    keep_top_k: {o["keep"]} background_label_id: {o["background"]} confidence_threshold: {o["least"]}
    nms_param {{ nms_threshold: 0.6 eta: {o["eta"]} top_k: {o["top"]} }} }}"""
    module = build(text, offsets.shape, scores.shape, priors.shape, dialect=SSD)
    top = module(*(torch.tensor(a, dtype=precise(device), device=device) for a in (offsets, scores, priors)))
    assert_equals(top, np.array(expected)[None, None])
    assert module.infer(torch.empty(offsets.shape, device="meta")).shape == (1, 1, 1, 7)


def test_the_first_generation_cuts_boxes_off_at_the_image() -> None:
    text = """type: "DetectionOutput" detection_output_param { num_classes: 2 confidence_threshold: 0.5
    nms_param { nms_threshold: 0.5 } }"""
    priors = torch.tensor([[[0.5, 0.5, 0.9, 0.9, 0.1, 0.1, 0.3, 0.3], [1.0] * 8]])
    offsets = torch.tensor([[0.0, 0, 0.5, 0, 0, -0.5, 0, 0]] * 2)
    scores = torch.tensor([[0.0, 0.75, 0.0, 0.875], [0.0] * 4])
    expected = [[0, 1, 0.875, 0.1, 0, 0.3, 0.3], [0, 1, 0.75, 0.5, 0.5, 1, 0.9]]
    first, mini, ssd = (
        build(text, (2, 8), (2, 4), (1, 2, 8), dialect=d) for d in ("MVIG-SJTU/RMPE", "luoyetx/mini-caffe", SSD)
    )
    assert_equals(first(offsets, scores, priors), torch.tensor(expected)[None, None])
    expected[0][4], expected[1][5] = -0.4, 1.4
    assert_equals(mini(offsets, scores, priors), torch.tensor(expected))
    assert_equals(ssd(offsets, scores, priors), torch.tensor(expected)[None, None])
    nothing = offsets, torch.zeros(2, 4), priors
    assert_equals(first(*nothing), torch.full((1, 1, 1, 7), -1))
    assert_equals(mini(*nothing), torch.tensor([[i, -1, -1, -1, -1, -1, -1] for i in range(2)]))
    assert mini.infer(*nothing).shape == (1, 7)


def test_scores_of_a_first_stage_are_not_taken_for_images() -> None:
    entry = find_layer("DetectionOutput", "sfzhang15/RefineDet")
    assert check_count(3, entry.bottoms) is None
    assert check_count(4, entry.bottoms) == "exactly 3"
    with pytest.raises(LayerError, match="takes every box"):
        build(
            'type: "DetectionOutput" detection_output_param { num_classes: 2 nms_param { nms_threshold: 1 } }',
            (1, 8),
            (1, 4),
            (1, 2, 8),
            dialect="dreadlord1984/SSD_windows_caffe",
        )


def test_detection_output_warns_of_what_it_does_not_write() -> None:

    text = """input: "loc" input_dim: 1 input_dim: 8 input_dim: 1 input_dim: 1
    input: "conf" input_dim: 1 input_dim: 4 input_dim: 1 input_dim: 1
    input: "prior" input_dim: 1 input_dim: 2 input_dim: 8 input_dim: 1
    layer { name: "out" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "prior" top: "out"
      detection_output_param { num_classes: 2 save_output_param { output_directory: "results" } } }"""
    parsed = parse_message(text)
    net = CaffeNet(upgrade_net(parsed.message, parsed.schema).message, dialect=parsed.schema.name)
    assert any("save_output_param is not honoured" in warning for warning in net.warnings)


def test_detection_output_refuses() -> None:
    text = 'type: "DetectionOutput" detection_output_param { num_classes: 2 }'
    with pytest.raises(LayerError, match=r"'b1' has shape \[1, 5\]; \(images = 1, 2 prior boxes with 2 values = 4\)"):
        build(text, (1, 8), (1, 5), (1, 2, 8), dialect=SSD)
    with pytest.raises(LayerError, match="num_classes"):
        build('type: "DetectionOutput"', (1, 8), (1, 4), (1, 2, 8), dialect=SSD)
    text = 'type: "DetectionOutput" detection_output_param { num_classes: 2 code_type: CENTER_SIZE }'
    module = build(text, (1, 8), (1, 4), (1, 2, 8), dialect=SSD)
    with pytest.raises(LayerError, match="a prior box has no area"):
        module(torch.zeros(1, 8), torch.zeros(1, 4), torch.zeros(1, 2, 8))


def test_detections_know_their_cell_and_anchor(device: torch.device) -> None:
    """They are SSD's, with the background that the fork takes for one, and three numbers more."""
    random, shape = np.random.RandomState(4), (2, 3, 4, 8)  # two anchors in each of 3 x 4 cells
    start = random.uniform(0, 0.6, (24, 2))
    priors = np.stack([np.concatenate([start, start + 0.3], 1).flatten(), np.full(96, 0.1)])[None]
    offsets, scores = random.randn(*shape), random.uniform(size=(2, 24, 2))
    params = "num_classes: 2 background_label_id: %d confidence_threshold: 0.4 code_type: CENTER_SIZE keep_top_k: 9 "
    params += "nms_param { nms_threshold: 0.3 top_k: 20 }"
    text = f'type: "DetectionOutputExtended" detection_output_param {{ {params % -1} }}'
    module = build(text, shape, (2, 48), priors.shape, dialect=OPENVINO)
    given = [torch.tensor(x, dtype=torch.float32, device=device) for x in (offsets, scores.reshape(2, 48), priors)]
    top = module(*given)
    assert module.infer(*given).shape == (1, 1, 1, 10)
    plain = build(
        f'type: "DetectionOutput" detection_output_param {{ {params % 0} }}',
        (2, 96),
        (2, 48),
        priors.shape,
        dialect=SSD,
    )(given[0].flatten(1), *given[1:])
    assert torch.equal(top[..., :7], plain)
    for image, _, score, *_, anchor, column, row in top[0, 0].tolist():
        assert scores[int(image), 2 * (4 * int(row) + int(column)) + int(anchor), 1] == pytest.approx(score)
    none = module(given[0], torch.zeros(2, 48, device=device), given[2])
    assert none[0, 0].tolist() == [[0, *[-1] * 9], [1, *[-1] * 9]]


@pytest.mark.parametrize(
    ("params", "shape", "problem"),
    [
        ("num_classes: 3", (2, 3, 4, 8), "num_classes is 3"),
        ("num_classes: 2", (2, 96), "values of the anchors"),
        ("num_classes: 2 share_location: false", (2, 3, 4, 16), "share_location: false"),
    ],
)
def test_extended_detections_refuse(params: str, shape: tuple[int, ...], problem: str) -> None:
    scores = (2, 72 if "3" in params else 48)
    with pytest.raises(LayerError, match=problem):
        build(
            f'type: "DetectionOutputExtended" detection_output_param {{ {params} }}',
            shape,
            scores,
            (1, 2, 96),
            dialect=OPENVINO,
        )
