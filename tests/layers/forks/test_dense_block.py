"""DenseBlock, against the same steps one by one in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build, give_values

FORK = "senlinuc/caffe_ocr"
SIZES = "numTransition: 3 growthRate: 2 initChannel: 9 moving_average_fraction: 0.3"
TEXT = f'type: "DenseBlock" denseblock_param {{ {SIZES} %s }}'
X = np.random.RandomState(1).uniform(-1, 1, (2, 3, 4, 5))


def values(module: Any, name: str) -> np.ndarray:
    found: np.ndarray = getattr(module, name).detach().numpy()
    return found


def normalised(module: Any, x: np.ndarray, name: str, step: int, *, batch: bool) -> np.ndarray:
    mean, variance = (values(module, f"{name}{blob}{step}") for blob in ("mean", "variance"))
    if batch:
        mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    y = (x - mean) / np.sqrt(variance + 1e-5)
    result: np.ndarray = values(module, f"{name}scale{step}") * y + values(module, f"{name}shift{step}")
    return np.maximum(result, 0)


def convolved(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    reach = kernel.shape[2] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    top = np.zeros((len(x), len(kernel), *x.shape[2:]))
    for i, j in np.ndindex(*kernel.shape[2:]):
        part = padded[:, :, i : i + x.shape[2], j : j + x.shape[3]]
        top += np.einsum("nchw,kc->nkhw", part, kernel[:, :, i, j])
    return top


def expected(module: Any, *, batch: bool, bottleneck: bool) -> np.ndarray:
    x = X
    for step in range(3):
        y = normalised(module, x, "", step, batch=batch)
        if bottleneck:
            y = convolved(y, values(module, f"narrow_filter{step}"))
            y = normalised(module, y, "narrow_", step, batch=batch)
        x = np.concatenate([x, convolved(y, values(module, f"filter{step}"))], 1)
    return x


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
def test_steps(phase: str, bottleneck: bool) -> None:
    text = TEXT % f"use_BC: {str(bottleneck).lower()}"
    module = give_values(build(text, X.shape, phase=phase, dialect=FORK)).double()
    module.count.zero_()
    batch = phase == "TRAIN"
    top = expected(module, batch=batch, bottleneck=bottleneck)
    before = {name: values(module, name).copy() for name in ("mean1", "variance1")}
    x = torch.tensor(X, requires_grad=True)
    assert_equals(module(x), top)
    assert top.shape == (2, 9, 4, 5)
    seen = top[:, :5]
    moved = (0.7 * before["mean1"] + 0.3 * seen.mean((0, 2, 3), keepdims=True)) if batch else before["mean1"]
    assert_equals(module.mean1, moved)
    spread = seen.var((0, 2, 3), ddof=1, keepdims=True)
    assert_equals(module.variance1, 0.7 * before["variance1"] + 0.3 * spread if batch else before["variance1"])
    if not batch:
        assert torch.autograd.gradcheck(module, (x,))


def test_blobs() -> None:
    plain = build(TEXT % "", X.shape, dialect=FORK)
    kinds = ("filter", "scale", "shift", "mean", "variance")
    names = [f"{kind}{step}" for kind in kinds for step in range(3)]
    assert list(plain.blob_names) == [*names, "count"]
    narrow = build(TEXT % "use_BC: true", X.shape, dialect=FORK)
    assert list(narrow.blob_names) == [*names, *(f"narrow_{name}" for name in names), "count"]
    assert [tuple(getattr(narrow, name).shape) for name in ("filter1", "narrow_filter1", "scale1", "narrow_mean2")] == [
        (2, 8, 3, 3),
        (8, 5, 1, 1),
        (1, 5, 1, 1),
        (1, 8, 1, 1),
    ]


def test_sums_with_their_count() -> None:
    module = give_values(build(TEXT % "", X.shape, dialect=FORK)).double()
    module.count.zero_()
    x = torch.tensor(X)
    top = module(x)
    for step in range(3):
        for name in ("mean", "variance"):
            getattr(module, f"{name}{step}").mul_(4)
    module.count.fill_(4)
    assert_equals(module(x), top.detach())


def test_errors() -> None:
    for more, phase, message in (
        ("filter_H: 5", "TEST", "filter_H is 5; the fork has 3"),
        ("use_dropout: true dropout_amount: 0.2", "TRAIN", "use_dropout"),
    ):
        with pytest.raises(LayerError, match=message):
            build(TEXT % more, X.shape, phase=phase, dialect=FORK)
    build(TEXT % "use_dropout: true dropout_amount: 0.2", X.shape, dialect=FORK)
    with pytest.raises(LayerError, match="growthRate 0"):
        build((TEXT % "").replace("growthRate: 2", "growthRate: 0"), X.shape, dialect=FORK)
