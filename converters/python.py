"""Plain PyTorch: one readable ``.py`` and its weights as ``.safetensors``, which need torch and safetensors alone."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from caffe_compat import CaffeNet
from caffe_compat.formats.files import Checksum, atomic_write
from caffe_compat.formats.weights_safetensors import write_safetensors
from caffe_compat.inference.preprocess import Preprocess
from caffe_compat.network.checkpoint import DTYPES, check_dtype
from caffe_compat.parity.record import ParityRecord, versions

from .dynamic import dynamic_axes, other_shapes, rebuilt
from .plain.source import source_of
from .registry import Arrays, target
from .safetensors import stored
from .state import state_note

__all__ = ["run_alone", "write"]

# It finds torch and safetensors, and neither this library nor what lies in the folder it is started in.
_ALONE = """
import importlib.machinery, importlib.util, sys
sys.modules.update(caffe_compat=None, converters=None)
import torch
network, folder, count, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
loader = importlib.machinery.SourceFileLoader("network", network)
module = importlib.util.module_from_spec(importlib.util.spec_from_loader("network", loader))
sys.modules["network"] = module
loader.exec_module(module)
net = module.load()
for i in range(int(count)):
    with torch.no_grad():
        outputs = net(**torch.load(f"{folder}/{i}"))
    torch.save({name: value.float().clone() for name, value in outputs.items()}, f"{folder}/{i}")
"""


def run_alone(path: str, runs: Sequence[Arrays]) -> list[dict[str, np.ndarray]]:
    """Run a source in a process that has torch and safetensors and nothing of this library."""
    from safetensors import safe_open

    with safe_open(Path(path).with_suffix(".safetensors"), "pt") as file:
        arguments: dict[str, str] = json.loads(file.metadata()["inputs"])
    with tempfile.TemporaryDirectory() as folder:
        for i, given in enumerate(runs):
            named = {arguments[name]: torch.from_numpy(x) for name, x in given.items() if name in arguments}
            torch.save(named, os.path.join(folder, str(i)))
        command = [sys.executable, "-IB", "-c", _ALONE, os.path.abspath(path), folder, str(len(runs))]
        command.append(str(torch.get_num_threads()))
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}")
        made = [torch.load(os.path.join(folder, str(i)), weights_only=True) for i in range(len(runs))]
    return [{name: value.numpy() for name, value in outputs.items()} for outputs in made]


@target(
    "python",
    suffix=".py",
    title="a plain PyTorch source file",
    needs={"safetensors": "safetensors"},
    cannot=(
        "layers that run Python code, touch files or draw at random",
        "training as Caffe trains: it computes what a net computes in phase TEST",
    ),
    run=run_alone,
    runtime=lambda: f"torch {torch.__version__} alone",
    exact=True,
    beside=(".safetensors",),
)
def write(
    net: CaffeNet,
    path: str | Path,
    *,
    dtype: str = "float32",
    dynamic_batch: bool = False,
    dynamic_size: Sequence[str] = (),
    preprocess: Preprocess | None = None,
    sources: Sequence[Checksum] = (),
    parity: ParityRecord | None = None,
) -> list[str]:
    """Write ``net`` as source to ``path``, and its weights to the ``.safetensors`` beside it.

    Weights are stored as ``dtype``, and computed with in single precision. The source takes other sizes of its inputs
    wherever the layers do; with ``dynamic_batch`` and ``dynamic_size`` that is made sure of.

    Raises:
        UsageError: not a dtype, or weights that it cannot hold. NetworkError: a layer that cannot be written, or that
            ties sizes down. FileError: a file cannot be written.
    """
    check_dtype(net, dtype)
    axes = dynamic_axes(net, dynamic_batch=dynamic_batch, dynamic_size=dynamic_size)
    if axes:
        rebuilt(net, other_shapes(net, axes))
    source = source_of(_rounded(net, DTYPES[dtype]), _facts(net, dtype, preprocess, sources, parity))
    facts = {"written_by": versions(), "dialect": net.dialect, "inputs": json.dumps(source.inputs)}
    if parity is not None:
        facts["parity"] = json.dumps(asdict(parity))
    place = Path(path)
    with atomic_write(place) as file, atomic_write(place.with_suffix(".safetensors")) as weights:
        file.write(source.text.encode())
        kinds = {name: DTYPES["float32" if name in source.wide else dtype] for name in source.tensors}
        write_safetensors(weights, {name: stored(source.tensors[name], kind) for name, kind in kinds.items()}, facts)
    return state_note(net, "carry")


def _rounded(net: CaffeNet, dtype: torch.dtype) -> CaffeNet:
    """``net`` on the CPU in single precision, with weights that ``dtype`` holds."""
    device, own = net.device_and_dtype()
    if (device.type, own, dtype) == ("cpu", torch.float32, torch.float32):
        return net
    made = copy.deepcopy(net).to("cpu", torch.float32)
    if dtype != torch.float32:
        wide = check_dtype(net, "float32")
        for name, tensor in made.state_dict().items():
            if tensor.is_floating_point() and name not in wide:
                tensor.copy_(tensor.to(dtype))
    return made


def _facts(
    net: CaffeNet,
    dtype: str,
    preprocess: Preprocess | None,
    sources: Sequence[Checksum],
    parity: ParityRecord | None,
) -> list[str]:
    """Lines for the docstring."""
    lines = [f"Written by {versions()}; dialect {net.dialect}."]
    lines += [f"From {Path(source.path).name}, SHA-256 {source.hexdigest()}." for source in sources]
    if parity is not None:
        of = f"{parity.reference} of real Caffe in {parity.blobs} blobs"
        lines.append(f"Equal to {of}; the worst relative error is {parity.worst_rel:.1e}.")
    if preprocess is not None:
        lines.append(f"Pixels become input by: {json.dumps(preprocess.to_record())}.")
    if dtype != "float32":
        lines.append(f"The weights are stored in {dtype}, and computed with in float32.")
    return lines
