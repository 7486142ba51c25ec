"""Programs: what is run, what is freed, and parts of nets."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import caffe_compat
from caffe_compat import CaffeNet, NetState
from caffe_compat.errors import LayerError, UsageError
from caffe_compat.network.checkpoint import read_checkpoint, save_checkpoint
from caffe_compat.network.program import Program
from tests.networks import filled, input_layer, ip, layer, net_of

X = torch.from_numpy(np.random.RandomState(1).uniform(-1, 1, (2, 3)).astype(np.float32))

# x (2, 3) -> a (2, 4), read before the ReLU overwrites it -> b (2, 4); a, y (2, 4) -> s (2, 4) -> z (2, 6)
TEXT = (
    input_layer("x", 2, 3)
    + input_layer("y", 2, 4)
    + ip("a", "x", "a", 4)
    + layer("before", "Power", "a", "b", "power_param { scale: 2 }")
    + layer("relu", "ReLU", "a", "a", "relu_param { negative_slope: -1 }")
    + layer("s", "Eltwise", "a y", "s")
    + ip("z", "s", "z", 6)
)
Y = torch.from_numpy(np.random.RandomState(2).uniform(-1, 1, (2, 4)).astype(np.float32))


def names(program: Program) -> list[str]:
    return [step.module for step in program.steps]


# Inputs by place and by name


def test_inputs_in_their_order() -> None:
    net = filled(TEXT)
    expected = net(x=X, y=Y)
    for found in (net(X, Y), net(X, y=Y)):
        assert list(found) == ["b", "z"]
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    with pytest.raises(UsageError, match="input 'x' is given twice, by its place and by its name"):
        net(X, Y, x=X)
    with pytest.raises(UsageError, match="3 inputs were given; the net's inputs are x, y"):
        net(X, Y, X)
    with pytest.raises(UsageError, match="missing y; the net's inputs are x, y"):
        net(X)
    with pytest.raises(UsageError, match="input 'x' is a ndarray, not a tensor"):
        net(X.numpy(), Y)


def test_one_input_needs_no_name_and_labels_may_be_left_out() -> None:
    net = filled(input_layer("in-put", 2, 3) + input_layer("label", 2) + ip("a", "in-put", "a", 4))
    assert torch.equal(net(X)["a"], net(**{"in-put": X})["a"])
    assert list(net(X)) == ["a"]
    assert list(net(X, torch.zeros(2))) == ["a", "label"]
    optimized = net.optimize()
    assert torch.equal(optimized(X)["a"], optimized(**{"in-put": X})["a"])


def test_a_blob_may_be_called_self() -> None:
    net = filled(input_layer("self", 2, 3) + ip("a", "self", "a", 4))
    assert torch.equal(net(X)["a"], net.run({"self": X})["a"])


# Freeing


class Watch(nn.Module):
    """Counts, whenever it runs, which of the tensors seen before are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[weakref.ref[Tensor]] = []
        self.alive: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.alive.append(sum(ref() is not None for ref in self.seen))
        y = x + 1
        self.seen.append(weakref.ref(y))
        return y


def test_values_are_freed_once_nobody_needs_them() -> None:
    text = input_layer("t-1", 2, 3) + "".join(layer(f"l{i}", "Power", f"t{i - 1}", f"t{i}") for i in range(4))
    net = net_of(text)
    watch = Watch()
    for i in range(4):
        setattr(net, f"l{i}", watch)
    with torch.no_grad():
        net(X)
    assert watch.alive == [0, 1, 1, 1]
    watch.alive.clear()
    net.run({"t-1": X}, "all")
    assert watch.alive == [0, 1, 2, 3]
    watch.alive.clear()
    net.program = net.program.returning(["t1", "t3"])
    assert list(net(X)) == ["t1", "t3"]
    assert watch.alive == [0, 1, 1, 2]


# Parts of programs


def test_the_steps_that_blobs_depend_on() -> None:
    program = filled(TEXT).program
    assert names(program) == ["a", "before", "relu", "s", "z"]
    assert (program.input_names, program.output_names) == (("x", "y"), ("b", "z"))
    part = program.part(["b"])
    assert (names(part), part.input_names, part.output_names) == (["a", "before"], ("x",), ("b",))
    part = program.part(["a"])
    assert (names(part), part.input_names) == (["a", "relu"], ("x",))
    part = program.part(["z", "a"])
    assert (names(part), part.input_names, part.output_names) == (["a", "relu", "s", "z"], ("x", "y"), ("z", "a"))


def test_parts_that_begin_at_blobs() -> None:
    program = filled(TEXT).program
    part = program.part(["z"], ["y", "a"])
    assert (names(part), part.input_names) == (["s", "z"], ("y", "a"))
    part = program.part(["z"], ["y", "x"])
    assert (names(part), part.input_names) == (["a", "relu", "s", "z"], ("y", "x"))
    part = program.part(["z"], ["s", "x"])
    assert (names(part), part.input_names, part.needed_inputs) == (["z"], ("s", "x"), ("s",))
    assert names(program.part(["s"], ["s"])) == []


def test_parts_that_there_are_not() -> None:
    program = filled(TEXT).program
    with pytest.raises(UsageError, match="z cannot be had without the input 'y'"):
        program.part(["z"], ["a"])
    with pytest.raises(UsageError, match="no blob 'q'; the net has x, y, a, b, s, z"):
        program.part(["q"])
    with pytest.raises(UsageError, match="no blob 'q'"):
        program.part(["z"], ["q"])
    with pytest.raises(UsageError, match="blob 'z' is named twice"):
        program.part(["z", "z"])
    part = program.part(["a"])
    with pytest.raises(UsageError, match="blob 'z' is not in this part of the net, which makes a"):
        part.part(["z"])
    with pytest.raises(UsageError, match="blob 'z' is not in this part"):
        part.wanted(["z"])
    assert list(part.wanted("all")) == ["x", "a"]


def run(net: nn.Module, program: Program, *inputs: Tensor) -> list[Tensor]:
    values = program.execute(net, program.place(inputs, {}), keep=False)
    return list(program.result(values, program.wanted(None)).values())


def test_parts_compute_what_the_whole_computes() -> None:
    net = filled(TEXT)
    whole = net.run({"x": X, "y": Y}, "all")
    for outputs, inputs in (
        (["b", "z"], ["x", "y"]),
        (["z"], ["y", "a"]),
        (["a", "s"], ["x", "y"]),
        (["z", "s"], ["s"]),
    ):
        found = run(net, net.program.part(outputs, inputs), *(whole[name] for name in inputs))
        assert all(torch.equal(value, whole[name]) for name, value in zip(outputs, found, strict=True))


def test_parts_of_the_inference_form_begin_behind_layers_that_are_left_out() -> None:
    text = input_layer("x", 2, 3) + ip("a", "x", "a", 4) + layer("d", "Dropout", "a", "a")
    text += layer("split", "Split", "a", "p q") + layer("t", "TanH", "p", "t") + layer("u", "Sigmoid", "q", "u")
    net = filled(text)
    whole = net.run({"x": X}, "all")
    optimized = net.optimize()
    for outputs, inputs in ((["t", "u"], ["a"]), (["t"], ["p"]), (["a", "t", "q"], ["x"]), (["p"], ["a"])):
        part = optimized.program.part(outputs, inputs)
        found = run(optimized, part, *(whole[name] for name in inputs))
        for name, value in zip(outputs, found, strict=True):
            torch.testing.assert_close(value, whole[name])
    # p and q are one value there, so each stands for both.
    torch.testing.assert_close(run(optimized, optimized.program.part(["u"], ["p"]), whole["p"])[0], whole["u"])


# Parts as nets of their own


def test_a_part_is_a_net_with_the_same_blobs() -> None:
    net = filled(TEXT)
    whole = net.run({"x": X, "y": Y}, "all")
    part = net.part(["z", "s"], ["y", "a"])
    part.graph.check()
    assert [node.name for node in part.graph.nodes] == ["y", "a", "s", "z"]
    assert (part.input_shapes, part.output_names) == ({"y": (2, 4), "a": (2, 4)}, ("z", "s"))
    found = part(Y, whole["a"])
    assert list(found) == ["z", "s"]
    assert all(torch.equal(found[name], whole[name]) for name in found)
    assert part.param_specs == {name: spec for name, spec in net.param_specs.items() if name.startswith("z.")}
    with torch.no_grad():
        part.get_parameter("z.weight").fill_(7)
    assert float(net.get_parameter("z.weight").detach().mean()) == 7
    part.double()
    assert net.get_parameter("z.weight").dtype == torch.float32
    assert torch.equal(net.run({"x": X, "y": Y})["b"], whole["b"])


def test_a_part_can_be_saved_and_gives_the_same_outputs(tmp_path: Path) -> None:
    net = filled(TEXT)
    whole = net.run({"x": X, "y": Y}, "all")
    save_checkpoint(net.part(["s", "a"]), tmp_path / "part.pt")
    assert read_checkpoint(tmp_path / "part.pt").outputs == ("s", "a")
    loaded = caffe_compat.load(tmp_path / "part.pt")
    found = loaded(X, Y)
    assert list(found) == ["s", "a"]
    assert all(torch.equal(found[name], whole[name]) for name in found)
    assert list(loaded.optimize()(X, Y)) == ["s", "a"]
    save_checkpoint(net, tmp_path / "whole.pt")
    assert read_checkpoint(tmp_path / "whole.pt").outputs is None


def test_a_part_tells_what_of_its_layers_is_ignored_and_was_not_filled(tmp_path: Path) -> None:
    net = filled(TEXT.replace("scale: 2 }", "scale: 2 } odd_param { }"), ignore_fields=["odd_param"])
    net.unfilled = ("a", "z")
    part = net.part(["b"])
    assert [ignored.field for ignored in part.ignored] == ["odd_param"]
    assert part.unfilled == ("a",)
    save_checkpoint(part, tmp_path / "part.pt")
    assert caffe_compat.load(tmp_path / "part.pt").unfilled == ("a",)


def test_a_part_has_state_of_its_own() -> None:
    net = filled(
        input_layer("x", 3, 2, 4)
        + input_layer("cont", 3, 2)
        + layer("l", "LSTM", "x cont", "h", "recurrent_param { num_output: 5 }")
        + layer("t", "TanH", "h", "t")
    )
    x, cont = torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(6)), torch.ones(3, 2)
    with torch.no_grad():
        first, second = (net(x, cont)["t"] for _ in range(2))
        part = net.part(["h"])
        assert torch.equal(part(x, cont)["h"].tanh(), first)
        third = net(x, cont)["t"]
        assert torch.equal(part(x, cont)["h"].tanh(), second)
        assert not torch.equal(third, second)


def sharing(mode: str) -> CaffeNet:
    """x (2, 3) * w (4, 3) -> a (2, 4) * w as (3, 4) -> b (2, 3) * w (4, 3) -> c (2, 4)."""
    text = input_layer("x", 2, 3) + ip("one", "x", "a", 4, 'param { name: "w" lr_mult: 3 }')
    text += ip("two", "a", "b", 3, f'param {{ name: "w" {mode} }}')
    return filled(text + ip("three", "b", "c", 4, 'param { name: "w" }'))


def test_what_a_part_shares() -> None:
    net = sharing("share_mode: PERMISSIVE")
    whole = net.run({"x": X}, "all")
    both = net.part(["b"])
    assert sorted(both.state_dict()) == ["one.bias", "one.weight", "two.bias"]
    assert both.param_specs["two.weight"].lr_mult == 3
    assert torch.equal(both(X)["b"], whole["b"])
    both.assign_blob("two", "weight", torch.arange(12.0).reshape(3, 4))
    assert torch.equal(both.get_parameter("one.weight"), torch.arange(12.0).reshape(4, 3))
    last = net.part(["c"], ["b"])
    assert sorted(last.state_dict()) == ["three.bias", "three.weight"]
    assert torch.equal(last(whole["b"])["c"], whole["c"])
    ends = net.part(["a", "c"], ["x", "b"])
    assert ends.get_parameter("one.weight") is ends.get_parameter("three.weight")
    ends.assign_blob("one", "weight", torch.zeros(4, 3))
    assert float(ends.get_parameter("three.weight").detach().abs().sum()) == 0
    assert float(net.get_parameter("three.weight").detach().abs().sum()) > 0


def test_the_inference_form_of_reshaped_blobs_moves_whole() -> None:
    net = sharing("share_mode: PERMISSIVE")
    optimized = net.optimize().double()
    assert {p.dtype for p in (*optimized.parameters(), *optimized.buffers())} == {torch.float64}
    torch.testing.assert_close(optimized(X.double())["c"], net.double()(X.double())["c"].detach())


def test_a_part_without_the_layer_whose_blob_it_sees_reshaped(tmp_path: Path) -> None:
    net = sharing("share_mode: PERMISSIVE")
    whole = net.run({"x": X}, "all")
    middle = net.part(["b"], ["a"])
    assert sorted(middle.state_dict()) == ["two.bias", "two.weight"]
    assert torch.equal(middle(whole["a"])["b"], whole["b"])
    save_checkpoint(middle, tmp_path / "middle.pt")
    assert torch.equal(caffe_compat.load(tmp_path / "middle.pt")(whole["a"])["b"], whole["b"])
    with torch.no_grad():
        middle.get_parameter("two.weight").fill_(7)
    assert float(net.get_parameter("one.weight").detach().mean()) == 7
    assert type(middle.get_submodule("two")) is type(net.get_submodule("one"))


def test_a_part_keeps_phase_losses_and_what_is_said_of_pixels() -> None:
    text = (
        layer("d", "Data", "", "x", "data_param { batch_size: 2 } transform_param { scale: 0.5 crop_size: 4 }")
        + input_layer("label", 2)
        + layer("f", "InnerProduct", "x", "f", "inner_product_param { num_output: 3 }")
        + layer("drop", "Dropout", "f", "f", "include { phase: TRAIN }")
        + layer("loss", "SoftmaxWithLoss", "f label", "loss", "loss_weight: 3")
        + layer("more", "ReLU", "f", "more")
    )
    net = filled(text, state=NetState("TRAIN"))
    part = net.part(["loss"])
    part.graph.check()
    assert part.graph.state.phase == "TRAIN"
    assert part.training
    assert part.get_submodule("drop").training
    (source,) = [node for node in part.graph.sources if node.name == "d"]
    assert (source.type, source.message.transform_param.scale) == ("Input", 0.5)
    given = {"x": torch.rand(2, 3, 4, 4), "label": torch.zeros(2)}
    net.randomness.seed = 1
    values = part.values(given)
    torch.testing.assert_close(part.loss(values), 3 * part(**given)["loss"])
    part.eval()
    assert net.training


def test_layers_of_the_same_name_keep_apart() -> None:
    text = input_layer("x", 2, 3) + ip("x", "x", "a", 4) + ip("same", "a", "b", 3) + ip("same", "b", "c", 5)
    net = filled(text)
    whole = net.run({"x": X}, "all")
    part = net.part(["c"], ["b"])
    assert sorted(part.state_dict()) == ["same.bias", "same.weight"]
    assert torch.equal(part(whole["b"])["c"], whole["c"])
    again = net.part(["a"])
    assert [node.name for node in again.graph.nodes] == ["input x", "x"]
    assert torch.equal(again(X)["a"], whole["a"])


def test_a_module_that_a_user_put_there_goes_along() -> None:
    net = filled(TEXT)
    net.z = nn.Linear(4, 6)
    assert torch.equal(net.part(["z"])(X, Y)["z"], net(X, Y)["z"])


def test_a_layer_that_cannot_be_copied_is_named() -> None:
    net = filled(TEXT)

    class Stuck(nn.Module):
        def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
            raise TypeError("holds a socket")

    net.relu = Stuck()
    with pytest.raises(LayerError, match=r"layer 'relu' \(ReLU\): cannot be copied: holds a socket"):
        net.part(["a"])
