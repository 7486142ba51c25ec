"""BN of PSPNet and of SegNet, Interp and Upsample, against slow definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from building import assert_equals, build, give_values, precise

from caffe_compat.errors import LayerError

PSP, SEGNET, YOLO = "hszhao/PSPNet", "alexgkendall/caffe-segnet", "eric612/MobileNet-YOLO"
X = np.random.RandomState(0).randn(2, 3, 4, 5) + 1
MEAN, VARIANCE = X.mean((0, 2, 3), keepdims=True), X.var((0, 2, 3), keepdims=True)


def _double(module: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    return give_values(module, device).to(precise(device))


@pytest.mark.parametrize(("phase", "frozen"), [("TEST", False), ("TRAIN", True), ("TRAIN", False)])
def test_pspnet_bn(device: torch.device, phase: str, frozen: bool) -> None:
    text = f'type: "BN" bn_param {{ eps: 0.01 momentum: 0.7 frozen: {str(frozen).lower()} engine: CUDNN }}'
    module = _double(build(text, X.shape, phase=phase, dialect=PSP), device)
    assert module.blob_names == ("slope", "bias", "mean", "variance")
    slope, bias, mean, variance = (getattr(module, n).detach().cpu().numpy().copy() for n in module.blob_names)
    assert slope.shape == (1, 3, 1, 1)
    assert len(list(module.parameters())) == (0 if frozen else 2)
    learning = phase == "TRAIN" and not frozen
    used, spread = (MEAN, VARIANCE) if learning else (mean, variance)
    given = torch.tensor(X, dtype=precise(device), device=device, requires_grad=True)
    assert_equals(module(given), slope * (X - used) / np.sqrt(spread + 0.01) + bias)
    assert_equals(module.mean, 0.7 * mean + 0.3 * MEAN if learning else mean)
    assert_equals(module.variance, 0.7 * variance + 0.3 * VARIANCE if learning else variance)
    if given.dtype == torch.float64:
        assert torch.autograd.gradcheck(module, given, fast_mode=True)


def test_pspnet_bn_starts_with_what_caffe_fills() -> None:
    module = build(
        'type: "BN" bn_param { frozen: true slope_filler { type: "constant" value: 2 } }', X.shape, dialect=PSP
    )
    assert module.fillers["variance"].value == 1
    assert module.fillers["slope"].value == 2
    assert "variance" not in build('type: "BN" bn_param { }', X.shape, dialect=PSP).fillers


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_segnet_bn(device: torch.device, phase: str) -> None:
    module = _double(build('type: "BN"', X.shape, tops=3, phase=phase, dialect=SEGNET), device)
    scale, shift = (blob.detach().cpu().numpy() for blob in (module.scale, module.shift))
    given = torch.tensor(X, dtype=precise(device), device=device)
    y, mean, variance = module(given)
    assert_equals(y, scale * (X - MEAN) / np.sqrt(VARIANCE + 1e-9) + shift)
    assert_equals(mean, MEAN)
    assert_equals(variance, VARIANCE)
    assert [t.shape for t in module.infer(given)] == [t.shape for t in (y, mean, variance)]
    module = _double(build('type: "BN" bn_param { bn_mode: INFERENCE }', X.shape, phase=phase, dialect=SEGNET), device)
    assert_equals(module(given), scale * X + shift)


def test_bn_refuses_other_forks() -> None:
    with pytest.raises(LayerError, match="neither clearly"):
        build('type: "BN"', X.shape, dialect="ducha-aiki/caffe")


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
    with pytest.raises(LayerError, match="it takes one"):
        build('type: "Upsample"', X.shape, X.shape, dialect=YOLO)
    with pytest.raises(LayerError, match="exactly 2 where the top is padded"):
        build('type: "Upsample" upsample_param { scale: 3 pad_out_w: true }', X.shape, X.shape, dialect=SEGNET)
