"""Where the files of a data set lie, and how lines of its lists are written.

The names are those that the networks of :mod:`hpm.networks` read by default.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caffe_compat.errors import FileError, UsageError
from caffe_compat.files import atomic_write

__all__ = ["DataFolder", "list_line", "make_folder", "write_lines"]


@dataclass(frozen=True)
class DataFolder:
    """The files below one folder. Paths within lists are relative to ``h36m`` and ``mpii``."""

    root: Path

    @property
    def h36m(self) -> Path:
        return self.root / "h36m"

    @property
    def mpii(self) -> Path:
        return self.root / "MPII"

    @property
    def train_list(self) -> Path:
        """Frames in order: 2D pose, 3D pose, clip."""
        return self.h36m / "16skel_train_2d3d_clip.txt"

    @property
    def test_list(self) -> Path:
        """The frames of all actions."""
        return self.h36m / "16skel_test_2d3d_clip.txt"

    @property
    def windows_list(self) -> Path:
        """The training frames in shuffled runs of consecutive ones."""
        return self.h36m / "16skel_train_windows.txt"

    @property
    def images_list(self) -> Path:
        """Shuffled training frames for the 2D pre-training: 17 joints in 2D and two values that are not used."""
        return self.h36m / "17skel_train_2d.txt"

    @property
    def bounds(self) -> Path:
        """Maxima and minima of the training labels."""
        return self.h36m / "16point_mean_limb_scaled_max_min.csv"

    @property
    def mpii_list(self) -> Path:
        return self.mpii / "annotation" / "train_h36m.txt"

    def action_list(self, k: int, protocol: int = 1) -> Path:
        """The list of test action ``k`` (from 1). Raises UsageError for a protocol other than 1 and 3."""
        if protocol not in (1, 3):
            raise UsageError(f"protocol {protocol}; 1 and 3 are known")
        return self.root / "gt" / ("test" if protocol == 1 else "test_p3") / f"test{k}.txt"


def list_line(path: str, values: np.ndarray, clip: int | None = None) -> str:
    """``path v1,v2,...[,clip]``: six decimals, which is 2 micrometres of a normalised pose.

    Raises:
        UsageError: a value that is no finite number, or a path with a line end.
    """
    if "\n" in path or "\r" in path:
        raise UsageError(f"{path!r}: a list cannot hold a path with a line end")
    flat = np.asarray(values, np.float64).ravel()
    if not np.isfinite(flat).all():
        raise UsageError(f"{path}: value {int(np.flatnonzero(~np.isfinite(flat))[0]) + 1} is no finite number")
    words = [f"{value:.6f}" for value in flat]
    return f"{path} {','.join(words if clip is None else [*words, str(clip)])}"


def make_folder(path: Path) -> None:
    """Make a folder, and those that it lies in, if missing. Raises FileError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"the folder cannot be made: {error.strerror}", path=str(path)) from error


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    """Write a list, making its folder. Raises FileError."""
    make_folder(Path(path).parent)
    with atomic_write(path) as handle:
        for line in lines:
            handle.write(f"{line}\n".encode())
