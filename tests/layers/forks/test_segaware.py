"""Distances within windows, their parity and their loss (aharley/segaware) against loops over pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from caffe_compat.errors import CaffeCompatError, LayerError
from tests.layers.building import assert_equals, build, give_values

FORK = "aharley/segaware"
FAR = np.float32(3.4028234663852886e38) / 100
SHAPE = (2, 3, 7, 6)
WINDOW = "convolution_param { kernel_h: 3 kernel_w: 2 pad_h: 3 pad_w: 1 stride: 2 stride: 1 dilation: 2 dilation: 1 "
KERNEL, PAD, STRIDE, DILATION = (3, 2), (3, 1), (2, 1), (2, 1)
UNUSED = "axis: 1 num_output: 3 bias_term: true"
X = np.random.RandomState(3).randint(-3, 4, SHAPE).astype(np.float64)


def places() -> Iterator[tuple[int, tuple[int, int], tuple[int, int], tuple[int, int]]]:
    """Pixel of the window, position, pixel of the image, middle of the window."""
    size = [(SHAPE[2 + i] + 2 * PAD[i] - DILATION[i] * (KERNEL[i] - 1) - 1) // STRIDE[i] + 1 for i in (0, 1)]
    for i, j, h, w in np.ndindex(*KERNEL, *size):
        at = [(h, w)[a] * STRIDE[a] - PAD[a] + (i, j)[a] * DILATION[a] for a in (0, 1)]
        middle = [(h, w)[a] * STRIDE[a] - PAD[a] + KERNEL[a] // 2 * DILATION[a] for a in (0, 1)]
        yield i * KERNEL[1] + j, (h, w), (at[0], at[1]), (middle[0], middle[1])


def is_inside(pixel: tuple[int, int]) -> bool:
    return 0 <= pixel[0] < SHAPE[2] and 0 <= pixel[1] < SHAPE[3]


def test_places_are_of_every_kind() -> None:
    kinds = {(is_inside(pixel), is_inside(middle)) for _, _, pixel, middle in places()}
    assert len(kinds) == 4


@pytest.mark.parametrize("norm", ["L1", "L2"])
@pytest.mark.parametrize("middle_far", [False, True])
@pytest.mark.parametrize("outside_far", [False, True])
@pytest.mark.parametrize("gradients", ["caffe", "true"])
def test_distances(norm: str, middle_far: bool, outside_far: bool, gradients: str) -> None:
    own = f"norm: {norm} remove_center: {middle_far} remove_bounds: {outside_far}".lower().replace("norm: l", "norm: L")
    text = f'type: "Im2dist" {WINDOW} {UNUSED} }} im2dist_param {{ {own} }}'
    x = torch.tensor(X, requires_grad=True)
    found = build(text, SHAPE, dialect=FORK, gradients=gradients)(x)
    slope = np.random.RandomState(4).randn(*found.shape)
    expected, gradient = np.zeros(found.shape), np.zeros(SHAPE)
    for k, to, pixel, middle in places():
        if not is_inside(middle):
            continue
        if pixel == middle:
            expected[:, k, to[0], to[1]] = FAR * middle_far
            continue
        apart = np.zeros(SHAPE[:2])
        if is_inside(pixel):
            apart = X[:, :, middle[0], middle[1]] - X[:, :, pixel[0], pixel[1]]
            expected[:, k, to[0], to[1]] = (apart**2 / 2 if norm == "L2" else abs(apart)).sum(1)
        else:
            expected[:, k, to[0], to[1]] = FAR * outside_far
        turn = apart if norm == "L2" else np.where(apart > 0, 1, -1) if gradients == "caffe" else np.sign(apart)
        moved = turn * slope[:, k, to[0], to[1], None]
        gradient[:, :, middle[0], middle[1]] += moved
        if is_inside(pixel):
            gradient[:, :, pixel[0], pixel[1]] -= moved
    assert_equals(found, expected)
    found.backward(torch.tensor(slope))
    assert_equals(x.grad, gradient)


def test_parity() -> None:
    text = f'type: "Im2parity" {WINDOW} }} im2parity_param {{ ignore_label: 2 }}'
    found = build(text, SHAPE, dialect=FORK)(torch.tensor(X + 0.25 * np.sign(X)))
    expected = np.full(found.shape, np.nan)
    for k, to, pixel, middle in places():
        here = X[:, -1, pixel[0], pixel[1]] if is_inside(pixel) else np.zeros(2)
        at_middle = X[:, -1, middle[0], middle[1]] if is_inside(middle) else np.full(2, 2.0)
        ignored = (here == 2) | (at_middle == 2)
        expected[:, k, to[0], to[1]] = np.where(ignored, 2, here == at_middle)
    assert_equals(found, expected)
    assert {0, 1, 2} == set(found.unique().tolist())


def test_parity_without_a_label_to_be_ignored() -> None:
    with pytest.raises(LayerError, match="needs an ignore_label"):
        build(f'type: "Im2parity" {WINDOW} }}', SHAPE, dialect=FORK)
    found = build('type: "Im2parity" convolution_param { kernel_size: 3 pad: 1 }', (1, 1, 2, 2), dialect=FORK)(
        torch.tensor([[[[0.0, 1], [1, 1]]]])
    )
    assert_equals(found[0, :, 0, 0], [1, 1, 1, 1, 1, 0, 1, 0, 0])
    for pad in (0, 2):
        text = f'type: "Im2parity" convolution_param {{ kernel_size: 2 pad: {pad} }}'
        if pad:
            with pytest.raises(LayerError, match="needs an ignore_label"):
                build(text, (1, 1, 4, 4), dialect=FORK)
        else:
            build(text, (1, 1, 4, 4), dialect=FORK)


LOSS = (
    'type: "DistLoss" loss_weight: 3 dist_loss_param { alpha: 0.5 beta: 1.5 %s } convolution_param { kernel_size: 3 }'
)


@pytest.mark.parametrize("ignore", ["", "ignore_label: 2"])
def test_loss(ignore: str) -> None:
    random = np.random.RandomState(5)
    shape = (2, 3, 4, 5)
    values, parity = random.uniform(0, 2, shape), random.randint(0, 3, shape) + 0.5
    beyond = np.where(parity >= 1, np.maximum(values - 0.5, 0), np.maximum(1.5 - values, 0))
    if ignore:
        beyond[parity >= 2] = 0
    signs = np.where(parity >= 1, 1, -1)
    for gradients, slope in (("caffe", beyond * signs), ("true", (beyond > 0) * signs * 7)):
        x = torch.tensor(values, requires_grad=True)
        loss = build(LOSS % ignore, shape, shape, phase="TRAIN", dialect=FORK, gradients=gradients)(
            x, torch.tensor(parity)
        )
        assert_equals(loss, beyond.mean())
        (loss * 7).backward()
        assert_equals(x.grad, slope / beyond.size)


def test_errors() -> None:
    for text, shapes, message in (
        (f'type: "Im2dist" {WINDOW} }}', [(2, 3, 7)], r"\(images, channels, height, width\)"),
        ('type: "Im2dist" convolution_param { kernel_size: 3 }', [(2, 3, 7)], r"\(images, channels, height, width\)"),
        ('type: "Im2dist" convolution_param { kernel_size: 9 }', [SHAPE], "does not fit"),
        ('type: "Im2dist" convolution_param { kernel_size: 3 axis: 0 }', [SHAPE], "axis 0 is not supported"),
        (LOSS.replace("beta: 1.5", "beta: 0.25") % "", [SHAPE, SHAPE], "alpha 0.5 and beta 0.25 must be above 0"),
        (LOSS % "", [SHAPE, (2, 3, 7, 5)], "was expected"),
    ):
        with pytest.raises(CaffeCompatError, match=message):
            build(text, *shapes, dialect=FORK)


@pytest.mark.parametrize("more", ["", "group: 2", "bias_term: false engine: CAFFE"])
def test_convolution_of_columns(more: str) -> None:
    own = f"num_output: 6 kernel_h: 3 kernel_w: 2 pad: 1 {more}"
    text = f'type: "Convolution" convolution_param {{ {own} %s }}'
    plain = give_values(build(text % "", (2, 4, 5, 7), dialect=FORK)).double()
    columns = build(f'type: "Im2col" convolution_param {{ {own} bottom_is_im2col: true }}', (2, 4, 5, 7), dialect=FORK)
    x = torch.randn(2, 4, 5, 7, dtype=torch.float64)
    made = columns(x)
    module = build(text % "bottom_is_im2col: true", made.shape, made.shape, tops=2, dialect=FORK)
    module.load_state_dict(plain.state_dict(), assign=True)
    assert_equals(module(made, -made)[0], plain(x))
    assert_equals(module(made, -made)[1], plain(-x))


def test_errors_of_columns() -> None:
    text = 'type: "Convolution" convolution_param { num_output: 6 bottom_is_im2col: true kernel_size: 3 %s }'
    for more, shape, message in (
        ("", (2, 17, 5, 7), "of which each has 9 rows"),
        ("group: 4", (2, 18, 5, 7), "group must divide num_output and channels"),
        ("axis: 2", (2, 18, 5, 7), "axis 2 is not supported beside bottom_is_im2col"),
        ("", (2, 18, 5), "images, channels, height, width"),
    ):
        with pytest.raises(CaffeCompatError, match=message):
            build(text % more, shape, dialect=FORK)
