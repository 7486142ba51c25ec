"""The layers of optical flow networks against definitions with one loop per index."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.network.registry import LayerSpec, find_layer
from caffe_compat.schema.prototxt import parse_message
from tests.layers.building import assert_equals, build, precise

FLOWNET, LITE, FIRST = "lmb-freiburg/flownet2", "twhui/LiteFlowNet", "liruoteng/FlowNet"


@pytest.mark.parametrize("kind", ["MULTIPLY", "SUBTRACT"])
@pytest.mark.parametrize(
    ("kernel", "displacement", "pad", "stride", "step"),
    [(1, 4, 4, 1, 2), (3, 3, 4, 2, 1), (3, 5, 6, 3, 2), (1, 0, 0, 2, 1)],
)
def test_correlation(
    kernel: int, displacement: int, pad: int, stride: int, step: int, kind: str, device: torch.device
) -> None:
    random = np.random.RandomState(0)
    a, b = random.randn(2, 3, 7, 9), random.randn(2, 3, 7, 9)
    wide = [np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)]) for x in (a, b)]
    radius, reach = kernel // 2, displacement // step
    height, width = (math.ceil((n + 2 * pad - 2 * (displacement + radius)) / stride) for n in (7, 9))
    grid = 2 * reach + 1
    expected = np.zeros((2, grid * grid, height, width))
    for channel in range(grid * grid):
        down, right = (channel // grid - reach) * step, (channel % grid - reach) * step
        for y in range(height):
            for x in range(width):
                for j in range(kernel):
                    for i in range(kernel):
                        row, column = y * stride + displacement + j, x * stride + displacement + i
                        u, v = wide[0][:, :, row, column], wide[1][:, :, row + down, column + right]
                        expected[:, channel, y, x] += (u * v if kind == "MULTIPLY" else abs(u - v)).sum(1)
    expected /= kernel * kernel * 3
    text = (
        f'type: "Correlation" correlation_param {{ kernel_size: {kernel} max_displacement: {displacement} pad: {pad} '
        f"stride_1: {stride} stride_2: {step} correlation_type: {kind} do_abs: true }}"
    )
    module = build(text, a.shape, b.shape, dialect=FLOWNET)
    given = [torch.tensor(x, device=device, dtype=precise(device)) for x in (a, b)]
    assert_equals(module(*given), expected)
    assert module.infer(*given).shape == expected.shape
    assert module(*(x.half() for x in given)).dtype == torch.float16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_displacement: 1", "needs kernel_size"),
        ("kernel_size: 1", "needs max_displacement"),
        ("kernel_size: 2 max_displacement: 1", "must be odd"),
        ("kernel_size: 1 max_displacement: 4", "do not fit into a map of 7 x 9"),
        ("kernel_size: 1 max_displacement: 1 stride_1: 0", "must be at least 1"),
        ("kernel_size: 1 max_displacement: 1 single_direction: 1", "single_direction"),
    ],
)
def test_correlation_errors(text: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        build(f'type: "Correlation" correlation_param {{ {text} }}', (2, 3, 7, 9), (2, 3, 7, 9), dialect=FLOWNET)
    with pytest.raises(LayerError, match=r"'b1' has shape \[2, 3, 7, 8\]; \[2, 3, 7, 9\], as 'b0' has, was"):
        build('type: "Correlation"', (2, 3, 7, 9), (2, 3, 7, 8), dialect=FLOWNET)


@pytest.mark.parametrize(("kernel", "stride", "step"), [(1, 1, 2), (3, 2, 1)])
def test_gradient_of_differences_compares_the_maps_at_one_place(kernel: int, stride: int, step: int) -> None:
    random = np.random.RandomState(0)
    a, b, reach = random.randn(2, 3, 7, 9), random.randn(2, 3, 7, 9), 2 // step
    param = f"max_displacement: 2 pad: 3 kernel_size: {kernel} stride_1: {stride} stride_2: {step}"
    text = f'type: "Correlation" correlation_param {{ {param} correlation_type: SUBTRACT }}'
    given = [torch.tensor(x, requires_grad=True) for x in (a, b)]
    top = build(text, a.shape, b.shape, dialect=FLOWNET)(*given)
    above = random.randn(*top.shape)
    top.backward(torch.tensor(above))
    wide = [np.pad(x, [(0, 0), (0, 0), (3, 3), (3, 3)]) for x in (a, b)]
    sign = np.where(wide[0] >= wide[1], 1, -1)
    expected = [np.zeros(x.shape) for x in wide]
    for channel, y, x in np.ndindex(*top.shape[1:]):
        down, right = (channel // (2 * reach + 1) - reach) * step, (channel % (2 * reach + 1) - reach) * step
        for j, i in np.ndindex(kernel, kernel):
            row, column = y * stride + 2 + j, x * stride + 2 + i
            part = above[:, channel, y, x, None] / (kernel * kernel * 3)
            expected[0][:, :, row, column] += part * sign[:, :, row + down, column + right]
            expected[1][:, :, row + down, column + right] -= part * sign[:, :, row, column]
    for x, diff in zip(given, expected, strict=True):
        assert x.grad is not None
        assert_equals(x.grad, diff[:, :, 3:-3, 3:-3])
    true = build(text, (1, 2, 4, 5), (1, 2, 4, 5), dialect=FLOWNET, gradients="true")
    maps = [torch.tensor(random.randn(1, 2, 4, 5), requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(true, maps)


def test_warp(device: torch.device) -> None:
    random = np.random.RandomState(0)
    x = random.randn(2, 3, 4, 5)
    positions = random.uniform(-2, 6, (2, 2, 4, 5))
    positions[0, :, 0, 0] = (4, 3)  # the last pixel itself
    positions[0, :, 0, 1] = (1e30, -1e30)
    expected = np.zeros_like(x)
    for n, c, h, w in np.ndindex(*x.shape):
        px, py = positions[n, :, h, w]
        for row in (math.floor(py), math.floor(py) + 1):
            for column in (math.floor(px), math.floor(px) + 1):
                if 0 <= row < 4 and 0 <= column < 5:
                    expected[n, c, h, w] += (1 - abs(px - column)) * (1 - abs(py - row)) * x[n, c, row, column]
    module = build('type: "Warp"', x.shape, positions.shape, dialect=LITE)
    given = [torch.tensor(v, device=device, dtype=precise(device)) for v in (x, positions)]
    assert_equals(module(*given), expected)
    inner = torch.tensor(random.uniform(0.1, 2.9, (1, 2, 3, 4)), requires_grad=True)
    values = torch.tensor(random.randn(1, 2, 3, 4), requires_grad=True)
    assert torch.autograd.gradcheck(build('type: "Warp"', (1, 2, 3, 4), (1, 2, 3, 4), dialect=LITE), (values, inner))
    lost = torch.tensor([[[[1.0, math.nan]], [[0.0, 0.0]]]])
    assert_equals(
        build('type: "Warp"', (1, 1, 1, 2), lost.shape, dialect=LITE)(torch.ones(1, 1, 1, 2), lost),
        [[[[1.0, math.nan]]]],
    )
    with pytest.raises(LayerError, match=r"\(images = 1, 2, height = 4, width = 5\) was expected"):
        build('type: "Warp"', (1, 3, 4, 5), (1, 2, 4, 4), dialect=LITE)


def test_half_precision_finds_every_cell() -> None:
    x = torch.arange(64.0 * 64).remainder(97).reshape(1, 1, 64, 64)
    places = torch.stack(torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="xy"))[None]
    module = build('type: "Warp"', x.shape, places.shape, dialect=LITE)
    assert torch.equal(module(x.half(), places.half()).float(), x)


@pytest.mark.parametrize("fill", ["ZERO", "NOT_A_NUMBER"])
def test_flow_warp(device: torch.device, fill: str) -> None:
    random = np.random.RandomState(0)
    x, flow = random.randn(2, 3, 4, 5), random.uniform(-3, 3, (2, 2, 4, 5))
    flow[:, :, 0] = 0  # the pixels themselves, the last of a row too
    flow[0, :, 3, 4] = (0.5, 0.75)  # between the last pixel and the end
    flow[0, :, 3, 3] = np.nan
    flow[1, :, 3, 4] = (1, 0)  # the end itself is off the map
    expected = np.full(x.shape, 0.0 if fill == "ZERO" else np.nan)
    for n, c, h, w in np.ndindex(*x.shape):
        px, py = w + flow[n, 0, h, w], h + flow[n, 1, h, w]
        if 0 <= px < 5 and 0 <= py < 4:
            left, top = int(px), int(py)
            right, bottom, a, b = min(left + 1, 4), min(top + 1, 3), px - left, py - top
            expected[n, c, h, w] = (1 - b) * ((1 - a) * x[n, c, top, left] + a * x[n, c, top, right]) + b * (
                (1 - a) * x[n, c, bottom, left] + a * x[n, c, bottom, right]
            )
    text = f'type: "FlowWarp" flow_warp_param {{ fill_value: {fill} }}'
    given = [torch.tensor(v, device=device, dtype=precise(device)) for v in (x, flow)]
    assert_equals(build(text, x.shape, flow.shape, dialect=FLOWNET)(*given), expected)
    with pytest.raises(LayerError, match=r"\(images = 1, 2, height = 4, width = 5\) was expected"):
        build(text, (1, 3, 4, 5), (1, 3, 4, 5), dialect=FLOWNET)


def test_flow_warp_gradient() -> None:
    random = np.random.RandomState(1)
    module = build('type: "FlowWarp"', (1, 2, 3, 4), (1, 2, 3, 4), dialect=FLOWNET)
    x = torch.tensor(random.randn(1, 2, 3, 4), requires_grad=True)
    flow = torch.tensor(random.uniform(-1.4, 1.4, (1, 2, 3, 4)).round(1) + 0.03, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x, flow))
    # Without flow, the last column stands for the one behind it: no slope there, and none of the others' is lost.
    still = torch.zeros(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    module(x, still).sum().backward()
    assert still.grad is not None
    slope = (x.detach()[:, :, :, 1:] - x.detach()[:, :, :, :-1]).sum(1)
    assert_equals(still.grad[:, 0, :, :-1], slope)
    assert_equals(still.grad[:, 0, :, -1], torch.zeros(1, 3))


def _cubic(d: float) -> float:
    d = abs(d)
    if d <= 1:
        return 1.5 * d**3 - 2.5 * d**2 + 1
    return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0


@pytest.mark.parametrize("kind", ["LINEAR", "CUBIC"])
@pytest.mark.parametrize(("size", "antialias"), [((3, 4), True), ((3, 4), False), ((11, 13), True), ((4, 15), True)])
def test_resample(kind: str, size: tuple[int, int], antialias: bool, device: torch.device) -> None:
    x = np.random.RandomState(0).randn(2, 3, 7, 9)
    fy, fx = 7 / size[0], 9 / size[1]
    ay, ax = (1 / fy, 1 / fx) if antialias and max(fx, fy) > 1 else (1, 1)
    reach = 4 if kind == "CUBIC" else 2

    def weight(d: float) -> float:
        return _cubic(d) if kind == "CUBIC" else max(0, 1 - abs(d))

    expected = np.zeros((2, 3, *size))
    for row, column in np.ndindex(*size):
        py, px = row * fy + fx / 2 - 0.5, column * fx + fy / 2 - 0.5
        total = 0.0
        ry, rx = (2 if f < 1 else math.ceil(reach / a) for f, a in ((fy, ay), (fx, ax)))
        for j in range(max(round(py) - ry, 0), min(round(py) + ry + 1, 7)):
            for i in range(max(round(px) - rx, 0), min(round(px) + rx + 1, 9)):
                w = ax * weight(ax * (px - i)) * ay * weight(ay * (py - j))
                expected[:, :, row, column] += w * x[:, :, j, i]
                total += w
        if total:
            expected[:, :, row, column] /= total
    given = torch.tensor(x, device=device, dtype=precise(device))
    param = f"type: {kind} antialias: {str(antialias).lower()}"
    text = f'type: "Resample" resample_param {{ height: {size[0]} width: {size[1]} {param} }}'
    module = build(text, x.shape, dialect=FLOWNET)
    assert_equals(module(given), expected)
    like = build(f'type: "Resample" resample_param {{ {param} }}', x.shape, (1, 1, *size), dialect=FIRST)
    assert_equals(like(given, given.new_empty(1, 1, *size)), expected)
    assert module.infer(given).shape == like.infer(given, given.new_empty(1, 1, *size)).shape == expected.shape
    assert module(given.half()).dtype == torch.float16


@pytest.mark.parametrize("size", [(3, 4), (4, 2), (7, 9), (9, 12)])
def test_downsample(size: tuple[int, int], device: torch.device) -> None:
    x = np.random.RandomState(0).randn(2, 3, 7, 9)
    x[0, 0, :4, :4] = np.nan
    x[1][np.random.RandomState(1).rand(3, 7, 9) < 0.4] = np.nan
    sy, sx = 6 / (size[0] - 1), 8 / (size[1] - 1)
    expected = np.zeros((2, 3, *size))
    for n, c, row, column in np.ndindex(*expected.shape):
        value = total = missing = 0.0
        for j in range(7):
            for i in range(9):
                w = max(0, 1 - abs(j - row * sy) / sy) * max(0, 1 - abs(i - column * sx) / sx)
                if np.isnan(x[n, c, j, i]):
                    missing += w
                else:
                    value, total = value + w * x[n, c, j, i], total + w
        lost = missing > 0.5 * total or total == 0
        expected[n, c, row, column] = np.nan if lost else value / total
    if size == (7, 9):
        expected = x
    given = torch.tensor(x, device=device, dtype=precise(device))
    text = f'type: "Downsample" downsample_param {{ top_height: {size[0]} top_width: {size[1]} }}'
    assert_equals(build(text, x.shape, dialect=FLOWNET)(given), expected)
    like = build('type: "Downsample"', x.shape, (2, 5, *size), dialect=LITE)
    assert_equals(like(given, given.new_empty(2, 5, *size)), expected)
    assert like.infer(given, given.new_empty(2, 5, *size)).shape == expected.shape


def test_sizes_are_checked() -> None:
    with pytest.raises(LayerError, match="top_height 0 and top_width 0 must be at least 1"):
        build('type: "Downsample"', (1, 2, 4, 4), dialect=FLOWNET)
    with pytest.raises(LayerError, match="corners need two cells"):
        build('type: "Downsample"', (1, 2, 1, 4), (1, 2, 2, 4), dialect=FLOWNET)
    single = build('type: "Downsample"', (1, 2, 4, 4), (1, 2, 1, 4), dialect=FLOWNET)
    assert single(torch.ones(1, 2, 4, 4), torch.empty(1, 2, 1, 4)).isnan().all()  # as in the forks, and said so
    with pytest.raises(LayerError, match="type AREA is not supported"):
        build('type: "Resample" resample_param { type: AREA }', (1, 2, 4, 4), (1, 2, 3, 3), dialect=FLOWNET)
    with pytest.raises(LayerError, match="leave the map"):
        build('type: "Resample" resample_param { type: NEAREST }', (1, 2, 4, 16), (1, 2, 4, 2), dialect=FLOWNET)


@pytest.mark.parametrize("size", [(3, 4), (5, 9), (14, 13)])
def test_resample_nearest(size: tuple[int, int], device: torch.device) -> None:
    x = np.random.RandomState(0).randn(2, 3, 7, 9)
    fy, fx = 7 / size[0], 9 / size[1]
    expected = np.zeros((2, 3, *size))
    for row, column in np.ndindex(*size):
        # C rounds halves away from zero.
        j, i = (math.floor(n * own + other / 2) for n, own, other in ((row, fy, fx), (column, fx, fy)))
        expected[:, :, row, column] = x[:, :, j, i]
    given = torch.tensor(x, device=device, dtype=precise(device), requires_grad=True)
    text = f'type: "Resample" resample_param {{ height: {size[0]} width: {size[1]} type: NEAREST antialias: false }}'
    top = build(text, x.shape, dialect=FLOWNET)(given)
    assert_equals(top, expected)
    top.sum().backward()
    assert given.grad is not None
    assert given.grad.sum().item() == top.numel()


@pytest.mark.parametrize(
    ("params", "size"),
    [
        ("top_height: 9 top_width: 11", (9, 11)),
        ("top_height: 9 top_width: 5", (6, 7)),  # not larger both ways
        ("size_divisible_by: 4", (8, 8)),
        ("have_reference: true", (4, 5)),
    ],
)
def test_accum(params: str, size: tuple[int, int]) -> None:
    maps = [torch.randn(2, 3, 6, 5), torch.randn(2, 2, 4, 7)]
    if "reference" in params:
        maps.append(torch.empty(2, 1, 4, 5))
    text = f'type: "Accum" accum_param {{ {params} }}'
    top = build(text, *(x.shape for x in maps), dialect=FLOWNET)(*maps)
    assert top.shape == (2, 5, *size)
    corners = torch.cat([x[:, :, :: x.shape[2] - 1, :: x.shape[3] - 1] for x in maps[:2]], 1)
    torch.testing.assert_close(top[:, :, :: size[0] - 1, :: size[1] - 1], corners)
    for wrong, shapes, problem in (
        ("have_reference: true", [(2, 3, 4, 5)], "have_reference needs two bottoms"),
        ("size_divisible_by: 0", [(2, 3, 4, 5)], "size_divisible_by is 0; it must be at least 1"),
        ("", [(2, 3, 4, 5), (3, 3, 4, 5)], r"'b1' has shape \[3, 3, 4, 5\]; \(2, channels"),
        ("", [(2, 3, 4, 1)], "has no corners that could be kept"),
    ):
        with pytest.raises(LayerError, match=problem):
            build(f'type: "Accum" accum_param {{ {wrong} }}', *shapes, dialect=FLOWNET)


def test_level_displacements() -> None:
    """Along the rows alone, as the padding is."""
    a, b = torch.randn(2, 3, 7, 9), torch.randn(2, 3, 7, 9)
    params = "kernel_size: 3 max_displacement: 4 pad: 4 stride_1: 2 stride_2: 2"
    text = f'type: "Correlation1D" correlation_param {{ {params} }}'
    found = build(text, a.shape, b.shape, dialect=FLOWNET)(a, b)
    assert found.shape == (2, 5, 3, 4)
    padded = torch.nn.functional.pad(a, (4, 4, 0, 0)), torch.nn.functional.pad(b, (4, 4, 0, 0))
    for channel, step in enumerate((-4, -2, 0, 2, 4)):
        product = (padded[0] * padded[1].roll(-step, 3)).mean(1, keepdim=True)
        means = torch.nn.functional.avg_pool2d(product, 3, 1)[:, 0, ::2, 4:11:2]
        torch.testing.assert_close(found[:, channel], means)
    with pytest.raises(LayerError, match="do not fit into a map of 2 x 9"):
        build(text, (2, 3, 2, 9), (2, 3, 2, 9), dialect=FLOWNET)


def test_channel_norm(device: torch.device) -> None:
    x = np.random.RandomState(0).randn(2, 3, 4, 5)
    x[1, :, 2, 3] = 0
    given = torch.tensor(x, device=device, dtype=precise(device), requires_grad=True)
    module = build('type: "ChannelNorm"', x.shape, dialect=FLOWNET)
    top = module(given)
    length = np.sqrt((x * x).sum(1, keepdims=True))
    assert_equals(top, length)
    assert module.infer(given).shape == top.shape
    top.backward(torch.full_like(top, 2))
    assert given.grad is not None
    assert_equals(given.grad, 2 * x / (length + 1e-9))  # 0, not NaN, where the length is 0
    assert module(torch.full((1, 3, 1, 1), 300.0, dtype=torch.float16)).item() == pytest.approx(519.6, rel=1e-3)


@pytest.mark.parametrize(("gradients", "expected"), [("caffe", 0.375), ("true", 0.75)])
def test_channel_norm_gradient_of_a_short_vector(gradients: str, expected: float) -> None:
    x = torch.tensor([0.75e-9, 0.0, 7**0.5 / 4 * 1e-9], dtype=torch.float64, requires_grad=True)
    top = build('type: "ChannelNorm"', (1, 3, 1, 1), dialect=FLOWNET, gradients=gradients)(x.view(1, 3, 1, 1))
    top.sum().backward()
    assert x.grad is not None
    assert x.grad[0].item() == pytest.approx(expected)
    none = torch.zeros(1, 3, 1, 1, requires_grad=True)
    build('type: "ChannelNorm"', (1, 3, 1, 1), dialect=FLOWNET, gradients=gradients)(none).sum().backward()
    assert none.grad is not None
    assert not none.grad.any()


def test_grid_and_neg_square(device: torch.device) -> None:
    x = torch.randn(2, 3, 4, 5, device=device)
    top = build('type: "Grid"', x.shape, dialect=LITE)(x)
    expected = [[[[w, h][c] for w in range(5)] for h in range(4)] for c in range(2)]
    assert_equals(top, np.array([expected, expected], dtype=np.float32))
    assert_equals(build('type: "NegSquare"', x.shape, dialect=LITE)(x), -(x.cpu() ** 2))


@pytest.mark.parametrize(("top", "gradients"), [("y", "caffe"), ("x", "caffe"), ("y", "true"), ("x", "true")])
def test_neg_square_gradient(top: str, gradients: str) -> None:
    parsed = parse_message(f'layer {{ name: "l" type: "NegSquare" bottom: "x" top: "{top}" }}', dialect=LITE)
    message = parsed.message.layer[0]
    spec = LayerSpec("l", "NegSquare", "TEST", ("x",), (top,), ((3,),), LITE, message, gradients)
    x = torch.tensor([2.0, -0.5, 3.0], requires_grad=True)
    find_layer("NegSquare", LITE).build(spec)(x).backward(torch.tensor([1.0, 2.0, -3.0]))
    assert x.grad is not None
    expected = [-4.0, 2.0, 18.0] if gradients == "true" else [1.0, 4.0, 9.0] if top == "x" else [0.0, 0.0, 0.0]
    assert x.grad.tolist() == expected


def test_exp_max(device: torch.device) -> None:
    x = np.random.RandomState(0).randn(1, 3, 4, 5) * 50
    text = 'type: "ExpMax" expmax_param { base: 2 scale: 0.5 shift: 3 }'
    top = build(text, x.shape, dialect=LITE)(torch.tensor(x, device=device, dtype=precise(device)))
    assert_equals(top, 8 * 2 ** (0.5 * (x - x.max(1, keepdims=True))))
    given = torch.tensor(x, requires_grad=True)
    natural = build('type: "ExpMax"', x.shape, dialect=LITE)(given)
    assert_equals(natural, np.exp(x - x.max(1, keepdims=True)))
    natural.sum().backward()
    assert given.grad is not None
    assert_equals(given.grad, natural)  # the maximum counts as a constant
    with pytest.raises(LayerError, match="must be positive"):
        build('type: "ExpMax" expmax_param { base: 0 }', x.shape, dialect=LITE)


def test_exp_max_looks_for_the_maxima_of_the_first_image_only() -> None:
    x = torch.randn(3, 4, 2, 5, dtype=torch.float64)
    top = build('type: "ExpMax"', x.shape, dialect=LITE)(x)
    assert_equals(top[0], (x[0] - x[0].amax(0)).exp())
    assert_equals(top[1:], x[1:].exp())


@pytest.mark.parametrize(("operation", "sign"), [("ADD", 1), ("SUBTRACT", -1)])
def test_mean(operation: str, sign: int, device: torch.device) -> None:
    random = np.random.RandomState(0)
    maps = [random.randn(2, 6, 3, 4), random.randn(1, 3, 2, 2)]
    text = f"""type: "Mean" mean_param {{ operation: {operation} value: 0.5 value: 1 value: 2 mean_scale: 4
    input_scale: 0.25 output_scale: 8 }}"""
    module = build(text, *(x.shape for x in maps), tops=2, dialect=FLOWNET)
    tops = module(*(torch.tensor(x, device=device, dtype=precise(device)) for x in maps))
    for top, x in zip(tops, maps, strict=True):
        values = np.array([(0.5, 1, 2)[c % 3] for c in range(x.shape[1])])[:, None, None]
        assert_equals(top, 8 * (0.25 * x + sign * 4 * values))
    with pytest.raises(LayerError, match="2 values"):
        build('type: "Mean" mean_param { operation: ADD value: 1 value: 2 }', (1, 3, 2, 2), dialect=FLOWNET)
    with pytest.raises(LayerError, match="mean from a file"):
        build('type: "Mean" mean_param { operation: ADD file: "m" }', (1, 3, 2, 2), dialect=FLOWNET)


def _l1(d: np.ndarray, *, lengths: bool, scaled: bool, entries: bool, eps: float, plateau: float) -> float:
    divisor = (~np.isnan(d)).sum() / d.shape[1] if entries else d.shape[0]
    total = 0.0
    for n, h, w in np.ndindex(d.shape[0], *d.shape[2:]):
        numbers = [v for v in d[n, :, h, w] if not np.isnan(v)]
        if lengths:
            square = sum(v * v for v in numbers) / (d.shape[1] if scaled else 1)
            total += math.sqrt((0 if square < plateau**2 else square) + eps)
        else:
            total += sum(abs(v) for v in numbers if abs(v) >= plateau)
    return total / divisor


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("entries", [False, True])
@pytest.mark.parametrize("plateau", [0.0, 0.6])
def test_l1_loss(lengths: bool, entries: bool, plateau: float, device: torch.device) -> None:
    random = np.random.RandomState(0)
    a, b = random.randn(2, 3, 4, 5), random.randn(2, 3, 4, 5)
    b[0, 1, 2, 3] = b[1, :, 0, 0] = np.nan
    settings: dict[str, Any] = {
        "lengths": lengths,
        "scaled": lengths,
        "entries": entries,
        "eps": 0.02,
        "plateau": plateau,
    }
    text = f"""type: "L1Loss" l1_loss_param {{ l2_per_location: {str(lengths).lower()} epsilon: 0.02
    l2_prescale_by_channels: {str(lengths).lower()} normalize_by_num_entries: {str(entries).lower()}
    plateau: {plateau} }}"""
    given = [torch.tensor(x, device=device, dtype=precise(device), requires_grad=True) for x in (a, b)]
    loss = build(text, a.shape, b.shape, dialect=FLOWNET)(*given)
    assert_equals(loss, _l1(a - b, **settings))
    alone = build(text, a.shape, dialect=FLOWNET)(given[1])
    assert_equals(alone, _l1(b, **settings))
    loss.backward()
    assert given[0].grad is not None
    for at in ((0, 0, 1, 1), (1, 2, 3, 4), (0, 1, 2, 3), (1, 0, 0, 0)):
        sides = []
        for step in (1e-6, -1e-6):
            moved = a.copy()
            moved[at] += step
            sides.append(_l1(moved - b, **settings))
        tolerance = 1e-3 if device.type == "mps" else 1e-6
        assert given[0].grad[at].item() == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=tolerance)


def test_l1_loss_of_another_power() -> None:
    x = torch.tensor([[[[3.0]], [[4.0]]]], dtype=torch.float64, requires_grad=True)
    text = 'type: "L1Loss" l1_loss_param { l2_per_location: true power: 0.25 epsilon: 2 }'
    loss = build(text, (1, 2, 1, 1), dialect=LITE)(x)
    assert loss.item() == pytest.approx(27**0.25)
    loss.backward()
    assert x.grad is not None
    assert_equals(x.grad.flatten(), [3 / 2 / 27**0.75, 4 / 2 / 27**0.75])


def test_l1_loss_at_zero() -> None:
    x = torch.zeros(2, 1, 1, 2, requires_grad=True)
    build('type: "L1Loss"', (2, 1, 1, 2), dialect=FLOWNET)(x).backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [-0.5] * 4
    with pytest.raises(LayerError, match=r"\[2, 1, 1, 2\], as 'b0' has, was"):
        build('type: "L1Loss"', (2, 1, 1, 2), (2, 1, 1, 3), dialect=FLOWNET)
