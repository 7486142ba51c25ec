"""Runtimes behind a net, for ``net.optimize(engine=...)``: each runs the ONNX file of the net, as fast as it can."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caffe_compat.errors import UsageError
from caffe_compat.extras import require
from caffe_compat.inference.engines import Arrays, Engine, Session
from caffe_compat.inference.processor import processor
from caffe_compat.layers.bvlc.recurrent import remember, remembered
from caffe_compat.network.net import CaffeNet
from caffe_compat.network.registry import Layer, Shape

from . import onnx
from .dynamic import rebuilt
from .openvino import openvino_core, openvino_version
from .overwritten import OVERWRITTEN, overwritten
from .registry import find_target
from .samples import sample_inputs
from .state import AFTER, states_of

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


def _file(net: CaffeNet, folder: str) -> str:
    path = str(Path(folder, "net.onnx"))
    onnx.write(net, path, state="inputs")
    return path


class _State:
    """What passes from run to run: an input of the file, an output of it, and in between in the buffers of ``net``.

    Args:
        streams: of each state by name, which the file was made for.
    """

    def __init__(self, net: CaffeNet, streams: Mapping[str, int]) -> None:
        self._net, self._streams = net, streams

    def before(self) -> dict[str, np.ndarray]:
        return {
            name: remembered(*self._buffer(name), streams, torch.float32).numpy()
            for name, streams in self._streams.items()
        }

    def after(self, outputs: Mapping[str, np.ndarray]) -> None:
        for name in self._streams:
            remember(*self._buffer(name), torch.from_numpy(outputs[name + AFTER]))

    def _buffer(self, name: str) -> tuple[Layer, str]:
        path, _, buffer = name.rpartition(".")
        layer = self._net.get_submodule(path)
        assert isinstance(layer, Layer)
        return layer, buffer


def _session(net: CaffeNet, at: CaffeNet, runs: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Session:
    """A session for ``net`` of a file that was made of ``at``; ``runs`` gives the outputs of the file by name."""
    state = _State(net, {name: len(x) for name, x in states_of(at).items()})

    def run(inputs: Arrays) -> Arrays:
        outputs = runs({**inputs, **state.before()})
        state.after(outputs)
        return _renamed(net, outputs)

    return run


def _renamed(net: CaffeNet, outputs: dict[str, np.ndarray]) -> Arrays:
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
    at = _at(net, shapes)
    with tempfile.TemporaryDirectory() as folder:
        session = onnxruntime.InferenceSession(_file(at, folder), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, inputs), strict=True))

    return _session(net, at, run)


def _in_openvino(net: CaffeNet, shapes: Mapping[str, Shape], threads: int, precision: str = "f32") -> Session:
    core = openvino_core()
    hints: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    at = _at(net, shapes)
    with tempfile.TemporaryDirectory() as folder:
        compiled = core.compile_model(core.read_model(_file(at, folder)), "CPU", hints)
    held = core, compiled.create_infer_request()  # the core, too: see openvino_core()
    names = [output.get_any_name() for output in compiled.outputs]

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        made = held[1].infer(inputs, share_inputs=True, share_outputs=False)
        return {name: np.asarray(made[i]) for i, name in enumerate(names)}

    return _session(net, at, run)


def _in_openvino_in_bfloat16(net: CaffeNet, shapes: Mapping[str, Shape], threads: int) -> Session:
    # Where the processor lacks it, OpenVINO takes the hint and computes in float32.
    if "BF16" not in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UsageError(f"dtype bfloat16: OpenVINO does not compute in it on this processor ({processor()})")
    return _in_openvino(net, shapes, threads, "bf16")


ONNXRUNTIME = Engine("onnxruntime", find_target("onnx").needs, onnx.onnxruntime_version, sample_inputs, _in_onnxruntime)
OPENVINO = Engine(
    *("openvino", find_target("openvino").needs, openvino_version, sample_inputs, _in_openvino),
    open_in_bfloat16=_in_openvino_in_bfloat16,
)
