"""BN of PSPNet and of SegNet against slow definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError, UnknownLayerError
from caffe_compat.network.filling import shape_fits
from caffe_compat.network.registry import LayerSpec, find_layer
from caffe_compat.schema.prototxt import parse_message
from tests.layers.building import assert_equals, build, give_values, precise

PSP, SEGNET = "hszhao/PSPNet", "alexgkendall/caffe-segnet"
WINDOWS, SYNOPSYS = "happynear/caffe-windows", "foss-for-synopsys-dwc-arc-processors/synopsys-caffe"
X = np.random.RandomState(0).randn(2, 3, 4, 5) + 1
MEAN, VARIANCE = X.mean((0, 2, 3), keepdims=True), X.var((0, 2, 3), keepdims=True)


def _double(module: torch.nn.Module, device: torch.device) -> Any:
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
    if given.dtype == torch.float64 and (learning or frozen):
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


def test_pspnet_bn_has_the_gradient_of_training_in_the_test_phase(device: torch.device) -> None:
    above = np.random.RandomState(1).randn(*X.shape)
    module = _double(build('type: "BN"', X.shape, dialect=PSP), device)
    slope, bias, mean, variance = (getattr(module, n).detach().cpu().numpy() for n in module.blob_names)
    given = torch.tensor(X, dtype=precise(device), device=device, requires_grad=True)
    top = module(given)
    top.backward(torch.tensor(above, dtype=given.dtype, device=device))
    inverse = 1 / np.sqrt(variance + 1e-5)
    normal, passed = (X - mean) * inverse, above * slope
    assert_equals(top, normal * slope + bias)
    along = (passed * normal).mean((0, 2, 3), keepdims=True)
    assert given.grad is not None
    assert_equals(given.grad, inverse * (passed - passed.mean((0, 2, 3), keepdims=True) - normal * along))
    assert_equals(module.slope.grad, (above * normal).sum((0, 2, 3), keepdims=True))
    assert_equals(module.bias.grad, above.sum((0, 2, 3), keepdims=True))
    true = _double(build('type: "BN"', X.shape, dialect=PSP, gradients="true"), device)
    with torch.no_grad():
        assert_equals(module(given), true(given).cpu())
    if given.dtype == torch.float64:
        assert torch.autograd.gradcheck(true, given, fast_mode=True)


def test_what_the_averages_of_forks_begin_with_and_defaults() -> None:
    assert build('type: "BN"', X.shape, dialect="torrvision/caffe-tvg").fillers["variance"].value == 1
    cambricon = build('type: "BN"', X.shape, dialect="Cambricon/caffe")
    assert (cambricon.frozen, cambricon.momentum) == (True, pytest.approx(0.999))
    assert build('type: "BN"', X.shape, dialect="lxx1991/caffe_mpi").momentum == pytest.approx(0.95)
    volumes = build('type: "BN"', (2, 3, 2, 2, 2), dialect="BannyStone/Caffe")
    assert give_values(volumes)(torch.ones(2, 3, 2, 2, 2)).shape == (2, 3, 2, 2, 2)
    with pytest.raises(LayerError, match="was expected"):
        build('type: "BN"', (2, 3, 2, 2, 2), dialect=PSP)
    build('type: "BN" bn_param { rebn: true }', X.shape, dialect="lxx1991/caffe_mpi")
    with pytest.raises(LayerError, match="rebn: true is not supported"):
        build('type: "BN" bn_param { rebn: true }', X.shape, phase="TRAIN", dialect="lxx1991/caffe_mpi")


def test_blobs_of_two_axes_are_taken() -> None:
    assert build('type: "BN"', X.shape, dialect="yjxiong/caffe").any_axes_of_one
    assert shape_fits((1, 3), (1, 3, 1, 1), any_axes_of_one=True)
    assert not shape_fits((1, 3), (1, 3, 1, 1))
    assert not shape_fits((3, 1), (1, 2, 1, 1), any_axes_of_one=True)


@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
def test_bn_whose_blob_is_an_inverse(phase: str, device: torch.device) -> None:
    text = 'type: "BN" bn_param { engine: CAFFE momentum: 0.75 eps: 0.5 }'
    module = _double(build(text, X.shape, phase=phase, dialect=WINDOWS), device)
    assert module.fillers["variance"].value == 1
    slope, bias, mean, inverse = (getattr(module, n).detach().cpu().numpy().copy() for n in module.blob_names)
    own = 1 / np.sqrt(VARIANCE + 0.5)
    used = (X - MEAN) * own if phase == "TRAIN" else (X - mean) * inverse
    for grad in (False, True):
        given = torch.tensor(X, dtype=precise(device), device=device, requires_grad=grad)
        assert_equals(module(given), used * slope + bias)
        if phase == "TRAIN":
            mean, inverse = 0.75 * mean + 0.25 * MEAN, 0.75 * inverse + 0.25 * own
        assert_equals(module.mean, mean)
        assert_equals(module.variance, inverse)
    for engine in ("", "engine: CUDNN"):
        with pytest.raises(LayerError, match="depends on how the fork was built"):
            build(f'type: "BN" bn_param {{ {engine} }}', X.shape, dialect=WINDOWS)
    with pytest.raises(LayerError, match="go on decaying"):
        build('type: "BN" bn_param { engine: CAFFE frozen: true }', X.shape, phase="TRAIN", dialect=WINDOWS)


@pytest.mark.parametrize(("gradients", "in_place"), [("caffe", True), ("true", True), ("caffe", False)])
def test_segnet_bn_in_place(gradients: str, in_place: bool) -> None:
    top = "x" if in_place else "y"
    text = f'layer {{ name: "l" type: "BN" bottom: "x" top: "{top}" bn_param {{ bn_mode: INFERENCE }} }}'
    message = parse_message(text, dialect=SEGNET).message.layer[0]
    spec = LayerSpec("l", "BN", "TEST", ("x",), (top,), (X.shape,), SEGNET, message, gradients)
    module = give_values(find_layer("BN", SEGNET).build(spec)).double()
    x = torch.tensor(X, requires_grad=True)
    y = module(x)
    scale, shift = (blob.detach().numpy() for blob in (module.scale, module.shift))
    assert_equals(y, X * scale + shift)
    above = np.random.RandomState(1).randn(*X.shape)
    y.backward(torch.tensor(above))
    assert x.grad is not None
    assert_equals(x.grad, above * scale)
    assert_equals(module.shift.grad, above.sum((0, 2, 3), keepdims=True))
    read = X * scale + shift if in_place and gradients == "caffe" else X
    assert_equals(module.scale.grad, (above * read).sum((0, 2, 3), keepdims=True))


def test_a_fork_with_both_says_which() -> None:
    assert build('type: "BN" bn_param { icnet: true }', X.shape, dialect=SYNOPSYS).blob_names[0] == "slope"
    assert build('type: "BN" bn_param { bn_mode: LEARN }', X.shape, dialect=SYNOPSYS).blob_names[0] == "scale"
    # A field of the one that was not chosen would have no effect.
    with pytest.raises(LayerError, match="slope_filler is not supported"):
        build('type: "BN" bn_param { slope_filler { value: 1 } }', X.shape, dialect=SYNOPSYS)


def test_bn_of_other_forks_is_unknown() -> None:
    with pytest.raises(UnknownLayerError, match="not under dialect ducha-aiki/caffe"):
        build('type: "BN"', X.shape, dialect="ducha-aiki/caffe")
