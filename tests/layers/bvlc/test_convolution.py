from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build, give_values, precise


def rand(*shape: int, seed: int = 9) -> np.ndarray:
    return np.random.RandomState(seed).uniform(-1, 1, shape)


def slow_convolution(x: Any, w: Any, b: Any, stride: Any, pad: Any, dilation: Any, group: int) -> np.ndarray:
    """Convolution of (N, C, spatial...) element by element; beyond the image and its padding there are zeros."""
    n, _, *size = x.shape
    outputs, per_group, *kernel = w.shape
    rooms = [s + 2 * p - d * (k - 1) - 1 for s, p, d, k in zip(size, pad, dilation, kernel, strict=True)]
    # int() rounds towards zero, as C does.
    counts = [int(r / s) + 1 for r, s in zip(rooms, stride, strict=True)]
    y = np.zeros((n, outputs, *counts))
    for image, o in itertools.product(range(n), range(outputs)):
        first = o // (outputs // group) * per_group
        for at in np.ndindex(*counts):
            total = b[o]
            for c, tap in itertools.product(range(per_group), np.ndindex(*kernel)):
                place = tuple(a * s - p + t * d for a, s, p, t, d in zip(at, stride, pad, tap, dilation, strict=True))
                if all(0 <= q < s for q, s in zip(place, size, strict=True)):
                    total += x[image, first + c][place] * w[o, c][tap]
            top: Any = (image, o, *at)
            y[top] = total
    return y


CASES = {
    "1d": ((2, 3, 9), "num_output: 4 kernel_size: 3 stride: 2", (2,), (0,), (1,), 1),
    "2d_lists": (
        (2, 4, 5, 6),
        "num_output: 6 kernel_size: 3 kernel_size: 2 stride: 2 stride: 1 pad: 1 pad: 0 dilation: 1 dilation: 2 "
        "group: 2",
        (2, 1),
        (1, 0),
        (1, 2),
        2,
    ),
    "2d_names": (
        (1, 2, 5, 7),
        "num_output: 3 kernel_h: 2 kernel_w: 3 stride_h: 1 stride_w: 2 pad_h: 0 pad_w: 2",
        (1, 2),
        (0, 2),
        (1, 1),
        1,
    ),
    "pad_h_alone": ((1, 2, 4, 5), "num_output: 3 kernel_size: 2 pad_h: 1", (1, 1), (1, 0), (1, 1), 1),
    "3d": (
        (1, 2, 3, 4, 5),
        "num_output: 3 kernel_size: 2 stride: 1 stride: 2 stride: 3",
        (1, 2, 3),
        (0,) * 3,
        (1,) * 3,
        1,
    ),
    "0d": ((5, 4), "num_output: 6 kernel_size: 3 group: 2", (), (), (), 2),
    "larger_than_image": ((2, 3, 2, 9), "num_output: 4 kernel_size: 4 stride: 3", (3, 3), (0, 0), (1, 1), 1),
}


@pytest.mark.parametrize("case", CASES)
def test_convolution(case: str, device: torch.device) -> None:
    shape, text, stride, pad, dilation, group = CASES[case]
    module = give_values(build(f'type: "Convolution" convolution_param {{ {text} }}', shape), device).to(
        precise(device)
    )
    x = rand(*shape)
    expected = slow_convolution(
        x, module.weight.detach().cpu().numpy(), module.bias.detach().cpu().numpy(), stride, pad, dilation, group
    )
    assert_equals(module(torch.tensor(x, dtype=precise(device), device=device)), expected)


@pytest.mark.parametrize("case", CASES)
def test_deconvolution_is_the_transpose(case: str, device: torch.device) -> None:
    # <convolution(x), y> = <x, deconvolution(y)> with the same weights.
    shape, text, stride, pad, dilation, group = CASES[case]
    if case in ("larger_than_image", "3d"):
        shape = (2, 3, 8, 11) if len(shape) == 4 else (1, 2, 3, 4, 5)
    outputs = int(text.split()[1])
    size = shape[2:]
    kernel = build(f'type: "Convolution" convolution_param {{ {text} }}', shape).geometry.kernel
    counts = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(size, pad, dilation, kernel, stride, strict=True)
    )
    back = text.replace(f"num_output: {outputs}", f"num_output: {shape[1]} bias_term: false")
    module = build(f'type: "Deconvolution" convolution_param {{ {back} }}', (shape[0], outputs, *counts))
    give_values(module, device).to(precise(device))
    y = torch.tensor(rand(shape[0], outputs, *counts), dtype=precise(device), device=device)
    x = module(y).detach()
    # What stride leaves over at the end is not reached by any window.
    assert x.shape[:2] == shape[:2]
    z = rand(*x.shape, seed=2)
    w = module.weight.detach().cpu().numpy()
    there = slow_convolution(z, w, np.zeros(outputs), stride, pad, dilation, group)
    np.testing.assert_allclose((z * x.cpu().numpy()).sum(), (there * y.cpu().numpy()).sum(), rtol=1e-5)


def test_deconvolution_adds_its_bias() -> None:
    module = give_values(
        build('type: "Deconvolution" convolution_param { num_output: 3 kernel_size: 2 }', (1, 2, 4, 5))
    )
    assert module(torch.zeros(1, 2, 4, 5)).allclose(module.bias.view(1, 3, 1, 1).expand(1, 3, 5, 6))


@pytest.mark.parametrize("axis", [0, -3, 2, -2])
def test_axis(axis: int) -> None:
    """Axes in front of the channels are so many images."""
    shape = (4, 5, 6) if axis in (0, -3) else (2, 3, 4, 7)
    lead = shape[: axis % len(shape)]
    module = build(f'type: "Convolution" convolution_param {{ num_output: 3 kernel_size: 2 axis: {axis} }}', shape)
    give_values(module).double()
    spatial = len(shape) - len(lead) - 1
    x = rand(*shape)
    w, b = module.weight.detach().numpy(), module.bias.detach().numpy()
    flat = x.reshape(-1, *shape[len(lead) :])
    expected = slow_convolution(flat, w, b, (1,) * spatial, (0,) * spatial, (1,) * spatial, 1)
    assert_equals(module(torch.tensor(x)), expected.reshape(*lead, *expected.shape[1:]))


def test_bottoms_share_weights_and_bias() -> None:
    text = 'type: "Convolution" convolution_param { num_output: 3 kernel_size: 2 }'
    module = give_values(build(text, (1, 2, 4, 5), (1, 2, 4, 5), tops=2))
    a, b = torch.rand(1, 2, 4, 5), torch.rand(1, 2, 4, 5)
    first, second = module(a, b)
    torch.testing.assert_close(first, module(a))
    torch.testing.assert_close(second, module(b))


def test_names_of_dilation_in_forks() -> None:
    shape = (1, 2, 9, 11)
    plain = build('type: "Convolution" convolution_param { num_output: 3 kernel_size: 3 dilation: 2 }', shape)
    hole = build(
        'type: "Convolution" convolution_param { num_output: 3 kernel_size: 3 hole: 2 }',
        shape,
        dialect="TheLegendAli/DeepLab-Context",
    )
    names = build(
        'type: "Convolution" convolution_param { num_output: 3 kernel_size: 3 dilation_h: 2 dilation_w: 2 }',
        shape,
        dialect="yjxiong/caffe",
    )
    assert plain.geometry == hole.geometry == names.geometry


def test_a_net_built_for_one_size_runs_on_others() -> None:
    text = 'type: "Convolution" convolution_param { num_output: 3 kernel_size: 4 stride: 3 bias_term: false }'
    module = give_values(build(text, (2, 3, 2, 9))).double()
    x = rand(2, 3, 7, 5)
    expected = slow_convolution(x, module.weight.detach().numpy(), np.zeros(3), (3, 3), (0, 0), (1, 1), 1)
    assert_equals(module(torch.tensor(x)), expected)


@pytest.mark.parametrize("text", ["num_output: 3 kernel_size: 2", "num_output: 3 kernel_size: 2 axis: 2"])
def test_gradient_and_empty_batch(text: str) -> None:
    shape = (1, 2, 4, 5)
    for kind in ("Convolution", "Deconvolution"):
        module = give_values(build(f'type: "{kind}" convolution_param {{ {text} }}', shape)).double()
        x = torch.rand(shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(module, x, fast_mode=True)
        assert module(torch.zeros(0, *shape[1:], dtype=torch.float64)).shape[0] == 0


@pytest.mark.parametrize(
    ("shape", "text", "axis", "kernel", "stride", "pad", "dilation"),
    [
        ((2, 3, 6, 7), "kernel_size: 3 stride: 2 pad: 1", 1, (3, 3), (2, 2), (1, 1), (1, 1)),
        ((2, 3, 6, 7), "kernel_h: 2 kernel_w: 3 dilation: 2 dilation: 1", 1, (2, 3), (1, 1), (0, 0), (2, 1)),
        ((2, 3, 8), "kernel_size: 3 pad: 2", 1, (3,), (1,), (2,), (1,)),
        ((2, 3, 4, 5, 6), "kernel_size: 2 stride: 2", 1, (2, 2, 2), (2, 2, 2), (0, 0, 0), (1, 1, 1)),
        ((2, 3, 4, 5), "kernel_size: 2 axis: -2", 2, (2,), (1,), (0,), (1,)),
        ((2, 3, 2), "kernel_size: 3 stride: 2", 1, (3,), (2,), (0,), (1,)),
    ],
)
def test_im2col(
    shape: tuple[int, ...],
    text: str,
    axis: int,
    kernel: Any,
    stride: Any,
    pad: Any,
    dilation: Any,
    device: torch.device,
) -> None:
    x = rand(*shape)
    module = build(f'type: "Im2col" convolution_param {{ {text} }}', shape)
    found = module(torch.tensor(x, dtype=precise(device), device=device))
    # A kernel that is 1 in one place and 0 elsewhere copies one row of the columns.
    flat = x.reshape(-1, *shape[axis:])
    rows = []
    for c, tap in itertools.product(range(shape[axis]), np.ndindex(*kernel)):
        w = np.zeros((1, shape[axis], *kernel))
        one: Any = (0, c, *tap)
        w[one] = 1
        rows.append(slow_convolution(flat, w, [0.0], stride, pad, dilation, 1))
    expected = np.concatenate(rows, 1)
    assert_equals(found, expected.reshape(*shape[:axis], *expected.shape[1:]))
    inputs = torch.tensor(x[:1], requires_grad=True)
    assert torch.autograd.gradcheck(module, inputs, fast_mode=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_output: 3", "kernel_size is given 0 times"),
        ("num_output: 3 kernel_size: 0", "at least 1"),
        ("num_output: 3 kernel_size: 2 stride: 0", "at least 1"),
        ("num_output: 3 kernel_size: 2 stride_h: 2", "at least 1"),
        ("num_output: 3 kernel_size: 2 kernel_size: 2 kernel_size: 2", "given 3 times; it needs 1, or 2"),
        ("num_output: 3 kernel_size: 2 kernel_h: 3 kernel_w: 3", "exclude each other"),
        ("num_output: 3 kernel_size: 2 pad: 1 pad_h: 1", "exclude each other"),
        ("num_output: 3 kernel_h: 2 kernel_w: 2 axis: 2", "two spatial axes"),
        ("kernel_size: 2", "num_output is 0"),
        ("num_output: 3 kernel_size: 2 group: 3", "group 3 must divide the 4 channels"),
        ("num_output: 3 kernel_size: 2 group: 2", "group 2 must divide"),
        ("num_output: 3 kernel_size: 2 axis: 4", "axis 4 is out of range for 4 axes"),
        ("num_output: 3 kernel_size: 9", "does not fit"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        build(f'type: "Convolution" convolution_param {{ {text} }}', (2, 4, 5, 6))


def test_errors_of_bottoms_and_tops() -> None:
    text = 'type: "Convolution" convolution_param { num_output: 3 kernel_size: 2 }'
    with pytest.raises(LayerError, match=r"'b1' has shape \[1, 2, 4, 6\]; \[1, 2, 4, 5\], as 'b0' has"):
        build(text, (1, 2, 4, 5), (1, 2, 4, 6), tops=2)
    with pytest.raises(LayerError, match="1 tops for 2 bottoms; one for each"):
        build(text, (1, 2, 4, 5), (1, 2, 4, 5))
    with pytest.raises(LayerError, match="4 spatial axes; at most 3"):
        build(text, (1, 2, 4, 5, 6, 7))
    with pytest.raises(LayerError, match="leaves nothing of the output"):
        build('type: "Deconvolution" convolution_param { num_output: 3 kernel_size: 2 pad: 3 }', (1, 2, 4, 5))
    with pytest.raises(LayerError, match="no spatial axis"):
        build('type: "Im2col" convolution_param { kernel_size: 2 }', (1, 2))


def test_half_precision() -> None:
    module = give_values(build('type: "Convolution" convolution_param { num_output: 3 kernel_size: 2 }', (1, 2, 4, 5)))
    x = torch.rand(1, 2, 4, 5)
    expected = module(x)
    found = module.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.03, atol=0.03)
