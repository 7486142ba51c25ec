"""Parameters of nets: from files, and in common with another net."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import LayerError, UsageError
from ..formats.weights import read_weights
from ..network.filling import fill_net
from ..network.net import CaffeNet
from .blob import BlobVec
from .runtime import log

__all__ = ["copy_weights", "require_hdf5", "share_parameters"]


def copy_weights(core: CaffeNet, weights: str | os.PathLike[str]) -> list[str]:
    """Load a caffemodel, binary or HDF5, into the layers of the same names; what to warn of.

    Raises:
        FileError: it cannot be read. WeightsError: a layer with other blobs or shapes.
    """
    with read_weights(Path(weights)) as opened:
        report = fill_net(core, opened)
    nodes = core.nodes_with_blobs()
    filled = {id(b) for n in nodes if n.module_name in report.modules for b in core.blobs_of(n.module_name).values()}
    kept = [n.name for n in nodes if filled.isdisjoint(map(id, core.blobs_of(n.module_name).values()))]
    if kept:
        report.warnings.append(f"{os.fspath(weights)} has no weights for {', '.join(kept)}: they keep their values")
    return report.warnings


def require_hdf5(weights: str | os.PathLike[str]) -> None:
    """Raises UsageError for a file of weights that is no HDF5, FileError for one that is no file of weights."""
    with read_weights(Path(weights)) as opened:
        kind = opened.kind
    if kind != "hdf5":
        raise UsageError(f"{os.fspath(weights)} is no HDF5 file; copy_from reads both kinds")


def share_parameters(core: CaffeNet, params: Mapping[str, BlobVec], other: CaffeNet) -> None:
    """Let layers of ``core`` use the parameters of the layers of the same names in ``other``: the same memory.

    Args:
        params: the parameters of ``core`` by module name.

    Raises:
        LayerError: a layer with other blobs or shapes there.
    """
    mine = {node.name: node for node in reversed(core.nodes_with_blobs())}
    for node in other.nodes_with_blobs():
        if node.name not in mine:
            log(f"share_with: no layer {node.name}")
            continue
        target = mine[node.name].module_name
        theirs, ours = other.blobs_of(node.module_name), core.blobs_of(target)
        shapes = [[list(t.shape) for t in blobs.values()] for blobs in (theirs, ours)]
        if shapes[0] != shapes[1]:
            raise LayerError(
                f"cannot share: its blobs have shapes {shapes[1]}, there they have {shapes[0]}", layer=node.name
            )
        for blob, shared in zip(params[target], theirs.values(), strict=True):
            # The tensor stays and only its memory is another: a solver that trains this net knows the tensor.
            owner = blob.owner()
            owner.data = shared.detach().reshape(owner.shape)
