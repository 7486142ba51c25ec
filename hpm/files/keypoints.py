"""2D poses and boxes of a detector, from their files."""

from __future__ import annotations

import os
import warnings

import numpy as np

from caffe_compat.errors import CaffeCompatWarning, FileError
from caffe_compat.formats.arrays import read_npy
from caffe_compat.formats.files import read_file
from caffe_compat.formats.sniff import decode_text

from ..skeleton import H36M16, Skeleton, convert

__all__ = ["read_boxes", "read_keypoints"]


def read_keypoints(path: str | os.PathLike[str], joints: Skeleton = H36M16) -> np.ndarray:
    """(frames, 16, 2), pixels, in the order of H36M16, of a ``.npy`` (frames, joints, 2 or more) in that of ``joints``.

    Raises:
        FileError: another file.

    Warns:
        CaffeCompatWarning: joints at 0, 0, which are taken as they are.
    """
    name, values = os.fspath(path), read_npy(path)
    if values.ndim != 3 or values.shape[1] != len(joints) or values.shape[2] < 2:
        found = f"has shape {values.shape}; (frames, {len(joints)}, 2) was expected for {joints.name}"
        raise FileError(found, path=name)
    missing = (values[..., :2] == 0).all(-1)
    if missing.any():
        warnings.warn(
            f"{name}: {int(missing.sum())} joints in {int(missing.any(1).sum())} of {len(values)} frames are at 0, 0, "
            "where detectors put those that they do not find; they are taken as they are",
            CaffeCompatWarning,
            stacklevel=2,
        )
    return convert(np.asarray(values[..., :2], np.float64), joints, H36M16)


def read_boxes(path: str | os.PathLike[str]) -> np.ndarray:
    """(frames, 4) or (4,): x, y, width, height in pixels, of a ``.npy``, or a text with such a line for all or each.

    Raises:
        FileError: another file.
    """
    name = os.fspath(path)
    if name.endswith(".npy"):
        return read_npy(path)
    rows = []
    for number, line in enumerate(decode_text(read_file(path), name, replace=True).splitlines(), 1):
        try:
            rows.append([float(value) for value in line.split(",")])
        except ValueError as error:
            raise FileError(f"x,y,width,height were expected: {error}", path=name, line=number) from error
        if len(rows[-1]) != 4:
            raise FileError(f"{len(rows[-1])} values; x,y,width,height were expected", path=name, line=number)
    if not rows:
        raise FileError("is empty; x,y,width,height were expected", path=name)
    return np.array(rows[0] if len(rows) == 1 else rows)
