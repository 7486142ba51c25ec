"""The correction module and projector alone: as a network of its own, and out of any ``.pt``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from caffe_compat import CaffeNet, NetState
from caffe_compat.errors import UsageError
from caffe_compat.network.checkpoint import read_checkpoint, save_checkpoint
from caffe_compat.parity.record import ParityRecord

from ..files.checkpoint_extras import extra_entries
from ..projector import LAYERS, POSE_3D, Projector
from ..scaling import Bounds
from . import NetworkOptions
from .builder import DIALECT, NetworkBuilder
from .parts import projector as add_projector

__all__ = ["projector_net", "projector_of", "save_projector"]


def projector_net(projector: Projector) -> CaffeNet:
    """A network of input ``3dpredict`` (frames, 48) with these weights; results ``change`` and ``project_2d``.

    Raises:
        UsageError: the correction module's hidden layer and the projector's layers differ in width.
    """
    hidden, wide = len(projector.change_tmp.bias), len(projector.project_1.bias)
    if hidden != wide:
        raise UsageError(f"a correction module of width {hidden} and a projector of width {wide}; they should be equal")
    builder = NetworkBuilder(NetworkOptions(projector=wide))
    builder.message.name = "projector"
    builder.add("Input", "3dpredict", "", "3dpredict", input_param={"shape": [{"dim": [1, POSE_3D]}]})
    builder.linear("change_tmp", "3dpredict", hidden, (1, 2))
    add_projector(builder, (2, 2), (1, 2), (5, 5))
    net = CaffeNet(builder.message, NetState("TEST"), dialect=DIALECT)
    for name in LAYERS:
        for part in ("weight", "bias"):
            net.assign_blob(name, part, getattr(getattr(projector, name), part).detach().cpu().float())
    return net.materialize()


def save_projector(
    projector: Projector,
    path: str | os.PathLike[str],
    *,
    sources: Sequence[str | Path] = (),
    parity: ParityRecord | None = None,
    bounds: Bounds | None = None,
) -> None:
    """Write a ``.pt`` of :func:`projector_net`, with the bounds of its poses if they are known. Raises FileError."""
    save_checkpoint(
        projector_net(projector), os.fspath(path), sources=sources, parity=parity, extra=extra_entries(bounds)
    )


def projector_of(path: str | os.PathLike[str]) -> Projector:
    """The correction module and projector in a ``.pt``, verified or not. Raises FileError, WeightsError."""
    return Projector.from_state(read_checkpoint(os.fspath(path)).state_dict).to(dtype=torch.float32)
