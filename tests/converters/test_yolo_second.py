"""Detections of YOLO's second generation in each format, box for box: they are found by a loop whose length varies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_compat import CaffeNet
from caffe_compat.schema.prototxt import parse_message
from converters.onnx import run_onnxruntime
from converters.onnx_graph.building import build_graph
from converters.onnx_graph.writing import write_model
from converters.plain.source import source_of
from converters.pt2 import program_of
from tests.converters.plain import module_of, outputs_of, same_bits
from tests.networks import input_layer, layer

FORK = "BirdeeChen/caffe_yolo_v2"
SIDE = 7
NET = input_layer("x", 1, 14, SIDE, SIDE) + layer(
    "found",
    "DetectionOutput",
    "x",
    "boxes",
    f"detection_output_param {{ side: {SIDE} classes: 2 num_box: 2 coords: 4 biases: [1.5, 2, 3, 1] "
    "confidence_threshold: 0.2 nms_threshold: 0.3 }",
)


def maps(seed: int, shift: float) -> np.ndarray:
    """Predictions; the larger the shift, the larger the boxes and the surer, so that more take others away."""
    x = np.random.RandomState(seed).randn(1, 14, SIDE, SIDE).astype(np.float32)
    x[:, [2, 3, 9, 10]] += shift - 1
    x[:, [4, 11]] += shift
    return x


@pytest.fixture(scope="module")
def net() -> CaffeNet:
    return CaffeNet(parse_message(NET, dialect=FORK).message, dialect=FORK)


INPUTS = [maps(seed, shift) for seed, shift in enumerate((0.0, 0.0, 1.0, -1.0, 2.0, -99.0))]


@pytest.fixture(scope="module")
def expected(net: CaffeNet) -> list[torch.Tensor]:
    """The rows of every input: of one, there are none."""
    rows = [net(x=torch.from_numpy(x))["boxes"] for x in INPUTS]
    counts = [found.shape[2] for found in rows]
    assert counts[-1] == 1
    assert len(set(counts)) > 3
    return rows


def test_boxes_of_an_onnx_file(net: CaffeNet, expected: list[torch.Tensor], tmp_path: Path) -> None:
    path = str(tmp_path / "net.onnx")
    write_model(build_graph(net, axes={}), path, name="net", metadata={})
    for found, rows in zip(run_onnxruntime(path, [{"x": x} for x in INPUTS]), expected, strict=True):
        assert found["boxes"] == pytest.approx(rows.numpy(), rel=1e-5, abs=1e-6)


def test_boxes_of_plain_pytorch(net: CaffeNet, expected: list[torch.Tensor]) -> None:
    source = source_of(net)
    plain = module_of(source)
    for x, rows in zip(INPUTS, expected, strict=True):
        assert same_bits(outputs_of(plain, source, {"x": x})["boxes"], rows)


@pytest.mark.slow
def test_boxes_of_a_program(net: CaffeNet, expected: list[torch.Tensor]) -> None:
    program = program_of(net).module()
    for x, rows in zip(INPUTS, expected, strict=True):
        torch.testing.assert_close(program(x=torch.from_numpy(x))["boxes"], rows, rtol=1e-5, atol=1e-6)
