"""The layers of MS-CNN and Cascade R-CNN that make and choose boxes against slow definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import build

MSCNN, CASCADE = "zhaoweicai/mscnn", "zhaoweicai/cascade-rcnn"


def _greedy(boxes: Sequence[tuple[float, ...]], limit: float, after: int, measure: Any) -> list[tuple[float, ...]]:
    kept: list[tuple[float, ...]] = []
    for box in sorted(boxes, key=lambda b: -b[4]):
        if all(measure(other, box) <= limit for other in kept):
            kept.append(box)
    return kept[:after]


def _adjusted(offset: np.ndarray, field: tuple[float, float], place: tuple[float, float]) -> tuple[float, ...]:
    x, y = (min(max(o, -0.5), 0.5) * f + p for o, f, p in zip(offset[:2], field, place, strict=True))
    w, h = (math.exp(min(max(o, -math.log(2)), math.log(2))) * f for o, f in zip(offset[2:], field, strict=True))
    return x - w / 2, y - h / 2, w, h


@pytest.mark.parametrize("mode", ["IOU", "IOMU", "IOFU"])
def test_box_output(device: torch.device, mode: str) -> None:
    random = np.random.RandomState(1)
    maps = [random.randn(2, 7, 5, 6).astype(np.float32), random.randn(2, 7, 3, 4).astype(np.float32)]
    fields, strides = [(24, 32), (40, 30)], [8, 16]
    mean, std = [0.1, -0.1, 0.2, 0.05], [0.2, 0.1, 0.3, 0.25]

    def measure(a: tuple[float, ...], b: tuple[float, ...]) -> float:
        w, h = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
        shared = w * h if w > 0 and h > 0 else 0
        first, second = ((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
        return shared / {"IOU": first + second - shared, "IOMU": min(first, second), "IOFU": first}[mode]

    expected = []
    for n in range(2):
        boxes = []
        for x, field, stride in zip(maps, fields, strides, strict=True):
            for i in range(x.shape[2]):
                for j in range(x.shape[3]):
                    score = x[n, 1:3, i, j].max() - x[n, 0, i, j]
                    left, top, w, h = _adjusted(
                        x[n, 3:, i, j] * std + mean, field, ((j + 0.5) * stride, (i + 0.5) * stride)
                    )
                    left, top = max(left, 0), max(top, 0)
                    w, h = min(w, x.shape[3] * stride - left), min(h, x.shape[2] * stride - top)
                    if score >= 0.2 and w >= 16 and h >= 16:
                        boxes.append((left, top, left + w, top + h, float(score)))
        boxes = sorted(boxes, key=lambda b: -b[4])[:20]
        expected += [(n, *box) for box in _greedy(boxes, 0.4, 6, measure)]
    module = build(
        f"""type: "BoxOutput" bbox_reg_param {{ {" ".join(f"bbox_mean: {v}" for v in mean)}
        {" ".join(f"bbox_std: {v}" for v in std)} }} box_output_param {{ fg_thr: 0.2 iou_thr: 0.4 nms_type: "{mode}"
        field_w: 24 field_w: 40 field_h: 32 field_h: 30 downsample_rate: 8 downsample_rate: 16 min_size: 16
        max_nms_num: 20 max_post_nms_num: 6 }}""",
        *(m.shape for m in maps),
        tops=2,
        dialect=MSCNN,
    )
    boxes, scored = module(*(torch.tensor(m, device=device) for m in maps))
    torch.testing.assert_close(
        scored[..., 0, 0].cpu(), torch.tensor(expected, dtype=torch.float32), rtol=1e-5, atol=1e-4
    )
    torch.testing.assert_close(boxes, scored[:, :5])
    assert [tuple(t.shape) for t in module.infer(*(torch.empty(m.shape, device="meta") for m in maps))] == [
        (1, 5, 1, 1),
        (1, 6, 1, 1),
    ]


def test_box_output_without_boxes() -> None:
    text = 'type: "BoxOutput" box_output_param { fg_thr: 9 field_w: 8 field_h: 8 downsample_rate: 8 }'
    boxes, scored = build(text, (1, 6, 2, 3), tops=2, dialect=MSCNN)(torch.zeros(1, 6, 2, 3))
    assert boxes.flatten().tolist() == [0, 1, 1, 10, 10]
    assert scored.flatten().tolist() == [0] * 6
    with pytest.raises(LayerError, match="once for each of the 2 bottoms"):
        build(text, (1, 6, 2, 3), (1, 6, 2, 3), dialect=MSCNN)


def test_box_group_output(device: torch.device) -> None:
    random = np.random.RandomState(2)
    prob, offsets = random.rand(4, 3, 5, 6).astype(np.float32), random.randn(4, 4, 5, 6).astype(np.float32)
    fields, stride = [(24, 32), (40, 20)], 8

    def measure(a: tuple[float, ...], b: tuple[float, ...]) -> float:
        w, h = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
        shared = (w + 1) * (h + 1) if w >= 0 and h > 0 else 0
        first, second = ((c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b))
        return shared / (first + second - shared)

    expected = []
    for n in range(2):
        boxes = []
        for k, field in enumerate(fields):
            for i in range(5):
                for j in range(6):
                    at = 2 * n + k
                    left, top, w, h = _adjusted(offsets[at, :, i, j], field, ((j + 0.5) * stride, (i + 0.5) * stride))
                    right, bottom = min(left + w - 1, 48), min(top + h - 1, 40)
                    left, top, score = max(left, 0), max(top, 0), 1 - float(prob[at, 0, i, j])
                    if score >= 0.3 and right - left + 1 >= 12 and bottom - top + 1 >= 12:
                        boxes.append((left, top, right, bottom, score))
        expected += [(n, *box) for box in _greedy(boxes, 0.5, 100, measure)]
    module = build(
        """type: "BoxGroupOutput" box_group_output_param { fg_thr: 0.3 iou_thr: 0.5 min_size: 12
        box_group_param { stride: 8 field_w: 24 field_w: 40 field_h: 32 field_h: 20 } }""",
        prob.shape,
        offsets.shape,
        tops=2,
        dialect=CASCADE,
    )
    _, scored = module(torch.tensor(prob, device=device), torch.tensor(offsets, device=device))
    torch.testing.assert_close(
        scored[..., 0, 0].cpu(), torch.tensor(expected, dtype=torch.float32), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
def test_decode_bbox(phase: str) -> None:
    random = np.random.RandomState(3)
    offsets = random.randn(7, 8).astype(np.float32) * 0.3
    offsets[2, 6] = -6  # shrinks below a pixel
    low = random.uniform(0, 50, (7, 2))
    boxes = np.concatenate([np.arange(7)[:, None] % 2, low, low + random.uniform(5, 40, (7, 2))], 1).astype(np.float32)
    matches = random.uniform(0, 0.9, (7, 6)).astype(np.float32)
    matches[4, 5] = 0.97
    expected = []
    for offset, box, match in zip(offsets, boxes, matches, strict=True):
        size = box[3:] - box[1:3] + 1
        centre = offset[4:6] * size + (box[1:3] + box[3:]) / 2
        size = np.exp(offset[6:]) * size
        corner = centre - (size - 1) / 2
        out = [box[0], *corner, *(corner + size - 1)]
        if phase == "TEST" or (out[1] <= out[3] and out[2] <= out[4] and match[5] < 0.95):
            expected.append(out)
    assert len(expected) == (7 if phase == "TEST" else 5)
    shapes = [(7, 8), (7, 5), (7, 6)][: 2 if phase == "TEST" else 3]
    module = build('type: "DecodeBBox"', *shapes, phase=phase, dialect=CASCADE)
    given = [torch.tensor(a) for a in (offsets, boxes, matches)][: len(shapes)]
    result = module(*given)
    assert result.shape == (len(expected), 5, 1, 1)
    torch.testing.assert_close(
        result[..., 0, 0], torch.tensor(np.array(expected), dtype=torch.float32), rtol=1e-5, atol=1e-4
    )
    if phase == "TRAIN":
        given[2].fill_(0.95)
        with pytest.raises(LayerError, match="none of 7 boxes is left"):
            module(*given)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("", [0, 1, 2, 3, 4, 5]),
        ("low_scale: 20 high_scale: 40", [0, 3]),  # the lower end belongs to it, the upper does not
        ("high_scale: 20", [1, 4, 5]),
        ("low_scale: 40", [2]),
        ("low_scale: 21 high_scale: 29", [3]),  # none: 30 is nearer to the root of 21 x 29 than 20
        ("low_scale: 100", [2]),
        ("high_scale: 0.5", [4]),
    ],
)
def test_scale_route(text: str, chosen: list[int], device: torch.device) -> None:
    sides = [(20, 20), (8, 12.5), (32, 50), (30, 30), (0, 5), (4, 1)]  # areas are their products, the last pixel in it
    boxes = torch.tensor([(0, 3, 4, 2 + w, 3 + h) for w, h in sides], device=device)
    boxes[4, 3] = 0  # it ends before its start, and so has no area
    rows = torch.arange(12.0, device=device).reshape(6, 2)
    module = build(f'type: "ScaleRoute" scale_route_param {{ {text} }}', (6, 5, 1, 1), (6, 2), tops=2, dialect=CASCADE)
    tops = module(boxes[..., None, None], rows)
    assert [tuple(top.shape) for top in tops] == [(len(chosen), 5, 1, 1), (len(chosen), 2, 1, 1)]
    torch.testing.assert_close(tops[0][..., 0, 0], boxes[chosen])
    torch.testing.assert_close(tops[1][..., 0, 0], rows[chosen])
    assert [tuple(top.shape) for top in module.infer(boxes, rows)] == [(1, 5, 1, 1), (1, 2, 1, 1)]


def test_scale_route_errors() -> None:
    module = build('type: "ScaleRoute" scale_route_param { low_scale: 9 }', (1, 5), dialect=CASCADE)
    with pytest.raises(LayerError, match="no box has an area"):
        module(torch.tensor([[0.0, 5, 5, 4, 4]]))
    with pytest.raises(LayerError, match=r"\(boxes = 2, ...\) was"):
        build('type: "ScaleRoute"', (2, 5), (3, 4), tops=2, dialect=CASCADE)
    with pytest.raises(LayerError, match="low_scale 9 and high_scale 8 must be positive"):
        build('type: "ScaleRoute" scale_route_param { low_scale: 9 high_scale: 8 }', (2, 5), dialect=CASCADE)
    with pytest.raises(LayerError, match="high_scale 0 must be positive"):
        build('type: "ScaleRoute" scale_route_param { high_scale: 0 }', (2, 5), dialect=CASCADE)


@pytest.mark.parametrize("aware", [False, True])
@pytest.mark.parametrize("most", [0, 7])
def test_frcnn_output(aware: bool, most: int, device: torch.device) -> None:
    random = np.random.RandomState(4)
    prob = random.rand(20, 4).astype(np.float32)
    offsets = (random.randn(20, 16 if aware else 8) * 0.5).astype(np.float32)
    low = random.uniform(0, 60, (20, 2))
    boxes = np.concatenate([np.zeros((20, 1)), low, low + random.uniform(20, 50, (20, 2))], 1).astype(np.float32)
    mean, std = [0.1, -0.1, 0.2, 0.05], [0.2, 0.1, 0.3, 0.25]
    height, width = 70, 90

    def measure(a: tuple[float, ...], b: tuple[float, ...]) -> float:
        if any(c[2] < c[0] or c[3] < c[1] for c in (a, b)):
            return 0
        w, h = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
        shared = (w + 1) * (h + 1) if w >= 0 and h > 0 else 0
        first, second = ((c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b))
        return shared / (first + second - shared)

    found = []
    for label in (1, 2, 3):
        own = []
        for row in range(20):
            if prob[row, label] < 0.25:
                continue
            at = 4 * (label if aware else 1)
            dx, dy, dw, dh = offsets[row, at : at + 4] * std + mean
            _, x1, y1, x2, y2 = map(float, boxes[row])
            w, h = x2 - x1 + 1, y2 - y1 + 1
            left, top = dx * w + (x1 + x2) / 2, dy * h + (y1 + y2) / 2
            w, h = w * math.exp(dw), h * math.exp(dh)
            left, top = left - (w - 1) / 2, top - (h - 1) / 2
            right, bottom = min(left + w - 1, width), min(top + h - 1, height)
            own.append((max(left, 0), max(top, 0), right, bottom, float(prob[row, label])))
        found += [(0, *box[:4], label, box[4]) for box in _greedy(own, 0.3, 100, measure)]
    assert len(found) > 7
    if most:
        best = sorted(found, key=lambda row: -row[6])[:most]
        found = [row for row in found if row in best]
    expected = [(0, -1, -1, -1, -1, -1, -1), *found]
    text = f"""type: "FrcnnOutput" bbox_reg_param {{ {" ".join(f"bbox_mean: {v}" for v in mean)}
    {" ".join(f"bbox_std: {v}" for v in std)} cls_aware: {str(aware).lower()} }}
    frcnn_output_param {{ conf_thr: 0.25 iou_thr: 0.3 max_det_num: {most} }}"""
    shapes = (prob.shape, (*offsets.shape, 1, 1), (*boxes.shape, 1, 1), (1, 2, 1, 1))
    module = build(text, *shapes, dialect=CASCADE)
    size = np.array([height, width], dtype=np.float32)
    given = [
        torch.tensor(v, device=device).reshape(shape)
        for v, shape in zip((prob, offsets, boxes, size), shapes, strict=True)
    ]
    top = module(*given)
    torch.testing.assert_close(top[..., 0, 0].cpu(), torch.tensor(expected, dtype=torch.float32), rtol=1e-5, atol=1e-4)
    assert module.infer(*given).shape == (1, 7, 1, 1)


def test_frcnn_output_errors() -> None:
    text = 'type: "FrcnnOutput" bbox_reg_param { cls_aware: false }'
    module = build(text, (3, 2), (3, 8), (3, 5), (1, 2), dialect=CASCADE)
    boxes = torch.tensor([[0.0, 1, 1, 5, 5]] * 3)
    nothing = module(torch.full((3, 2), -1.0), torch.zeros(3, 8), boxes, torch.tensor([[9.0, 9.0]]))
    assert nothing.flatten().tolist() == [0, *[-1] * 6]
    boxes[1, 0] = 1
    with pytest.raises(LayerError, match="of the first image"):
        module(torch.rand(3, 2), torch.zeros(3, 8), boxes, torch.tensor([[9.0, 9.0]]))
    with pytest.raises(LayerError, match=r"\(boxes = 3, adjustments = 12\) was"):
        build('type: "FrcnnOutput"', (3, 3), (3, 8), (3, 5), (1, 2), dialect=CASCADE)
    with pytest.raises(LayerError, match="save_output_param"):
        build(
            f'{text} frcnn_output_param {{ save_output_param {{ output_directory: "out" }} }}',
            (3, 2),
            (3, 8),
            (3, 5),
            (1, 2),
            dialect=CASCADE,
        )
