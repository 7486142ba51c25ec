"""The pass join-relu: a ReLU is computed in the memory of what is before it, where nobody else sees that."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from caffe_compat.inference.fused import Fused
from caffe_compat.inference.optimization import optimize
from caffe_compat.inference.passes.join_relu import JOIN_RELU
from tests.inference.patterns import LEAKY, build, conv, example, in_place, inner_product, same_outputs, steps
from tests.networks import layer


@pytest.mark.parametrize("more", ["", LEAKY], ids=["plain", "leaky"])
@pytest.mark.parametrize("first", [conv("c", "data"), inner_product("")], ids=["convolution", "inner product"])
def test_a_relu_is_taken_along(first: str, more: str) -> None:
    net = build(first, in_place("ReLU", "c", more))
    optimized = optimize(net, [JOIN_RELU])
    assert steps(optimized) == ["c"]
    fused = cast(Fused, optimized.c)
    assert fused.slope == pytest.approx(0.3 if more else 0)
    assert (fused.packed, fused.winograd) == (None, None)  # those are other passes
    same_outputs(net, optimized)


@pytest.mark.parametrize(
    ("layers", "left"),
    [
        ([conv("c", "data"), layer("r", "ReLU", "c", "r"), layer("t", "TanH", "c", "t")], ["c", "r", "t"]),
        ([in_place("ReLU", "data"), conv("c", "data")], ["data_relu", "c"]),
        (
            [layer("p", "Pooling", "data", "p", "pooling_param { kernel_size: 2 }"), in_place("ReLU", "p")],
            ["p", "p_relu"],
        ),
        ([conv("c", "data"), in_place("ReLU", "c", LEAKY), in_place("ReLU", "c")], ["c", "c_relu_1"]),
    ],
    ids=["seen elsewhere", "first", "behind what may be shared", "the second of two"],
)
def test_other_relus_stay(layers: list[str], left: list[str]) -> None:
    names = [text.replace('name: "c_relu"', f'name: "c_relu{"_1" * (i == 2)}"') for i, text in enumerate(layers)]
    net = build(*names)
    optimized = optimize(net, [JOIN_RELU])
    assert steps(optimized) == left
    same_outputs(net, optimized)


def test_inputs_are_not_written_to() -> None:
    net = build(conv("c", "data"), in_place("ReLU", "c"), in_place("ReLU", "data"), conv("d", "data"))
    x = example(net)["data"]
    before = x.clone()
    optimize(net, [JOIN_RELU])(data=x)
    assert torch.equal(x, before)
