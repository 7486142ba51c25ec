"""ROIPooling, PSROIPooling and ROIAlign against slow definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError, UnknownLayerError
from caffe_compat.network.registry import find_layer
from tests.layers.building import assert_equals, build, precise

CASCADE = "zhaoweicai/cascade-rcnn"


def _boxes(count: int, images: int, size: float, seed: int) -> np.ndarray:
    """Boxes inside, across the edge, outside, of one pixel, and (the last) with their end before their start."""
    random = np.random.RandomState(seed)
    corners = random.uniform(-0.3 * size, 1.1 * size, (count, 2))
    sizes = random.uniform(0, 0.9 * size, (count, 2))
    sizes[0] = 0
    sizes[-1] = -3
    return np.concatenate([random.randint(0, images, (count, 1)), corners, corners + sizes], 1).astype(np.float32)


def _cround(x: float) -> int:
    return math.floor(x + 0.5) if x >= 0 else -math.floor(0.5 - x)


def _half_up(x: float) -> int:
    return math.floor(np.float32(float(x) + 0.5))


def _roi_pooling(
    x: np.ndarray,
    boxes: np.ndarray,
    ph: int,
    pw: int,
    scale: float,
    pad: float = 0.0,
    reach: str = "box",
    rounded: Callable[[float], int] = _cround,
) -> tuple[np.ndarray, np.ndarray]:
    """The top, and the gradient of its sum: a bin gives it to its largest cell if the backward pass looks there."""
    out, gradient = np.zeros((len(boxes), x.shape[1], ph, pw)), np.zeros_like(x)
    (height, width), f = x.shape[2:], np.float32
    for r, (image, x1, y1, x2, y2) in enumerate(boxes):
        dx, dy = (x2 - x1 + f(1)) * f(pad), (y2 - y1 + f(1)) * f(pad)
        x1, x2 = rounded((x1 - dx) * f(scale)), rounded((x2 + dx) * f(scale))
        y1, y2 = rounded((y1 - dy) * f(scale)), rounded((y2 + dy) * f(scale))
        bh, bw = f(max(y2 - y1 + 1, 1)) / f(ph), f(max(x2 - x1 + 1, 1)) / f(pw)
        seen_y, seen_x = (y1, y2), (x1, x2)
        if reach == "cut":
            seen_y, seen_x = ((max(lo, 0), min(hi, _cround(f(n) / f(scale)) - 1)) for lo, hi, n in
                              ((y1, y2, height), (x1, x2, width)))  # fmt: skip
        for i in range(ph):
            top, bottom = (min(max(v + y1, 0), height) for v in (math.floor(f(i) * bh), math.ceil(f(i + 1) * bh)))
            for j in range(pw):
                left, right = (min(max(v + x1, 0), width) for v in (math.floor(f(j) * bw), math.ceil(f(j + 1) * bw)))
                if bottom <= top or right <= left:
                    continue
                for c in range(x.shape[1]):
                    window = x[int(image), c, top:bottom, left:right]
                    at = np.unravel_index(window.argmax(), window.shape)
                    out[r, c, i, j] = window[at]
                    h, w = top + int(at[0]), left + int(at[1])
                    if reach == "all" or (_seen(h, i, ph, *seen_y) and _seen(w, j, pw, *seen_x)):
                        gradient[int(image), c, h, w] += 1
    return out, gradient


def _seen(cell: int, number: int, bins: int, low: int, high: int) -> bool:
    size = np.float32(max(high - low + 1, 1)) / np.float32(bins)
    first, end = math.floor(np.float32(cell - low) / size), math.ceil(np.float32(cell - low + 1) / size)
    return low <= cell <= high and first <= number < end


@pytest.mark.parametrize(
    ("images", "height", "width", "ph", "pw", "scale"), [(2, 13, 17, 3, 5, 0.5), (1, 5, 40, 7, 2, 0.3)]
)
def test_roi_pooling(
    device: torch.device, images: int, height: int, width: int, ph: int, pw: int, scale: float
) -> None:
    random = np.random.RandomState(0)
    # Few values, so that many are equal and the first one of them matters.
    x = random.randint(0, 4, (images, 3, height, width)).astype(np.float32)
    boxes = _boxes(23, images, width / scale, 1)
    module = build(
        f'type: "ROIPooling" roi_pooling_param {{ pooled_h: {ph} pooled_w: {pw} spatial_scale: {scale} }}',
        x.shape,
        boxes.shape,
    )
    given = torch.tensor(x, device=device, requires_grad=True)
    top = module(given, torch.tensor(boxes, device=device))
    top.sum().backward()
    expected, gradient = _roi_pooling(x, boxes, ph, pw, scale)
    assert_equals(top, expected)
    assert given.grad is not None
    assert_equals(given.grad, gradient)
    assert module.infer(given.to("meta"), torch.empty(boxes.shape, device="meta")).shape == top.shape


FORKS = [
    ("rbgirshick/caffe-fast-rcnn@fast-rcnn", 0.0, "box", _cround),
    ("sanghoon/caffe@dev_pvanet", 0.0, "box", _cround),
    ("happynear/caffe-windows", 0.0, "box", _half_up),
    ("intel/caffe", 0.0, "all", _cround),
    ("jolibrain/caffe", 0.0, "box", _cround),
    ("zhaoweicai/mscnn", 0.0, "cut", _cround),
    ("zhaoweicai/mscnn", 0.25, "cut", _cround),
    ("zhaoweicai/cascade-rcnn", 0.25, "all", _cround),
]


@pytest.mark.parametrize(("dialect", "pad", "reach", "rounded"), FORKS)
def test_roi_pooling_of_each_fork(dialect: str, pad: float, reach: str, rounded: Callable[[float], int]) -> None:
    x = np.random.RandomState(2).randn(2, 3, 11, 19).astype(np.float32)
    boxes = _boxes(40, 2, 40, 3)
    boxes[-1] = 0, 20, 10, 14, 4
    boxes[:9, 1:] = np.round(boxes[:9, 1:])  # at a scale of 1 / 2, halves that are rounded
    text = f"pooled_h: 3 pooled_w: 4 spatial_scale: 0.5 {f'pad_ratio: {pad}' if pad else ''}"
    text = f'type: "ROIPooling" roi_pooling_param {{ {text} }}'
    expected, stated = _roi_pooling(x, boxes, 3, 4, 0.5, pad, reach, rounded)
    _, derived = _roi_pooling(x, boxes, 3, 4, 0.5, pad, "all", rounded)
    assert (abs(stated - derived).max() > 0) == (reach != "all")
    for gradients, gradient in (("caffe", stated), ("true", derived)):
        given = torch.tensor(x, requires_grad=True)
        top = build(text, x.shape, boxes.shape, dialect=dialect, gradients=gradients)(given, torch.tensor(boxes))
        top.sum().backward()
        assert_equals(top, expected)
        assert given.grad is not None
        assert_equals(given.grad, gradient)


def test_jolibrain_takes_boxes_as_parts_of_the_image_by_default() -> None:
    x = np.random.RandomState(2).randn(1, 2, 8, 16).astype(np.float32)
    boxes = torch.tensor([[0, 0.25, 0.125, 0.5, 0.75]])
    text = 'type: "ROIPooling" roi_pooling_param { pooled_h: 1 pooled_w: 1 %s }'
    shapes = x.shape, boxes.shape
    for scale in ("", "spatial_scale: -3"):
        top = build(text % scale, *shapes, dialect="jolibrain/caffe")(torch.tensor(x), boxes)
        assert_equals(top[0, :, 0, 0], x[0, :, 1:7, 4:9].max((1, 2)))
    top = build(text % "spatial_scale: 8", *shapes, dialect="jolibrain/caffe")(torch.tensor(x), boxes)
    assert_equals(top[0, :, 0, 0], x[0, :, 1:7, 2:5].max((1, 2)))


def test_other_layers_of_the_names_are_not_taken_for_these() -> None:
    for type_name, dialect in (
        ("ROIPooling", "superxuang/caffe_3d_faster_rcnn"),
        ("PSROIPooling", "soeaver/py-RFCN-priv"),
        ("Permute", "Lyp100208/Caffe_action"),
    ):
        with pytest.raises(UnknownLayerError, match="not under dialect"):
            find_layer(type_name, dialect)


def test_roi_pooling_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caffe_compat.layers.forks.roi._TABLE_VALUES", 1)
    x = np.random.RandomState(0).randn(2, 3, 11, 9).astype(np.float32)
    boxes = _boxes(7, 2, 20, 3)
    module = build(
        'type: "ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.4 }', x.shape, boxes.shape
    )
    assert_equals(module(torch.tensor(x), torch.tensor(boxes)), _roi_pooling(x, boxes, 2, 3, 0.4)[0])


def test_roi_pooling_pads_boxes() -> None:
    x = np.random.RandomState(0).randn(1, 2, 11, 19).astype(np.float32)
    boxes = _boxes(9, 1, 30, 4)
    text = 'type: "ROIPooling" roi_pooling_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.5 pad_ratio: 0.25 }'
    module = build(text, x.shape, boxes.shape, dialect=CASCADE)
    assert_equals(module(torch.tensor(x), torch.tensor(boxes)), _roi_pooling(x, boxes, 3, 2, 0.5, 0.25)[0])
    with pytest.raises(LayerError, match="pad_ratio is not supported"):
        build(text, x.shape, boxes.shape, dialect="makefile/frcnn")


def test_roi_pooling_of_no_box_and_in_half_precision() -> None:
    text = 'type: "ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 1 }'
    module = build(text, (1, 4, 5, 6), (0, 5))
    assert module(torch.zeros(1, 4, 5, 6), torch.zeros(0, 5)).shape == (0, 4, 2, 3)
    x, boxes = torch.randn(1, 4, 5, 6).half(), torch.tensor([[0.0, 1, 0, 4, 3]])
    assert_equals(module(x, boxes.half()), module(x.float(), boxes).half())


@pytest.mark.parametrize(
    ("shapes", "param", "message"),
    [
        (((1, 2, 3, 4), (5, 5)), "pooled_h: 2", "pooled_w 0 must be at least 1"),
        (((1, 2, 3, 4), (5, 4)), "pooled_h: 2 pooled_w: 2", r"\(boxes, image x1 y1 x2 y2 = 5\) was"),
        (((1, 2, 3), (5, 5)), "pooled_h: 2 pooled_w: 2", "was expected"),
    ],
)
def test_roi_pooling_refuses(shapes: Any, param: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        build(f'type: "ROIPooling" roi_pooling_param {{ {param} }}', *shapes)


def test_psroi_pooling(device: torch.device) -> None:
    outputs, group, scale, height, width = 2, 3, 0.25, 7, 9
    x = np.random.RandomState(0).randn(2, outputs * group * group, height, width)
    boxes = _boxes(11, 2, 36, 5)
    expected = np.zeros((len(boxes), outputs, group, group))
    for r, (image, x1, y1, x2, y2) in enumerate(boxes.astype(np.float64)):
        x1, y1 = _cround(x1) * scale, _cround(y1) * scale
        bw = max((_cround(x2) + 1) * scale - x1, 0.1) / group
        bh = max((_cround(y2) + 1) * scale - y1, 0.1) / group
        for o in range(outputs):
            for i in range(group):
                for j in range(group):
                    top, bottom = (
                        min(max(v, 0), height) for v in (math.floor(i * bh + y1), math.ceil((i + 1) * bh + y1))
                    )
                    left, right = (
                        min(max(v, 0), width) for v in (math.floor(j * bw + x1), math.ceil((j + 1) * bw + x1))
                    )
                    if bottom > top and right > left:
                        expected[r, o, i, j] = x[int(image), (o * group + i) * group + j, top:bottom, left:right].mean()
    module = build(
        f"""type: "PSROIPooling"
        psroi_pooling_param {{ spatial_scale: {scale} output_dim: {outputs} group_size: {group} }}""",
        x.shape,
        boxes.shape,
    )
    dtype = precise(device)
    given = torch.tensor(x, dtype=dtype, device=device)
    top = module(given, torch.tensor(boxes, device=device))
    assert_equals(top, expected)
    assert module.infer(given.to("meta"), torch.empty(boxes.shape, device="meta")).shape == top.shape
    if dtype == torch.float64:
        few = torch.tensor(boxes[:4], device=device)
        assert torch.autograd.gradcheck(
            lambda t: module(t, few), given[:, :, :4, :5].clone().requires_grad_(), fast_mode=True
        )


def test_psroi_pooling_refuses_channels() -> None:
    with pytest.raises(LayerError, match="17 channels; output_dim 2 x group_size 3 squared = 18"):
        build(
            'type: "PSROIPooling" psroi_pooling_param { spatial_scale: 1 output_dim: 2 group_size: 3 }',
            (1, 17, 4, 5),
            (3, 5),
        )


def test_roi_align(device: torch.device) -> None:
    ph, pw, scale, pad, height, width = 2, 3, 0.25, 0.125, 8, 11
    x = np.random.RandomState(0).randn(2, 3, height, width)
    boxes = _boxes(13, 2, 44, 6)
    expected = np.zeros((len(boxes), 3, ph + 1, pw + 1))
    for r, (image, x1, y1, x2, y2) in enumerate(boxes):
        dx, dy = (x2 - x1 + 1) * pad, (y2 - y1 + 1) * pad
        x1, x2, y1, y2 = (v * scale - 0.5 for v in (x1 - dx, x2 + dx, y1 - dy, y2 + dy))
        for i in range(ph + 1):
            for j in range(pw + 1):
                y, z = y1 + i * (y2 - y1) / ph, x1 + j * (x2 - x1) / pw
                if y2 <= y1 or x2 <= x1 or not (-0.5 <= y <= height - 0.5 and -0.5 <= z <= width - 0.5):
                    continue
                y, z = min(max(y, 0), height - 1), min(max(z, 0), width - 1)
                a, b = min(int(y), height - 2), min(int(z), width - 2)
                corner = x[int(image), :, a : a + 2, b : b + 2]
                weights = np.outer([a + 1 - y, y - a], [b + 1 - z, z - b])
                expected[r, :, i, j] = (corner * weights).sum((1, 2))
    module = build(
        f"""type: "ROIAlign"
        roi_pooling_param {{ pooled_h: {ph} pooled_w: {pw} spatial_scale: {scale} pad_ratio: {pad} }}""",
        x.shape,
        boxes.shape,
        dialect=CASCADE,
    )
    dtype = precise(device)
    given = torch.tensor(x, dtype=dtype, device=device)
    top = module(given, torch.tensor(boxes, device=device))
    torch.testing.assert_close(top.cpu(), torch.as_tensor(expected, dtype=dtype), rtol=1e-5, atol=1e-5)
    assert module.infer(given.to("meta"), torch.empty(boxes.shape, device="meta")).shape == top.shape
    if dtype == torch.float64:
        few = torch.tensor(boxes[:4], device=device)
        assert torch.autograd.gradcheck(
            lambda t: module(t, few), given[:, :, :4, :5].clone().requires_grad_(), fast_mode=True
        )
