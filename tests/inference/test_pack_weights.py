"""The pass pack-weights: weights as oneDNN's kernels like them, and rows of pixels for layers that care."""

from __future__ import annotations

import torch

from caffe_compat.inference.fused import Fused, has_fused_kernels
from caffe_compat.inference.optimization import optimize
from caffe_compat.inference.passes.pack_weights import PACK_WEIGHTS
from caffe_compat.network.net import CaffeNet
from tests.inference.patterns import build, conv, in_place, inner_product, same_outputs, steps
from tests.networks import layer


def packed(net: torch.nn.Module) -> dict[str, bool]:
    return {name: module.packed is not None for name, module in net.named_children() if isinstance(module, Fused)}


def several() -> CaffeNet:
    return build(
        *(conv("a", "data"), conv("b", "a", "group: 2"), conv("e", "b").replace('"Convolution"', '"Deconvolution"')),
        *(layer("l", "LRN", "e", "l"), inner_product("transpose: true").replace('"data"', '"l"')),
    )


def test_convolutions_and_inner_products_are_packed() -> None:
    net = several()
    optimized = optimize(net, [PACK_WEIGHTS])
    assert steps(optimized) == steps(net)  # nothing is taken along
    there = has_fused_kernels()
    assert packed(optimized) == {"a": there, "b": there, "e": False, "c": there}  # no kernel takes a Deconvolution
    same_outputs(net, optimized)


def test_no_weight_is_changed() -> None:
    net = several()
    back = optimize(net, [PACK_WEIGHTS]).double()
    for name, module in back.named_children():
        if isinstance(module, Fused):
            weight = net.get_parameter(f"{name}.weight").double()
            found = module.layer.get_parameter("weight")
            assert torch.equal(found.t() if name == "c" else found, weight)


def test_layers_that_care_are_given_rows() -> None:
    net = build(
        *(conv("a", "data"), in_place("LRN", "a"), layer("p", "Pooling", "a", "p", "pooling_param { kernel_size: 2 }")),
        layer("f", "Flatten", "p", "f"),
    )
    optimized = optimize(net, [PACK_WEIGHTS])
    hooked = [name for name, module in optimized.named_children() if module._forward_pre_hooks]
    assert hooked == ["a_lrn", "f"]
    assert not any(module._forward_pre_hooks for module in optimize(net, []).modules())
    same_outputs(net, optimized)
