"""The layers of SSD against slow definitions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from building import assert_equals, build, give_values, precise

from caffe_compat.access import FileAccess
from caffe_compat.errors import LayerError
from caffe_compat.network.net import CaffeNet
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.schema.upgrade import upgrade_net

SSD, OPENVINO = "weiliu89/caffe@ssd", "openvinotoolkit/training_toolbox_caffe"


def test_permute() -> None:
    x = np.random.RandomState(0).randn(2, 3, 4, 5)
    for order, full in (((0, 2, 3, 1), (0, 2, 3, 1)), ((2,), (2, 0, 1, 3)), ((3, 0), (3, 0, 1, 2)), ((), (0, 1, 2, 3))):
        text = f'type: "Permute" permute_param {{ {" ".join(f"order: {i}" for i in order)} }}'
        top = build(text, x.shape, dialect=SSD)(torch.tensor(x))
        assert_equals(top, x.transpose(full))
        assert top.is_contiguous()
    for order in ("order: 1 order: 1", "order: 4"):
        with pytest.raises(LayerError, match="each at most once"):
            build(f'type: "Permute" permute_param {{ {order} }}', x.shape, dialect=SSD)


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_normalize(device: torch.device, across: bool, shared: bool) -> None:
    x = np.random.RandomState(0).randn(2, 3, 4, 5)
    text = f"""type: "Normalize" norm_param {{ eps: 0.01 across_spatial: {str(across).lower()}
    channel_shared: {str(shared).lower()} }}"""
    module = build(text, x.shape, dialect=SSD)
    assert module.scale.shape == (() if shared else (3,))
    assert (module.fillers["scale"].type, module.fillers["scale"].value) == ("constant", 1)
    give_values(module, device).to(precise(device))
    scale = np.broadcast_to(module.scale.detach().cpu().numpy(), 3)
    expected = np.empty_like(x)
    for n in range(2):
        for i in range(4):
            for j in range(5):
                norm = math.sqrt((x[n] ** 2).sum() + 0.01) if across else math.sqrt((x[n, :, i, j] ** 2).sum() + 0.01)
                expected[n, :, i, j] = x[n, :, i, j] / norm * scale
    given = torch.tensor(x, dtype=precise(device), device=device, requires_grad=True)
    assert_equals(module(given), expected)
    if given.dtype == torch.float64:
        assert torch.autograd.gradcheck(module, given, fast_mode=True)


def test_normalize_keeps_what_the_file_fills_with() -> None:
    module = build(
        'type: "Normalize" norm_param { scale_filler { type: "constant" value: 20 } }', (1, 2, 3, 3), dialect=SSD
    )
    assert module.fillers["scale"].value == 20
    with pytest.raises(LayerError, match="not SSD"):
        build('type: "Normalize"', (1, 2, 3, 3), dialect="happynear/caffe-windows")


PRIORS = {
    "min_size: 30": [(30, 30)],
    "min_size: 30.9 max_size: 60": [(30, 30), (math.sqrt(1800),) * 2],
    "min_size: 20 min_size: 40 max_size: 30 max_size: 50 aspect_ratio: 2 aspect_ratio: 1 aspect_ratio: 2": [
        *(
            (20, 20),
            (math.sqrt(600),) * 2,
            (20 * math.sqrt(2), 20 / math.sqrt(2)),
            (20 / math.sqrt(2), 20 * math.sqrt(2)),
        ),
        *(
            (40, 40),
            (math.sqrt(2000),) * 2,
            (40 * math.sqrt(2), 40 / math.sqrt(2)),
            (40 / math.sqrt(2), 40 * math.sqrt(2)),
        ),
    ],
    "min_size: 30 aspect_ratio: 3 flip: false": [(30, 30), (30 * math.sqrt(3), 30 / math.sqrt(3))],
}


@pytest.mark.parametrize("param", PRIORS)
@pytest.mark.parametrize(
    "extra", ["", "clip: true step: 16 offset: 0.25", "step_h: 20 step_w: 10 img_h: 90 img_w: 70", "img_size: 80"]
)
def test_prior_box(param: str, extra: str) -> None:
    high, wide = (90, 70) if "img_h" in extra else (80, 80) if "img_size" in extra else (100, 120)
    step_h, step_w = (20, 10) if "step_h" in extra else (16, 16) if "step" in extra else (high / 3, wide / 4)
    offset = 0.25 if "offset" in extra else 0.5
    expected = []
    for i in range(3):
        for j in range(4):
            x, y = (j + offset) * step_w, (i + offset) * step_h
            for w, h in PRIORS[param]:
                expected += [(x - w / 2) / wide, (y - h / 2) / high, (x + w / 2) / wide, (y + h / 2) / high]
    if "clip" in extra:
        expected = list(np.clip(expected, 0, 1))
    variance = [0.1, 0.1, 0.2, 0.3]
    text = f'type: "PriorBox" prior_box_param {{ {param} {extra} {" ".join(f"variance: {v}" for v in variance)} }}'
    module = build(text, (2, 5, 3, 4), (2, 3, 100, 120), dialect=SSD)
    top = module(torch.empty(2, 5, 3, 4), torch.empty(2, 3, 100, 120))
    assert (
        top.shape
        == (1, 2, len(expected))
        == module(torch.empty(2, 5, 3, 4, device="meta"), torch.empty(2, 3, 100, 120, device="meta")).shape
    )
    torch.testing.assert_close(top[0, 0], torch.tensor(expected, dtype=torch.float32), rtol=1e-5, atol=1e-6)
    assert_equals(top[0, 1], variance * (len(expected) // 4))


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("", "min_size"),
        ("min_size: 3 max_size: 3", "greater than min_size"),
        ("min_size: 3 min_size: 4 max_size: 5", "none, or one for each"),
        ("min_size: 3 variance: 1 variance: 2", "one or four"),
        ("min_size: 3 step: 2 step_h: 2 step_w: 2", "exclude each other"),
        ("min_size: 3 img_h: 2", "must be positive"),
    ],
)
def test_prior_box_refuses(param: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        build(f'type: "PriorBox" prior_box_param {{ {param} }}', (2, 5, 3, 4), (2, 3, 100, 120), dialect=SSD)


@pytest.mark.parametrize(
    "extra", ["", "clip: true", "step: 16 offset: 0.25", "step_h: 20 step_w: 10 img_h: 90 img_w: 70"]
)
def test_prior_box_clustered(extra: str) -> None:
    high, wide = (90, 70) if "img_h" in extra else (100, 120)
    step_h, step_w = (20, 10) if "step_h" in extra else (16, 16) if "step" in extra else (100 / 3, 120 / 4)
    offset = 0.25 if "offset" in extra else 0.5
    expected = []
    for i in range(3):
        for j in range(4):
            x, y = (j + offset) * step_w, (i + offset) * step_h
            for w, h in ((30.5, 20), (7, 55)):
                expected += [(x - w / 2) / wide, (y - h / 2) / high, (x + w / 2) / wide, (y + h / 2) / high]
    if "clip" in extra:
        expected = list(np.clip(expected, 0, 1))
    text = f"width: 30.5 width: 7 height: 20 height: 55 variance: [0.1, 0.2, 0.3, 0.4] flip: false {extra}"
    text = f'type: "PriorBoxClustered" prior_box_param {{ {text} }}'
    module = build(text, (2, 5, 3, 4), (2, 3, 100, 120), dialect=OPENVINO)
    top = module(torch.empty(2, 5, 3, 4), torch.empty(2, 3, 100, 120))
    torch.testing.assert_close(top[0, 0], torch.tensor(expected, dtype=torch.float32), rtol=1e-5, atol=1e-6)
    assert_equals(top[0, 1], [0.1, 0.2, 0.3, 0.4] * (len(expected) // 4))
    with pytest.raises(LayerError, match="equally many of both"):
        build(text.replace("width: 7", ""), (2, 5, 3, 4), (2, 3, 100, 120), dialect=OPENVINO)
    with pytest.raises(LayerError, match="has no width and height"):
        build('type: "PriorBoxClustered"', (2, 5, 3, 4), (2, 3, 100, 120), dialect=SSD)


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
    with pytest.raises(LayerError, match=r"'b1' has shape \[1, 5\]; 2 prior boxes with 2 values each need \[1, 4\]"):
        build(text, (1, 8), (1, 5), (1, 2, 8), dialect=SSD)
    with pytest.raises(LayerError, match="num_classes"):
        build('type: "DetectionOutput"', (1, 8), (1, 4), (1, 2, 8), dialect=SSD)
    text = 'type: "DetectionOutput" detection_output_param { num_classes: 2 code_type: CENTER_SIZE }'
    module = build(text, (1, 8), (1, 4), (1, 2, 8), dialect=SSD)
    with pytest.raises(LayerError, match="a prior box has no area"):
        module(torch.zeros(1, 8), torch.zeros(1, 4), torch.zeros(1, 2, 8))


TRUTHS = [
    (0, 1, 0, 0.1, 0.1, 0.4, 0.4, 0),
    (0, 1, 0, 0.6, 0.6, 0.9, 0.9, 1),
    (0, 2, 0, 0.2, 0.2, 0.5, 0.5, 0),
    (1, 2, 0, 0.0, 0.0, 1.0, 1.0, 0),
    (-1, 0, 0, 0, 0, 0, 0, 0),
    (1, 1, 0, 0.0, 0.0, 1.0, 1.0, 0),
]
DETECTIONS = [
    (0, 1, 0.5, 0.1, 0.1, 0.4, 0.42),  # meets a truth that the next one met
    (0, 1, 0.9, 0.1, 0.1, 0.4, 0.4),
    (0, 1, 0.8, 0.6, 0.6, 0.9, 0.88),  # meets a difficult one
    (0, 1, 0.7, 0.0, 0.6, 0.2, 0.9),  # meets none
    (1, 1, 0.6, 0.0, 0.0, 1.0, 1.0),  # its truth stands behind the end
    (1, 2, 0.4, 0.0, 0.1, 1.0, 1.0),
    (2, -1, -1, -1, -1, -1, -1),
]


@pytest.mark.parametrize("sizes", [False, True])
@pytest.mark.parametrize("difficult", [False, True])
def test_detection_evaluate(tmp_path: Path, difficult: bool, sizes: bool) -> None:
    hit, miss = (1, 0), (0, 1)
    expected = [
        (-1, 1, 1 + difficult, -1, -1),
        (-1, 2, 2, -1, -1),
        (0, 1, 0.9, *hit),
        (0, 1, 0.8, *(hit if difficult else (0, 0))),
        (0, 1, 0.7, *miss),
        (0, 1, 0.5, *miss),
        (1, 1, 0.6, *miss),
        (1, 2, 0.4, *hit),
    ]
    text = f"""type: "DetectionEvaluate" detection_evaluate_param {{ num_classes: 3
    evaluate_difficult_gt: {str(difficult).lower()} {'name_size_file: "sizes.txt"' if sizes else ""} }}"""
    module = build(text, (1, 1, 7, 7), (1, 1, 6, 8), dialect=SSD)
    (tmp_path / "sizes.txt").write_text("a 300 200\nb 400 500\n")
    module.files = FileAccess(tmp_path)
    top = module(torch.tensor(DETECTIONS)[None, None], torch.tensor(TRUTHS)[None, None])
    torch.testing.assert_close(top[0, 0], torch.tensor(expected, dtype=torch.float32))
    assert module.infer(torch.empty(1, 1, 7, 7, device="meta")).shape == (1, 1, 9, 5)
