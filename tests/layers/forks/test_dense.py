"""MULTI_SOFTMAX, MULTI_SOFTMAX_LOSS, NORM and ANGLE_LOSS against slow definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.network.registry import LayerSpec, find_layer
from caffe_compat.schema import load_schema
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.schema.upgrade import upgrade_net
from tests.layers.building import assert_equals, precise

FLOW, NORMALS = "Arroosh/optical_flow_prediction", "xiaolonw/caffe-3dnormal_joint_pose"
SHAPE = (2, 4, 3, 5)
X = np.random.RandomState(0).randn(*SHAPE)


def _build(text: str, dialect: str, *shapes: tuple[int, ...], tops: int = 1, gradients: str = "caffe") -> Any:
    """A layer of the first generation, on bottoms of these shapes."""
    names = "".join(f' bottom: "b{i}"' for i in range(len(shapes))) + "".join(f' top: "t{i}"' for i in range(tops))
    inputs = "".join(f'input: "b{i}" input_dim: 1 input_dim: 1 input_dim: 1 input_dim: 1 ' for i in range(len(shapes)))
    parsed = parse_message(f'{inputs} layers {{ name: "l" {text} {names} }}', dialect=dialect)
    message = next(one for one in upgrade_net(parsed.message, load_schema(dialect)).message.layer if one.name == "l")
    bottoms, top_names = tuple(message.bottom), tuple(message.top)
    spec = LayerSpec("l", message.type, "TEST", bottoms, top_names, shapes, dialect, message, gradients)
    module = find_layer(message.type, dialect).build(spec)
    spec.check_all_read()
    return module


def _softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(1, keepdims=True)


def test_multi_softmax(device: torch.device) -> None:
    module = _build("type: MULTI_SOFTMAX", FLOW, SHAPE)
    assert_equals(module(torch.tensor(X, dtype=precise(device), device=device)), _softmax(X))


def test_multi_softmax_loss(device: torch.device) -> None:
    labels = np.random.RandomState(1).randint(1, 5, (2, 1, 3, 5))
    module = _build("type: MULTI_SOFTMAX_LOSS", FLOW, SHAPE, labels.shape, tops=2)
    prob = _softmax(X)
    loss, slope = 0.0, prob.copy()
    for n, _, i, j in np.ndindex(labels.shape):
        loss -= math.log(prob[n, labels[n, 0, i, j] - 1, i, j])
        slope[n, labels[n, 0, i, j] - 1, i, j] -= 1
    given = torch.tensor(X, dtype=precise(device), device=device, requires_grad=True)
    found, found_prob = module(given, torch.tensor(labels, device=device))
    found.backward()
    assert_equals(found, loss / 2)
    assert_equals(found_prob, prob)
    assert_equals(given.grad, slope / 2)
    with pytest.raises(LayerError, match="none of the 4 classes"):
        module(given.cpu(), torch.zeros(labels.shape))


def test_numbers_without_positions_are_one_position() -> None:
    """As an InnerProduct of these forks makes them: (examples, classes, 1, 1)."""
    flat, labels = X[:, :, 0, 0], np.array([2, 4])
    assert_equals(_build("type: MULTI_SOFTMAX", FLOW, flat.shape)(torch.tensor(flat)), _softmax(flat))
    module = _build("type: MULTI_SOFTMAX_LOSS", FLOW, flat.shape, (2,), tops=1)
    expected = -np.log(_softmax(flat)[[0, 1], labels - 1]).sum() / 2
    assert_equals(module(torch.tensor(flat), torch.tensor(labels)), expected)


def test_the_loss_of_normals_shows_a_336th_and_learns_as_the_other() -> None:
    labels = torch.tensor(np.random.RandomState(1).randint(1, 5, (2, 1, 3, 5)))
    results: list[tuple[float, Any]] = []
    for dialect in (FLOW, NORMALS):
        given = torch.tensor(X, requires_grad=True)
        loss = _build("type: MULTI_SOFTMAX_LOSS", dialect, SHAPE, tuple(labels.shape), tops=0)(given, labels)
        loss.backward()
        results.append((loss.item(), given.grad))
    assert results[1][0] == pytest.approx(results[0][0] / 336)
    assert torch.equal(results[0][1], results[1][1])


def test_multi_softmax_refuses_factors() -> None:
    with pytest.raises(LayerError, match="mult_softmax_param is not supported"):
        _build("type: MULTI_SOFTMAX mult_softmax_param { max_multiple: 3 }", FLOW, SHAPE)


def test_norm() -> None:
    given = torch.tensor(X, requires_grad=True)
    module = _build("type: NORM", NORMALS, SHAPE, gradients="true")
    assert_equals(module(given), X / (np.sqrt((X**2).sum(1, keepdims=True)) + 1e-6))
    assert torch.autograd.gradcheck(module, given, fast_mode=True)
    short = torch.tensor(X * 1e-6, requires_grad=True)
    assert torch.autograd.gradcheck(module, short, eps=1e-10, fast_mode=True)


@pytest.mark.parametrize("size", [1.0, 0.01, 1e-5, 0.0])
def test_norm_has_the_forks_gradient(size: float, device: torch.device) -> None:
    above = np.random.RandomState(1).randn(*SHAPE)
    given = torch.tensor(X * size, device=device, dtype=precise(device), requires_grad=True)
    _build("type: NORM", NORMALS, SHAPE)(given).backward(torch.tensor(above, device=device, dtype=given.dtype))
    expected = np.zeros(SHAPE)
    for n, i, j in np.ndindex(2, 3, 5):
        x = X[n, :, i, j] * size
        square = x @ x
        # The Jacobian of x / |x|, but for what is added.
        jacobian = (square * np.eye(4) - np.outer(x, x)) / (square * math.sqrt(square) + 1e-6)
        expected[n, :, i, j] = jacobian @ above[n, :, i, j]
    assert given.grad is not None
    assert_equals(given.grad, expected)


def test_angle_loss(device: torch.device) -> None:
    x, labels = (v / np.sqrt((v**2).sum(1, keepdims=True)) * 0.9 for v in (X, np.random.RandomState(2).randn(*SHAPE)))
    labels[1, :, 2, 3] = 99
    loss, slope = 0.0, np.zeros(SHAPE)
    for n, i, j in np.ndindex(2, 3, 5):
        if labels[n, 0, i, j] <= 10:
            cosine = float(x[n, :, i, j] @ labels[n, :, i, j])
            loss += math.acos(cosine)
            slope[n, :, i, j] = -labels[n, :, i, j] / (math.sqrt(1 - cosine**2) + 1e-6)
    module = _build("type: ANGLE_LOSS", NORMALS, SHAPE, SHAPE)
    given = torch.tensor(x, dtype=precise(device), device=device, requires_grad=True)
    found = module(given, torch.tensor(labels, dtype=given.dtype, device=device))
    found.backward()
    assert_equals(found, loss / 2)
    assert_equals(given.grad, slope / 2)
    one = torch.tensor([1.0, 0.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    for gradients, slope_there in (("caffe", -1e6), ("true", -math.inf)):
        near = one.clone().requires_grad_()
        _build("type: ANGLE_LOSS", NORMALS, one.shape, one.shape, gradients=gradients)(near, one).backward()
        assert near.grad is not None
        assert near.grad.flatten()[0].item() == pytest.approx(slope_there)
    with pytest.raises(LayerError, match="loss_weight other than 1"):
        _build("type: ANGLE_LOSS loss_weight: 2", NORMALS, SHAPE, SHAPE)
