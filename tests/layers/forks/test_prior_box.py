"""PriorBox and PriorBoxClustered against slow definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError, UnknownLayerError
from caffe_compat.network.net import CaffeNet
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.schema.upgrade import upgrade_net
from tests.layers.building import assert_equals, build

SSD, OPENVINO = "weiliu89/caffe@ssd", "openvinotoolkit/training_toolbox_caffe"
OPENCV = "weiliu89/caffe@ssd+opencv/opencv"

PRIORS: dict[str, list[Any]] = {
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
    "min_size: 30 flip: true": [(30, 30)],
    "min_size: 30.2 max_size: 30.9 flip: false": [(30, 30), (30, 30)],
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


def test_a_network_may_flip_no_aspect_ratio() -> None:
    text = """input: "data" input_shape { dim: 1 dim: 3 dim: 40 dim: 40 }
    layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { kernel_size: 4 stride: 4 } }
    layer { name: "prior" type: "PriorBox" bottom: "pool" bottom: "data" top: "prior" prior_box_param {
      min_size: 10 max_size: 16 flip: true clip: false variance: [0.1, 0.1, 0.2, 0.2] offset: 0.5 } }"""
    parsed = parse_message(text)
    net = CaffeNet(upgrade_net(parsed.message, parsed.schema).message, dialect=parsed.schema.name)
    top = net.forward(data=torch.zeros(1, 3, 40, 40))["prior"]
    assert top.shape == (1, 2, 10 * 10 * 2 * 4)
    # The first cell's centre is (2, 2); half of 10 and of the root of 160 reach out from it.
    ends = [end / 40 for half in (5, math.sqrt(160) / 2) for end in (2 - half, 2 - half, 2 + half, 2 + half)]
    torch.testing.assert_close(top[0, 0, :8], torch.tensor(ends), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("", "min_size"),
        ("min_size: 0.5", "less than a pixel"),
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


def test_prior_box_of_the_first_generation() -> None:
    text = 'type: "PriorBox" prior_box_param { min_size: 30.5 max_size: 61 aspect_ratio: 2 clip: false }'
    sizes = [(30.5, 30.5), (math.sqrt(30.5 * 61),) * 2]
    sizes += [(30.5 * math.sqrt(r), 30.5 / math.sqrt(r)) for r in (2, 0.5)]
    module = build(text, (1, 5, 1, 1), (1, 3, 100, 120), dialect="MVIG-SJTU/RMPE")
    top = module(torch.empty(1, 5, 1, 1), torch.empty(1, 3, 100, 120))
    expected = [((60 + x * w / 2) / 120, (50 + x * h / 2) / 100) for w, h in sizes for x in (-1, 1)]
    torch.testing.assert_close(top[0, 0].view(-1, 2), torch.tensor(expected), rtol=1e-5, atol=1e-6)
    assert_equals(top[0, 1], [0.1] * 16)


@pytest.mark.parametrize(
    ("text", "dialect", "offsets"),
    [
        ("offset: 0.25 denser_prior_boxes: true", "MhLiao/TextBoxes_plusplus", ((0.25, 0.25), (0.25, 1.0))),
        ("offset: 0.25", "MhLiao/TextBoxes_plusplus", ((0.25, 0.25),)),
        ("offset_h: 0.5 offset_h: 1 offset_w: 0.25 offset_w: 0.75", OPENCV, ((0.25, 0.5), (0.75, 1.0))),
        ("offset: 0.75", OPENCV, ((0.75, 0.75),)),
    ],
)
def test_each_size_at_several_places_of_a_cell(
    text: str, dialect: str, offsets: tuple[tuple[float, float], ...]
) -> None:
    sizes = [(30.0, 30.0), (30 * math.sqrt(2), 30 / math.sqrt(2))]
    text = f'type: "PriorBox" prior_box_param {{ min_size: 30 aspect_ratio: 2 flip: false clip: false {text} }}'
    top = build(text, (1, 5, 3, 4), (1, 3, 90, 120), dialect=dialect)(
        torch.empty(1, 5, 3, 4), torch.empty(1, 3, 90, 120)
    )
    expected = []
    for i, j in np.ndindex(3, 4):
        for w, h in sizes:
            for across, down in offsets:
                x, y = (j + across) * 30, (i + down) * 30
                expected += [(x - w / 2) / 120, (y - h / 2) / 90, (x + w / 2) / 120, (y + h / 2) / 90]
    torch.testing.assert_close(top[0, 0], torch.tensor(expected, dtype=torch.float32), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("min_size: 3 offset_h: 1", "equally many"),
        ("min_size: 3 offset: 1 offset_h: 1 offset_w: 1", "without offset"),
        ("min_size: 3" + " offset_h: 1 offset_w: 1" * 3, "room for one or two"),
        ("min_size: 3.5 offset_h: 1 offset_w: 1", "are not whole"),
    ],
)
def test_places_in_a_cell_are_refused(param: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        build(f'type: "PriorBox" prior_box_param {{ {param} }}', (2, 5, 3, 4), (2, 3, 100, 120), dialect=OPENCV)


@pytest.mark.parametrize("dialect", ["BestSonny/SSTD", "MhLiao/TextBoxes", "dreadlord1984/SSD_windows_caffe"])
def test_prior_boxes_of_other_shapes_are_not_taken_for_these(dialect: str) -> None:
    with pytest.raises(UnknownLayerError, match="not under dialect"):
        build('type: "PriorBox" prior_box_param { min_size: 30 }', (1, 5, 1, 1), (1, 3, 100, 120), dialect=dialect)


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
