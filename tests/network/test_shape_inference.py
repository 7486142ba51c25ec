"""The shapes that layers say their tops have are those that running them gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import torch

from caffe_compat.access import FileAccess
from caffe_compat.network.graph import NetState
from caffe_compat.network.net import CaffeNet
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.schema.upgrade import upgrade_net
from tests.networks import filled, input_layer, layer


def sliding(kind: str, how: str, bottoms: str = "x", tops: str = "c") -> str:
    return layer("c", kind, bottoms, tops, f"convolution_param {{ num_output: 4 {how} }}")


@pytest.mark.parametrize("name", ["bvlc_layers.h5", "ssl3d_layers.h5"])
def test_every_stored_case(name: str, reference: Path) -> None:
    compared = 0
    with h5py.File(reference / name, "r") as file:
        for case_name, case in file.items():
            parsed = parse_message(case.attrs["prototxt"])
            net = CaffeNet(
                upgrade_net(parsed.message, parsed.schema).message,
                NetState(case.attrs.get("phase", "TEST")),
                dialect=parsed.schema.name,
                files=FileAccess(reference),
            )
            last = {blob: value for value, blob in enumerate(net.graph.blobs)}
            for top, array in case.get("top", {}).items():
                blob = array.attrs.get("name", top)
                assert net.shapes[last[blob]] == array.shape, f"{case_name}: {blob}"
                compared += 1
    assert compared > 15


@pytest.mark.parametrize(
    "layers",
    [
        sliding("Convolution", "kernel_size: 9 stride: 3"),
        sliding("Convolution", "kernel_size: 2 axis: 2"),
        sliding("Deconvolution", "group: 2 kernel_size: 3 stride: 2 pad: 1 dilation: 2"),
        sliding("Convolution", "kernel_size: 2 pad: 3 dilation: 3", "x x", "c d"),
        layer("c", "InnerProduct", "x", "c", "inner_product_param { num_output: 4 axis: 0 }"),
        layer("c", "InnerProduct", "x", "c", "inner_product_param { num_output: 4 axis: -1 transpose: true }"),
        layer("c", "Pooling", "x", "c m", "pooling_param { kernel_h: 3 kernel_w: 2 stride: 2 pad: 1 }"),
        layer("c", "Pooling", "x", "c", "pooling_param { pool: AVE global_pooling: true }"),
        layer("c", "Concat", "x x x", "c", "concat_param { axis: -2 }"),
        layer("c", "LRN", "x", "c", "lrn_param { norm_region: WITHIN_CHANNEL }"),
        input_layer("go", 2, 6) + layer("c", "LSTM", "x go", "c", "recurrent_param { num_output: 5 }"),
        input_layer("go", 2, 6)
        + input_layer("h", 1, 6, 5)
        + layer("c", "RNN", "x go h", "c d", "recurrent_param { num_output: 5 expose_hidden: true }"),
    ],
)
def test_what_the_cases_do_not_cover(layers: str) -> None:
    net = filled(input_layer("x", 2, 6, 7, 8) + layers)
    found = net.run({name: torch.ones(shape) for name, shape in net.input_shapes.items()})
    assert {name: tuple(blob.shape) for name, blob in found.items()} == {
        net.graph.blobs[value]: net.shapes[value] for value in net.graph.outputs
    }
    assert all(blob.numel() for blob in found.values())


COMMON = "".join(
    (
        input_layer("x", 2, 6, 7, 8),
        input_layer("t", 2),
        layer("c", "Convolution", "x", "c", "convolution_param { num_output: 4 kernel_size: 3 }"),
        layer("b", "BatchNorm", "c", "b"),
        layer("s", "Scale", "b", "s", "scale_param { bias_term: true }"),
        layer("r", "ReLU", "s", "s"),
        layer("n", "LRN", "s", "n"),
        layer("p", "Pooling", "n", "p", "pooling_param { kernel_size: 2 stride: 2 }"),
        layer("d", "Dropout", "p", "p"),
        layer("e", "Eltwise", "p p", "e"),
        layer("i", "InnerProduct", "e", "i", "inner_product_param { num_output: 5 }"),
        layer("q", "Softmax", "i", "q"),
        layer("m", "ArgMax", "q", "m"),
        layer("l", "SoftmaxWithLoss", "i t", "l"),
        layer("a", "Accuracy", "i t", "a"),
        layer("o", "EuclideanLoss", "i q", "o"),
        layer("g", "SigmoidCrossEntropyLoss", "i q", "g"),
    )
)


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
def test_what_most_nets_have_is_built_without_torchs_compiler(phase: str, tmp_path: Path) -> None:
    """Its algebra and its tracer take seconds to import, more than everything else that ``load`` does."""
    (tmp_path / "net.prototxt").write_text(COMMON)
    code = f"""
import sys
import caffe_compat
caffe_compat.load({str(tmp_path / "net.prototxt")!r}, phase={phase!r})
print(*(name for name in ("sympy", "torch._dynamo") if name in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
