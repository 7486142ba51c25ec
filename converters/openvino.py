"""OpenVINO's intermediate representation (``.xml`` and ``.bin``), read by it from an ONNX file."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from caffe_compat.errors import NetworkError, UsageError, first_line
from caffe_compat.extras import require
from caffe_compat.formats.files import atomic_write
from caffe_compat.network.net import CaffeNet

from . import onnx
from .registry import target

__all__ = ["openvino_core", "openvino_version", "run_openvino", "write"]


def run_openvino(path: str, runs: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Run a file (``.xml`` or ``.onnx``) in OpenVINO on the CPU, in single precision where the file has that."""
    core = openvino_core()
    hints: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(path), "CPU", hints)
    found = []
    for given in runs:
        made = compiled(dict(given))
        found.append({output.get_any_name(): np.array(made[output]) for output in compiled.outputs})
    return found


def openvino_core() -> Any:
    """OpenVINO's ``Core``: the one that somebody holds already, else a new one. Hold it as long as what it compiled.

    Each core gives the thread that first runs something in it a stack for signals, and puts back the one before when it
    goes. Of several that go in another order than they came, one puts back what is freed, and Ctrl-C ends the process.
    It is not kept beyond its use: its threads would be missing in a process that is forked.

    Raises:
        MissingExtraError: it is not installed.
    """
    core = _held.get(os.getpid())
    if core is None:
        core = _held[os.getpid()] = require("openvino", "openvino").Core()
    return core


# By process.
_held: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def openvino_version() -> str:
    """The runtime and its version."""
    openvino = require("openvino", "openvino")

    return f"openvino {openvino.__version__}"


@target(
    "openvino",
    suffix=".xml",
    title="an OpenVINO model",
    needs={"onnx": "openvino", "onnxruntime": "openvino", "openvino": "openvino"},
    cannot=("what an ONNX file cannot hold", "operations that OpenVINO's converter does not know"),
    run=run_openvino,
    runtime=openvino_version,
    options_of=onnx.write,
    beside=(".bin",),
)
def write(net: CaffeNet, path: str | Path, *, dtype: str = "float32", **options: Any) -> list[str]:
    """Write ``net`` to ``path`` (``.xml``) and its weights beside it (``.bin``), whole or not at all.

    Args:
        dtype: of the weights: OpenVINO compresses them. options: of :func:`converters.onnx.write`, which writes the
            file that OpenVINO reads; the metadata of that is kept, too.

    Raises:
        UsageError, NetworkError: as :func:`converters.onnx.write`, or OpenVINO cannot read the ONNX file. FileError:
            ``path`` cannot be written.
    """
    openvino = require("openvino", "openvino")

    from .onnx_graph.reading import metadata_of_file

    if dtype not in ("float32", "float16"):
        raise UsageError(f"dtype {dtype!r}: one of float32, float16 was expected, which is what OpenVINO stores")
    with tempfile.TemporaryDirectory() as folder:
        between, made = os.path.join(folder, "net.onnx"), os.path.join(folder, "net.xml")
        notes: list[str] = onnx.write(net, between, **options)
        try:
            model = openvino_core().read_model(between)
        except Exception as error:  # the converter raises several kinds
            raise NetworkError(f"OpenVINO cannot read the net: {first_line(error)}") from error
        for key, text in metadata_of_file(between).items():
            model.set_rt_info(text, ["caffe_compat", key])
        openvino.save_model(model, made, compress_to_fp16=dtype == "float16")
        for suffix in (".bin", ".xml"):
            with (
                atomic_write(Path(path).with_suffix(suffix)) as file,
                open(Path(made).with_suffix(suffix), "rb") as own,
            ):
                while piece := own.read(1 << 20):
                    file.write(piece)
    return notes
