"""Files of weights, read by this library's own reader before they take their places."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from caffe_compat import CaffeNet, ParityError
from caffe_compat.formats.blob_proto import BlobView
from caffe_compat.formats.weights import WeightsFile, read_weights

__all__ = ["check_read_back"]

_PIECE = 1 << 20  # values that are compared at a time


def check_read_back(net: CaffeNet, path: str | Path, kinds: Mapping[str, torch.dtype] | None = None) -> None:
    """Whether every blob of ``net`` stands in the file, bit by bit.

    Args:
        kinds: the type that each entry of the state dict was stored as; single precision where it does not say.

    Raises:
        ParityError: one does not. FileError: the file cannot be read.
    """
    expected: dict[str, list[tuple[str, torch.Tensor]]] = {}
    for node in net.nodes_with_blobs():
        named = net.blobs_of(node.module_name)
        names = [f"{node.module_name}.{name}" for name in named]
        # Of layers of one name the first has the weights, as in Caffe.
        expected.setdefault(node.name, list(zip(names, named.values(), strict=True)))
    with read_weights(path) as file:
        found = {record.name: record.blobs for record in reversed(file.layers)}
        shared_left_out = file.kind == "hdf5"
        for layer, blobs in expected.items():
            stored = found.get(layer, ())
            for i, (name, tensor) in enumerate(blobs):
                if shared_left_out and (i >= len(stored) or stored[i].is_empty):
                    continue
                kind = (kinds or {}).get(name, torch.float32)
                if i >= len(stored) or not _stands_in(tensor.detach(), kind, stored[i], file):
                    raise ParityError(
                        f"not written: blob {i} of layer {layer!r} reads back otherwise; please report it"
                    )


def _stands_in(tensor: torch.Tensor, kind: torch.dtype, blob: BlobView, file: WeightsFile) -> bool:
    """Whether the values of ``tensor``, once stored as ``kind``, are those of ``blob``.

    Piece by piece, and the file's pages are given back: memory has the weights once.
    """
    if blob.shape != tuple(tensor.shape):
        return False
    values, stored = tensor.reshape(-1), blob.data.reshape(-1)
    for start in range(0, len(values), _PIECE):
        piece = values[start : start + _PIECE].cpu().to(kind).float().numpy()
        if not np.array_equal(stored[start : start + _PIECE], piece, equal_nan=True):
            return False
        file.release(blob)
    return True
