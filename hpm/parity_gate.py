"""The parity gate: refinement starts only from weights that were shown to give the original's numbers.

A model passes if its ``.pt`` holds a parity record: it reproduced recorded outputs of real Caffe, or coarse predictions
that the authors published. A pickle of 12 arrays cannot hold a record; it passes if its arrays equal those of a ``.pt``
that does.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from caffe_compat.errors import ParityError, UsageError
from caffe_compat.formats.sniff import is_checkpoint
from caffe_compat.network.checkpoint import Checkpoint, read_checkpoint
from caffe_compat.parity.record import ParityRecord

from .files.projector_pickle import is_pickle, read_projector_pickle
from .projector import LAYERS, Projector

__all__ = ["beside", "parity_of", "read_projector", "require_parity", "verified_pickle"]


def parity_of(content: Checkpoint) -> ParityRecord | None:
    """The parity record of a ``.pt``; None if its weights were rounded after the comparison, which was in float32."""
    return content.parity if content.dtype == "float32" else None


def require_parity(parity: ParityRecord | None, what: str, *, allow_unverified: bool = False) -> None:
    """Raise ParityError unless there is a record, or ``allow_unverified`` waives it. ``what`` names the model."""
    if parity is None and not allow_unverified:
        raise ParityError(
            f"{what} was not shown to reproduce the original's outputs, so it is not refined with; check it with "
            "'hpm verify' against recorded outputs (--reference FILE) or against the authors' coarse predictions "
            "(--released-coarse DIR), or waive the check with --allow-unverified (allow_unverified=True)"
        )


def read_projector(
    path: str | os.PathLike[str],
    *,
    verified_by: str | os.PathLike[str] | None = None,
    allow_unverified: bool = False,
) -> Projector:
    """The correction module and projector in a ``.pt`` or a pickle of 12 arrays, past the gate.

    Args:
        verified_by: for a pickle, a ``.pt`` with a parity record and the same arrays; None for the one of its name
            beside it, if there is one.

    Raises:
        ParityError: no parity record, or arrays that differ from those of ``verified_by``.
        UsageError: neither kind of file, or ``verified_by`` with a ``.pt``, which answers for itself.
        FileError, WeightsError: see the readers.
    """
    name = os.fspath(path)
    if is_checkpoint(name):
        if verified_by is not None:
            raise UsageError(f"{name} is a .pt, which holds its own parity record; verified_by is for pickles")
        content = read_checkpoint(name)
        require_parity(parity_of(content), name, allow_unverified=allow_unverified)
        return Projector.from_state(content.state_dict).to(dtype=torch.float32)
    if not is_pickle(name):
        raise UsageError(
            f"{name} is neither a .pt nor a pickle of 12 arrays; 'hpm convert' makes a .pt of a caffemodel"
        )
    if verified_by is None and not allow_unverified:
        verified_by = beside(path)
    if verified_by is not None:
        return verified_pickle(path, verified_by)
    if not allow_unverified:
        raise ParityError(
            f"{name} is a pickle, which cannot tell whether it reproduces the original's outputs; name a verified .pt "
            "with the same arrays (--verified-by MODEL.pt), or waive the check with --allow-unverified "
            "(allow_unverified=True)"
        )
    return read_projector_pickle(path)


def beside(path: str | os.PathLike[str]) -> str | None:
    """The ``.pt`` beside a pickle that has its name: ``mask3d.pt`` of ``mask3d.pkl``; None if there is none."""
    other = Path(path).with_suffix(".pt")
    return str(other) if is_pickle(path) and other != Path(path) and other.is_file() else None


def verified_pickle(path: str | os.PathLike[str], verified_by: str | os.PathLike[str]) -> Projector:
    """The arrays of a pickle, if they equal those of a ``.pt`` with a parity record. Raises ParityError if not."""
    judge = os.fspath(verified_by)
    content = read_checkpoint(judge)
    require_parity(parity_of(content), judge)
    ours, theirs = read_projector_pickle(path), Projector.from_state(content.state_dict)
    for k, (a, b) in enumerate(zip(ours.arrays(), theirs.to(dtype=torch.float32).arrays(), strict=True)):
        if a.shape != b.shape or not np.array_equal(a, b):
            part = f"{LAYERS[k // 2]}'s {'bias' if k % 2 else 'weight'}"
            how = f"shapes {a.shape} and {b.shape}" if a.shape != b.shape else f"by up to {np.abs(a - b).max():.3g}"
            raise ParityError(f"{part} differs from that of {judge} ({how})", path=os.fspath(path))
    return ours
