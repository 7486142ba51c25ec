"""ONNX files (``.onnx``), with Caffe's names for inputs, outputs and weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch import Tensor

from caffe_compat.errors import NetworkError, UsageError, first_line
from caffe_compat.extras import require
from caffe_compat.formats.files import Checksum
from caffe_compat.inference.preprocess import Preprocess
from caffe_compat.network.checkpoint import check_dtype
from caffe_compat.network.net import CaffeNet
from caffe_compat.parity.record import ParityRecord, versions

from .dynamic import dynamic_axes
from .overwritten import overwritten_note
from .pixels import pixels_of
from .precision import in_precision
from .registry import target
from .state import check_state, state_note
from .unchecked import unchecked

__all__ = ["onnxruntime_version", "run_onnxruntime", "write"]

_KINDS = {"float32": np.float32, "float16": np.float16}


def run_onnxruntime(
    path: str, runs: Sequence[Mapping[str, np.ndarray]], held: Mapping[str, Tensor] | None = None
) -> list[dict[str, np.ndarray]]:
    """Run a file in onnxruntime, on the CPU, as it is given: nothing is fused, which would round otherwise, and nothing
    folded, which would take the memory of weights once more.

    Args:
        held: weights that memory has by now, by name. Those that the file has byte by byte are not loaded again.
    """
    onnxruntime = require("onnxruntime", "onnx")

    from .onnx_graph.reading import graph_of_file, held_already

    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    # The weights are mapped from the file, and there is no copy of them for the sake of speed: it runs a few times.
    folder = os.path.dirname(os.path.abspath(path))
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = False
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    graph = graph_of_file(path)
    shared = held_already(graph, folder, held or {})
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in shared.items()}
    for name, value in values.items():  # which have to outlive the session
        options.add_initializer(name, value)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, dict(given)), strict=True)) for given in runs]


def onnxruntime_version() -> str:
    """The runtime and its version."""
    onnxruntime = require("onnxruntime", "onnx")

    return f"onnxruntime {onnxruntime.__version__}"


def _metadata(
    net: CaffeNet,
    *,
    preprocess: Preprocess | None,
    sources: Sequence[Checksum],
    parity: ParityRecord | None,
    embedded: bool,
) -> dict[str, str]:
    """What a file says of itself, as text by key; structured entries are JSON."""
    entries = {"dialect": net.dialect, "written_by": versions()}
    if sources:
        listed = [{"name": Path(one.path).name, "sha256": one.hexdigest()} for one in sources]
        entries["sources"] = json.dumps(listed)
    if preprocess is not None:
        record = preprocess.to_record()
        if record["mean_image"] is not None:
            record["mean_image"] = record["mean_image"].tolist()
        entries["preprocess"] = json.dumps({**record, "embedded": embedded})
    if parity is not None:
        entries["parity"] = json.dumps(asdict(parity))
    return entries


def _add_metadata(path: str, key: str, text: str) -> None:
    from .onnx_graph.writing import add_metadata

    add_metadata(path, key, text)


@target(
    "onnx",
    suffix=".onnx",
    title="an ONNX file",
    needs={"onnx": "onnx", "onnxruntime": "onnx"},
    cannot=(
        "layers that run Python code, touch files, draw random numbers or are of phase TRAIN",
        "inputs of other shapes than the net was built for, unless dynamic_batch or dynamic_size asks for them",
        "recurrent state that carries on by itself",
    ),
    run=run_onnxruntime,
    run_sharing=run_onnxruntime,
    runtime=onnxruntime_version,
    annotate=_add_metadata,
)
def write(
    net: CaffeNet,
    path: str | Path,
    *,
    dtype: str = "float32",
    dynamic_batch: bool = False,
    dynamic_size: Sequence[str] = (),
    embed_preprocess: bool = False,
    state: str = "reset",
    preprocess: Preprocess | None = None,
    sources: Sequence[Checksum] = (),
    parity: ParityRecord | None = None,
) -> list[str]:
    """Write ``net`` to ``path``, whole or not at all; weights beyond 2 GB lie in ``<path>.data``.

    Args:
        dtype: of the weights and of most arithmetic; inputs and outputs are float32 all the same.
        state: ``"reset"`` or ``"inputs"``, see :mod:`.state`.

    Raises:
        UsageError: an option that does not fit the net. NetworkError: a layer that cannot be in such a file, by name.
        FileError: ``path`` cannot be written.
    """
    from .onnx_graph.building import build_graph
    from .onnx_graph.writing import write_model

    if dtype not in _KINDS:
        raise UsageError(f"dtype {dtype!r}: one of {', '.join(_KINDS)} was expected, which is what onnxruntime runs")
    check_state(state, ("reset", "inputs"))
    if net.graph.state.phase != "TEST":
        raise NetworkError("the net is of phase TRAIN; an ONNX file is for running it: convert it with phase test")
    check_dtype(net, dtype)
    plain = in_precision(net, "float32")
    built = build_graph(
        plain,
        axes=dynamic_axes(plain, dynamic_batch=dynamic_batch, dynamic_size=dynamic_size),
        kind=_KINDS[dtype],
        pixels=pixels_of(plain, preprocess) if embed_preprocess else None,
        state=state,
    )
    facts = _metadata(net, preprocess=preprocess, sources=sources, parity=parity, embedded=embed_preprocess)
    write_model(built, str(path), name=net.message.name, metadata=facts)
    _check(str(path))
    return state_note(net, state) + overwritten_note(net) + unchecked(net)


def _check(path: str) -> None:
    """Whether onnx itself finds the file well formed, by its graph alone: it would have the weights twice."""
    from onnx import checker

    from .onnx_graph.reading import graph_of_file

    graph = f"{path}.graph"
    with open(graph, "wb") as file:
        file.write(graph_of_file(path))
    try:
        checker.check_model(graph)
    except Exception as error:  # the checker raises several kinds
        raise NetworkError(f"onnx finds the file malformed: {first_line(error)}") from error
    finally:
        os.remove(graph)
