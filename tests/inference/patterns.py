"""Networks for tests of the inference form: what folds and what does not, and whether numbers stay the same."""

from __future__ import annotations

import torch
from torch import nn

from caffe_compat.network.graph import NetState
from caffe_compat.network.net import CaffeNet
from caffe_compat.network.running import ProgramNet
from caffe_compat.schema.prototxt import parse_message
from tests.networks import input_layer, layer

DATA = input_layer("data", 2, 6, 9, 7)


def conv(name: str, bottom: str, more: str = "", outputs: int = 8, kernel: int = 3, pad: int = 1) -> str:
    sizes = f"num_output: {outputs} kernel_size: {kernel} pad: {pad}"
    return layer(name, "Convolution", bottom, name, f"convolution_param {{ {sizes} {more} }}")


def in_place(kind: str, blob: str, more: str = "") -> str:
    return layer(f"{blob}_{kind.lower()}", kind, blob, blob, more)


def batch_norm(blob: str) -> str:
    return in_place("BatchNorm", blob) + in_place("Scale", blob, "scale_param { bias_term: true }")


def build(*layers: str, phase: str = "TEST", seed: int = 0, data: str = DATA) -> CaffeNet:
    """The net with every blob drawn from (-0.7, 1.3), statistics from (0.3, 1.3): none is zero, one or symmetric."""
    parsed = parse_message(data + "".join(layers))
    net = CaffeNet(parsed.message, NetState(phase), dialect=parsed.schema.name).materialize(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    seen: set[int] = set()
    for tensor in (*net.parameters(), *net.buffers()):
        if id(tensor) not in seen:
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * 2 - 0.7)
        seen.add(id(tensor))
    for name, buffer in net.named_buffers():
        if name.rpartition(".")[2] in ("mean", "variance", "scale_factor"):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.3)
    return net


def example(net: CaffeNet, **shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    device, dtype = net.device_and_dtype()
    generator = torch.Generator().manual_seed(1)
    found = {**net.input_shapes, **shapes}
    return {name: torch.randn(shape, generator=generator).to(device, dtype) for name, shape in found.items()}


def same_outputs(net: CaffeNet, optimized: ProgramNet, tolerance: float = 1e-5, **shapes: tuple[int, ...]) -> None:
    inputs = example(net, **shapes)
    expected, found = net.run(inputs), optimized(**inputs)
    assert list(found) == list(expected)
    for name, blob in expected.items():
        assert found[name].shape == blob.shape
        assert found[name].dtype == blob.dtype
        assert found[name].is_contiguous()
        scale = float(blob.abs().max())
        assert scale > 0
        assert float((found[name] - blob).abs().max()) <= tolerance * scale


def steps(net: nn.Module) -> list[str]:
    """The names of the layers that still run by themselves."""
    return [name for name, _ in net.named_children()]


def inner_product(more: str) -> str:
    return layer("c", "InnerProduct", "data", "c", f"inner_product_param {{ num_output: 5 {more} }}")


LEAKY = "relu_param { negative_slope: 0.3 }"

# By name: layers, and the names of those that still run by themselves.
FOLDED: dict[str, tuple[list[str], list[str]]] = {
    "conv bn scale relu": ([conv("c", "data"), batch_norm("c"), in_place("ReLU", "c")], ["c"]),
    "conv relu": ([conv("c", "data"), in_place("ReLU", "c")], ["c"]),
    "leaky relu": ([conv("c", "data"), in_place("ReLU", "c", LEAKY)], ["c"]),
    "no bias": ([conv("c", "data", "bias_term: false"), batch_norm("c")], ["c"]),
    "scale without bn": ([conv("c", "data"), in_place("Scale", "c")], ["c"]),
    "one number for all channels": ([conv("c", "data"), in_place("Scale", "c", "scale_param { num_axes: 0 }")], ["c"]),
    "bias layer": ([conv("c", "data"), in_place("Bias", "c")], ["c"]),
    "power": ([conv("c", "data"), in_place("Power", "c", "power_param { scale: -0.4 shift: 2 }")], ["c"]),
    "dropout between": ([conv("c", "data"), in_place("Dropout", "c"), batch_norm("c")], ["c"]),
    "grouped": ([conv("c", "data", "group: 2"), batch_norm("c"), in_place("ReLU", "c")], ["c"]),
    "depthwise": ([conv("c", "data", "group: 6", outputs=12), batch_norm("c"), in_place("ReLU", "c")], ["c"]),
    "dilated and strided": ([conv("c", "data", "dilation: 2 stride: 2", pad=3), batch_norm("c")], ["c"]),
    "kernel larger than the image": ([conv("c", "data", "stride: 3", kernel=9, pad=0), batch_norm("c")], ["c"]),
    "along another axis": (
        [conv("c", "data", "axis: 2"), in_place("Scale", "c", "scale_param { axis: 2 num_axes: 1 }")],
        ["c"],
    ),
    "no spatial axis": (
        [
            layer("f", "Flatten", "data", "f"),
            layer("c", "Convolution", "f", "c", "convolution_param { num_output: 5 }"),
            batch_norm("c"),
        ],
        ["f", "c"],
    ),
    "deconvolution": (
        [
            conv("c", "data", "group: 2 stride: 2").replace('"Convolution"', '"Deconvolution"'),
            batch_norm("c"),
            in_place("ReLU", "c"),
        ],
        ["c"],
    ),
    "inner product": ([inner_product(""), batch_norm("c"), in_place("ReLU", "c")], ["c"]),
    "transposed inner product": ([inner_product("transpose: true bias_term: false"), batch_norm("c")], ["c"]),
    "inner product of rows": (
        [
            inner_product("axis: 3"),
            in_place("Scale", "c", "scale_param { axis: 3 num_axes: 1 }"),
            in_place("ReLU", "c", LEAKY),
        ],
        ["c"],
    ),
    "inner product of everything": ([inner_product("axis: 0"), in_place("ReLU", "c")], ["c"]),
    "residual": (
        [
            *(conv("a", "data"), batch_norm("a"), conv("b", "data"), batch_norm("b")),
            *(layer("s", "Eltwise", "a b", "s"), in_place("ReLU", "s"), conv("d", "s")),
            layer("t", "Eltwise", "s d", "t"),
        ],
        ["b", "a", "d"],
    ),
    "residual, leaky, of an inner product": (
        [
            layer("a", "Flatten", "data", "a"),
            layer("c", "InnerProduct", "a", "c", "inner_product_param { num_output: 378 }"),
            layer("s", "Eltwise", "a c", "s"),
            in_place("ReLU", "s", LEAKY),
        ],
        ["a", "c"],
    ),
    "residual, leaky": (
        [conv("c", "data", outputs=6), layer("s", "Eltwise", "c data", "s"), in_place("ReLU", "s", LEAKY)],
        ["c"],
    ),
    "norm first": ([batch_norm("data"), in_place("ReLU", "data"), conv("c", "data")], ["data_batchnorm", "c"]),
    "split": (
        [
            conv("c", "data"),
            layer("p", "Split", "c", "x y"),
            layer("u", "ReLU", "x", "u"),
            in_place("TanH", "y"),
        ],
        ["c", "u", "y_tanh"],
    ),
    "dropout at the end": ([conv("c", "data"), in_place("Dropout", "c")], ["c"]),
    "only dropout": ([in_place("Dropout", "data")], []),
}


KEPT: dict[str, tuple[list[str], list[str]]] = {
    "two readers": (
        [
            conv("c", "data"),
            layer("n", "BatchNorm", "c", "n"),
            layer("s", "Eltwise", "c n", "s", "eltwise_param { operation: MAX }"),
        ],
        ["c", "n", "s"],
    ),
    "a sum with itself": ([conv("c", "data"), layer("s", "Eltwise", "c c", "s")], ["c", "s"]),
    "a sum with coefficients": (
        [
            conv("c", "data", outputs=6),
            layer("s", "Eltwise", "c data", "s", "eltwise_param { coeff: 1 coeff: -2 }"),
        ],
        ["c", "s"],
    ),
    "statistics of the batch": (
        [conv("c", "data"), in_place("BatchNorm", "c", "batch_norm_param { use_global_stats: false }")],
        ["c", "c_batchnorm"],
    ),
    "scale along the rows": (
        [conv("c", "data"), in_place("Scale", "c", "scale_param { axis: 2 num_axes: 1 }")],
        ["c", "c_scale"],
    ),
    "scale by a blob": (
        [conv("c", "data", outputs=6), layer("s", "Scale", "c data", "s", "scale_param { axis: 0 }")],
        ["c", "s"],
    ),
    "scale behind the relu": ([conv("c", "data"), in_place("ReLU", "c"), in_place("Scale", "c")], ["c", "c_scale"]),
    "norm of the steps of an inner product": (
        [inner_product("axis: 3"), in_place("BatchNorm", "c")],
        ["c", "c_batchnorm"],
    ),
    "two bottoms": (
        [
            layer("c", "Convolution", "data data", "x y", "convolution_param { num_output: 4 kernel_size: 2 }"),
            in_place("ReLU", "x"),
        ],
        ["c", "x_relu"],
    ),
    "another power": ([conv("c", "data"), in_place("Power", "c", "power_param { power: 2 }")], ["c", "c_power"]),
}
