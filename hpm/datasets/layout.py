"""Where the files of a prepared data set lie.

The names are those that the networks of :mod:`hpm.networks` and the commands read by default.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from caffe_compat.errors import FileError
from caffe_compat.formats.files import atomic_write

from ..files.lists import DataFolder, write_list
from ..scaling import Bounds, write_bounds

__all__ = ["ListFiles", "TrainingFolder", "image_line", "make_folder", "write_both_bounds", "write_lines"]


@dataclass(frozen=True)
class TrainingFolder:
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
    def runs_list(self) -> Path:
        """The training frames in shuffled runs of consecutive ones."""
        return self.h36m / "16skel_train_runs.txt"

    @property
    def images_list(self) -> Path:
        """Shuffled training frames for the 2D pre-training: 17 joints in 2D and two values that are not used."""
        return self.h36m / "17skel_train_2d.txt"

    @property
    def bounds(self) -> Path:
        """Maxima and minima of the training labels, where the networks look for them."""
        return self.h36m / "16point_mean_limb_scaled_max_min.csv"

    @property
    def limbs(self) -> Path:
        """The bone lengths that labels were scaled to, mm."""
        return self.h36m / "16point_mean_limb_lengths.csv"

    @property
    def mpii_list(self) -> Path:
        return self.mpii / "annotation" / "train_h36m.txt"

    def test_data(self, protocol: int = 1) -> DataFolder:
        """The lists of the actions, and the bounds where refinement looks for them."""
        return DataFolder(self.root, protocol)


def image_line(path: str, pose2d: np.ndarray) -> str:
    """A line for the 2D pre-training: (17, 2) fractions of the picture's side, and two zeros."""
    return f"{path} {','.join(f'{v:.6f}' for v in pose2d.ravel())},0,0\n"


def write_both_bounds(folder: TrainingFolder, bounds: Bounds) -> None:
    """Write the bounds to both places where they are looked for. Raises FileError."""
    for path in (folder.bounds, folder.test_data().bounds):
        make_folder(path.parent)
        write_bounds(path, bounds)


def make_folder(path: Path) -> None:
    """Make a folder, and those that it lies in, if missing. Raises FileError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"the folder cannot be made: {error.strerror}", path=str(path)) from error


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    """Write a list, making its folder. Raises FileError."""
    make_folder(Path(path).parent)
    write_list(path, lines)


class ListFiles(AbstractContextManager["ListFiles"]):
    """Lists that grow a few lines at a time, and appear when the block ends without an error."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._handles: dict[Path, BinaryIO] = {}

    @property
    def paths(self) -> set[Path]:
        """The lists that have lines."""
        return set(self._handles)

    def __enter__(self) -> ListFiles:
        self._stack.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, traceback)

    def add(self, path: Path, lines: Iterable[str]) -> None:
        """Lines to a list's end. Without any, there is no list. Raises FileError."""
        handle = None
        for line in lines:
            handle = handle or self._open(path)
            handle.write(line.encode())

    def append(self, source: Path, target: Path) -> None:
        """All lines of one list to another's end."""
        if source in self._handles:
            handle = self._handles[source]
            handle.seek(0)
            while part := handle.read(1 << 20):
                self._open(target).write(part)

    def _open(self, path: Path) -> BinaryIO:
        if path not in self._handles:
            make_folder(path.parent)
            self._handles[path] = self._stack.enter_context(atomic_write(path))
        return self._handles[path]
