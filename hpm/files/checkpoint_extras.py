"""What the pose system keeps in a ``.pt`` beside the network: the bounds of its poses, and the blob that holds them.

They are entries of :attr:`caffe_compat.network.checkpoint.Checkpoint.extra`: ``pose_bounds_mm``, a float64 tensor
(2, 48) of maxima and minima; ``pose_bounds_source``, where those came from; ``pose_blob``, a blob's name.
"""

from __future__ import annotations

import os

import torch

from caffe_compat.errors import FileError, UsageError
from caffe_compat.formats.sniff import is_checkpoint
from caffe_compat.network.checkpoint import Checkpoint, read_checkpoint

from ..projector import POSE_3D
from ..scaling import Bounds

__all__ = ["bounds_in", "extra_entries", "stored_bounds", "stored_pose_blob"]

_BOUNDS, _SOURCE, _BLOB = "pose_bounds_mm", "pose_bounds_source", "pose_blob"


def extra_entries(bounds: Bounds | None, pose_blob: str | None = None) -> dict[str, torch.Tensor | str]:
    """The entries to store."""
    entries: dict[str, torch.Tensor | str] = {}
    if bounds is not None:
        # numpy's arrays here are read-only, which torch does not know; the stack is a copy.
        entries[_BOUNDS] = torch.stack([torch.tensor(bounds.maximum), torch.tensor(bounds.minimum)])
        # The name alone: no path of this machine.
        entries[_SOURCE] = os.path.basename(bounds.source)
    if pose_blob is not None:
        entries[_BLOB] = pose_blob
    return entries


def stored_bounds(content: Checkpoint, path: str) -> Bounds | None:
    """The bounds in a ``.pt``; None if it has none. Raises FileError if they are damaged."""
    values, source = content.extra.get(_BOUNDS), content.extra.get(_SOURCE)
    if values is None:
        return None
    if isinstance(values, str) or values.shape != (2, POSE_3D) or not isinstance(source, str):
        raise FileError(f"is damaged: {_BOUNDS} is no tensor (2, {POSE_3D}) with a source", path=path)
    maximum, minimum = values.double().numpy().copy()
    try:
        return Bounds(maximum, minimum, source)
    except UsageError as error:
        raise FileError(f"is damaged: {error}", path=path) from error


def stored_pose_blob(content: Checkpoint) -> str | None:
    """The blob with the pose, if one was named when the ``.pt`` was made."""
    name = content.extra.get(_BLOB)
    return name if isinstance(name, str) else None


def bounds_in(path: str | os.PathLike[str]) -> Bounds | None:
    """The bounds in the file of a model; None of a file that has none, such as a pickle. Raises FileError."""
    name = os.fspath(path)
    return stored_bounds(read_checkpoint(name), name) if is_checkpoint(name) else None
