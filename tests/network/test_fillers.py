from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import UsageError
from caffe_compat.network.fillers import check_filler, fill
from caffe_compat.schema.params import Params, unread_fields
from caffe_compat.schema.prototxt import parse_message

# Large enough that a mean and a spread tell two fillers apart, with every axis different.
SHAPE = (40, 25, 4, 3)


def filler(text: str, dialect: str | None = None) -> Params:
    parsed = parse_message(text, "FillerParameter", dialect)
    return Params(parsed.message, "weight_filler")


def filled(text: str, shape: tuple[int, ...] = SHAPE, device: torch.device | str = "cpu", seed: int = 0) -> np.ndarray:
    generator = torch.Generator(device).manual_seed(seed)
    tensor = torch.full(shape, float("nan"), device=device)
    assert fill(tensor, filler(text), generator) is tensor
    return tensor.cpu().numpy()


@pytest.mark.parametrize(
    ("text", "value"), [("value: 2", 2), ("type: 'constant'", 0), ("type: 'constant' value: -1.5", -1.5)]
)
def test_constant(text: str, value: float, device: torch.device) -> None:
    assert (filled(text, (2, 3), device) == value).all()


@pytest.mark.parametrize(("text", "low", "high"), [("", 0, 1), ("min: -3 max: 0", -3, 0), ("min: 2 max: 2", 2, 2)])
def test_uniform(text: str, low: float, high: float, device: torch.device) -> None:
    values = filled(f"type: 'uniform' {text}", device=device)
    assert values.min() >= low
    assert values.max() <= high
    assert values.min() == pytest.approx(low, abs=0.01)
    assert values.max() == pytest.approx(high, abs=0.01)


def test_gaussian(device: torch.device) -> None:
    values = filled("type: 'gaussian' mean: 3 std: 0.25", device=device)
    assert values.mean() == pytest.approx(3, abs=0.02)
    assert values.std() == pytest.approx(0.25, rel=0.05)


def test_sparse_gaussian_keeps_that_many_of_the_first_axis_on_average(device: torch.device) -> None:
    values = filled("type: 'gaussian' mean: 9 sparse: 4", device=device)
    assert np.count_nonzero(values) / values.size == pytest.approx(4 / SHAPE[0], rel=0.1)
    assert values[values != 0].mean() == pytest.approx(9, abs=0.2)
    assert not filled("type: 'gaussian' sparse: 0").any()


def test_positive_unitball(device: torch.device) -> None:
    values = filled("type: 'positive_unitball'", device=device)
    assert (values >= 0).all()
    np.testing.assert_allclose(values.reshape(SHAPE[0], -1).sum(1), 1, rtol=1e-5)
    assert (filled("type: 'positive_unitball'", (5,)) == 1).all()


FANS = [("", 300), ("variance_norm: FAN_IN", 300), ("variance_norm: FAN_OUT", 480), ("variance_norm: AVERAGE", 390)]


@pytest.mark.parametrize(("text", "fan"), FANS)
def test_xavier(text: str, fan: int, device: torch.device) -> None:
    values = filled(f"type: 'xavier' std: 0.1 {text}", device=device)
    assert abs(values).max() <= math.sqrt(3 / fan)
    assert abs(values).max() == pytest.approx(math.sqrt(3 / fan), rel=0.01)
    assert values.mean() == pytest.approx(0, abs=0.002)


@pytest.mark.parametrize(("text", "fan"), FANS)
def test_msra(text: str, fan: int, device: torch.device) -> None:
    values = filled(f"type: 'msra' {text}", device=device)
    assert values.std() == pytest.approx(math.sqrt(2 / fan), rel=0.04)
    assert values.mean() == pytest.approx(0, abs=0.003)


def test_fans_of_one_axis() -> None:
    # 1000 values: fan-in 1, fan-out 1000.
    assert abs(filled("type: 'xavier'", (1000,))).max() == pytest.approx(math.sqrt(3), rel=0.02)
    assert filled("type: 'msra' variance_norm: FAN_OUT", (1000,)).std() == pytest.approx(math.sqrt(2 / 1000), rel=0.1)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_bilinear(size: int, device: torch.device) -> None:
    values = filled("type: 'bilinear'", (3, 2, size, size), device)
    factor = -(-size // 2)
    centre = (size - 1) / (2 * factor)
    for y in range(size):
        for x in range(size):
            expected = (1 - abs(x / factor - centre)) * (1 - abs(y / factor - centre))
            np.testing.assert_allclose(values[:, :, y, x], expected, rtol=1e-6)


def test_bilinear_kernel_that_doubles() -> None:
    np.testing.assert_allclose(filled("type: 'bilinear'", (1, 1, 4, 4))[0, 0, 1], [0.1875, 0.5625, 0.5625, 0.1875])


@pytest.mark.parametrize("kind", ["gaussian", "gaussian_unitball", "msra", "positive_unitball", "uniform", "xavier"])
def test_draws_depend_on_the_generator_alone(kind: str) -> None:
    text = f"type: '{kind}'"
    torch.manual_seed(1)
    first = filled(text)
    torch.manual_seed(2)
    np.testing.assert_array_equal(filled(text), first)
    assert (filled(text, seed=1) != first).any()


@pytest.mark.parametrize("kind", ["constant", "gaussian", "msra", "positive_unitball", "uniform", "xavier", "bilinear"])
def test_no_values_other_precisions_and_the_message_itself(kind: str) -> None:
    message: Any = filler(f"type: '{kind}'").message
    assert fill(torch.empty(0, 3, 2, 2), message).shape == (0, 3, 2, 2)
    for dtype in (torch.float16, torch.float64):
        assert fill(torch.full((4, 3, 2, 2), float("nan"), dtype=dtype), message).isfinite().all()
    parameter = torch.nn.Parameter(torch.empty(4, 3, 2, 2))
    assert fill(parameter, message) is parameter
    assert parameter.grad_fn is None


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        (
            "type: 'normal'",
            (2, 3),
            "no filler type 'normal'; there are bilinear, constant, gaussian, gaussian_u",
        ),
        ("type: 'xavier' sparse: 3", (2, 3), "'xavier': sparse is 3; only gaussian takes it"),
        ("type: 'gaussian' sparse: -2", (2, 3), "sparse is -2"),
        ("type: 'gaussian' sparse: 3", (2, 3), r"sparse 3 exceeds the first axis of shape \[2, 3\]"),
        ("type: 'gaussian' std: 0", (2, 3), "std is 0; it must be positive"),
        ("type: 'uniform' min: 2 max: 1", (2, 3), "min 2 is greater than max 1"),
        ("type: 'bilinear'", (2, 3), r"4 axes and a square kernel, not shape \[2, 3\]"),
        ("type: 'bilinear'", (2, 3, 4, 5), "square kernel"),
        ("type: 'xavier'", (), "needs a first axis"),
        ("type: 'positive_unitball'", (), "needs a first axis"),
        ("type: 'gaussian_unitball'", (), "needs a first axis"),
    ],
)
def test_refuses(text: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fill(torch.empty(shape), filler(text))


def test_checking_counts_every_field_as_read() -> None:
    params = filler("type: 'xavier' value: 1 min: 2 max: 3 mean: 4 std: 5 sparse: -1 variance_norm: AVERAGE")
    assert list(unread_fields(params))
    check_filler(params)
    assert list(unread_fields(params)) == []


def test_a_field_of_a_fork_is_refused() -> None:
    forked = filler("type: 'gaussian' diag_val: 1", "liruoteng/FlowNet")
    with pytest.raises(UsageError, match="'gaussian': field diag_val is not supported"):
        check_filler(forked)
