"""CaffeNet as a module: running, sharing, filling, gradients, casting, copying, compiling."""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import caffe_compat
from caffe_compat import CaffeCompatWarning, CaffeNet, NetState
from caffe_compat.errors import LayerError, NetworkError, UnknownLayerError, UsageError, WeightsError
from caffe_compat.formats.weights import read_weights
from caffe_compat.formats.weights_hdf5 import write_caffemodel_hdf5
from caffe_compat.network.filling import FillReport, fill_net
from caffe_compat.network.net import ParamSpec
from caffe_compat.network.sharing import Sharing
from caffe_compat.schema.prototxt import parse_message
from tests.networks import filled, input_layer, ip, layer, net_of, write_weights
from tests.tracing import export

X = np.random.RandomState(1).uniform(-1, 1, (2, 3)).astype(np.float32)

# x (2, 3) -> first (2, 4) -> second (2, 5), and a branch that reads first before the ReLU overwrites it
BRANCHED = (
    input_layer("x", 2, 3)
    + ip("first", "x", "first", 4)
    + layer("before", "Power", "first", "before", "power_param { scale: 2 }")
    + layer("relu", "ReLU", "first", "first", "relu_param { negative_slope: -1 }")
    + ip("second", "first", "second", 5)
)


def by_hand(net: CaffeNet, x: np.ndarray) -> dict[str, np.ndarray]:
    w = {name: tensor.detach().cpu().double().numpy() for name, tensor in net.state_dict().items()}
    first = x.astype(np.float64) @ w["first.weight"].T + w["first.bias"]
    return {
        "x": x,
        "before": 2 * first,
        "first": np.abs(first),
        "second": np.abs(first) @ w["second.weight"].T + w["second.bias"],
    }


# Running


def test_every_blob_in_execution_order(device: torch.device) -> None:
    net = filled(BRANCHED).to(device)
    expected = by_hand(net, X)
    values = net.run({"x": X}, blobs="all")
    # "first" counts from when it was last written.
    assert list(values) == ["x", "before", "first", "second"]
    for name, value in values.items():
        assert value.device.type == device.type
        np.testing.assert_allclose(value.cpu().numpy(), expected[name], rtol=1e-5)


def test_outputs_and_chosen_blobs() -> None:
    net = filled(BRANCHED)
    expected = by_hand(net, X)
    outputs = net(x=torch.from_numpy(X))
    assert list(outputs) == ["before", "second"] == list(net.output_names)
    np.testing.assert_allclose(outputs["before"].detach().numpy(), expected["before"], rtol=1e-6)
    assert list(net.run({"x": X})) == ["before", "second"]
    assert list(net.run({"x": X}, blobs=["second", "first"])) == ["second", "first"]
    with pytest.raises(UsageError, match="no blob 'third'; the net has x, first, before, second"):
        net.run({"x": X}, blobs=["third"])


@pytest.mark.filterwarnings("error::UserWarning")
def test_run_takes_any_array() -> None:
    net = filled(BRANCHED)
    wide = np.repeat(X.astype(np.float64), 2, axis=1)
    fixed = np.frombuffer(X.tobytes(), np.float32).reshape(X.shape)
    for x in (wide[:, ::2], np.asfortranarray(X), X[::-1][::-1], torch.from_numpy(X).double(), X.tolist(), fixed):
        np.testing.assert_allclose(net.run({"x": x})["second"], by_hand(net, X)["second"], rtol=1e-5)
    scalar = filled(input_layer("s") + layer("p", "Power", "s", "y", "power_param { scale: 3 }"))
    assert float(scalar.run({"s": np.array(2.0)})["y"]) == 6


def test_wrong_inputs_are_named() -> None:
    net = filled(BRANCHED + input_layer("unread", 4))
    with pytest.raises(UsageError, match="missing x; the net's inputs are x, unread"):
        net.run({"unread": np.zeros(4)})
    with pytest.raises(UsageError, match="no input z; the net's inputs are x, unread"):
        net.run({"x": X, "z": X})
    with pytest.raises(UsageError, match="input 'x' is a ndarray, not a tensor"):
        net(x=np.zeros((2, 3), np.float32))
    with pytest.raises(UsageError, match=r"input 'x' has shape \[6\], the net was built for \[2, 3\]"):
        net.run({"x": X.ravel()})
    with pytest.raises(LayerError, match=r"layer 'first' \(InnerProduct\): failed on bottoms x \[2, 7\]: ") as raised:
        net.run({"x": np.zeros((2, 7))})
    assert raised.value.layer == "first"
    assert str(raised.value).endswith("; built for x [2, 3]")
    words = input_layer("w", 2) + layer("e", "Embed", "w", "v", "embed_param { num_output: 3 input_dim: 5 }")
    with pytest.raises(LayerError, match=r"layer 'e' \(Embed\): failed on bottoms w \[2\]: .*; values: w from 1 to 5$"):
        filled(words).run({"w": np.array([5, 1])})


def test_an_input_that_nobody_reads_may_be_left_out() -> None:
    net = filled(BRANCHED + input_layer("label", 2))
    assert list(net(x=torch.from_numpy(X))) == ["before", "second"]
    assert list(net.run({"x": X})) == ["before", "second"]
    assert list(net.run({"x": X}, blobs="all")) == ["x", "before", "first", "second"]
    label = np.array([3.0, 4.0], np.float32)
    assert list(net.run({"x": X, "label": label})) == ["before", "label", "second"]
    with pytest.raises(UsageError, match="an input was left out"):
        net.run({"x": X}, blobs=["label"])


def test_another_batch_and_another_image_size(device: torch.device) -> None:
    net = filled(
        input_layer("x", 2, 3, 8, 9)
        + layer("c", "Convolution", "x", "c", "convolution_param { num_output: 4 kernel_size: 3 }")
        + layer("p", "Pooling", "c", "p", "pooling_param { global_pooling: true pool: AVE }")
    ).to(device)
    assert net.input_shapes == {"x": (2, 3, 8, 9)}
    for shape in ((2, 3, 8, 9), (1, 3, 8, 9), (5, 3, 11, 4)):
        x = np.random.RandomState(2).uniform(-1, 1, shape).astype(np.float32)
        values = net.run({"x": x}, blobs="all")
        assert values["c"].shape == (shape[0], 4, shape[2] - 2, shape[3] - 2)
        torch.testing.assert_close(values["p"], values["c"].mean((2, 3), keepdim=True))


def test_inputs_are_left_alone() -> None:
    net = filled(
        input_layer("x", 2, 3)
        + layer("r", "ReLU", "x", "x")
        + layer("p", "Power", "x", "x", "power_param { shift: 1 }")
    )
    x = torch.from_numpy(X.copy())
    net(x=x)
    assert torch.equal(x, torch.from_numpy(X))


def test_nested_and_odd_names_run(device: torch.device) -> None:
    names = ["a.b", "", "x%", "forward", "same", "same"]
    text, bottom = input_layer("in", 2, 3), "in"
    for i, name in enumerate(names):
        text += ip(name, bottom, f"t{i}", 3 + i)
        bottom = f"t{i}"
    net = filled(text).to(device)
    assert net.run({"in": X})["t5"].shape == (2, 8)
    keys = {key.rpartition(".")[0] for key in net.state_dict()}
    assert keys == {"a%2Eb", "%", "x%25", "%forward", "same", "same#2"}


def test_state_dict_has_the_users_names() -> None:
    net = filled(BRANCHED)
    assert sorted(net.state_dict()) == ["first.bias", "first.weight", "second.bias", "second.weight"]
    other = net_of(BRANCHED).materialize()
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.run({"x": X})["second"], net.run({"x": X})["second"])


# Phases


def test_phase_decides_layers_and_mode() -> None:
    text = BRANCHED + layer("drop", "Dropout", "second", "dropped", "include { phase: TRAIN }")
    assert not net_of(text).training
    train = net_of(text, state=NetState("TRAIN"))
    assert train.training
    assert train.drop.training
    assert not hasattr(net_of(text), "drop")


# Shared parameters

SHARED = (
    input_layer("x", 2, 3)
    + ip("one", "x", "a", 3, 'param { name: "w" } param { name: "b" }')
    + ip("two", "a", "b", 3, 'param { name: "w" } param { }')
)


def test_layers_that_share_a_blob_hold_one_tensor() -> None:
    net = filled(SHARED)
    assert net.one.weight is net.two.weight
    assert net.one.bias is not net.two.bias
    assert len(list(net.parameters())) == 3
    net.assign_blob("two", "weight", torch.full((3, 3), 7.0))
    assert net.one.weight is net.two.weight
    assert float(net.one.weight[0, 0].detach()) == 7
    again = net_of(SHARED).materialize(0)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.run({"x": X})["b"], net.run({"x": X})["b"])


def test_the_owners_filler_counts() -> None:
    text = input_layer("x", 2, 3) + "".join(
        layer(
            n,
            "InnerProduct",
            "x",
            n,
            f'param {{ name: "w" }} inner_product_param {{ num_output: 2 bias_term: false '
            f'weight_filler {{ type: "constant" value: {v} }} }}',
        )
        for n, v in (("one", 3), ("two", 4))
    )
    net = net_of(text).materialize()
    assert torch.equal(net.two.weight, torch.full((2, 3), 3.0))


def test_gradients_of_sharers_add_up(device: torch.device) -> None:
    net = filled(SHARED).to(device)
    x = torch.from_numpy(X).to(device)
    net(x=x)["b"].sum().backward()
    w = net.one.weight.detach().clone().requires_grad_()
    a = x @ w.t() + net.one.bias.detach()
    (a @ w.t() + net.two.bias.detach()).sum().backward()
    torch.testing.assert_close(net.one.weight.grad, w.grad)


def lr_of(*params: str) -> dict[str, ParamSpec]:
    text, bottom = input_layer("x", 2, 3), "x"
    for i, param in enumerate(params):
        text += ip(f"l{i}", bottom, f"t{i}", 3, f"param {{ {param} }}")
        bottom = f"t{i}"
    return net_of(text).param_specs


def test_multipliers() -> None:
    assert lr_of("lr_mult: 0 decay_mult: 3") == {"l0.weight": ParamSpec(0, 3), "l0.bias": ParamSpec(1, 1)}
    same = lr_of('name: "w" lr_mult: 2', 'name: "w"', 'name: "w" lr_mult: 2 decay_mult: 0', 'name: "w" decay_mult: 0')
    assert {same[f"l{i}.weight"] for i in range(4)} == {ParamSpec(2, 0)}
    # The first sharer that gives a multiplier sets it, for all.
    late = lr_of('name: "w"', 'name: "w" lr_mult: 5')
    assert late["l0.weight"] == late["l1.weight"] == ParamSpec(5, 1)


def test_a_blob_of_many_layers_is_not_told_to_all_of_them_each_time() -> None:
    told: list[int] = []

    class Counted(dict[str, ParamSpec]):
        def update(self, other: dict[str, ParamSpec]) -> None:  # type: ignore[override]
            told.append(len(other))
            super().update(other)

    text = input_layer("x", 2, 3)
    text += "".join(ip(f"l{i}", "x", f"y{i}", 3, 'param { name: "w" decay_mult: 2 }') for i in range(50))
    net = net_of(text)
    sharing = Sharing()
    sharing.specs = Counted()
    for node in net.graph.computed:
        sharing.read(node, net.get_submodule(node.module_name))
    assert sharing.specs["l49.weight"] == ParamSpec(1, 2)
    assert sum(told) == 49


def test_sharers_must_not_contradict_each_other() -> None:
    with pytest.raises(
        LayerError, match=r"layer 'l1' .*: param 'w' has lr_mult 2, but l0.weight, which shares it, has 1"
    ):
        lr_of('name: "w" lr_mult: 1', 'name: "w" lr_mult: 2')
    with pytest.raises(LayerError, match=r"layer 'l2' .*: param 'w' has decay_mult 1, but l0.weight, .* has 0"):
        lr_of('name: "w"', 'name: "w" decay_mult: 0', 'name: "w" decay_mult: 1')


def sharing(mode: str, size: int = 4) -> str:
    """(2, 3) * weight (4, 3) -> (2, 4) * weight (size, 4), one parameter of 12 values if size is 3."""
    return (
        input_layer("x", 2, 3)
        + ip("one", "x", "a", 4, 'param { name: "w" }')
        + ip("two", "a", "b", size, f'param {{ name: "w" {mode} }}')
    )


def test_shapes_must_be_equal_unless_permissive() -> None:
    with pytest.raises(LayerError, match=r"'two' .*\[3, 4\] shares .* \[4, 3\]; share_mode: PERMISSIVE would allow"):
        net_of(sharing("", 3))
    with pytest.raises(LayerError, match=r"'two' .*\[5, 4\] shares its parameter with one of shape \[4, 3\]$"):
        net_of(sharing("share_mode: PERMISSIVE", 5))


def test_permissive_sharing_sees_a_reshaped_view(device: torch.device) -> None:
    text = sharing("share_mode: PERMISSIVE lr_mult: 3", 3)
    net = filled(text).to(device)
    assert net.param_specs["one.weight"] == net.param_specs["two.weight"] == ParamSpec(3, 1)
    assert sorted(net.state_dict()) == ["one.bias", "one.weight", "two.bias"]
    assert net.blobs_of("two")["weight"].shape == (3, 4)
    x = torch.from_numpy(X).to(device)
    w = net.one.weight.detach().clone().requires_grad_()
    expected = (x @ w.t() + net.one.bias.detach()) @ w.view(3, 4).t() + net.two.bias.detach()
    found = net(x=x)["b"]
    torch.testing.assert_close(found, expected)
    expected.square().sum().backward()
    found.square().sum().backward()
    torch.testing.assert_close(net.one.weight.grad, w.grad)

    twin = copy.deepcopy(net)
    with torch.no_grad():
        net.one.weight.zero_()
    assert float(net.two.weight.detach().abs().sum()) == 0
    assert float(twin.two.weight.detach().abs().sum()) > 0
    torch.testing.assert_close(twin(x=x)["b"], expected)
    twin.assign_blob("two", "weight", torch.arange(12.0, device=device).reshape(3, 4))
    assert torch.equal(twin.one.weight, torch.arange(12.0, device=device).reshape(4, 3))
    other = net_of(text).materialize()
    other.load_state_dict(twin.state_dict())
    assert torch.equal(other.two.weight, twin.two.weight.cpu())
    assert twin.double().two.weight.dtype == torch.float64


def test_weights_of_permissive_sharers_are_filled(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32)
    path = write_weights(
        tmp_path / "w", [("one", [values.reshape(4, 3), np.ones(4)]), ("two", [values.reshape(3, 4), np.ones(3)])]
    )
    net, report = fill(sharing("share_mode: PERMISSIVE", 3), path)
    assert report.warnings == []
    assert torch.equal(net.one.weight, torch.from_numpy(values.reshape(4, 3)))


def test_shared_buffers_stay_shared_when_the_net_moves() -> None:
    param = "".join(f'param {{ name: "{n}" lr_mult: 0 }} ' for n in "mvs")
    net = filled(
        input_layer("x", 5, 3) + layer("b1", "BatchNorm", "x", "y", param) + layer("b2", "BatchNorm", "y", "z", param),
        state=NetState("TRAIN"),
    )
    for moved in (net, copy.deepcopy(net), net.double(), net.half().float()):
        assert moved.b1.mean is moved.b2.mean
        moved.train()(x=torch.rand(5, 3, dtype=moved.b1.mean.dtype))
        assert moved.b1.mean is moved.b2.mean


# Weights


def fill(text: str, path: Path) -> tuple[CaffeNet, FillReport]:
    net = net_of(text)
    with read_weights(path) as weights:
        report = fill_net(net, weights)
    return net.materialize(), report


def full(shape: tuple[int, ...], value: float) -> np.ndarray:
    return np.full(shape, value, np.float32)


def test_a_repeated_name_gets_its_weights_in_the_first_layer(tmp_path: Path) -> None:
    text = input_layer("x", 2, 3) + ip("same", "x", "a", 3) + ip("same", "a", "b", 3)
    path = write_weights(tmp_path / "w", [("same", [full((3, 3), 7), full((3,), 8)])])
    net, report = fill(text, path)
    assert float(net.same.weight[0, 0].detach()) == 7
    assert float(getattr(net, "same#2").weight.detach().sum()) == 0
    assert report.filled == ["same"]


def test_a_data_layer_does_not_take_the_weights_of_its_namesake(tmp_path: Path) -> None:
    text = input_layer("same", 2, 3) + ip("same", "same", "a", 3)
    path = write_weights(tmp_path / "w", [("same", [full((3, 3), 7), full((3,), 8)])])
    net, report = fill(text, path)
    assert float(getattr(net, "same#2").bias[0].detach()) == 8
    assert report.warnings == []


def test_leftover_and_missing_weights_are_reported(tmp_path: Path) -> None:
    path = write_weights(
        tmp_path / "w", [("first", [full((4, 3), 1), full((4,), 2)]), ("third", [full((9,), 1)]), ("none", [])]
    )
    net, report = fill(BRANCHED, path)
    assert (report.filled, report.initial, report.leftover) == (["first"], ["second"], ["third"])
    assert report.warnings == [
        f"{path} has no weights for layer 'second': they keep their initial values, as in Caffe",
        f"{path} has weights for layer 'third', which the net does not use",
    ]
    assert float(net.second.weight.detach().abs().sum()) == 0
    (tmp_path / "net").write_text(BRANCHED)
    with pytest.raises(WeightsError, match=r"w: has no weights for layer 'second'.*--fill-missing"):
        caffe_compat.load(tmp_path / "net", path)
    with pytest.warns(CaffeCompatWarning) as caught:
        loaded = caffe_compat.load(tmp_path / "net", path, fill_missing=True)
    assert [str(w.message) for w in caught] == report.warnings
    assert loaded.unfilled == ("second",)


def test_sharers_need_no_weights_of_their_own(tmp_path: Path) -> None:
    text = SHARED.replace("param { } ", 'param { name: "b" } ')
    path = write_weights(tmp_path / "w", [("one", [full((3, 3), 7), full((3,), 8)])])
    net, report = fill(text, path)
    assert report.warnings == []
    assert float(net.two.bias[0].detach()) == 8
    write_caffemodel_hdf5(
        tmp_path / "h",
        [("one", [full((3, 3), 5), full((3,), 6)])],
    )
    net, report = fill(text, tmp_path / "h")
    assert report.warnings == []
    assert float(net.two.weight[0, 0].detach()) == 5


@pytest.mark.parametrize(
    ("blobs", "message"),
    [
        (
            [full((4, 5), 1), full((4,), 1)],
            r"layer 'first', blob 0 \(weight\): the file has shape \[4, 5\], the net needs \[4, 3\]$",
        ),
        ([full((3, 4), 1), full((4,), 1)], r"blob 0 \(weight\): the file has shape \[3, 4\], the net needs \[4, 3\]"),
        ([full((4, 3), 1), full((4, 1), 1)], r"blob 1 \(bias\): the file has shape \[4, 1\], the net needs \[4\]"),
        (
            [full((1, 4, 3), 1), full((4,), 1)],
            r"blob 0 \(weight\): the file has shape \[1, 4, 3\], the net needs \[4, 3\]",
        ),
        ([full((4, 3), 1)], r"layer 'first': has 1 blobs, the net needs 2 \(weight, bias\)"),
        ([full((4, 3), 1)] * 3, r"layer 'first': has 3 blobs, the net needs 2 \(weight, bias\)"),
    ],
)
def test_blobs_that_do_not_fit(blobs: list[np.ndarray], message: str, tmp_path: Path) -> None:
    path = write_weights(tmp_path / "w", [("first", blobs)])
    with pytest.raises(WeightsError, match=message) as raised:
        fill(BRANCHED, path)
    assert str(raised.value).startswith(f"{path}: ")


def test_weights_for_a_layer_without_blobs(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "w", [("relu", [full((4,), 1)])])
    with pytest.raises(WeightsError, match=r"layer 'relu': has 1 blobs, the net needs 0 \(none\)"):
        fill(BRANCHED, path)


def test_shapes_of_old_files(tmp_path: Path) -> None:
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    old = [weight.reshape(1, 1, 4, 3), full((1, 1, 1, 4), 2)]
    path = write_weights(tmp_path / "w", [("first", old)], legacy=True)
    with read_weights(path) as weights:
        assert [blob.shape for blob in weights.layers[0].blobs] == [(1, 1, 4, 3), (1, 1, 1, 4)]
    net, _ = fill(BRANCHED, path)
    assert torch.equal(net.first.weight, torch.from_numpy(weight))
    path = write_weights(tmp_path / "w", [("first", [weight.reshape(4, 3, 1, 1), old[1]])], legacy=True)
    with pytest.raises(WeightsError, match=r"the file has shape \[4, 3, 1, 1\], the net needs \[4, 3\]"):
        fill(BRANCHED, path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_reported(value: float, tmp_path: Path) -> None:
    bad = full((4, 3), 1)
    bad[2, 1] = value
    path = write_weights(
        tmp_path / "w", [("first", [bad, full((4,), 3e38)]), ("second", [full((5, 4), 1), full((5,), 1)])]
    )
    _, report = fill(BRANCHED, path)
    # 3e38 four times is more than float32 holds, and every value is finite all the same.
    assert report.warnings == [
        f"{path}: layer 'first', blob 0 (weight) holds values that are not finite (NaN or infinity)"
    ]


def test_the_net_owns_its_weights(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "w", [("first", [full((4, 3), 1), full((4,), 2)])])
    net, _ = fill(BRANCHED, path)
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert float(net.first.weight.detach().sum()) == 12


def test_assigning_another_shape_is_refused() -> None:
    net = filled(BRANCHED)
    with pytest.raises(WeightsError, match=r"layer 'first', blob weight: shape \[3, 4\] was given, \[4, 3\] is needed"):
        net.assign_blob("first", "weight", torch.zeros(3, 4))


def test_seeded_fillers() -> None:
    text = BRANCHED.replace("num_output: 4", 'num_output: 4 weight_filler { type: "gaussian" }')
    one, same, other = (net_of(text).materialize(seed).first.weight.detach() for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_fillers_that_make_no_sense_name_the_layer() -> None:
    text = BRANCHED.replace("num_output: 4", 'num_output: 4 weight_filler { type: "magic" }')
    with pytest.raises(LayerError, match=r"layer 'first' \(InnerProduct\), blob weight: no filler type 'magic'"):
        net_of(text).materialize()


# Limits


def test_more_than_caffe_allows_is_refused_before_any_memory_is_used() -> None:
    big = layer("l", "InnerProduct", "x", "y", "inner_product_param { num_output: 2147483647 }")
    with pytest.raises(
        NetworkError, match=r"'l' .*blob 'weight' of shape \[2147483647, 3\]: Caffe's limit is 2147483647 values"
    ):
        net_of(input_layer("x", 2, 3) + big)
    with pytest.raises(NetworkError, match=r"blob 'x' of shape .*: Caffe's limit"):
        net_of(input_layer("x", 0, 2**62, 2**62))
    with pytest.raises(NetworkError, match="blob 'x' has 33 axes; Caffe's limit is 32"):
        net_of(input_layer("x", *[1] * 33))
    three = "".join(
        layer(f"p{i}", "Parameter", "", f"y{i}", "parameter_param { shape { dim: 1000000000 } }") for i in range(3)
    )
    with pytest.raises(NetworkError, match="declares 11 GiB of blobs"):
        net_of(three).materialize()


def test_errors_name_the_file_and_the_layer(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    cases = {
        layer("l", "Nope", "x", "y"): (UnknownLayerError, "layer 'l': no layer type 'Nope'"),
        layer("l", "", "x", "y"): (LayerError, "layer 'l': has no type"),
        layer("l", "ReLU", "x", "y z"): (LayerError, r"layer 'l' \(ReLU\): takes exactly 1 tops, found 2"),
        layer("l", "Concat", "", "y"): (LayerError, r"layer 'l' \(Concat\): takes at least 1 bottoms, found 0"),
    }
    for text, (kind, message) in cases.items():
        path.write_text(input_layer("x", 2, 3) + text)
        with pytest.raises(kind, match=f"^{path}: {message}"):
            caffe_compat.load(path)


def test_a_type_of_another_dialect_names_that_dialect() -> None:
    with pytest.raises(
        UnknownLayerError, match=r"'ExpMax' is known as twhui/LiteFlowNet .* not under dialect bvlc; .*pass"
    ):
        net_of(input_layer("x", 2, 3) + layer("m", "ExpMax", "x", "y"))


def test_parameters_of_other_types_are_reported() -> None:
    net = net_of(input_layer("x", 2, 3) + layer("r", "ReLU", "x", "y", "power_param { scale: 3 }"))
    assert net.warnings == ["layer 'r' (ReLU): power_param is ignored: the type does not read it, in Caffe either"]


# Recurrent state


def test_recurrent_state_is_carried_and_reset() -> None:
    net = filled(
        input_layer("x", 3, 2, 4)
        + input_layer("cont", 3, 2)
        + layer("l", "LSTM", "x cont", "h", "recurrent_param { num_output: 5 }")
    )
    x = np.random.RandomState(3).uniform(-1, 1, (3, 2, 4)).astype(np.float32)
    go_on = np.ones((3, 2), np.float32)
    first, second = (net.run({"x": x, "cont": go_on})["h"] for _ in range(2))
    assert not torch.equal(first, second)
    assert not [key for key in net.state_dict() if "hidden" in key or "cell" in key]
    net.reset_state()
    assert torch.equal(net.run({"x": x, "cont": go_on})["h"], first)
    assert net.run({"x": np.tile(x, (2, 2, 1)), "cont": np.tile(go_on, (2, 2))})["h"].shape == (6, 4, 5)


# Gradients and losses


def grads(text: str, x: np.ndarray = X, **options: object) -> tuple[CaffeNet, Tensor | None]:
    net = filled(text, **options)
    x_ = torch.from_numpy(x.copy()).requires_grad_()
    outputs = net(x=x_)
    sum(value.sum() for value in outputs.values()).backward()
    return net, x_.grad


def test_propagate_down_stops_the_gradient() -> None:
    chain = input_layer("x", 2, 3) + ip("one", "x", "a", 4) + ip("two", "a", "b", 5, "propagate_down: DOWN")
    net, gradient = grads(chain.replace("DOWN", "true"))
    assert gradient is not None
    assert float(net.one.weight.grad.abs().sum()) > 0
    net, gradient = grads(chain.replace("DOWN", "false"))
    assert gradient is None
    assert net.one.weight.grad is None
    assert float(net.two.weight.grad.abs().sum()) > 0
    net, gradient = grads("force_backward: true " + chain.replace("DOWN", "false"))
    assert gradient is not None
    with pytest.raises(LayerError, match=r"layer 'two' .*: propagate_down has 2 values for 1 bottoms"):
        net_of(chain.replace("DOWN", "true propagate_down: true"))


@pytest.mark.parametrize(
    ("kind", "dialect", "reached"),
    [
        ("EuclideanLoss", "bvlc", (True, True)),
        ("SigmoidCrossEntropyLoss", "bvlc", (True, False)),
        ("SmoothL1Loss", "weiliu89/caffe@ssd", (True, True)),
        ("InvertedOrder", "chanyn/3Dpose_ssl", (False,)),
        ("ReLU", "bvlc", (True,)),
    ],
)
def test_where_force_backward_reaches(kind: str, dialect: str, reached: tuple[bool, ...]) -> None:
    """Not into labels, and not where the class forbids it, unless a learned blob above needs the gradient anyway."""
    names = "ab"[: len(reached)]
    ends = "".join(input_layer(name, 2, 48) for name in names)
    learned = ends + "".join(ip(f"ip_{name}", name, f"l{name}", 48) for name in names)
    for text, blobs, expected in (
        (ends, names, reached),
        (learned, [f"l{name}" for name in names], (True,) * len(reached)),
    ):
        parsed = parse_message("force_backward: true " + text + layer("k", kind, " ".join(blobs), "k"), dialect=dialect)
        net = CaffeNet(parsed.message, dialect=parsed.schema.name)
        assert net.program.steps[-1].stops_gradient == tuple(not r for r in expected)


def test_loss_weights() -> None:
    two = input_layer("x", 2, 3) + input_layer("y", 2, 3)
    text = (
        two
        + layer("e", "EuclideanLoss", "x y", "e")
        + layer("f", "EuclideanLoss", "x y", "f", "loss_weight: 0.5")
        + layer("g", "EuclideanLoss", "x y", "g", "loss_weight: 0")
        + layer("p", "Power", "x", "p", "loss_weight: 2 power_param { power: 2 }")
        + layer("r", "ReLU", "x", "r")
    )
    net = filled(text)
    assert {net.graph.blobs[v]: w for v, w in net.loss_weights.items()} == {"e": 1, "f": 0.5, "p": 2}
    y = np.roll(X, 1, axis=0)
    values = net.values({"x": torch.from_numpy(X), "y": torch.from_numpy(y)})
    euclidean = ((X - y) ** 2).sum() / 2 / 2
    np.testing.assert_allclose(float(net.loss(values)), 1.5 * euclidean + 2 * (X**2).sum(), rtol=1e-6)
    with pytest.raises(LayerError, match=r"layer 'r' .*: has 2 loss weights for 1 tops"):
        net_of(two + layer("r", "ReLU", "x", "r", "loss_weight: 1 loss_weight: 1"))
    plain = filled(BRANCHED)
    with pytest.raises(NetworkError, match="the net has no loss in phase TEST"):
        plain.loss(plain.values({"x": torch.from_numpy(X)}))


def test_run_builds_no_gradient_graph() -> None:
    assert not filled(BRANCHED).run({"x": X})["second"].requires_grad


# Precision, copies, compilers


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype, device: torch.device) -> None:
    net = filled(BRANCHED).to(device)
    expected = by_hand(net, X)["second"]
    net = net.half() if dtype == torch.float16 else net.to(dtype)
    assert net.device_and_dtype() == (net.first.weight.device, dtype)
    found = net.run({"x": X})["second"]
    assert found.dtype == dtype
    np.testing.assert_allclose(found.cpu().double().numpy(), expected, rtol={torch.float64: 1e-6}.get(dtype, 0.03))


@pytest.mark.parametrize(
    "text",
    [
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: three } } }',
        'input: "x" input_shape { dim: 2 dim: three }',
    ],
)
def test_a_size_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(NetworkError, match=r"dim .value 'three' is not a whole number in BlobShape"):
        net_of(text + layer("r", "ReLU", "x", "y"))


def test_unknown_fields_of_inputs_and_params() -> None:
    text = input_layer("x", 2, 3) + ip("f", "x", "y", 4, "param { lr: 0 }")
    with pytest.raises(LayerError, match=r"layer 'f' \(InnerProduct\): param 0: .*no such field in ParamSpec"):
        net_of(text)
    with pytest.raises(LayerError, match=r"layer 'x' \(Input\): .*no such field in InputParameter.*mean shape\?"):
        net_of(text.replace("shape {", "shap { dim: 4 } shape {"))
    with pytest.raises(NetworkError, match=r"param 0: .*lr_mult .value 'a'"):
        net_of(text.replace("lr: 0", "lr_mult: a"))


def test_a_copy_is_independent() -> None:
    net = filled(SHARED)
    before = net.run({"x": X})["b"]
    twin = copy.deepcopy(net)
    assert torch.equal(twin.run({"x": X})["b"], before)
    assert twin.one.weight is twin.two.weight
    assert twin.one.weight is not net.one.weight
    twin.assign_blob("one", "weight", torch.zeros(3, 3))
    assert float(twin.two.weight.detach().abs().sum()) == 0
    assert torch.equal(net.run({"x": X})["b"], before)


COMPILED = {
    "branched": (BRANCHED, (2, 3)),
    "shared": (SHARED, (2, 3)),
    "permissive": (sharing("share_mode: PERMISSIVE", 3), (2, 3)),
    "images": (
        input_layer("x", 2, 3, 9, 7)
        + layer("conv.1", "Convolution", "x", "c", "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }")
        + layer("bn", "BatchNorm", "c", "c")
        + layer("scale", "Scale", "c", "c", "scale_param { bias_term: true }")
        + layer("r", "ReLU", "c", "c")
        + layer("pool", "Pooling", "c", "p", "pooling_param { kernel_size: 3 stride: 2 }")
        + layer("lrn", "LRN", "p", "n")
        + layer("cat", "Concat", "p n", "cat")
        + layer("prob", "Softmax", "cat", "prob"),
        (2, 3, 9, 7),
    ),
}


@pytest.mark.parametrize("name", COMPILED)
def test_export(name: str) -> None:
    text, shape = COMPILED[name]
    net = filled(text)
    x = torch.from_numpy(np.random.RandomState(4).uniform(-1, 1, shape).astype(np.float32))
    program = export(net, (), {"x": x})
    for key, value in program.module()(x=x).items():
        torch.testing.assert_close(value, net(x=x)[key])
    stored = io.BytesIO()
    torch.export.save(program, stored)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_compile_without_graph_breaks(name: str) -> None:
    text, shape = COMPILED[name]
    net = filled(text)
    x = torch.from_numpy(np.random.RandomState(4).uniform(-1, 1, shape).astype(np.float32))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
        for key, value in compiled(x=x).items():
            torch.testing.assert_close(value, net(x=x)[key])


def test_a_recurrent_net_exports_and_compiles() -> None:
    net = filled(
        input_layer("x", 3, 2, 4)
        + input_layer("cont", 3, 2)
        + layer("l", "LSTM", "x cont", "h", "recurrent_param { num_output: 5 }")
    )
    given = {"x": torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(6)), "cont": torch.ones(3, 2)}
    with torch.no_grad():
        expected = [net(**given)["h"] for _ in range(2)]
        for run in (
            export(net, (), given).module(),
            torch.compile(net, fullgraph=True, backend="aot_eager"),
        ):
            net.reset_state()
            for value in expected:
                torch.testing.assert_close(run(**given)["h"], value)


# Layers of one's own


def test_a_plain_module_keeps_its_own_initial_values(tmp_path: Path, device: torch.device) -> None:
    from caffe_compat.network.registry import _TYPES, LayerSpec

    @caffe_compat.layer("TestPlain", bottoms=1, tops=1)
    def plain(spec: LayerSpec) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))

    try:
        text = input_layer("x", 2, 3) + layer("mine", "TestPlain", "x", "y")
        net = net_of(text).materialize().to(device)
        torch.manual_seed(0)
        expected = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False)).to(device)
        torch.testing.assert_close(net.run({"x": X})["y"], expected(torch.from_numpy(X).to(device)).detach())
        assert list(net.blobs_of("mine")) == ["0.weight", "0.bias", "2.weight"]
        path = write_weights(tmp_path / "w", [("mine", [full((4, 3), 1), full((4,), 2), full((2, 4), 3)])])
        net, report = fill(text, path)
        assert report.warnings == []
        assert float(net.state_dict()["mine.2.weight"].sum()) == 24
    finally:
        _TYPES.pop(("TestPlain", ""))


def test_a_loss_without_a_top_counts() -> None:
    text = """
    layer { name: "in" type: "Input" top: "x" top: "t" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "loss" type: "EuclideanLoss" bottom: "x" bottom: "t" loss_weight: 3 }
    """
    net = CaffeNet(parse_message(text).message, NetState("TRAIN")).materialize()
    values = net.values({"x": torch.ones(2, 3), "t": torch.zeros(2, 3)})
    assert float(net.loss(values)) == 3 * 6 / (2 * 2)
    assert net.output_names == ()


# Inputs that a file names without a shape


def test_input_shapes_declare_inputs_without_one() -> None:
    text = 'input: "x" ' + ip("fc", "x", "y", 4)
    parsed = parse_message(text)
    message = caffe_compat.schema.upgrade.upgrade_net(parsed.message, parsed.schema).message
    with pytest.raises(NetworkError, match=r"if it is an input .* --input-shape 'x=N,C,H,W'"):
        CaffeNet(message)
    net = CaffeNet(message, input_shapes={"x": (2, 3)})
    assert net.input_shapes == {"x": (2, 3)}
    assert net.message.layer[0].type == "Input"
    assert len(message.layer) == 1
    with pytest.raises(UsageError, match="'z', which is no input"):
        CaffeNet(message, input_shapes={"x": (2, 3), "z": (1,)})


@pytest.mark.parametrize("mode", ["", "share_mode: PERMISSIVE"])
def test_layers_that_share_and_have_different_values_in_the_file(mode: str, tmp_path: Path) -> None:
    first, second = 'param { name: "w" }', f'param {{ name: "w" {mode} }}'
    text = input_layer("x", 2, 4) + ip("a", "x", "y", 4, first) + ip("b", "y", "z", 4, second)
    one, other, bias = full((4, 4), 1), full((4, 4), np.nan), full((4,), 0)
    _, report = fill(text, write_weights(tmp_path / "same", [("a", [other, bias]), ("b", [other, bias])]))
    assert not any("share the blob" in warning for warning in report.warnings)
    path = write_weights(tmp_path / "w", [("a", [other, bias]), ("b", [one, bias])])
    net, report = fill(text, path)
    assert report.warnings[-1] == (
        f"{path} has different values for layers 'a' and 'b', which share the blob weight; those of 'b', the later "
        "ones, count for both, as in Caffe"
    )
    assert bool((net.a.weight == 1).all())
    again = fill_net(net, read_weights(write_weights(tmp_path / "w", [("a", [one, bias]), ("b", [other, bias])])))
    assert any("share the blob weight" in warning for warning in again.warnings)
