"""caffe.Net against CaffeNet: what it consists of, its passes, weights and shapes."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import caffe_compat
from caffe_compat.errors import CaffeCompatWarning, FileError, GraphError, LayerError, UsageError, WeightsError
from caffe_compat.pycaffe.blob import is_host
from caffe_compat.pycaffe.runtime import runtime
from tests.pycaffe.pycaffe_models import BRANCHES, DEPLOY, write
from tests.work import counted

LABELS = np.array([4, 1])


def filled(caffe: Any, text: str = BRANCHES, phase: int = 1) -> Any:
    net = caffe.Net(write(text), phase)
    net.blobs["data"].data[...] = np.random.RandomState(0).randn(*net.blobs["data"].shape)
    if "label" in net.blobs:
        net.blobs["label"].data[...] = LABELS
    return net


def plain(net: Any, text: str = BRANCHES) -> caffe_compat.CaffeNet:
    """A CaffeNet with the same weights."""
    net.save("same.caffemodel")
    return caffe_compat.load(write(text, "plain.prototxt"), "same.caffemodel")


def tensors(net: Any) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(net.blobs[name].data) for name in net.inputs}


# What it consists of


def test_layers_and_blobs_are_those_of_caffe(caffe: Any) -> None:
    net = caffe.Net(write(BRANCHES), caffe.TEST)
    names = ["data", "conv", "relu", "conv_relu_0_split", "left", "right", "sum", "loss"]
    assert list(net._layer_names) == names
    assert [layer.type for layer in net.layers][3:6] == ["Split", "InnerProduct", "InnerProduct"]
    assert list(net.layer_dict) == names
    assert net.layer_dict["left"] is net.layers[4]
    blobs = ["data", "label", "conv", "conv_relu_0_split_0", "conv_relu_0_split_1", "left", "right", "sum", "loss"]
    assert list(net.blobs) == blobs
    assert list(net._blob_names) == blobs
    assert net._blobs[2] is net.blobs["conv"]
    assert net.inputs == ["data", "label"]
    assert net.outputs == ["loss"]
    assert (net._inputs, net._outputs) == ([0, 1], [8])
    assert net.top_names["data"] == ["data", "label"]
    assert net.top_names["relu"] == net.bottom_names["relu"] == ["conv"]
    assert net.bottom_names["sum"] == ["left", "right"]
    assert net.bottom_names["right"] == ["conv_relu_0_split_1"]
    assert (net._top_ids(4), net._bottom_ids(4)) == ([5], [3])
    weights = OrderedDict.fromkeys(blobs, 0.0)
    weights["loss"] = 3.0
    assert net.blob_loss_weights == weights
    assert net._blob_loss_weights == list(weights.values())
    assert isinstance(net.blobs, OrderedDict)
    assert isinstance(net.params, OrderedDict)


def test_params(caffe: Any) -> None:
    net = caffe.Net(write(BRANCHES), caffe.TEST)
    assert list(net.params) == ["conv", "left", "right"]
    assert [tuple(blob.shape) for blob in net.params["conv"]] == [(4, 3, 3, 3), (4,)]
    assert net.params["left"][0].data.shape == (6, 60)
    assert net.layers[1].blobs[0] is net.params["conv"][0]
    np.testing.assert_array_equal(net.params["conv"][1].data, np.full(4, 0.1, np.float32))
    assert net.params["conv"][0].data.std() > 0.1


def test_blobs_start_at_zero_and_a_loss_with_its_weight_as_diff(caffe: Any) -> None:
    net = caffe.Net(write(BRANCHES), caffe.TEST)
    for name, blob in net.blobs.items():
        assert not blob.data.any()
        assert blob.diff.shape == blob.data.shape
        assert blob.diff.sum() == (3 if name == "loss" else 0)
    assert net.blobs["loss"].data.shape == ()


def test_blob_dimensions(caffe: Any) -> None:
    net = caffe.Net(write(DEPLOY), caffe.TEST)
    blob = net.blobs["data"]
    assert (blob.num, blob.channels, blob.height, blob.width, blob.count) == (2, 3, 8, 6, 288)
    ip = net.blobs["ip"]
    assert (ip.num, ip.channels, ip.height, ip.width) == (2, 5, 1, 1)
    assert blob.data.dtype == np.float32
    assert blob.data.flags.c_contiguous


@pytest.mark.parametrize("how", ["named", "positional", "old"])
def test_the_three_ways_to_open_a_net(caffe: Any, how: str) -> None:
    caffe.Net(write(DEPLOY), caffe.TEST).save("w.caffemodel")
    made = {
        "named": lambda: caffe.Net("net.prototxt", caffe.TEST, weights="w.caffemodel"),
        "positional": lambda: caffe.Net("net.prototxt", caffe.TEST, 0, None, "w.caffemodel"),
        "old": lambda: caffe.Net("net.prototxt", "w.caffemodel", caffe.TEST),
    }[how]()
    expected = caffe_compat.load("net.prototxt", "w.caffemodel")
    np.testing.assert_array_equal(made.params["ip"][0].data, expected.ip.weight.detach().numpy())


def test_weights_without_a_phase_are_no_training_net(caffe: Any) -> None:
    caffe.Net(write(DEPLOY), caffe.TEST).save("w.caffemodel")
    with pytest.raises(UsageError, match="does not say the phase"):
        caffe.Net("net.prototxt", "w.caffemodel")


def test_levels_stages_and_phase(caffe: Any) -> None:
    text = DEPLOY + (
        'layer { name: "a" type: "Silence" bottom: "prob" include { phase: TRAIN } }'
        'layer { name: "b" type: "Silence" bottom: "prob" include { stage: "x" } }'
        'layer { name: "c" type: "Silence" bottom: "prob" include { min_level: 2 } }'
    )
    write(text)

    def last(phase: int, **more: Any) -> str:
        name: str = caffe.Net("net.prototxt", phase, **more)._layer_names[-1]
        return name

    assert last(caffe.TRAIN) == "a"
    assert last(caffe.TEST) == "prob"
    assert last(caffe.TEST, stages=["x"]) == "b"
    assert last(caffe.TEST, level=2) == "c"


# Forward


def test_forward_equals_caffenet(caffe: Any) -> None:
    net = filled(caffe)
    out = net.forward()
    expected = plain(net).run({"data": net.blobs["data"].data, "label": LABELS}, blobs="all")
    assert set(out) == {"loss"}
    for name, value in expected.items():
        np.testing.assert_allclose(net.blobs[name].data, value.numpy(), rtol=1e-4, atol=1e-5)
    assert net._forward(0, len(net.layers) - 1) == pytest.approx(3 * float(out["loss"]), rel=1e-5)


def test_forward_takes_inputs_and_returns_blobs(caffe: Any) -> None:
    net = caffe.Net(write(DEPLOY), caffe.TEST)
    x = np.random.RandomState(1).randn(2, 3, 8, 6)
    out = net.forward(blobs=["conv1"], data=x)
    assert set(out) == {"prob", "conv1"}
    np.testing.assert_array_equal(net.blobs["data"].data, x.astype(np.float32))
    np.testing.assert_allclose(out["prob"].sum(1), 1, rtol=1e-5)
    again = net.forward(data=x, end="relu1")
    assert set(again) == {"conv1"}
    assert (again["conv1"] >= 0).all()


def test_editing_a_blob_and_going_on_from_there(caffe: Any) -> None:
    net = filled(caffe, DEPLOY)
    net.forward()
    net.blobs["conv1"].data[...] = 0
    net.blobs["conv1"].data[0, 2, 1, 3] = 2.5
    net.forward(start="ip", end="ip")
    weight, bias = (blob.data for blob in net.params["ip"])
    flat = net.blobs["conv1"].data.reshape(2, -1)
    np.testing.assert_allclose(net.blobs["ip"].data, flat @ weight.T + bias, rtol=1e-4, atol=1e-5)
    assert np.count_nonzero(flat) == 1


def test_editing_what_a_split_hands_out(caffe: Any) -> None:
    """The tops of a Split are its bottom's memory, so going on behind it sees the edit."""
    net = filled(caffe)
    net.forward()
    held = net.blobs["conv"].data
    held[...] = 0.5
    if runs_on_cpu(net):
        np.testing.assert_array_equal(net.blobs["conv_relu_0_split_1"].data, held)
    net.forward(start="left")
    expected = np.full((2, 60), 0.5, np.float32) @ net.params["right"][0].data.T
    np.testing.assert_allclose(net.blobs["right"].data, expected, rtol=1e-4, atol=1e-5)


def runs_on_cpu(net: Any) -> bool:
    """Whether arrays are views of the layers' memory."""
    return all(is_host(b.data_array.tensor()) for b in net.blobs.values())


def test_a_layer_in_place_runs_again_on_its_own_result(caffe: Any) -> None:
    net = filled(caffe, DEPLOY.replace('"ReLU" bottom', '"Power" power_param { scale: 2 } bottom'))
    net.forward()
    once = net.blobs["conv1"].data.copy()
    net.forward(start="relu1", end="relu1")
    np.testing.assert_array_equal(net.blobs["conv1"].data, 2 * once)


def test_weights_written_through(caffe: Any) -> None:
    net = filled(caffe, DEPLOY)
    net.forward()
    net.params["ip"][0].data[...] = 0
    net.params["ip"][1].data[...] = [3, 1, 2, 0, 0]
    net.params["ip"][1].data[4] += 5
    out = net.forward()["prob"]
    np.testing.assert_allclose(out[1], np.exp([3, 1, 2, 0, 5]) / np.exp([3, 1, 2, 0, 5]).sum(), rtol=1e-5)


def test_a_blob_cannot_be_replaced_by_an_array(caffe: Any) -> None:
    net = filled(caffe, DEPLOY)
    for blobs in (net.params["ip"], net.layer_dict["ip"].blobs):
        with pytest.raises(UsageError, match=r"write to their values: net.params\['conv1'\]\[0\].data\[...\] = array"):
            blobs[0] = np.zeros(blobs[0].shape)
    assert net.params["ip"][0].data.any()


def test_callbacks_see_every_layer(caffe: Any) -> None:
    net = filled(caffe)
    seen: list[Any] = []
    net.before_forward(lambda i: seen.append(("before", i)))
    net.after_forward(lambda i: seen.append((i, float(net.blobs["conv"].data.min()))))
    net.forward(start="conv", end="relu")
    assert [entry[0] for entry in seen] == ["before", 1, "before", 2]
    assert seen[1][1] < 0 == seen[3][1]
    order: list[Any] = []
    net.before_backward(lambda i: order.append(("before", i)))
    net.after_backward(order.append)
    net.forward()
    net.backward(end="right")
    assert order == [("before", 7), 7, ("before", 6), 6, ("before", 5), 5]


def test_an_edit_between_layers_counts(caffe: Any) -> None:
    net = filled(caffe, DEPLOY)

    def edit(layer: int) -> None:
        if net._layer_names[layer] == "relu1":
            net.blobs["conv1"].data[...] = 0

    net.after_forward(edit)
    np.testing.assert_allclose(net.forward(blobs=["ip"])["ip"], 0, atol=1e-7)


def test_dropout_and_batch_norm_follow_the_phase(caffe: Any) -> None:
    text = DEPLOY.replace(
        'layer { name: "ip"',
        'layer { name: "drop" type: "Dropout" bottom: "conv1" top: "conv1" } layer { name: "ip"',
    )
    test, train = filled(caffe, text), filled(caffe, text, caffe.TRAIN)
    np.testing.assert_array_equal(test.forward()["prob"].copy(), test.forward()["prob"])
    assert (train.forward()["prob"].copy() != train.forward()["prob"]).any()


def test_seed_repeats_fillers_and_dropout(caffe: Any) -> None:
    def run(seed: int) -> Any:
        caffe.set_random_seed(seed)
        net = caffe.Net(write(DEPLOY), caffe.TRAIN)
        return net.params["conv1"][0].data.copy()

    np.testing.assert_array_equal(run(5), run(5))
    assert (run(5) != run(6)).any()


# Backward


def reference_gradients(net: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Gradients of the weighted loss for blobs and parameters, by autograd over the whole network."""
    core = plain(net)
    inputs = {name: x.cpu().requires_grad_(name == "data") for name, x in tensors(net).items()}
    values = core.values(inputs)
    for value in values:
        if value is not None and value.requires_grad:
            value.retain_grad()
    core.loss(values).backward()
    blobs = {name: v.grad for name, v in zip(core.graph.blobs, values, strict=True) if v is not None}
    return blobs, {name: p.grad for name, p in core.named_parameters()}


def test_backward_equals_autograd_over_the_whole_net(caffe: Any) -> None:
    net = filled(caffe, "force_backward: true" + BRANCHES, caffe.TRAIN)
    net.forward()
    out = net.backward()
    assert set(out) == {"data", "label"}
    blobs, params = reference_gradients(net)
    for name in ("data", "left", "right", "sum"):
        np.testing.assert_allclose(net.blobs[name].diff, blobs[name].numpy(), rtol=1e-3, atol=1e-5)
        assert np.abs(net.blobs[name].diff).max() > 1e-3
    for name in ("conv", "left", "right"):
        for i, kind in enumerate(("weight", "bias")):
            found = net.params[name][i].diff
            np.testing.assert_allclose(found, params[f"{name}.{kind}"].numpy(), rtol=1e-3, atol=1e-5)


def test_a_split_adds_gradients_up(caffe: Any) -> None:
    net = filled(caffe, phase=caffe.TRAIN)
    net.forward()
    net.backward()
    left, right = (net.blobs[f"conv_relu_0_split_{i}"].diff for i in (0, 1))
    assert left.any()
    assert (left != right).any()
    # Backward of the ReLU has written to the blob since, so the Split alone again.
    net.backward(start="conv_relu_0_split", end="conv_relu_0_split")
    np.testing.assert_allclose(net.blobs["conv"].diff, left + right, rtol=1e-4, atol=1e-6)


def test_param_diffs_add_up_until_cleared(caffe: Any) -> None:
    net = filled(caffe, phase=caffe.TRAIN)
    net.forward()
    net.backward()
    diff = net.params["left"][0].diff
    once = diff.copy()
    net.forward()
    net.backward()
    np.testing.assert_allclose(net.params["left"][0].diff, 2 * once, rtol=1e-4, atol=1e-6)
    if runs_on_cpu(net):
        np.testing.assert_allclose(diff, 2 * once, rtol=1e-4, atol=1e-6)
    net.clear_param_diffs()
    assert not net.params["left"][0].diff.any()
    assert once.any()


def test_backward_without_need(caffe: Any) -> None:
    """Without a loss Caffe computes no gradient, with force_backward all."""
    net = filled(caffe, DEPLOY)
    net.blobs["prob"].diff[...] = 1
    net.forward()
    assert not net.backward()["data"].any()
    assert not net.params["ip"][0].diff.any()
    forced = filled(caffe, "force_backward: true" + DEPLOY)
    forced.forward()
    gradient = np.zeros((2, 5))
    gradient[1, 3] = 1
    out = forced.backward(diffs=["ip"], prob=gradient)
    assert set(out) == {"data", "ip"}
    prob = forced.blobs["prob"].data[1]
    np.testing.assert_allclose(out["ip"][1], prob * ((np.arange(5) == 3) - prob[3]), rtol=1e-3, atol=1e-6)
    assert out["data"][1].any()
    assert not out["data"][0].any()


def test_backward_of_one_layer(caffe: Any) -> None:
    net = filled(caffe, phase=caffe.TRAIN)
    net.forward()
    net.blobs["left"].diff[...] = 0
    net.blobs["left"].diff[1, 4] = 2
    out = net.backward(start="left", end="left")
    assert set(out) == {"conv_relu_0_split_0"}
    expected = 2 * net.params["left"][0].data[4].reshape(4, 3, 5)
    np.testing.assert_allclose(out["conv_relu_0_split_0"][1], expected, rtol=1e-5)
    assert not out["conv_relu_0_split_0"][0].any()


def test_no_gradient_into_layers_that_do_not_learn(caffe: Any) -> None:
    frozen = BRANCHES.replace("lr_mult: 1", "lr_mult: 0").replace("lr_mult: 2", "lr_mult: 0")
    net = filled(caffe, frozen, caffe.TRAIN)
    net.forward()
    net.backward()
    assert not net.blobs["conv"].diff.any()
    assert not net.params["conv"][0].diff.any()
    assert net.params["left"][0].diff.any()


def test_propagate_down(caffe: Any) -> None:
    stopped = BRANCHES.replace(
        'type: "InnerProduct" bottom: "conv" top: "left"',
        'type: "InnerProduct" bottom: "conv" top: "left" propagate_down: false',
    )
    net = filled(caffe, stopped, caffe.TRAIN)
    net.forward()
    net.backward()
    assert not net.blobs["conv_relu_0_split_0"].diff.any()
    assert net.blobs["conv_relu_0_split_1"].diff.any()
    assert net.params["left"][0].diff.any()


def test_backward_twice_and_after_an_update(caffe: Any) -> None:
    net = filled(caffe, phase=caffe.TRAIN)
    net.forward()
    net.backward()
    first = net.blobs["left"].diff.copy()
    net.backward()
    np.testing.assert_array_equal(net.blobs["left"].diff, first)
    net.params["left"][0].data[...] *= 2
    net.backward(start="left", end="left")
    expected = first @ net.params["left"][0].data
    np.testing.assert_allclose(net.blobs["conv_relu_0_split_0"].diff.reshape(2, -1), expected, rtol=1e-4, atol=1e-6)


def test_an_array_held_in_place_does_not_spoil_the_gradient(caffe: Any) -> None:
    """The result of a layer in place goes into the very memory of its bottom if somebody holds that."""
    text = BRANCHES.replace('"relu" type: "ReLU"', '"relu" type: "Power" power_param { power: 3 }')
    text = "force_backward: true" + text
    free, held = filled(caffe, text, caffe.TRAIN), filled(caffe, text, caffe.TRAIN)
    for name in free.params:
        for a, b in zip(held.params[name], free.params[name], strict=True):
            a.data[...] = b.data
    array = held.blobs["conv"].data
    for net in (free, held):
        for _ in range(2):
            net.forward()
        net.forward(start="relu")
        net.forward()
        net.backward()
    np.testing.assert_allclose(held.blobs["data"].diff, free.blobs["data"].diff, rtol=1e-4, atol=1e-6)
    if runs_on_cpu(held):
        np.testing.assert_array_equal(array, held.blobs["conv"].data)


# Many batches


def test_forward_all(caffe: Any) -> None:
    net = caffe.Net(write(DEPLOY), caffe.TEST)
    x = np.random.RandomState(2).randn(5, 3, 8, 6).astype(np.float32)
    out = net.forward_all(blobs=["ip"], data=x)
    assert out["prob"].shape == (5, 5)
    expected = plain(net, DEPLOY).run({"data": x}, blobs=["prob", "ip"])
    np.testing.assert_allclose(out["prob"], expected["prob"].numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(out["ip"], expected["ip"].numpy(), rtol=1e-4, atol=1e-5)


def test_forward_backward_all(caffe: Any) -> None:
    net = caffe.Net(write("force_backward: true" + DEPLOY), caffe.TEST)
    x = np.random.RandomState(2).randn(3, 3, 8, 6)
    gradient = np.random.RandomState(3).randn(3, 5)
    outs, diffs = net.forward_backward_all(blobs=["ip"], diffs=["conv1"], data=x, prob=gradient)
    assert outs["ip"].shape == (3, 5)
    assert diffs["conv1"].shape == (3, 4, 6, 4)
    net.forward(data=np.concatenate([x[2:], np.zeros((1, 3, 8, 6))]))
    last = net.backward(prob=np.concatenate([gradient[2:], np.zeros((1, 5))]))
    np.testing.assert_allclose(diffs["data"][2], last["data"][0], rtol=1e-5, atol=1e-7)
    assert np.abs(diffs["data"]).min(axis=(1, 2, 3)).shape == (3,)
    assert net._batch({}) == []


# Arrays


def test_an_array_that_is_held_follows(caffe: Any) -> None:
    net = filled(caffe, DEPLOY)
    held = net.blobs["prob"].data
    part = net.blobs["ip"].data[1]
    first = net.forward()["prob"].copy()
    if runs_on_cpu(net):
        np.testing.assert_array_equal(held, first)
        np.testing.assert_array_equal(part, net.blobs["ip"].data[1])
    net.blobs["data"].data[...] *= -1
    net.forward()
    if runs_on_cpu(net):
        np.testing.assert_array_equal(held, net.blobs["prob"].data)
        assert net.blobs["prob"].data is held
    assert (net.blobs["prob"].data != first).any()


def test_reading_copies_nothing_on_the_cpu(caffe: Any) -> None:
    net = caffe.Net(write(DEPLOY), caffe.TEST)
    net.forward()
    if not runs_on_cpu(net):
        return
    for made in net.blobs.values():
        assert made.data.ctypes.data == made.data_array.tensor().data_ptr()
    parameter = net.params["ip"][0]
    assert parameter.data.ctypes.data == parameter.tensor().data_ptr()
    assert parameter.diff.ctypes.data == parameter.gradient().data_ptr()


def test_tops_that_share_memory_in_torch_do_not_in_caffe(caffe: Any) -> None:
    """Dropout in TEST passes its bottom on, Slice hands out parts of it; writing to a top must not reach the bottom."""
    text = """
    layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 6 dim: 3 } } }
    layer { name: "drop" type: "Dropout" bottom: "data" top: "drop" }
    layer { name: "slice" type: "Slice" bottom: "drop" top: "a" top: "b" slice_param { axis: 1 slice_point: 2 } }
    """
    net = filled(caffe, text)
    x = net.blobs["data"].data.copy()
    net.forward()
    b = net.blobs["b"].data
    assert b.flags.c_contiguous
    np.testing.assert_array_equal(b, x[:, 2:])
    b[...] = 7
    net.blobs["drop"].data[...] = 8
    np.testing.assert_array_equal(net.blobs["data"].data, x)
    np.testing.assert_array_equal(net.blobs["a"].data, x[:, :2])
    assert (net.blobs["b"].data == 7).all()


def test_arrays_outlive_the_net(caffe: Any) -> None:
    net = filled(caffe)
    net.forward()
    blobs = [*net.blobs.values(), *net.params["left"]]
    arrays = [blob.data for blob in blobs]
    expected = [array.copy() for array in arrays]
    del net
    for blob, array, values in zip(blobs, arrays, expected, strict=True):
        np.testing.assert_array_equal(blob.data, values)
        np.testing.assert_array_equal(array, values)
        assert blob.diff.shape == values.shape


def test_data_cannot_be_replaced(caffe: Any) -> None:
    net = caffe.Net(write(DEPLOY), caffe.TEST)
    with pytest.raises(AttributeError):
        net.blobs["data"].data = np.zeros((2, 3, 8, 6))


# Shapes


FULLY_CONVOLUTIONAL = DEPLOY.split('layer { name: "ip"')[0]


def test_reshape(caffe: Any) -> None:
    net = caffe.Net(write(FULLY_CONVOLUTIONAL), caffe.TEST)
    net.blobs["data"].reshape(1, 3, 9, 11)
    assert net.blobs["data"].data.shape == (1, 3, 9, 11)
    assert net.blobs["conv1"].shape == (2, 4, 6, 4)
    net.reshape()
    assert net.blobs["conv1"].shape == (1, 4, 7, 9)
    assert net.params["conv1"][0].data.any()
    net.blobs["data"].reshape(3, 3, 5, 4)
    x = np.random.RandomState(3).randn(3, 3, 5, 4)
    out = net.forward(data=x)["conv1"]
    assert out.shape == (3, 4, 3, 2)
    expected = plain(net, FULLY_CONVOLUTIONAL).run({"data": x.astype(np.float32)})["conv1"]
    np.testing.assert_allclose(out, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_reshape_keeps_values_where_there_is_room(caffe: Any) -> None:
    net = caffe.Net(write(DEPLOY), caffe.TEST)
    blob = net.blobs["data"]
    blob.data[...] = np.arange(288).reshape(2, 3, 8, 6)
    blob.reshape(4, 6)
    np.testing.assert_array_equal(blob.data, np.arange(24).reshape(4, 6))
    blob.reshape(600)
    assert not blob.data.any()


def test_reshape_of_every_kind_of_layer_leaves_state_alone(caffe: Any) -> None:
    text = """
    layer { name: "data" type: "Input" top: "data" top: "cont"
      input_param { shape { dim: 3 dim: 2 dim: 5 } shape { dim: 3 dim: 2 } } }
    layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn" }
    layer { name: "lstm" type: "LSTM" bottom: "bn" bottom: "cont" top: "lstm"
      recurrent_param { num_output: 4 weight_filler { type: "gaussian" std: 0.5 } } }
    """
    net = filled(caffe, text, caffe.TRAIN)
    net.blobs["cont"].data[...] = 1
    net.forward()
    statistics = net.params["bn"][0].data.copy()
    before = net.blobs["lstm"].data.copy()
    net.blobs["data"].reshape(6, 2, 5)
    net.blobs["cont"].reshape(6, 2)
    net.reshape()
    assert net.blobs["lstm"].shape == (6, 2, 4)
    np.testing.assert_array_equal(net.params["bn"][0].data, statistics)
    assert statistics.any()
    assert before.any()
    net.forward()


def test_an_impossible_shape_is_told_by_layer_and_shapes(caffe: Any) -> None:
    net = caffe.Net(write(DEPLOY), caffe.TEST)
    net.blobs["data"].reshape(2, 3, 9, 9)
    with pytest.raises(LayerError, match=r"layer 'ip' \(InnerProduct\).*\[5, 96\].*conv1 \[2, 4, 7, 7\]"):
        net.reshape()
    with pytest.raises(LayerError, match=r"layer 'ip' \(InnerProduct\).*\[5, 196\].*conv1 \[2, 4, 7, 7\]"):
        net.forward()
    net.blobs["data"].reshape(2, 3, 8, 6)
    assert net.forward()["prob"].shape == (2, 5)


# Weights


def test_save_and_load_binary_and_hdf5(caffe: Any) -> None:
    net, other = caffe.Net(write(BRANCHES), caffe.TEST), caffe.Net("net.prototxt", caffe.TEST)
    net.save("weights.h5")  # binary whatever the name
    net.save_hdf5("weights")
    assert Path("weights.h5").read_bytes()[:4] != b"\x89HDF"
    with h5py.File("weights") as file:
        np.testing.assert_array_equal(file["data/conv/0"], net.params["conv"][0].data)
    for load in (lambda: other.copy_from("weights.h5"), lambda: other.load_hdf5("weights")):
        for blob in other.params["conv"]:
            blob.data[...] = 0
        load()
        for name in net.params:
            for a, b in zip(net.params[name], other.params[name], strict=True):
                np.testing.assert_array_equal(a.data, b.data)
    with pytest.raises(UsageError, match="no HDF5"):
        other.load_hdf5("weights.h5")


def test_loading_shows_in_arrays_that_are_held(caffe: Any) -> None:
    net = caffe.Net(write(DEPLOY), caffe.TEST)
    net.save("w.caffemodel")
    blob = net.params["ip"][0]
    array, saved = blob.data, blob.data.copy()
    array[...] = 0
    net.copy_from("w.caffemodel")
    np.testing.assert_array_equal(blob.data, saved)
    np.testing.assert_array_equal(array, saved)


def test_copy_from_warns_of_what_does_not_match(caffe: Any) -> None:
    caffe.Net(write(DEPLOY), caffe.TEST).save("w.caffemodel")
    net = caffe.Net(write(DEPLOY.replace('name: "ip"', 'name: "other"')), caffe.TEST)
    with pytest.warns(CaffeCompatWarning) as found:
        net.copy_from("w.caffemodel")
    texts = " / ".join(str(w.message) for w in found)
    assert "'ip'" in texts
    assert "other" in texts


def test_shapes_that_do_not_fit_are_told(caffe: Any) -> None:
    caffe.Net(write(DEPLOY), caffe.TEST).save("w.caffemodel")
    write(DEPLOY.replace("num_output: 5", "num_output: 7"))
    with pytest.raises(WeightsError, match=r"layer 'ip', blob 0.*\[5, 96\].*\[7, 96\]"):
        caffe.Net("net.prototxt", caffe.TEST, weights="w.caffemodel")


def test_share_with(caffe: Any) -> None:
    a, b = filled(caffe, DEPLOY), caffe.Net(write(DEPLOY), caffe.TEST)
    b.share_with(a)
    a.params["ip"][0].data[...] = 0
    a.params["ip"][0].data[3] = 1
    out = b.forward(data=a.blobs["data"].data)["prob"]
    np.testing.assert_allclose(out, a.forward()["prob"], rtol=1e-6)
    if runs_on_cpu(a):
        np.testing.assert_array_equal(b.params["ip"][0].data, a.params["ip"][0].data)
    c = caffe.Net(write(DEPLOY.replace("num_output: 5", "num_output: 7")), caffe.TEST)
    with pytest.raises(LayerError, match=r"layer 'ip'.*\[7, 96\].*\[5, 96\]"):
        c.share_with(a)


def test_parameters_of_another_shape_are_saved_for_another_net(caffe: Any) -> None:
    net = filled(caffe, DEPLOY)
    weight, bias = net.params["ip"]
    before, diff = weight.data.copy(), weight.diff
    assert diff.shape == (5, 96)
    weight.reshape(7, 96)
    assert weight.shape == weight.data.shape == weight.diff.shape == (7, 96)
    assert not weight.data.any()  # more room than there was
    weight.data[...] = np.vstack([before, before[:2]])
    bias.reshape(2)
    np.testing.assert_array_equal(bias.data, [0, 0])
    bias.reshape(np.int64(7))
    bias.data[...] = range(7)
    with pytest.raises(LayerError, match=r"'ip'.*\[7, 96\].*would need parameters of shapes \[5, 96\]"):
        net.forward()
    net.save("wider.caffemodel")
    other = caffe.Net(write(DEPLOY.replace("num_output: 5", "num_output: 7")), "wider.caffemodel", caffe.TEST)
    np.testing.assert_array_equal(other.params["ip"][0].data[5:], before[:2])
    np.testing.assert_array_equal(other.params["ip"][1].data, range(7))
    weight.reshape(5, 96)
    bias.reshape(5)
    np.testing.assert_array_equal(weight.data, before)  # values stay where there is room
    net.forward()


def test_shared_parameters_keep_their_shape(caffe: Any) -> None:
    text = BRANCHES.replace("inner_product_param", 'param { name: "w" } inner_product_param')
    net = caffe.Net(write(text), caffe.TRAIN)
    with pytest.raises(UsageError, match="shared by several layers"):
        net.params["left"][0].reshape(6, 2)


def test_an_edit_before_the_backward_pass_counts_in_it(caffe: Any) -> None:
    """A Sigmoid's gradient comes from its own output, so from what was written over it, as in Caffe."""
    text = """
    force_backward: true
    layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "s" type: "Sigmoid" bottom: "data" top: "s" }
    layer { name: "t" type: "Power" bottom: "s" top: "t" power_param { scale: 2 } }
    """
    net = caffe.Net(write(text), caffe.TRAIN)
    net.forward()
    net.blobs["s"].data[...] = 0.25
    net.forward(start="t")
    net.blobs["t"].diff[...] = 1
    np.testing.assert_allclose(net.backward()["data"], np.full((2, 3), 2 * 0.25 * 0.75), rtol=1e-6)


def test_shared_parameters_in_one_net(caffe: Any) -> None:
    text = """
    force_backward: true
    layer { name: "data" type: "Input" top: "x" top: "y"
      input_param { shape { dim: 2 dim: 3 } shape { dim: 4 dim: 3 } } }
    layer { name: "one" type: "InnerProduct" bottom: "x" top: "one" param { name: "w" } param { name: "b" }
      inner_product_param { num_output: 5 weight_filler { type: "gaussian" std: 1 } } }
    layer { name: "two" type: "InnerProduct" bottom: "y" top: "two" param { name: "w" } param { name: "b" }
      inner_product_param { num_output: 5 } }
    """
    net = caffe.Net(write(text), caffe.TRAIN)
    net.params["two"][0].data[...] = np.arange(15).reshape(5, 3)
    np.testing.assert_array_equal(net.params["one"][0].data, np.arange(15).reshape(5, 3))
    net.forward(x=np.ones((2, 3)), y=np.ones((4, 3)))
    net.backward(one=np.ones((2, 5)), two=np.ones((4, 5)))
    np.testing.assert_array_equal(net.params["one"][1].diff, [6] * 5)
    np.testing.assert_array_equal(net.params["two"][1].diff, [6] * 5)
    net.save_hdf5("w.h5")
    with h5py.File("w.h5") as file:
        assert not file["data/two"].keys()
    other = caffe.Net("net.prototxt", caffe.TRAIN, weights="w.h5")
    np.testing.assert_array_equal(other.params["two"][0].data, np.arange(15).reshape(5, 3))


def test_reshaped_sharing(caffe: Any) -> None:
    text = """
    force_backward: true
    layer { name: "data" type: "Input" top: "x" input_param { shape { dim: 2 dim: 12 } } }
    layer { name: "one" type: "InnerProduct" bottom: "x" top: "one" param { name: "w" }
      inner_product_param { num_output: 6 bias_term: false weight_filler { type: "gaussian" std: 1 } } }
    layer { name: "two" type: "InnerProduct" bottom: "one" top: "two" param { name: "w" share_mode: PERMISSIVE }
      inner_product_param { num_output: 12 bias_term: false } }
    """
    net = caffe.Net(write(text), caffe.TRAIN)
    net.params["two"][0].data[0, 1] = 9
    assert net.params["two"][0].data.shape == (12, 6)
    assert net.params["one"][0].data[0, 1] == 9
    net.forward(x=np.ones((2, 12)))
    net.backward(two=np.ones((2, 12)))
    both = net.params["one"][0].diff.reshape(12, 6)
    np.testing.assert_array_equal(net.params["two"][0].diff, both)
    assert both.any()
    net.blobs["x"].reshape(5, 12)
    net.reshape()
    assert net.blobs["two"].shape == (5, 12)


# Data layers


def test_memory_data(caffe: Any) -> None:
    text = """
    layer { name: "data" type: "MemoryData" top: "data" top: "label"
      memory_data_param { batch_size: 2 channels: 3 height: 4 width: 5 } }
    layer { name: "twice" type: "Power" bottom: "data" top: "twice" power_param { scale: 2 } }
    """
    net = caffe.Net(write(text), caffe.TEST)
    assert net.inputs == []
    x = np.arange(240, dtype=np.float32).reshape(4, 3, 4, 5)
    labels = np.arange(4, dtype=np.float32)
    with pytest.raises(UsageError, match=r"'data' \(MemoryData\): has no data yet; .* set_input_arrays"):
        net.forward()
    net.set_input_arrays(x, labels)
    for k in (0, 1, 0):
        out = net.forward()
        np.testing.assert_array_equal(out["twice"], 2 * x[2 * k : 2 * k + 2])
        np.testing.assert_array_equal(out["label"], labels[2 * k : 2 * k + 2])
    net.set_input_arrays(x[::-1].copy(), labels[:, None, None, None])
    np.testing.assert_array_equal(net.forward()["twice"], 2 * x[[3, 2]])
    net.blobs["data"].data[...] = 5
    assert (net.forward(start="twice")["twice"] == 10).all()
    for bad, message in (
        ((x.astype(float), labels), "data must be a C-contiguous array of float32"),
        ((x[:, :, ::-1], labels), "data must be a C-contiguous"),
        ((x, labels.tolist()), "labels must be a C-contiguous"),
        ((x[:3], labels[:3]), r"found \[3, 3, 4, 5\]"),
        ((x, labels[:2]), "2 labels, 4 rows"),
    ):
        with pytest.raises(UsageError, match=message):
            net.set_input_arrays(*bad)
    with pytest.raises(UsageError, match=r"first layer is 'data' \(Input\)"):
        caffe.Net(write(DEPLOY), caffe.TEST).set_input_arrays(x, labels)


def test_hdf5_data(caffe: Any) -> None:
    x = np.random.RandomState(0).randn(5, 3, 2).astype(np.float32)
    with h5py.File("x.h5", "w") as file:
        file["data"], file["label"] = x, np.arange(5, dtype=np.float32)
    write("x.h5\n", "list.txt")
    text = """
    layer { name: "h" type: "HDF5Data" top: "data" top: "label" hdf5_data_param { source: "list.txt" batch_size: 2 } }
    layer { name: "p" type: "Power" bottom: "data" top: "p" power_param { shift: 1 } }
    """
    net = caffe.Net(write(text), caffe.TEST)
    assert net.blobs["data"].shape == (2, 3, 2)
    for rows in ([0, 1], [2, 3], [4, 0]):
        np.testing.assert_array_equal(net.forward()["p"], x[rows] + 1)
        np.testing.assert_array_equal(net.blobs["label"].data, rows)
    os.remove("list.txt")
    with pytest.raises(FileError, match=r"list\.txt"):
        caffe.Net("net.prototxt", caffe.TEST)


def test_dummy_data_keeps_what_is_written_over_constants(caffe: Any) -> None:
    text = """
    layer { name: "data" type: "DummyData" top: "noise" top: "label" dummy_data_param {
      shape { dim: 2 dim: 3 } shape { dim: 4 } data_filler { type: "gaussian" std: 1 }
      data_filler { type: "constant" value: 5 } } }
    """
    net = caffe.Net(write(text), caffe.TEST)
    assert (net.blobs["label"].data == 5).all()
    before = net.blobs["noise"].data.copy()
    assert before.any()
    net.blobs["label"].data[...] = [1, 2, 3, 4]
    net.forward()
    np.testing.assert_array_equal(net.blobs["label"].data, [1, 2, 3, 4])
    assert (net.blobs["noise"].data != before).all()


# Errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: net.forward(start="nope"), "no layer 'nope'; the net has data, conv1"),
        (lambda net: net.backward(end="nope"), "no layer 'nope'"),
        (lambda net: net.forward(blobs=["nope"]), "no blob 'nope'; the net has data, conv1"),
        (lambda net: net.forward(dada=np.zeros(2)), "inputs are data"),
        (lambda net: net.forward(data=np.zeros((3, 3, 8, 6))), r"'data'.*\[3, 3, 8, 6\].*\[2, 3, 8, 6\].*batch size"),
        (lambda net: net.forward(data=np.zeros((2, 3, 8, 7))), r"'data'.*\[2, 3, 8, 7\].*\[2, 3, 8, 6\]"),
        (lambda net: net.backward(data=np.zeros(2)), "outputs are prob"),
        (lambda net: net._forward(0, 9), "the net has 5"),
        (lambda net: net.forward_all(), "none were given"),
        (lambda net: net.blobs["data"].reshape(2, -3), r"blob 'data' cannot have shape \[2, -3\]"),
        (lambda net: net.blobs["data"].reshape(2, 3, 8 / 2, 6), r"blob 'data'.*\[2, 3, 4\.0, 6\].*a // b"),
        (lambda net: net.blobs["data"].reshape((2, 3, 8, 6)), r"blob 'data'.*an integer for each axis"),
        (lambda net: net.params["ip"][0].reshape(2, -3), r"'ip', blob weight cannot have shape \[2, -3\]"),
    ],
)
def test_misuse_is_told(caffe: Any, call: Any, message: str) -> None:
    net = caffe.Net(write(DEPLOY), caffe.TEST)
    with pytest.raises(UsageError, match=message):
        call(net)


def test_bad_files_are_told(caffe: Any) -> None:
    with pytest.raises(FileError, match="missing"):
        caffe.Net("missing.prototxt", caffe.TEST)
    with pytest.raises(FileError, match="missing"):
        caffe.Net(write(DEPLOY), caffe.TEST, weights="missing.caffemodel")
    with pytest.raises(GraphError, match=r"layer 'ip'.*'conv2'"):
        caffe.Net(write(DEPLOY.replace('bottom: "conv1" top: "ip"', 'bottom: "conv2" top: "ip"')), caffe.TEST)
    with pytest.raises(UsageError, match="phase 7"):
        caffe.Net(write(DEPLOY), 7)


def test_a_net_survives_a_layer_that_fails(caffe: Any) -> None:
    net = filled(caffe, DEPLOY)
    net.blobs["conv1"].reshape(2, 5)
    with pytest.raises(LayerError, match="layer 'ip'"):
        net.forward(start="ip")
    assert net.blobs["ip"].data.shape == (2, 5)
    assert net.forward()["prob"].sum() == pytest.approx(2, rel=1e-5)


# Speed


def test_the_interface_costs_under_two_milliseconds(caffe: Any) -> None:
    net = filled(caffe, DEPLOY)
    core = plain(net, DEPLOY).to(runtime.device)
    x = net.blobs["data"].data.copy()
    tensor = torch.tensor(x, device=runtime.device)

    def bare() -> None:
        with torch.no_grad():
            core(data=tensor)

    def through_the_interface() -> None:
        net.blobs["data"].data[...] = x
        _ = net.forward()["prob"][0, 0]

    for call in (bare, through_the_interface):
        call()
    # A fixed price for each layer and blob, whatever they hold.
    assert counted(through_the_interface)[1] < counted(bare)[1] + 250 * len(net.layers)


# Devices


def test_the_mode_may_change_between_passes(caffe: Any) -> None:
    device = runtime.device
    net = filled(caffe, phase=caffe.TRAIN)
    expected = float(net.forward()["loss"])
    net.backward()
    gradient = net.params["conv"][0].diff.copy()
    caffe.set_mode_cpu()
    assert float(net.forward()["loss"]) == pytest.approx(expected, rel=1e-4)
    assert net._core.left.weight.device.type == "cpu"
    np.testing.assert_allclose(net.params["conv"][0].diff, gradient, rtol=1e-3, atol=1e-5)
    net.blobs["data"].data[...] = 0
    zero = float(net.forward()["loss"])
    if device.type == "cuda":
        caffe.set_mode_gpu()
        assert float(net.forward()["loss"]) == pytest.approx(zero, rel=1e-4)
        assert net._core.left.weight.device.type == "cuda"
