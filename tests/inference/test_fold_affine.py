"""The pass fold-affine: scalings go into weights, and what is left is layers that anything can take."""

from __future__ import annotations

import copy
from typing import cast

import pytest
import torch

from caffe_compat.inference.affine import Affine
from caffe_compat.inference.optimization import optimize
from caffe_compat.inference.passes import PORTABLE
from caffe_compat.inference.passes.fold_affine import FOLD_AFFINE
from caffe_compat.layers.bvlc.convolution import Convolution
from caffe_compat.layers.bvlc.dropout import Dropout
from caffe_compat.network.registry import Layer
from tests.inference.patterns import (
    FOLDED,
    batch_norm,
    build,
    conv,
    example,
    in_place,
    inner_product,
    same_outputs,
    steps,
)
from tests.networks import layer
from tests.tracing import export, size


def test_the_weights_by_the_formula() -> None:
    net = build(conv("c", "data"), in_place("BatchNorm", "c"))
    norm = net.c_batchnorm
    mean, variance = norm.mean.double() / norm.scale_factor, norm.variance.double() / norm.scale_factor
    scale = 1 / torch.sqrt(variance + norm.eps)
    folded = cast(Convolution, optimize(net, [FOLD_AFFINE]).c)
    weight, bias = net.c.weight.double(), net.c.bias.double()
    torch.testing.assert_close(folded.weight.double(), weight * scale[:, None, None, None], rtol=1e-6, atol=0)
    assert folded.bias is not None
    torch.testing.assert_close(folded.bias.double(), (bias - mean) * scale, rtol=1e-6, atol=1e-6)


def test_a_bias_is_made_where_there_was_none() -> None:
    net = build(inner_product("bias_term: false"), in_place("Bias", "c"))
    assert net.c.bias is None
    torch.testing.assert_close(optimize(net, [FOLD_AFFINE]).c.bias, net.c_bias.bias, check_stride=False)


def test_scalings_without_a_kernel_become_one() -> None:
    net = build(
        batch_norm("data"), in_place("Power", "data", "power_param { scale: -2 shift: 0.5 }"), conv("c", "data")
    )
    optimized = optimize(net, [FOLD_AFFINE])
    assert [type(module) for _, module in optimized.named_children()] == [Affine, Convolution]
    assert optimized.passes[0].places == 2
    same_outputs(net, optimized)


def test_a_scaling_alone_stays_the_layer_that_it_was() -> None:
    net = build(in_place("BatchNorm", "data"), conv("c", "data"))
    optimized = optimize(net, [FOLD_AFFINE])
    assert type(optimized.data_batchnorm) is type(net.data_batchnorm)
    assert optimized.passes[0].places == 0


def test_dropout_is_folded_only_where_it_scales() -> None:
    net = build(conv("c", "data"), in_place("Dropout", "c"))
    assert steps(optimize(net, [FOLD_AFFINE])) == ["c", "c_dropout"]
    net.c_dropout = Dropout(0.25, scale_train=False).eval()
    optimized = optimize(net, [FOLD_AFFINE])
    assert steps(optimized) == ["c"]
    same_outputs(net, optimized)


@pytest.mark.parametrize("pattern", FOLDED)
def test_what_is_portable_is_layers(pattern: str, device: torch.device) -> None:
    net = build(*FOLDED[pattern][0]).to(device)
    optimized = optimize(net, PORTABLE)
    assert not optimized.program.detached
    for name, module in optimized.named_children():
        assert isinstance(module, (Affine, Layer))
        assert not module._forward_pre_hooks, name
    same_outputs(net, optimized)
    x = example(net)["data"].requires_grad_()
    sum(y.sum() for y in optimized(data=x).values()).backward()
    assert x.grad is not None


def test_torch_exports_what_is_portable() -> None:
    net = build(
        *(conv("c", "data"), batch_norm("c"), in_place("Dropout", "c"), in_place("ReLU", "c")),
        *(conv("d", "c", "group: 2"), in_place("BatchNorm", "d"), layer("s", "Eltwise", "c d", "s")),
    )
    optimized = optimize(net, PORTABLE)
    x = example(net)["data"]
    batch = size("batch")
    program = export(optimized.as_module(), (x,), dynamic_shapes=({0: batch},))
    called = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert called.count(torch.ops.aten.conv2d.default) == 2
    assert not any("norm" in str(target) or "clone" in str(target) for target in called)
    larger = example(net, data=(5, *x.shape[1:]))["data"]
    torch.testing.assert_close(program.module()(larger)[0], net.run({"data": larger})["s"], rtol=1e-5, atol=1e-5)


def test_copies_of_the_portable_form_are_apart() -> None:
    net = build(conv("c", "data"), batch_norm("c"))
    optimized = optimize(net, PORTABLE)
    twin = copy.deepcopy(optimized)
    for parameter in twin.parameters():
        parameter.data.zero_()
    same_outputs(net, optimized)
