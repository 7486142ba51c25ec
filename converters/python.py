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
from typing import BinaryIO

import torch
from torch import Tensor

from caffe_compat import CaffeNet, NetworkError
from caffe_compat.errors import CaffeCompatError
from caffe_compat.extras import require
from caffe_compat.formats.files import Checksum, atomic_write
from caffe_compat.inference.preprocess import Preprocess
from caffe_compat.network.checkpoint import DTYPES, check_dtype
from caffe_compat.parity.record import ParityRecord, versions
from caffe_compat.parity.seeded import run_seeded, seeded_inputs

from .plain.source import Source, source_of
from .registry import target

__all__ = ["same_bits", "write"]

# It finds torch and safetensors, and neither this library nor what lies in the folder it is started in.
_RUN = """
import importlib.machinery, importlib.util, sys
sys.modules.update(caffe_compat=None, converters=None)
import torch
network, weights, inputs, outputs, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
loader = importlib.machinery.SourceFileLoader("network", network)
module = importlib.util.module_from_spec(importlib.util.spec_from_loader("network", loader))
sys.modules["network"] = module
loader.exec_module(module)
with torch.no_grad():
    torch.save(module.load(weights)(**torch.load(inputs)), outputs)
"""


@target(
    "python",
    suffix=".py",
    title="a plain PyTorch source file",
    needs={"safetensors": "safetensors"},
    cannot=(
        "layers that run Python code, touch files or draw at random",
        "training as Caffe trains: it computes what a net computes in phase TEST",
    ),
)
def write(
    net: CaffeNet,
    path: str | Path,
    *,
    dtype: str = "float32",
    preprocess: Preprocess | None = None,
    sources: Sequence[Checksum] = (),
    parity: ParityRecord | None = None,
) -> None:
    """Write ``net`` as source to ``path``, and its weights to the ``.safetensors`` beside it, both or neither.

    The source is run first, by a Python that cannot import this library: its outputs must have the bits of the net's.
    Weights are stored as ``dtype``, and computed with in single precision.

    Raises:
        UsageError: not a dtype, or weights that it cannot hold. NetworkError: a layer that cannot be written, or a net
            whose source gives other numbers. MissingExtraError: safetensors is not installed. FileError: a file cannot
            be written.
    """
    require("safetensors", "safetensors")
    check_dtype(net, dtype)
    rounded = _rounded(net, DTYPES[dtype])
    source = source_of(rounded, _facts(net, dtype, preprocess, sources, parity))
    metadata = {"format": "pt", "written_by": versions(), "dialect": net.dialect}
    if parity is not None:
        metadata["parity"] = json.dumps(asdict(parity))
    place = Path(path)
    # What is nested is moved into place first: there is never a source without its weights.
    with atomic_write(place) as file, atomic_write(place.with_suffix(".safetensors")) as weights:
        from safetensors.torch import save_file

        file.write(source.text.encode())
        file.flush()
        save_file(_stored(source, DTYPES[dtype]), weights.name, metadata)
        _check(rounded, source, file, weights)


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


def _stored(source: Source, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        name: tensor.detach()
        .to(dtype if tensor.is_floating_point() and name not in source.wide else tensor.dtype)
        # A tensor of its own for every name: safetensors takes none that lie in one memory.
        .clone(memory_format=torch.contiguous_format)
        for name, tensor in source.tensors.items()
    }


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


def _check(net: CaffeNet, source: Source, file: BinaryIO, weights: BinaryIO) -> None:
    """Run what was written on seeded inputs.

    Raises:
        NetworkError: it fails, or gives other numbers than ``net``.
    """
    given = {name: torch.from_numpy(x) for name, x in seeded_inputs(net).items() if name in source.inputs}
    try:
        expected = run_seeded(net)
    except CaffeCompatError:
        # The net itself takes no such numbers (boxes without an area, say): then nothing stands in for others.
        given = {name: torch.zeros_like(x) for name, x in given.items()}
        expected = net.run(given)
    found = _run(source, given, file, weights)
    for name, value in expected.items():
        if name in found and not same_bits(found[name], value):
            raise NetworkError(f"the source that was written gives other numbers for {name!r}; please report it")
    if missing := [name for name in expected if name not in found and name in source.outputs]:
        raise NetworkError(f"the source that was written gives no {missing[0]!r}; please report it")


def _run(source: Source, given: dict[str, Tensor], file: BinaryIO, weights: BinaryIO) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = os.path.join(folder, "inputs"), os.path.join(folder, "outputs")
        torch.save({source.inputs[name]: x for name, x in given.items()}, inputs)
        arguments = [file.name, weights.name, inputs, outputs, str(torch.get_num_threads())]
        done = subprocess.run(
            [sys.executable, "-IB", "-c", _RUN, *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
            raise NetworkError(f"the source that was written does not run: {reason[0]}; please report it")
        found: dict[str, Tensor] = torch.load(outputs, weights_only=True)
    return found


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same in shape, type and every bit."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(*(x.detach().contiguous().reshape(-1).view(torch.uint8) for x in (a, b)))
