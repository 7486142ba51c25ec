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

from caffe_compat.errors import FileError, UsageError
from caffe_compat.formats.files import atomic_write, reason_of

from ..files.folders import ACTIONS, PROTOCOLS, DataFolder, protocol
from ..files.lists import write_list
from ..scaling import Bounds, bounds_difference, limbs_difference, read_bounds, read_limbs, write_bounds

__all__ = [
    "ListFiles",
    "TrainingFolder",
    "check_shared",
    "image_line",
    "make_folder",
    "remove_lists",
    "write_both_bounds",
    "write_lines",
]


@dataclass(frozen=True)
class TrainingFolder:
    """The files below one folder. Paths within lists are relative to ``h36m`` and ``mpii``.

    The lists of protocol III have names of their own, those that the original's README gives them: both protocols may
    lie in one folder. They share its pictures, bounds and limb lengths.
    """

    root: Path
    protocol: int = 1

    def __post_init__(self) -> None:
        protocol(self.protocol)

    @property
    def _mark(self) -> str:
        """What a protocol puts into the names of its lists."""
        return "" if self.protocol == 1 else f"_p{self.protocol}"

    @property
    def other(self) -> TrainingFolder:
        """The other protocol's files in the same place."""
        return TrainingFolder(self.root, next(number for number in PROTOCOLS if number != self.protocol))

    @property
    def h36m(self) -> Path:
        return self.root / "h36m"

    @property
    def mpii(self) -> Path:
        return self.root / "MPII"

    @property
    def train_list(self) -> Path:
        """Frames in order: 2D pose, 3D pose, clip."""
        return self.h36m / f"16skel_train_2d3d{self._mark}_clip.txt"

    @property
    def test_list(self) -> Path:
        """The frames of all actions."""
        return self.h36m / f"16skel_test_2d3d{self._mark}_clip.txt"

    @property
    def runs_list(self) -> Path:
        """The training frames of a made-up data set in shuffled runs of consecutive ones."""
        return self.h36m / "16skel_train_runs.txt"

    @property
    def images_list(self) -> Path:
        """Shuffled training frames for the 2D pre-training: 17 joints in 2D and two values that are not used."""
        return self.h36m / f"17skel_train_2d{self._mark}.txt"

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

    def test_data(self) -> DataFolder:
        """The lists of the actions, and the bounds where refinement looks for them."""
        return DataFolder(self.root, self.protocol)

    @property
    def pose_lists(self) -> tuple[Path, ...]:
        """The protocol's lists with 3D poses, which refer to the bounds and limb lengths."""
        return self.train_list, self.test_list, *map(self.test_data().ground_truth, ACTIONS)


def image_line(path: str, pose2d: np.ndarray) -> str:
    """A line for the 2D pre-training: (17, 2) fractions of the picture's side, and two zeros."""
    return f"{path} {','.join(f'{v:.6f}' for v in pose2d.ravel())},0,0\n"


def check_shared(
    folder: TrainingFolder, staying: Iterable[Path], whose: str, bounds: Bounds, limbs: np.ndarray | None = None
) -> None:
    """That lists which stay in a folder refer to the bounds and limb lengths that will be written there.

    Args:
        staying: lists with 3D poses, there or not. whose: names them.
        limbs: (16,) mm; None if the new lists do not tell.

    Raises:
        UsageError: they refer to others. FileError: what is there is damaged.
    """
    if not any(path.exists() for path in staying):
        return
    place, apart = folder.test_data().bounds, None
    if place.exists() and (apart := bounds_difference(read_bounds(place), bounds)) is not None:
        apart = f"that are normalised with other bounds ({apart})"
    elif limbs is not None and folder.limbs.exists():
        apart = limbs_difference(read_limbs(folder.limbs), limbs)
        apart = None if apart is None else f"whose limbs have other lengths ({apart})"
    if apart is not None:
        raise UsageError(
            f"{folder.root} holds lists of {whose} {apart}; prepare in another folder, or with the bounds and limbs of "
            f"those: {place} and {folder.limbs}"
        )


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
        raise FileError(f"the folder cannot be made: {reason_of(error)}", path=str(path)) from error


def remove_lists(paths: Iterable[Path]) -> None:
    """Take away what an earlier run left, where it left something. Raises FileError."""
    for path in paths:
        try:
            if path.exists():
                path.unlink()
        except OSError as error:
            raise FileError(f"cannot be replaced: {reason_of(error)}", path=str(path)) from error


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
