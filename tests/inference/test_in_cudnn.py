"""Convolution, sum and ReLU in one kernel of cuDNN, for which a stand-in computes here what it should."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from caffe_compat.inference.fused import Fused
from caffe_compat.network.net import CaffeNet
from caffe_compat.network.running import ProgramNet
from tests.inference.patterns import build, conv, example, in_place
from tests.networks import layer


def relu(x: Tensor, weight: Tensor, bias: Tensor, *how: Any) -> Tensor:
    return F.conv2d(x, weight, bias, *how).relu()


def add_relu(x: Tensor, weight: Tensor, other: Tensor, factor: float, bias: Tensor, *how: Any) -> Tensor:
    return (F.conv2d(x, weight, bias, *how) + factor * other).relu()


def none(*given: object) -> Tensor:
    raise RuntimeError("GET was unable to find an engine to execute this computation")


def parts(form: ProgramNet) -> list[Fused]:
    return [module for module in form.modules() if isinstance(module, Fused)]


@pytest.fixture
def net() -> CaffeNet:
    return build(
        conv("a", "data"),
        in_place("ReLU", "a"),
        conv("b", "a"),
        layer("s", "Eltwise", "a b", "s"),
        in_place("ReLU", "s"),
    ).half()


@pytest.fixture
def form(net: CaffeNet) -> ProgramNet:
    return net.optimize()


def put_in(form: ProgramNet, monkeypatch: pytest.MonkeyPatch, first: object, second: object) -> None:
    monkeypatch.setattr(torch, "cudnn_convolution_relu", first)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", second)
    for part in parts(form):
        part.in_cudnn = True


def test_it_gives_what_the_layers_give(net: CaffeNet, form: ProgramNet, monkeypatch: pytest.MonkeyPatch) -> None:
    given = example(net)
    expected = form(**given)["s"]
    put_in(form, monkeypatch, relu, add_relu)
    assert len(parts(form)) == 2
    assert all(part._cudnn_agrees() for part in parts(form))
    torch.testing.assert_close(form(**given)["s"], expected, rtol=1e-2, atol=1e-2)
    assert all(part.in_cudnn for part in parts(form))


def test_where_cudnn_has_none_the_layers_run(net: CaffeNet, form: ProgramNet, monkeypatch: pytest.MonkeyPatch) -> None:
    given = example(net)
    expected = form(**given)["s"]
    put_in(form, monkeypatch, none, none)
    assert torch.equal(form(**given)["s"], expected)
    assert not any(part.in_cudnn for part in parts(form))


def test_one_that_is_wrong_is_not_taken(form: ProgramNet, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in(form, monkeypatch, lambda *given: 1.1 * relu(*given), lambda *given: add_relu(*given) + 1)
    assert not any(part._cudnn_agrees() for part in parts(form))
