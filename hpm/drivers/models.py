"""Models and data by their paths, as the drivers are given them."""

from __future__ import annotations

import os
from pathlib import Path

from caffe_compat.errors import UsageError
from caffe_compat.formats.sniff import is_checkpoint, is_text

from ..files.folders import DataFolder
from ..files.projector_pickle import is_pickle
from ..model import PoseMachine

__all__ = ["find_data", "load"]


def load(
    model: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None, *, pose_blob: str | None = None
) -> PoseMachine:
    """The pose machine in a ``.pt``, in a prototxt and its weights, or in a caffemodel that carries its own network.

    Args:
        weights: of a prototxt: a ``.caffemodel`` or ``.caffemodel.h5``.
        pose_blob: the blob with the pose, if the network does not end as the original's do.

    Raises:
        UsageError: weights that have no use, or are missing; a pickle, which is no network.
        CaffeCompatError: see :meth:`PoseMachine.from_pretrained` and :meth:`PoseMachine.from_caffe`.

    Example:
        >>> machine = load("mask3d.pt")
        >>> machine.image_size, machine.has_correction, machine.parity.reference
        ((64, 64), True, 'recorded.h5')
    """
    if is_checkpoint(os.fspath(model)):
        if weights is not None:
            raise UsageError(f"{model} holds its own weights; {weights} would be ignored")
        return PoseMachine.from_pretrained(model, pose_blob=pose_blob)
    if is_pickle(model):
        raise UsageError(
            f"{model} is a pickle, which holds the correction module and projector alone: 'hpm refine' takes it with "
            "--verified-by, 'hpm convert' makes a .pt of it"
        )
    if weights is None and is_text(os.fspath(model)):
        raise UsageError(f"{model} is a prototxt; pass its weights (.caffemodel or .caffemodel.h5) too")
    return PoseMachine.from_caffe(model, weights or model, pose_blob=pose_blob)


def find_data(data: DataFolder | str | os.PathLike[str]) -> DataFolder:
    """A data folder of protocol I by its path, or the one given. Raises UsageError if there is no such folder."""
    folder = data if isinstance(data, DataFolder) else DataFolder(Path(data))
    if not os.path.isdir(folder.root):
        raise UsageError(f"--data-dir {folder.root}: there is no such folder")
    return folder
