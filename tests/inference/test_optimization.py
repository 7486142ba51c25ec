"""The inference form: the outputs of the net it was made from, with fewer steps, and only where that is the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import caffe_compat
from caffe_compat.errors import LayerError, UsageError
from caffe_compat.inference import fused
from caffe_compat.inference.fused import Fused, has_fused_kernels
from caffe_compat.inference.optimization import InferenceNet
from caffe_compat.network.checkpoint import save_checkpoint
from caffe_compat.network.net import CaffeNet
from caffe_compat.network.registry import Layer, LayerSpec
from caffe_compat.schema.prototxt import parse_message
from tests.inference.patterns import (
    DATA,
    FOLDED,
    KEPT,
    LEAKY,
    batch_norm,
    build,
    conv,
    example,
    in_place,
    inner_product,
    same_outputs,
    steps,
)
from tests.networks import input_layer, layer


@pytest.fixture(params=["packed", "plain"], autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With oneDNN's fused kernels, where torch has them, and without."""
    if request.param == "plain":
        monkeypatch.setattr(fused, "has_fused_kernels", lambda: False)
    elif not has_fused_kernels():
        pytest.skip("this torch has no fused kernels; the plain form is tested all the same")
    return request.param


@pytest.mark.parametrize("pattern", FOLDED)
def test_folds(pattern: str, device: torch.device) -> None:
    layers, left = FOLDED[pattern]
    net = build(*layers).to(device)
    optimized = net.optimize()
    assert steps(optimized) == left
    same_outputs(net, optimized)


@pytest.mark.parametrize("pattern", KEPT)
def test_does_not_fold(pattern: str, device: torch.device) -> None:
    layers, left = KEPT[pattern]
    net = build(*layers).to(device)
    optimized = net.optimize()
    assert steps(optimized) == left
    same_outputs(net, optimized)


def test_what_is_no_number_stays_where_it_was() -> None:
    net = build(conv("c", "data"), in_place("BatchNorm", "c"))
    net.get_submodule("c_batchnorm").variance[2] = float("nan")
    optimized = net.optimize()
    assert steps(optimized) == ["c", "c_batchnorm"]
    inputs = example(net)
    torch.testing.assert_close(optimized(**inputs)["c"], net.run(inputs)["c"], equal_nan=True)


def test_a_scale_that_half_precision_cannot_hold_is_not_folded() -> None:
    net = build(conv("c", "data"), in_place("Scale", "c"))
    net.get_parameter("c_scale.weight").data.fill_(1e-5)
    assert steps(net.optimize()) == ["c"]
    assert steps(net.bfloat16().optimize()) == ["c"]
    assert steps(net.half().optimize()) == ["c", "c_scale"]


def test_statistics_with_factor_zero_count_as_zero() -> None:
    net = build(conv("c", "data"), in_place("BatchNorm", "c"))
    net.get_buffer("c_batchnorm.scale_factor").zero_()
    same_outputs(net, net.optimize())


def test_shared_weights_are_folded_apart() -> None:
    share = ' param {{ name: "w" }} param {{ name: "{}" }} convolution_param'
    first = conv("a", "data").replace(" convolution_param", share.format("ba"))
    second = conv("b", "data").replace(" convolution_param", share.format("bb"))
    net = build(first, batch_norm("a"), second, in_place("ReLU", "b"))
    assert net.get_parameter("a.weight") is net.get_parameter("b.weight")
    before = net.get_parameter("a.weight").clone()
    optimized = net.optimize()
    assert steps(optimized) == ["a", "b"]
    same_outputs(net, optimized)
    assert torch.equal(net.get_parameter("a.weight"), before)


def test_it_is_a_copy() -> None:
    net = build(conv("c", "data"), batch_norm("c"), in_place("PReLU", "c"))
    optimized = net.optimize()
    inputs = example(net)
    before = optimized(**inputs)["c"]
    for parameter in net.parameters():
        parameter.data.zero_()
    assert torch.equal(optimized(**inputs)["c"], before)


def test_a_blob_read_elsewhere_is_there_and_folded_ones_are_refused() -> None:
    net = build(
        conv("c", "data"),
        layer("n", "BatchNorm", "c", "n"),
        layer("r", "ReLU", "n", "r"),
        layer("t", "TanH", "r", "t"),
        layer("o", "Sigmoid", "r", "o"),
        layer("d", "Dropout", "o", "d"),
    )
    optimized = net.optimize()
    inputs = example(net)
    found = optimized.run(inputs, "all")
    assert list(found) == ["data", "r", "t", "o", "d"]
    expected = net.run(inputs, "all")
    for name, blob in found.items():
        torch.testing.assert_close(blob, expected[name])
    assert list(optimized.run(inputs, ["r"])) == ["r"]
    with pytest.raises(UsageError, match="blob 'n' is folded away"):
        optimized.run(inputs, ["r", "n"])
    with pytest.raises(UsageError, match="no blob 'x'"):
        optimized.run(inputs, ["x"])


def test_other_sizes_and_orders_of_memory(device: torch.device) -> None:
    net = build(conv("a", "data"), batch_norm("a"), in_place("ReLU", "a"), conv("b", "a", outputs=6)).to(device)
    optimized = net.optimize()
    same_outputs(net, optimized, data=(3, 6, 12, 5))
    x = example(net)["data"].contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(optimized(data=x)["b"], net.run({"data": x})["b"])


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("more", ["", "bias_term: false"])
def test_large_convolutions(more: str, pad: int, kernels: str) -> None:
    data = input_layer("data", 2, 128, 39, 30)
    net = build(
        conv("c", "data", more, outputs=257, pad=pad),
        batch_norm("c"),
        in_place("ReLU", "c"),
        conv("d", "c", outputs=128),
        conv("e", "d", "group: 2", outputs=128),
        layer("s", "Eltwise", "d e", "s"),
        in_place("ReLU", "s", LEAKY),
        data=data,
    )
    optimized = net.optimize()
    found = [m.winograd is not None for m in optimized.modules() if isinstance(m, Fused)]
    assert found == [kernels == "packed", kernels == "packed", False]
    for shape in ((2, 128, 39, 30), (1, 128, 4, 5), (3, 128, 11, 40)):
        same_outputs(net, optimized, 2e-5, data=shape)
    same_outputs(net, copy.deepcopy(optimized), 2e-5)
    same_outputs(net.double(), optimized.double(), 1e-6)


def test_layers_behind_a_convolution_get_rows_of_pixels() -> None:
    net = build(
        conv("c", "data"),
        in_place("LRN", "c"),
        layer("f", "Flatten", "c", "f"),
        layer("p", "Pooling", "c", "p m", "pooling_param { kernel_size: 3 stride: 2 }"),
        layer("k", "Concat", "p p", "k"),
    )
    same_outputs(net, net.optimize())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype, device: torch.device) -> None:
    layers = FOLDED["residual"][0]
    net = build(*layers).to(device, dtype)
    optimized = net.optimize()
    assert optimized.device_and_dtype()[1] == dtype
    same_outputs(net, optimized, {torch.float64: 1e-12, torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype])


def test_casting_gives_packed_weights_back(kernels: str) -> None:
    net = build(inner_product("").replace('"c"', '"i"'), conv("c", "data", "group: 2"), batch_norm("c"))
    optimized = net.optimize()
    packed = [m.packed is not None for m in optimized.modules() if isinstance(m, Fused)]
    assert packed == [kernels == "packed"] * 2
    inputs = example(net)
    before = optimized(**inputs)
    half = copy.deepcopy(optimized).half()
    assert half(data=inputs["data"].half())["c"].dtype == torch.float16
    back = optimized.double().float()
    assert [m.packed is not None for m in back.modules() if isinstance(m, Fused)] == packed
    for name, blob in back(**inputs).items():
        assert torch.equal(blob, before[name])


def test_recurrent_state_is_its_own() -> None:
    net = build(
        input_layer("cont", 2, 6),
        layer("l", "LSTM", "data cont", "l", "recurrent_param { num_output: 5 }"),
    )
    net.reset_state()
    optimized = net.optimize()
    inputs = example(net)
    first = optimized(**inputs)["l"]
    assert not torch.allclose(optimized(**inputs)["l"], first)
    optimized.reset_state()
    assert torch.equal(optimized(**inputs)["l"], first)
    torch.testing.assert_close(net.run(inputs)["l"], first)


def test_the_layers_of_a_user_are_left_alone() -> None:
    from caffe_compat.layers.bvlc.activation import ReLU

    class Louder(ReLU):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 3 * super().forward(x)

    net = build(conv("c", "data"), in_place("ReLU", "c"))
    net.c_relu = Louder(0.0).eval()
    optimized = net.optimize()
    assert steps(optimized) == ["c", "c_relu"]
    same_outputs(net, optimized)


class Uncopyable(Layer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def __deepcopy__(self, memo: Any) -> nn.Module:
        raise TypeError("holds a socket")


@pytest.fixture
def uncopyable(monkeypatch: pytest.MonkeyPatch) -> None:
    from caffe_compat.network import registry

    monkeypatch.setattr(registry, "_TYPES", dict(registry._TYPES))

    @registry.layer("Uncopyable", bottoms=1, tops=1)
    def build_it(spec: LayerSpec) -> Layer:
        return Uncopyable()


def test_a_layer_that_cannot_be_copied_is_named(uncopyable: None) -> None:
    with pytest.raises(LayerError, match=r"layer 'data_uncopyable' \(Uncopyable\): cannot be copied.*holds a socket"):
        build(in_place("Uncopyable", "data"), conv("c", "data")).optimize()


def test_only_nets_for_testing() -> None:
    layers = [conv("c", "data"), in_place("BatchNorm", "c")]
    with pytest.raises(UsageError, match="phase TEST"):
        build(*layers, phase="TRAIN").optimize()
    with pytest.raises(UsageError, match="training mode"):
        build(*layers).train().optimize()
    parsed = parse_message(DATA + "".join(layers))
    with pytest.raises(UsageError, match="no weights yet"):
        CaffeNet(parsed.message, dialect=parsed.schema.name).optimize()


REFUSED: list[Callable[[Any], object]] = [
    lambda net: net.state_dict(),
    lambda net: net.load_state_dict({}),
    lambda net: net.train(),
    lambda net: net.materialize(),
    lambda net: net.blobs_of("c"),
    lambda net: net.nodes_with_blobs(),
    lambda net: net.assign_blob("c", "weight", torch.zeros(1)),
]


@pytest.mark.parametrize("request_", REFUSED)
def test_its_weights_are_nobody_elses(request_: Callable[[Any], object]) -> None:
    optimized = build(conv("c", "data"), in_place("ReLU", "c")).optimize()
    with pytest.raises(UsageError, match=r"inference form.*optimize\(\) was called on"):
        request_(optimized)


def test_it_stays_in_inference() -> None:
    net = build(conv("c", "data"), in_place("ReLU", "c"))
    optimized = net.optimize()
    assert optimized.optimize() is optimized
    assert optimized.eval() is optimized
    x = example(net)["data"].requires_grad_()
    assert not optimized(data=x)["c"].requires_grad
    assert net(data=x)["c"].requires_grad
    assert not any(parameter.requires_grad for parameter in optimized.parameters())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_pt_remembers_the_wish(dtype: Any, tmp_path: Path) -> None:
    net = build(*FOLDED["residual"][0])
    path = tmp_path / "net.pt"
    save_checkpoint(net, path, dtype=dtype, optimized=True)
    loaded = caffe_compat.load(path)
    assert isinstance(loaded, InferenceNet)
    assert loaded.device_and_dtype()[1] == getattr(torch, dtype)
    same_outputs(net.to(getattr(torch, dtype)), loaded, 1e-5 if dtype == "float32" else 5e-3)
    with pytest.raises(UsageError, match="no state_dict"):
        save_checkpoint(loaded, tmp_path / "again.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["net.pt"]
    save_checkpoint(net, path, dtype=dtype)
    assert type(caffe_compat.load(path)) is CaffeNet


def test_a_pt_for_training_has_no_such_wish(tmp_path: Path) -> None:
    net = build(conv("c", "data"), phase="TRAIN")
    with pytest.raises(UsageError, match="phase TEST"):
        save_checkpoint(net, tmp_path / "net.pt", optimized=True)
