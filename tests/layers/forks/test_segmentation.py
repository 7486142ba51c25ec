"""Interp and Upsample against slow definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.network.registry import find_layer
from tests.layers.building import assert_equals, build, precise

PSP, SEGNET, YOLO = "hszhao/PSPNet", "alexgkendall/caffe-segnet", "eric612/MobileNet-YOLO"
PRIV = "soeaver/py-RFCN-priv"
X = np.random.RandomState(0).randn(2, 3, 4, 5) + 1
YOLO5 = "Wulingtian/yolov5_caffe"


@pytest.mark.parametrize(
    ("param", "size"),
    [
        ("zoom_factor: 3", (10, 13)),
        ("shrink_factor: 2", (2, 3)),
        ("shrink_factor: 2 zoom_factor: 4", (5, 9)),
        ("height: 7 width: 1", (7, 1)),
        ("height: 7 width: 9 zoom_factor: 2", (7, 9)),
        ("height: 7 width: 9 shrink_factor: 2 zoom_factor: 2", (7, 9)),
        ("height: 2 width: 9 pad_beg: -1", (2, 9)),
    ],
)
def test_interp(device: torch.device, param: str, size: tuple[int, int]) -> None:
    crop = 1 if "pad_beg" in param else 0
    if param == "height: 7 width: 9 zoom_factor: 2":  # one factor wins over a size
        size = (7, 9)
    x = X[:, :, crop:, crop:]
    high, wide = x.shape[2:]
    expected = np.empty((2, 3, *size))
    for i in range(size[0]):
        y = i * ((high - 1) / (size[0] - 1) if size[0] > 1 else 0)
        a = min(int(y), high - 2)
        for j in range(size[1]):
            z = j * ((wide - 1) / (size[1] - 1) if size[1] > 1 else 0)
            b = min(int(z), wide - 2)
            rows = (a + 1 - y) * x[:, :, a] + (y - a) * x[:, :, a + 1]
            expected[:, :, i, j] = (b + 1 - z) * rows[..., b] + (z - b) * rows[..., b + 1]
    module = build(f'type: "Interp" interp_param {{ {param} }}', X.shape, dialect=PSP)
    top = module(torch.tensor(X, dtype=precise(device), device=device))
    assert top.shape == expected.shape
    torch.testing.assert_close(top.cpu(), torch.tensor(expected, dtype=top.dtype), rtol=1e-5, atol=1e-5)


def test_interp_to_the_size_of_another_blob() -> None:
    """Networks of py-RFCN-priv add maps of several sizes so."""
    like = (2, 7, 9, 4)
    module = build('type: "Interp" interp_param { use_blob_size: true pad_beg: -1 }', X.shape, like, dialect=PRIV)
    plain = build('type: "Interp" interp_param { height: 9 width: 4 pad_beg: -1 }', X.shape, dialect=PRIV)
    x = torch.tensor(X)
    assert_equals(module(x, torch.zeros(like)), plain(x))
    assert module(x, torch.zeros(2, 1, 6, 8)).shape[2:] == (6, 8)
    for text, shapes in (("use_blob_size: true", [X.shape]), ("zoom_factor: 2", [X.shape, like])):
        with pytest.raises(LayerError, match=r"use_blob_size is .* bottoms; a second one gives the size"):
            build(f'type: "Interp" interp_param {{ {text} }}', *shapes, dialect=PRIV)


@pytest.mark.parametrize(
    ("param", "shape", "size"),
    [
        ("zoom_factor: 3", (4, 5), (12, 15)),
        ("zoom_factor: 2", (5, 4), (9, 7)),
        ("shrink_factor: 2", (4, 5), (2, 2)),
        ("shrink_factor: 2 zoom_factor: 3", (5, 6), (7, 7)),
        ("height: 7 width: 3", (4, 5), (7, 3)),
        ("height: 7 width: 3", (5, 5), (8, 4)),
        ("zoom_factor: 2 pad_beg: -1", (5, 6), (8, 10)),
        ("zoom_factor: 2 pad_end: -2", (5, 6), (5, 7)),
    ],
)
def test_interp_of_cc_leaves_out_a_row_where_the_height_is_odd(
    param: str, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    x = torch.tensor(np.random.RandomState(2).randn(1, 2, *shape))
    module = build(f'type: "Interp" interp_param {{ {param} }}', x.shape, dialect="dlunion/CC4.0")
    begin, end = (1 if "beg" in param else 0), (2 if "pad_end" in param else 0)
    end += (shape[0] - begin - end) % 2
    cells = x[:, :, begin : shape[0] - end, begin : shape[1] - end]
    plain = build(f'type: "Interp" interp_param {{ height: {size[0]} width: {size[1]} }}', cells.shape, dialect=PSP)
    assert module(x).shape[2:] == size
    assert_equals(module(x), plain(cells))


def test_interp_with_one_way_to_say_the_size() -> None:
    text = 'type: "Interp" interp_param { zoom_factor: 2 height: 3 width: 3 }'
    build(text, X.shape, dialect=PSP)
    with pytest.raises(LayerError, match="only one of them"):
        build(text, X.shape, dialect="BannyStone/Caffe")


@pytest.mark.parametrize("param", ["", "pad_beg: 1 zoom_factor: 2", "zoom_factor: 0", "pad_beg: -4 zoom_factor: 2"])
def test_interp_refuses(param: str) -> None:
    with pytest.raises(LayerError):
        build(f'type: "Interp" interp_param {{ {param} }}', X.shape, dialect=PSP)


@pytest.mark.parametrize(
    ("param", "size"),
    [
        ("scale: 2", (4, 6)),
        ("scale: 2 pad_out_h: true", (3, 6)),
        ("upsample_h: 5 upsample_w: 7", (5, 7)),
        ("scale_h: 3 scale_w: 2", (6, 6)),
    ],
)
def test_unpooling(device: torch.device, param: str, size: tuple[int, int]) -> None:
    random = np.random.RandomState(1)
    x = random.randn(2, 3, 2, 3)
    mask = np.array([random.permutation(size[0] * size[1])[:6] for _ in range(6)]).reshape(x.shape)
    expected = np.zeros((2, 3, *size))
    for n, c, i, j in np.ndindex(x.shape):
        expected[n, c, mask[n, c, i, j] // size[1], mask[n, c, i, j] % size[1]] = x[n, c, i, j]
    module = build(f'type: "Upsample" upsample_param {{ {param} }}', x.shape, x.shape, dialect=SEGNET)
    given = torch.tensor(x, dtype=precise(device), device=device, requires_grad=True)
    top = module(given, torch.tensor(mask, dtype=given.dtype, device=device))
    assert_equals(top, expected)
    assert module.infer(given, given).shape == top.shape
    top.backward(torch.arange(top.numel(), dtype=top.dtype, device=device).view_as(top))
    planes = np.arange(6).reshape(2, 3, 1, 1) * size[0] * size[1]
    assert_equals(given.grad, planes + mask)


def test_nearest_upsample() -> None:
    top = build('type: "Upsample" upsample_param { scale: 3 }', X.shape, dialect=YOLO)(torch.tensor(X))
    assert_equals(top, np.kron(X, np.ones((1, 1, 3, 3))))


def test_upsample_refuses() -> None:
    with pytest.raises(LayerError, match="scale 0 must be at least 1"):
        build('type: "Upsample" upsample_param { scale: 0 }', X.shape, dialect=YOLO)
    # YOLO's code under SegNet's fields, whose scale begins with another number.
    assert build('type: "Upsample"', X.shape, dialect="imistyrain/ssd").scale == 2
    assert build('type: "Upsample"', X.shape, dialect=YOLO).scale == 1
    assert find_layer("Upsample", SEGNET).bottoms == 2
    with pytest.raises(LayerError, match="exactly 2 where the top is padded"):
        build('type: "Upsample" upsample_param { scale: 3 pad_out_w: true }', X.shape, X.shape, dialect=SEGNET)


@pytest.mark.parametrize("mode", ["NEAREST", "BILINEAR"])
@pytest.mark.parametrize(
    ("param", "size"), [("height: 7 width: 4", (7, 4)), ("height_scale: 2 width_scale: 3", (8, 15)), ("", (3, 9))]
)
def test_upsample_by_mode(mode: str, param: str, size: tuple[int, int], device: torch.device) -> None:
    x = np.random.RandomState(2).randn(2, 3, 4, 5)
    shapes = (x.shape,) if param else (x.shape, (1, 1, *size))
    text = f'type: "Upsample" upsample_param {{ {param} mode: {mode} }}'
    expected = np.zeros((2, 3, *size))
    for i, j in np.ndindex(size):
        if mode == "NEAREST":
            expected[:, :, i, j] = x[:, :, i * 4 // size[0], j * 5 // size[1]]
            continue
        y, z = i * 3 / (size[0] - 1), j * 4 / (size[1] - 1)
        for h, w in np.ndindex(4, 5):
            expected[:, :, i, j] += max(1 - abs(y - h), 0) * max(1 - abs(z - w), 0) * x[:, :, h, w]
    given = [torch.tensor(x, dtype=torch.float32, device=device, requires_grad=True)]
    given += [torch.zeros(shape, device=device) for shape in shapes[1:]]
    module = build(text, *shapes, dialect=YOLO5)
    top = module(*given)
    assert module.infer(*given).shape == top.shape
    np.testing.assert_allclose(top.detach().cpu(), expected, atol=1e-5)
    top.sum().backward()
    assert given[0].grad is not None
    assert not given[0].grad.any()  # the fork hands none back
    true = build(text, *shapes, dialect=YOLO5, gradients="true")
    rest = [torch.zeros(shape, dtype=torch.float64) for shape in shapes[1:]]
    assert torch.autograd.gradcheck(lambda y: true(y, *rest), torch.tensor(x, requires_grad=True))


@pytest.mark.parametrize(
    ("param", "problem"),
    [
        ("", "needs height and width, or height_scale"),
        ("height: 1 width: 3", "height 1 and width 3"),
        ("height_scale: 1 width_scale: 2", "height_scale 1"),
    ],
)
def test_upsample_by_mode_refuses(param: str, problem: str) -> None:
    with pytest.raises(LayerError, match=problem):
        build(f'type: "Upsample" upsample_param {{ {param} }}', X.shape, dialect=YOLO5)
