"""SmoothL1Loss as each group of forks has it, against slow definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.network.net import CaffeNet
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.schema.upgrade import upgrade_net
from tests.layers.building import assert_equals, build, precise

FAST, FASTER = "rbgirshick/caffe-fast-rcnn@fast-rcnn", "rbgirshick/caffe-fast-rcnn@fast-rcnn-cleanup"
RFCN, CASCADE, REN = "daijifeng001/caffe-rfcn", "zhaoweicai/cascade-rcnn", "ShaoqingRen/caffe"
WINDOWS, DEEPCUT, YUQJ = "happynear/caffe-windows", "eldar/deepcut-cnn", "yuqj1991/caffe_train"
SYNOPSYS = "foss-for-synopsys-dwc-arc-processors/synopsys-caffe"
SHAPE = (3, 4, 2, 5)
COUNT, POSITIONS = 3, 30


def _f(d: float, sigma: float = 1.0) -> float:
    return 0.5 * sigma**2 * d * d if abs(d) < 1 / sigma**2 else abs(d) - 0.5 / sigma**2


def _slope(d: float, sigma: float = 1.0) -> float:
    return sigma**2 * d if abs(d) < 1 / sigma**2 else math.copysign(1, d)


def _inputs(seed: int, count: int) -> list[np.ndarray]:
    random = np.random.RandomState(seed)
    weights = [random.uniform(0, 2, SHAPE), random.uniform(0, 2, SHAPE)]
    return [random.randn(*SHAPE) * 2, random.randn(*SHAPE), *weights][:count]


def _check(
    text: str,
    dialect: str,
    arrays: list[np.ndarray],
    loss: float,
    slopes: np.ndarray,
    *,
    gradients: str = "caffe",
    device: str | torch.device = "cpu",
) -> None:
    """The top, and twice the gradient of the first two bottoms."""
    module = build(f'type: "SmoothL1Loss" {text}', *(a.shape for a in arrays), gradients=gradients, dialect=dialect)
    dtype = precise(torch.device(device))
    given = [torch.tensor(v, dtype=dtype, device=device, requires_grad=i < 2) for i, v in enumerate(arrays)]
    top = module(*given)
    (2 * top).backward()
    assert_equals(top, loss)
    assert_equals(given[0].grad, 2 * slopes)
    assert_equals(given[1].grad, -2 * slopes)


def _each(function: Callable[[float], float], values: np.ndarray) -> np.ndarray:
    return np.array([function(float(v)) for v in values.flat]).reshape(values.shape)


@pytest.mark.parametrize("gradients", ["caffe", "true"])
@pytest.mark.parametrize("bottoms", [2, 3])
def test_plain(device: torch.device, bottoms: int, gradients: str) -> None:
    a, b, *weights = arrays = _inputs(0, bottoms)
    inside = weights[0] if weights else np.ones(SHAPE)
    d = inside * (a - b)
    slopes = _each(_slope, d) / COUNT
    if gradients == "true":
        slopes = slopes * inside
    _check("", FAST, arrays, _each(_f, d).sum() / COUNT, slopes, gradients=gradients, device=device)


@pytest.mark.parametrize("bottoms", [2, 4])
@pytest.mark.parametrize("dialect", [FASTER, CASCADE, "intel/caffe"])
def test_faster(device: torch.device, dialect: str, bottoms: int) -> None:
    a, b, *weights = arrays = _inputs(1, bottoms)
    inside, outside = weights or [np.ones(SHAPE)] * 2
    d = inside * (a - b)
    loss = (outside * _each(lambda v: _f(v, 3), d)).sum() / COUNT
    slopes = outside * inside * _each(lambda v: _slope(v, 3), d) / COUNT
    _check("smooth_l1_loss_param { sigma: 3 }", dialect, arrays, loss, slopes, device=device)


def test_intel_divides_by_nothing_on_request() -> None:
    a, b = arrays = _inputs(2, 2)
    text = "smooth_l1_loss_param { sigma: 2 } loss_param { normalization: %s }"
    for mode, count in (("NONE", 1), ("FULL", COUNT)):
        loss, slopes = (_each(partial(f, sigma=2), a - b) / count for f in (_f, _slope))
        _check(text % mode, "intel/caffe", arrays, loss.sum(), slopes)


def test_cascade_knows_no_boxes_and_gives_the_loss_of_each() -> None:
    a, b = _inputs(3, 2)
    module = build('type: "SmoothL1Loss"', (3, 4), (3, 4), tops=2, dialect=CASCADE)
    boxes = torch.tensor(a[..., 0, 0]), torch.tensor(b[..., 0, 0])
    loss, each = module(*boxes)
    expected = _each(_f, (a - b)[..., 0, 0])
    assert_equals(loss, expected.sum() / COUNT)
    assert_equals(each, expected.sum(1).reshape(3, 1, 1, 1))
    assert [tuple(top.shape) for top in module.infer(*boxes)] == [(), (3, 1, 1, 1)]
    assert_equals(module(*(box[:0] for box in boxes))[0], 0.0)


MODES = [
    ("", POSITIONS),
    ("loss_param { normalization: FULL }", POSITIONS),
    ("loss_param { normalize: false }", COUNT),
    ("loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 7 }", 7),
    ("loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 0.5 }", 1),
    ("loss_param { normalization: NONE }", 1),
]


@pytest.mark.parametrize(("param", "count"), MODES)
def test_ohem(param: str, count: float) -> None:
    a, b, inside = _inputs(4, 3)
    errors = _each(_f, inside * (a - b))
    module = build(f'type: "SmoothL1LossOHEM" {param}', *[SHAPE] * 3, tops=2, dialect="intel/caffe")
    loss, each = module(*map(torch.tensor, (a, b, inside)))
    assert_equals(loss, errors.sum() / count)
    assert_equals(each, errors.sum(1, keepdims=True))


@pytest.mark.parametrize(("param", "count"), MODES)
def test_rfcn(param: str, count: float) -> None:
    a, b, inside = arrays = _inputs(5, 3)
    d = inside * (a - b)
    _check(param, RFCN, arrays, _each(_f, d).sum() / count, _each(_slope, d) / count)


def test_the_number_of_boxes_is_that_of_the_pass() -> None:
    a, b = _inputs(6, 2)
    module = build('type: "SmoothL1Loss"', SHAPE, SHAPE, dialect=RFCN)
    assert_equals(module(torch.tensor(a[:2]), torch.tensor(b[:2])), _each(_f, (a - b)[:2]).sum() / 20)


def test_ren_divides_by_positions() -> None:
    a, b, inside = arrays = _inputs(7, 3)
    d = inside * (a - b)
    _check("", REN, arrays, _each(_f, d).sum() / POSITIONS, _each(_slope, d) / POSITIONS)


def test_windows_turns_where_it_is_told() -> None:
    a, b, inside = arrays = _inputs(8, 3)
    d = inside * (a - b)
    loss = _each(lambda v: 0.5 * v * v if abs(v) < 0.5 else abs(v) - 0.5 + 0.125, d).sum() / COUNT
    slopes = _each(lambda v: v if abs(v) < 0.5 else math.copysign(1, v), d) / COUNT
    _check("smoothl1_param { turn_point: 0.5 }", WINDOWS, arrays, loss, slopes)


@pytest.mark.parametrize("many", [0.5, 5])
def test_deepcut_divides_by_the_weights(many: float) -> None:
    a, b, inside = _inputs(9, 3)
    inside = inside * many  # the sum lies below and above the 100 that the gradient is divided by at least
    d, total = inside * (a - b), math.trunc(inside.sum())
    assert (total < 100) == (many < 1)
    loss = _each(_f, d).sum() / total
    _check("", DEEPCUT, [a, b, inside], loss, _each(_slope, d) / max(total, 100))
    _check("", DEEPCUT, [a, b, inside], loss, inside * _each(_slope, d) / total, gradients="true")
    nothing = np.zeros(SHAPE)
    _check("", DEEPCUT, [a, b, nothing], 0.0, nothing)


def test_yuqj_weighs_outside() -> None:
    a, b, outside = arrays = _inputs(10, 3)
    d = a - b
    _check("", YUQJ, arrays, (outside * _each(_f, d)).sum() / COUNT, outside * _each(_slope, d) / COUNT)


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("bottoms", [2, 3, 4])
def test_synopsys(bottoms: int, absolute: bool) -> None:
    a, b, *weights = _inputs(11, bottoms)
    if bottoms == 4:
        weights[1] = weights[1] - 1
    inside = weights[0] if weights else np.ones(SHAPE)
    outside = weights[1] if bottoms == 4 else np.ones(SHAPE)
    d = inside * (a - b)
    errors = outside * _each(lambda v: _f(v, 2), d)
    slopes = outside * _each(lambda v: _slope(v, 2), d) / COUNT
    text = f"smooth_l1_loss_param {{ sigma: 2 abssum: {str(absolute).lower()} }}"
    loss = (abs(errors) if absolute else errors).sum() / COUNT
    _check(text, SYNOPSYS, [a, b, *weights], loss, slopes if absolute else slopes * inside)


@pytest.mark.parametrize("dialect", ["jolibrain/caffe", FASTER])
def test_forks_whose_cpu_code_lacks_the_outside_weights_are_named(dialect: str) -> None:
    text = 'layer { name: "l" type: "SmoothL1Loss" ' + " ".join(f'bottom: "b{i}"' for i in range(4)) + ' top: "t" }'
    inputs = " ".join(f'input: "b{i}" input_shape {{ dim: 3 dim: 4 }}' for i in range(4))
    parsed = parse_message(f"{inputs} {text}", dialect=dialect)
    net = CaffeNet(upgrade_net(parsed.message, parsed.schema).message, dialect=parsed.schema.name)
    said = ["layer 'l' (SmoothL1Loss): these are the numbers of jolibrain/caffe on a GPU; its CPU code leaves the "]
    assert [w.split("outside")[0] for w in net.warnings] == (said if dialect == "jolibrain/caffe" else [])


def test_refusals() -> None:
    with pytest.raises(LayerError, match="as 'b0' has, was"):
        build('type: "SmoothL1Loss"', SHAPE, (3, 4, 5, 2), dialect=FAST)
    with pytest.raises(LayerError, match="one bottom of weights"):
        build('type: "SmoothL1Loss" smooth_l1_loss_param { sigma: 2 }', *[SHAPE] * 3, dialect=FASTER)
    for dialect in (FASTER, SYNOPSYS):
        with pytest.raises(LayerError, match="sigma is 0"):
            build('type: "SmoothL1Loss" smooth_l1_loss_param { sigma: 0 }', *[SHAPE] * 2, dialect=dialect)
