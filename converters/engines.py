"""Runtimes behind a net, for ``net.optimize(engine=...)``: each runs the ONNX file of the net, as fast as it can."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from caffe_compat.extras import require
from caffe_compat.inference.engines import Arrays, Engine, Session
from caffe_compat.network.net import CaffeNet
from caffe_compat.network.registry import Shape

from . import onnx
from .dynamic import rebuilt
from .openvino import openvino_version
from .overwritten import OVERWRITTEN, overwritten
from .registry import find_target
from .samples import sample_inputs

__all__ = ["ONNXRUNTIME", "OPENVINO"]


def _at(net: CaffeNet, shapes: Mapping[str, Shape]) -> CaffeNet:
    """``net``, or one with the same weights for inputs of other ``shapes``."""
    if all(net.input_shapes[name] == shape for name, shape in shapes.items()):
        return net
    other = rebuilt(net, {**net.input_shapes, **shapes})
    for node in net.nodes_with_blobs():
        for blob, tensor in net.blobs_of(node.module_name).items():
            other.assign_blob(node.module_name, blob, tensor.detach())
    other.program = other.program.returning(net.output_names)
    return other.eval()


def _file(net: CaffeNet, shapes: Mapping[str, Shape], folder: str) -> str:
    path = str(Path(folder, "net.onnx"))
    onnx.write(_at(net, shapes), path)
    return path


def _renamed(net: CaffeNet, outputs: dict[str, Any]) -> Arrays:
    """Outputs under their blobs' names, where the file has to call them otherwise."""
    return {name: outputs[name + OVERWRITTEN if name in overwritten(net) else name] for name in _computed(net)}


def _computed(net: CaffeNet) -> list[str]:
    program = net.program
    return [net.graph.blobs[v] for v in program.outputs if v not in program.inputs]


def _in_onnxruntime(net: CaffeNet, shapes: Mapping[str, Shape], threads: int) -> Session:
    onnxruntime = require("onnxruntime", "onnx")

    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        session = onnxruntime.InferenceSession(_file(net, shapes, folder), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        return _renamed(net, dict(zip(names, session.run(names, dict(inputs)), strict=True)))

    return run


def _in_openvino(net: CaffeNet, shapes: Mapping[str, Shape], threads: int) -> Session:
    openvino = require("openvino", "openvino")

    core = openvino.Core()
    hints: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    with tempfile.TemporaryDirectory() as folder:
        compiled = core.compile_model(core.read_model(_file(net, shapes, folder)), "CPU", hints)
    request = compiled.create_infer_request()
    names = [output.get_any_name() for output in compiled.outputs]

    def run(inputs: Arrays) -> Arrays:
        made = request.infer(dict(inputs), share_inputs=True, share_outputs=False)
        return _renamed(net, {name: np.asarray(made[i]) for i, name in enumerate(names)})

    return run


ONNXRUNTIME = Engine("onnxruntime", find_target("onnx").needs, onnx.onnxruntime_version, sample_inputs, _in_onnxruntime)
OPENVINO = Engine("openvino", find_target("openvino").needs, openvino_version, sample_inputs, _in_openvino)
