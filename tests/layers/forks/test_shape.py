"""Axpy, Reorg, Reverse, ShuffleChannel, Transpose and the layers of mobile networks, against slow definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.network.registry import LayerSpec, find_layer
from caffe_compat.schema.prototxt import parse_message
from tests.layers.building import assert_equals, build, give_values, precise

YOLO, CC, JOLI = "eric612/MobileNet-YOLO", "dlunion/CC4.0", "jolibrain/caffe"


def test_axpy() -> None:
    random = np.random.RandomState(0)
    a, x, y = random.randn(2, 3), random.randn(2, 3, 4, 5), random.randn(2, 3, 4, 5)
    for shape in ((2, 3), (2, 3, 1, 1)):
        module = build('type: "Axpy"', shape, x.shape, y.shape, dialect=JOLI)
        given = [torch.tensor(v, requires_grad=True) for v in (a.reshape(shape), x, y)]
        assert_equals(module(*given), np.einsum("nc,nchw->nchw", a, x) + y)
        assert torch.autograd.gradcheck(module, given, fast_mode=True)
    with pytest.raises(LayerError, match=r"'b0' has shape .*; \(images = 2, channels = 3\) was"):
        build('type: "Axpy"', (2, 4), x.shape, y.shape, dialect=JOLI)


def test_axpy_of_volumes() -> None:
    random = np.random.RandomState(0)
    a, x, y = random.randn(2, 3, 4, 1, 1), random.randn(2, 3, 4, 5, 6), random.randn(2, 3, 4, 5, 6)
    module = build('type: "Axpy"', a.shape, x.shape, y.shape, dialect="BannyStone/Caffe")
    assert_equals(module(*(torch.tensor(v) for v in (a, x, y))), a * x + y)
    with pytest.raises(LayerError, match=r"\(images = 2, channels = 3, length = 4, 1, 1\)"):
        build('type: "Axpy"', (2, 3, 1, 1), x.shape, y.shape, dialect="BannyStone/Caffe")


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        ('type: "Reverse"', CC),
        ('type: "Flip"', CC),
        ('type: "Transpose" transpose_param { dim: 1 dim: 0 }', CC),
        ('type: "ShuffleChannel"', JOLI),
        ('type: "Reorg" reorg_param { stride: 1 }', YOLO),
        ('type: "Quant" quant_param { centers: 1 }', "zhaoweicai/hwgq"),
    ],
)
def test_what_overwrites_its_bottom_cannot_run_in_place(text: str, dialect: str) -> None:
    message = parse_message(f'layer {{ name: "l" bottom: "x" top: "x" {text} }}', dialect=dialect).message.layer[0]
    spec = LayerSpec("l", message.type, "TEST", ("x",), ("x",), ((2, 3, 4, 5),), dialect, message)
    with pytest.raises(LayerError, match="cannot run in place"):
        find_layer(message.type, dialect).build(spec)


def test_reverse_and_transpose() -> None:
    x = np.random.RandomState(0).randn(2, 3, 4)
    assert_equals(build('type: "Reverse"', x.shape, dialect=CC)(torch.tensor(x)), x[::-1].copy())
    text = 'type: "Reverse" reverse_param { axis: 2 }'
    assert_equals(build(text, x.shape, dialect=CC)(torch.tensor(x)), x[:, :, ::-1].copy())
    text = 'type: "Transpose" transpose_param { dim: 2 dim: 0 dim: 1 }'
    assert_equals(build(text, x.shape, dialect=CC)(torch.tensor(x)), x.transpose(2, 0, 1))
    with pytest.raises(LayerError, match="axis 3 must be one of the 3"):
        build('type: "Reverse" reverse_param { axis: 3 }', x.shape, dialect=CC)
    with pytest.raises(LayerError, match="name each of the 3 axes"):
        build('type: "Transpose" transpose_param { dim: 2 dim: 0 }', x.shape, dialect=CC)


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("across", [False, True])
def test_flip(down: bool, across: bool) -> None:
    x = np.random.RandomState(0).randn(2, 3, 4, 5)
    text = f'type: "Flip" flip_param {{ flip_height: {str(down).lower()} flip_width: {str(across).lower()} }}'
    expected = x[:, :, :: -1 if down else 1, :: -1 if across else 1].copy()
    assert_equals(build(text, x.shape, dialect="happynear/caffe-windows")(torch.tensor(x)), expected)
    with pytest.raises(LayerError, match="was expected"):
        build(text, (2, 3), dialect="happynear/caffe-windows")


def test_shuffle_channel() -> None:
    x = np.random.RandomState(0).randn(2, 6, 4, 5)
    expected = np.empty_like(x)
    for i in range(3):
        for j in range(2):
            expected[:, j * 3 + i] = x[:, i * 2 + j]
    text = 'type: "ShuffleChannel" shuffle_channel_param { group: 3 }'
    assert_equals(build(text, x.shape, dialect=JOLI)(torch.tensor(x)), expected)
    with pytest.raises(LayerError, match="group 3 must divide"):
        build(text, (2, 7, 4, 5), dialect=JOLI)


@pytest.mark.parametrize("back", [False, True])
def test_reorg(back: bool) -> None:
    n, c, h, w, s = 2, 8, 4, 6, 2
    x = np.random.RandomState(0).randn(n, c, h, w)
    few = c // (s * s)
    flat, out = x.reshape(-1), np.empty(x.size)
    for b in range(n):
        for k in range(c):
            for j in range(h):
                for i in range(w):
                    near = i + w * (j + h * (k + c * b))
                    offset = k // few
                    far = i * s + offset % s + w * s * (j * s + offset // s + h * s * (k % few + few * b))
                    if back:
                        out[far] = flat[near]
                    else:
                        out[near] = flat[far]
    shape = (n, few, h * s, w * s) if back else (n, c * s * s, h // s, w // s)
    text = f'type: "Reorg" reorg_param {{ stride: 2 reverse: {str(back).lower()} }}'
    module = build(text, x.shape, dialect=YOLO)
    assert_equals(module(torch.tensor(x)), out.reshape(shape))
    with pytest.raises(LayerError, match="stride 2 does not fit"):
        build(text, (1, 6, 4, 4), dialect=YOLO)
    if not back:  # the fork whose stride is 2 by default has no other way
        module = build('type: "Reorg"', x.shape, dialect="choasup/caffe-yolo9000")
        assert_equals(module(torch.tensor(x)), out.reshape(shape))
    above = np.random.RandomState(1).randn(*shape)
    for dialect, gradients in ((YOLO, "caffe"), (YOLO, "true"), ("BirdeeChen/caffe_yolo_v2", "caffe")):
        given = torch.tensor(x, requires_grad=True)
        build(text, x.shape, dialect=dialect, gradients=gradients)(given).backward(torch.tensor(above))
        assert given.grad is not None
        if (dialect, gradients) == (YOLO, "caffe"):
            # The fork reads a buffer of zeros.
            assert not given.grad.any()
        else:
            assert_equals((given.grad * given.detach()).sum(), (above * out.reshape(shape)).sum())
            assert given.grad.abs().sum().item() == pytest.approx(abs(above).sum())


@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_relu6(slope: float) -> None:
    x = np.array([-3.0, -0.5, 0.0, 0.5, 5.9, 6.0, 6.1, 90.0])
    given = torch.tensor(x, requires_grad=True)
    top = build(f'type: "ReLU6" relu6_param {{ negative_slope: {slope} }}', x.shape, dialect=YOLO)(given)
    top.sum().backward()
    assert_equals(top, np.minimum(np.maximum(x, 0) + slope * np.minimum(x, 0), 6))
    assert_equals(given.grad, ((x > 0) + slope * (x <= 0)) * (x < 6))


def test_relu6_that_is_none() -> None:
    text = 'type: "ReLU6" relu_param { negative_slope: 0.5 } relu6_param { negative_slope: 3 }'
    module = build(text, (3,), dialect="eric612/Caffe-YOLOv3-Windows")
    assert module(torch.tensor([-2.0, 1.0, 90.0])).tolist() == [-1, 1, 90]


def _depthwise(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, pad: int, dilation: int) -> np.ndarray:
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    kh, kw = weight.shape[2:]
    high, wide = ((size - dilation * (k - 1) - 1) // stride + 1 for size, k in zip(x.shape[2:], (kh, kw), strict=True))
    out = np.zeros((*x.shape[:2], high, wide)) + bias[:, None, None]
    for i in range(high):
        for j in range(wide):
            window = x[:, :, i * stride :, j * stride :][:, :, : dilation * kh : dilation, : dilation * kw : dilation]
            out[:, :, i, j] += (window[:, :, :kh, :kw] * weight[:, 0]).sum((2, 3))
    return out


@pytest.mark.parametrize("kind", ["ConvolutionDepthwise", "DepthwiseConvolution"])
def test_depthwise(device: torch.device, kind: str) -> None:
    x = np.random.RandomState(0).randn(2, 3, 8, 9)
    count = "num_output: 3 group: 3" if kind == "DepthwiseConvolution" else "num_output: 99"
    spread = 1 if kind == "DepthwiseConvolution" else 2
    sizes = f"kernel_h: 3 kernel_w: 2 stride: 2 pad: 1 dilation: {spread}"
    text = f'type: "{kind}" convolution_param {{ {count} {sizes} }}'
    module = build(text, x.shape, dialect=JOLI if kind == "ConvolutionDepthwise" else YOLO)
    module = give_values(module, device).to(precise(device))
    weight, bias = (blob.detach().cpu().numpy() for blob in (module.weight, module.bias))
    assert weight.shape == (3, 1, 3, 2)
    top = module(torch.tensor(x, dtype=precise(device), device=device))
    assert_equals(top, _depthwise(x, weight, bias, 2, 1, spread))


def test_what_depthwise_convolution_of_forks_pads_by_itself() -> None:
    text = 'type: "ConvolutionDepthwise" convolution_param { kernel_size: 3 pad_h: 2 pad_w: 2 pad: 0 }'
    assert build(text, (1, 3, 8, 8), dialect=JOLI).pad == (2, 2)
    text = 'type: "ConvolutionDepthwise" convolution_param { kernel_size: 3 }'
    modules = [give_values(build(text, (1, 3, 8, 9), dialect=dialect)) for dialect in (JOLI, CC)]
    assert [module.pad for module in modules] == [(0, 0), (1, 1)]
    assert [tuple(module(torch.ones(1, 3, 8, 9)).shape[2:]) for module in modules] == [(6, 7), (8, 9)]
    point = build('type: "ConvolutionDepthwise" convolution_param { bias_term: false }', (1, 3, 8, 9), dialect=CC)
    assert tuple(point.weight.shape) == (3, 1, 1, 1)
    with pytest.raises(LayerError, match="must be one or two numbers"):
        build('type: "ConvolutionDepthwise"', (1, 3, 8, 9), dialect=JOLI)


def test_depthwise_refuses() -> None:
    with pytest.raises(LayerError, match="must be the channels"):
        build(
            'type: "DepthwiseConvolution" convolution_param { num_output: 6 group: 3 kernel_size: 1 }',
            (1, 3, 4, 4),
            dialect=YOLO,
        )
    text = "num_output: 3 group: 3 kernel_size: 2 dilation: 2"
    with pytest.raises(LayerError, match="dilation \\[2\\] is not supported"):
        build(f'type: "DepthwiseConvolution" convolution_param {{ {text} }}', (1, 3, 4, 4), dialect=YOLO)
    with pytest.raises(LayerError, match="does not fit"):
        build('type: "ConvolutionDepthwise" convolution_param { kernel_size: 5 }', (1, 3, 4, 4), dialect=JOLI)


def test_spatial_dropout() -> None:
    text = 'type: "SpatialDropout" spatial_dropout_param { dropout_ratio: 0.25 }'
    dialect = "zimenglan-sysu-512/pose_action_caffe"
    x = torch.full((40, 50, 2, 3), 2.0)
    assert_equals(build(text, tuple(x.shape), dialect=dialect)(x), x)
    module = build(text, tuple(x.shape), phase="TRAIN", dialect=dialect)
    module.randomness.seed = 3
    factor = module(x) / x
    assert torch.equal(factor, factor[:, :, :1, :1].expand_as(factor))
    values = factor[:, :, 0, 0]
    assert values.unique().tolist() == pytest.approx([0, 4 / 3])
    assert abs((values == 0).float().mean().item() - 0.25) < 0.03
    assert torch.equal(module(x) / x, factor)


def test_space_to_depth() -> None:
    text = 'type: "Reorg" reorg_param { stride: 2 %s }'
    module = build(text % "reverse: false", (2, 3, 5, 6), dialect="Wulingtian/yolov5_caffe")
    x = np.random.RandomState(1).rand(2, 3, 5, 6)
    expected = np.zeros((2, 12, 2, 3))
    for c, i, j in np.ndindex(3, 2, 2):
        expected[:, 4 * c + 2 * i + j] = x[:, c, i:4:2, j::2]
    assert_equals(module(torch.tensor(x)), expected)
    for more, shape, message in (("reverse: true", (1, 4, 2, 2), "reverse: true is not"), ("", (1, 4, 1, 2), "stride")):
        with pytest.raises(LayerError, match=message):
            build(text % more, shape, dialect="Wulingtian/yolov5_caffe")
