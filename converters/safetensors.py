"""The weights of a net under their names, as ``.safetensors``, with metadata; ``caffe_compat.load`` takes them beside
a prototxt."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from caffe_compat import CaffeNet, NetworkError
from caffe_compat.formats.files import Checksum, atomic_write
from caffe_compat.formats.weights_safetensors import Stored, write_safetensors
from caffe_compat.inference.preprocess import Preprocess
from caffe_compat.network.checkpoint import DTYPES, check_dtype
from caffe_compat.parity.record import ParityRecord, versions

from .reading_back import check_read_back
from .registry import target

__all__ = ["stored", "write"]


@target(
    "safetensors",
    suffix=".safetensors",
    title="a file of safetensors",
    cannot=("the network itself: keep the prototxt beside it",),
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
    """Write the weights of ``net`` to ``path``, whole or not at all, stored as ``dtype``.

    Raises:
        UsageError: not a dtype, or weights that it cannot hold. NetworkError: two layers with weights share a name.
            ParityError: it reads back otherwise. FileError: ``path`` cannot be written.
    """
    wide = check_dtype(net, dtype)
    nodes = net.nodes_with_blobs()
    if twice := [name for name, count in Counter(node.name for node in nodes).items() if count > 1]:
        raise NetworkError("two layers with weights have this name, and weights find their layer by it", layer=twice[0])
    layers = [(n.name, [f"{n.module_name}.{blob}" for blob in net.blobs_of(n.module_name)]) for n in nodes]
    state = net.state_dict()
    kinds = {name: DTYPES["float32" if name in wide else dtype] for _, names in layers for name in names}
    arrays = {name: stored(state[name], kind) for name, kind in kinds.items()}
    facts = {
        "written_by": versions(),
        "network": net.message.name,
        "dialect": net.dialect,
        "sources": json.dumps([{"name": Path(s.path).name, "sha256": s.hexdigest()} for s in sources]),
    }
    if preprocess is not None:
        facts["preprocess"] = json.dumps(preprocess.to_record())
    if parity is not None:
        facts["parity"] = json.dumps(asdict(parity))
    with atomic_write(path) as file:
        write_safetensors(file, arrays, facts, layers)
    check_read_back(net, path, kinds)


def stored(tensor: Tensor, dtype: torch.dtype) -> Stored:
    """A tensor as it is written; ``dtype`` is float32, float16 or bfloat16."""
    values = tensor.detach().to("cpu", dtype).contiguous()
    kind = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[dtype]
    data: np.ndarray = values.view(torch.uint16).numpy() if kind == "BF16" else values.numpy()
    return Stored(kind, tuple(tensor.shape), data)
