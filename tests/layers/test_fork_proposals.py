"""BoxOutput, BoxGroupOutput and DecodeBBox against slow definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from building import build

from caffe_compat.errors import LayerError

MSCNN, CASCADE = "zhaoweicai/mscnn", "zhaoweicai/cascade-rcnn"


def _greedy(boxes: list[tuple[float, ...]], limit: float, after: int, measure: Any) -> list[tuple[float, ...]]:
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
    torch.testing.assert_close(
        module(*given), torch.tensor(np.array(expected), dtype=torch.float32), rtol=1e-5, atol=1e-4
    )
