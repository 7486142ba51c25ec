"""Whatever of a definition or of weights is accepted is written in every format, and has to come out equal there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import caffe_compat
import converters
from caffe_compat import CaffeNet
from tests.fuzz import mutators
from tests.fuzz.target import FORMATS, Target
from tests.networks import input_layer, ip, layer

__all__ = ["exporters"]

_SMALL = (
    input_layer("data", 2, 3, 6, 5)
    + layer("conv", "Convolution", "data", "conv", "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }")
    + layer("relu", "ReLU", "conv", "conv")
    + layer("pool", "Pooling", "conv", "pool", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }")
    + ip("fc", "pool", "fc", 3)
    + layer("prob", "Softmax", "fc", "prob")
).encode()
_MIXED = (
    input_layer("a", 2, 3)
    + input_layer("b", 2, 3)
    + layer("sum", "Eltwise", "a b", "sum", "eltwise_param { operation: SUM coeff: 2 coeff: -1 }")
    + layer("cut", "Slice", "sum", "one two", "slice_param { axis: 1 slice_point: 1 }")
    + layer("join", "Concat", "two one", "join", "concat_param { axis: 1 }")
    + layer("scale", "Scale", "join", "join", "scale_param { bias_term: true }")
    + ip("fc", "join", "fc", 4, 'param { name: "w" }')
    + layer("line", "Power", "fc", "line", "power_param { scale: 2 shift: 1 }")
).encode()


def exporters() -> list[Target]:
    """Of definitions in every format; of weights in those that hold nothing else."""
    found = [_of_definition("pt", ".pt")]
    for made in converters.targets():
        found.append(_of_definition(made.name, made.suffix))
        if made.run is None:
            found.append(_of_weights(made.name, made.suffix))
    return found


def _of_definition(name: str, suffix: str) -> Target:
    def read(path: Path) -> None:
        net = caffe_compat.load(path, seed=1)
        blobs = sum(torch.Size(net.shapes[value]).numel() for step in net.program.steps for value in step.tops)
        if blobs + sum(tensor.numel() for tensor in net.state_dict().values()) < 10**6:  # else as right, and slow
            _check(net, path.with_name(f"out{suffix}"), name, path)

    seeds = [_SMALL, _MIXED]
    # Some start another Python with torch in it.
    return Target(f"write-{name}", "a.prototxt", read, mutators.of_settings, seeds, seconds=120, runs_files=True)


def _of_weights(name: str, suffix: str) -> Target:
    """The small net with weights that are damaged, and written again."""
    definition = FORMATS / "v1net.prototxt"

    def read(path: Path) -> None:
        net = caffe_compat.load(definition, path, fill_missing=True)
        _check(net, path.with_name(f"out{suffix}"), name, definition)

    seeds = [(FORMATS / "v1net.caffemodel").read_bytes()]
    return Target(f"rewrite-{name}", "a.caffemodel", read, mutators.of_wire, seeds)


def _check(net: CaffeNet, path: Path, name: str, definition: Path) -> None:
    """Export verifies what has a runtime; what this library loads again gives the same bits."""
    if name == "pt":
        caffe_compat.save(net, path)
        again = caffe_compat.load(path)
    else:
        verification = converters.export(net, path, name).verification
        if verification is not None:
            assert not verification.apart
            return
        if not net.state_dict():
            return
        again = caffe_compat.load(definition, path)
    given = {blob: np.ones(shape, np.float32) for blob, shape in net.input_shapes.items()}
    expected, found = net.run(given), again.run(given)
    assert list(found) == list(expected)
    for blob, value in expected.items():
        assert torch.equal(found[blob].nan_to_num(), value.nan_to_num()), blob
