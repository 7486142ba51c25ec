"""Layers that are alike are built once: what the others get must be what building them would have given."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from torch import Tensor, nn

from caffe_compat.access import FileAccess
from caffe_compat.network import building
from caffe_compat.network.alike import Mould, likeness_of
from caffe_compat.network.graph import NetState, phase_graph
from caffe_compat.network.net import CaffeNet
from caffe_compat.network.registry import Layer
from caffe_compat.network.registry import layer as registered
from caffe_compat.network.sharing import blob_names, get_tensor
from caffe_compat.network.spec import LayerSpec
from caffe_compat.schema.params import Params
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.schema.upgrade import upgrade_net
from tests.networks import filled, input_layer, ip, layer, net_of

CONV = "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }"


def assert_like(one: object, other: object, where: str) -> None:
    """That ``other`` is what ``one`` is, and shares nothing with it that might be changed."""
    assert type(one) is type(other), where
    if isinstance(one, nn.Module):
        assert one is not other, where
        assert vars(one).keys() == vars(other).keys(), where
        for name, value in vars(one).items():
            if name not in ("randomness", "files", "layer_name"):
                assert_like(value, vars(other)[name], f"{where}.{name}")
    elif isinstance(one, Tensor):
        assert isinstance(other, Tensor)
        assert one is not other, where
        assert (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device), where
        assert one.requires_grad == other.requires_grad, where
        assert one.is_meta or torch.equal(one, other), where
    elif isinstance(one, set):
        assert one is not other, where
        assert one == other, where
    elif isinstance(one, (list, dict)):
        assert one is not other, where
        assert len(one) == len(other), where  # type: ignore[arg-type]
        left, right = (x.items() if isinstance(x, dict) else x for x in (one, other))
        for i, (a, b) in enumerate(zip(left, right, strict=True)):  # type: ignore[call-overload]
            assert_like(a, b, f"{where}[{i}]")
    elif isinstance(one, tuple):
        for i, (a, b) in enumerate(zip(one, other, strict=True)):  # type: ignore[call-overload]
            assert_like(a, b, f"{where}[{i}]")
    elif isinstance(one, Params):
        assert isinstance(other, Params)
        assert one.message == other.message, where
    else:
        assert one is other or one == other, where


@pytest.mark.parametrize("name", ["bvlc_layers.h5", "ssl3d_layers.h5", "fork_layers.h5"])
def test_twins_of_every_stored_type(name: str, reference: Path) -> None:
    made: Counter[bool] = Counter()
    seen: set[frozenset[str]] = set()
    with h5py.File(reference / name, "r") as file:
        for case_name, case in file.items():
            parsed = parse_message(case.attrs["prototxt"], dialect=case.attrs.get("dialect"))
            types = frozenset(layer.type for layer in parsed.message.layer)
            if types in seen:
                continue
            seen.add(types)
            net = CaffeNet(
                upgrade_net(parsed.message, parsed.schema).message,
                NetState(case.attrs.get("phase", "TEST")),
                dialect=parsed.schema.name,
                files=FileAccess(reference),
            )
            for module in net.children():
                mould = Mould.of(module)
                made[mould is not None] += 1
                if mould is not None:
                    assert_like(module, mould.twin(), f"{case_name}: {type(module).__name__}")
    assert made[True] > 4 * made[False]


def deep_text() -> str:
    """A network with layers that are alike, in place and not, with blobs and losses."""
    text = input_layer("x", 2, 4, 6, 6) + input_layer("t", 2)
    blob = "x"
    for i in range(3):
        text += layer(f"conv{i}", "Convolution", blob, f"c{i}", f"param {{ lr_mult: 2 }} {CONV}")
        text += layer(f"norm{i}", "BatchNorm", f"c{i}", f"c{i}") + layer(f"relu{i}", "ReLU", f"c{i}", f"c{i}")
        text += layer(f"scale{i}", "Scale", f"c{i}", f"s{i}", "scale_param { bias_term: true }")
        text += layer(f"sum{i}", "Eltwise", f"s{i} {blob}", f"e{i}") + layer(f"drop{i}", "Dropout", f"e{i}", f"e{i}")
        blob = f"e{i}"
    for i in range(2):
        text += ip(f"ip{i}", blob, f"ip{i}", 5)
        text += layer(f"loss{i}", "SoftmaxWithLoss", f"ip{i} t", f"loss{i}", "loss_weight: 0.5")
    return text


def test_a_net_is_the_one_that_building_each_layer_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = net_of(deep_text(), state=NetState("TRAIN"))
    monkeypatch.setattr(building, "likeness_of", lambda *asked: None)
    slow = net_of(deep_text(), state=NetState("TRAIN"))
    assert_like(slow.conv1, quick.conv1, "conv1")
    for name, module in slow.named_children():
        assert_like(module, quick.get_submodule(name), name)
        assert vars(quick.get_submodule(name))["layer_name"] == name
    assert (quick.program.steps, quick.shapes) == (slow.program.steps, slow.shapes)
    assert (quick.loss_weights, quick.param_specs) == (slow.loss_weights, slow.param_specs)
    assert (quick.warnings, quick.notes, quick.ignored) == (slow.warnings, slow.notes, slow.ignored)


def test_twins_have_blobs_of_their_own() -> None:
    net = filled(deep_text())
    before = net.conv2.weight.detach().clone()
    with torch.no_grad():
        net.conv1.weight.add_(1)
    assert torch.equal(net.conv2.weight, before)
    assert net.conv0.randomness is net.conv2.randomness is net.randomness


def test_modules_that_are_only_looked_at_need_no_twins() -> None:
    parsed = parse_message(deep_text())
    graph = phase_graph(parsed.message, NetState("TRAIN"))
    whole, sketch = building.build_modules(graph), building.build_modules(graph, twins=False)
    assert sketch.modules.keys() == whole.modules.keys()
    assert sketch.modules["conv1"] is sketch.modules["conv2"]
    for name, module in whole.modules.items():
        blobs = [get_tensor(sketch.modules[name], blob).shape for blob in blob_names(module)]
        assert blobs == [get_tensor(module, blob).shape for blob in blob_names(module)]
    assert (sketch.program, sketch.loss_weights, sketch.param_specs) == (
        whole.program,
        whole.loss_weights,
        whole.param_specs,
    )


def test_what_a_builder_says_is_said_of_each() -> None:
    text = input_layer("x", 2, 4)
    for i in range(3):
        text += layer(f"l{i}", "ReLU", "x", f"y{i}", "convolution_param { num_output: 2 }")
    ignored = net_of(text).ignored
    assert [entry.layer for entry in ignored] == ["l0", "l1", "l2"]


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (("a", "ReLU", "x", "y"), ("b", "ReLU", "y", "z"), True),
        (("a", "ReLU", "x", "x"), ("b", "ReLU", "y", "z"), False),
        (("a", "Eltwise", "x x", "y"), ("b", "Eltwise", "x y", "z"), False),
        (("a", "Convolution", "x", "y", CONV), ("b", "Convolution", "y", "z", CONV.replace("4", "5")), False),
        (("a", "ReLU", "x", "y", "relu_param { }"), ("b", "ReLU", "y", "z", "relu_param { negative_slope: 0 }"), False),
        (("a", "EuclideanLoss", "x t", "y"), ("b", "EuclideanLoss", "x t", ""), False),
        (("a", "Convolution", "x", "y", f'param {{ name: "w" }} {CONV}'), ("b", "ReLU", "y", "z"), None),
    ],
)
def test_likeness(one: tuple[str, ...], other: tuple[str, ...], alike: bool | None) -> None:
    first, second = parse_message(layer(*one) + layer(*other)).message.layer
    shapes = [(2, 4)] * len(first.bottom)
    blobs, others = ([*message.bottom, *(message.top or ["(automatic)"])] for message in (first, second))
    found = likeness_of(first, shapes, blobs)
    if alike is None:
        assert found is None
        return
    assert (found == likeness_of(second, shapes, others)) is alike
    assert found != likeness_of(first, [(2, 5)] * len(first.bottom), blobs)


def test_blobs_that_are_shared_by_name_stay_so() -> None:
    own = 'param { name: "w" } param { name: "b" }'
    text = input_layer("x", 2, 4) + ip("a", "x", "y", 4, own) + ip("b", "y", "z", 4, own) + ip("c", "z", "u", 4)
    net = net_of(text)
    assert net.a.weight is net.b.weight
    assert net.c.weight is not net.a.weight


def test_what_a_strange_builder_makes_has_no_twins() -> None:
    asked = []

    @registered("CountedByATest", bottoms=1, tops=1)
    def counted(spec: LayerSpec) -> Layer:
        class Counted(Layer):
            def forward(self, x: Tensor) -> Tensor:
                return x

        asked.append(spec.name)
        return Counted()

    net_of(input_layer("x", 2) + layer("a", "CountedByATest", "x", "y") + layer("b", "CountedByATest", "y", "z"))
    assert asked == ["a", "b"]


class Odd(Layer):
    """A module with an attribute ``value``."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        vars(self)["value"] = value


def test_a_module_that_knows_itself_has_no_mould() -> None:
    odd = Odd(None)
    for value in (odd.forward, lambda: odd, object(), [object()], nn.Linear(2, 2).weight * 2):
        assert Mould.of(Odd(value)) is None
    assert Mould.of(nn.ReLU()) is None
    kept = [1, {"a": 2}]
    twin = Mould.of(Odd(kept))
    assert twin is not None
    kept.append(3)
    assert vars(twin.twin())["value"] == [1, {"a": 2}]
