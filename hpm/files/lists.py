"""The text files of the original: lists of poses, CSV files of results, files of refined poses.

| file | a line |
|---|---|
| list of Human3.6M frames (``test<k>.txt``, training lists) | ``path v1,...,v80,clip`` |
| the 3D poses alone, as the original's ``eval_h36m.m`` reads them | ``path v1,...,v48`` and perhaps ``,clip`` |
| list of MPII images, hourglass output (``test<k>_square2d.txt``) | ``path v1,...,v32`` and perhaps ``,clip`` |
| ``result<k>_norm.csv`` | ``,v1,...,v48`` normalised (or 32 values of a 2D network) |
| ``result<k>_unnorm.csv``, ``result<k>_change_unnorm.csv`` | ``index,v1,...,v48`` in mm, the index from 1 |
| ``refine3d_<k>.txt`` | ``v1,...,v48`` in mm |
| ``<rate>mpjp_<k>.txt`` | MPJPE in mm of the coarse, the corrected and the refined pose, spaces between |
| list of pictures alone, of ``hpm predict`` | ``path`` |

Every reader comes in two forms: ``stream_...`` gives blocks of lines and needs little memory, ``read_...`` all at once.
Errors name the file and the line. Where the files lie: :mod:`.folders`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, TypeVar

import numpy as np

from caffe_compat.errors import FileError, UsageError
from caffe_compat.formats.cxx_numbers import cxx_rows
from caffe_compat.formats.files import atomic_write, open_file

from .numbers import python2_number

__all__ = [
    "PoseList",
    "ResultWriter",
    "check_lengths",
    "count_lines",
    "format_list_line",
    "read_errors",
    "read_list",
    "read_refined",
    "read_results",
    "refined_line",
    "stream_list",
    "stream_pictures",
    "stream_refined",
    "stream_results",
    "write_list",
]

BLOCK = 1024

T = TypeVar("T")


@dataclass(frozen=True)
class PoseList:
    """Some or all lines of a list."""

    paths: list[str]
    points: np.ndarray | None
    """(n, 32) fractions of the crop's side; None in lists of 3D poses."""
    pose3d: np.ndarray | None
    """(n, 48) normalised; None in lists of 2D poses."""
    clip: np.ndarray | None
    """(n,) 0 where a sequence starts, else 1; None in lists without it."""

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def pose2d(self) -> np.ndarray:
        """:attr:`points`, where they are needed. Raises UsageError of a list of 3D poses."""
        if self.points is None:
            raise UsageError("2D poses are needed; the list with this frame holds 3D poses alone", path=self.paths[0])
        return self.points


# Numbers after the path -> whether there is a 2D pose, a 3D pose, a clip.
_LIST_LINES = {
    32: (True, False, False),
    33: (True, False, True),
    48: (False, True, False),
    49: (False, True, True),
    80: (True, True, False),
    81: (True, True, True),
}


def stream_list(path: str | os.PathLike[str], *, need_3d: bool = False, block: int = BLOCK) -> Iterator[PoseList]:
    """A list in blocks of lines.

    Args:
        need_3d: every line must have a 3D pose.

    Raises:
        FileError: missing or empty, or a line without a path, with another count of numbers than the first line, with a
            clip that is neither 0 nor 1, or with something that is no finite number.
    """
    count = 0

    def parse(line: str) -> tuple[str, list[float]]:
        nonlocal count
        # The path may hold spaces; the numbers do not.
        name, _, numbers = line.rpartition(" ")
        if not name.strip():
            raise _BadLine("a path, a space and numbers parted by commas were expected")
        values = _floats(numbers)
        wanted = [length for length, (_, has_3d, _) in _LIST_LINES.items() if has_3d or not need_3d]
        if len(values) not in wanted or (count and len(values) != count):
            expected = f"the {count} of the lines above" if count else " or ".join(map(str, wanted))
            raise _BadLine(f"{len(values)} numbers after the path; {expected} were expected")
        count = len(values)
        if _LIST_LINES[count][2] and values[-1] not in (0, 1):
            raise _BadLine(f"clip {values[-1]:g}; it is 0 where a sequence starts, else 1")
        return name, values

    for rows in _blocks(path, parse, block):
        values = np.array([row for _, row in rows])
        has_2d, has_3d, has_clip = _LIST_LINES[values.shape[1]]
        first_3d = 32 if has_2d else 0
        yield PoseList(
            [name for name, _ in rows],
            values[:, :32] if has_2d else None,
            values[:, first_3d : first_3d + 48] if has_3d else None,
            values[:, -1] if has_clip else None,
        )


def read_list(path: str | os.PathLike[str], *, need_3d: bool = False) -> PoseList:
    """A whole list; see ``stream_list``."""
    parts = list(stream_list(path, need_3d=need_3d))

    def joined(arrays: list[np.ndarray | None]) -> np.ndarray | None:
        present = [array for array in arrays if array is not None]
        return np.concatenate(present) if present else None

    return PoseList(
        [name for part in parts for name in part.paths],
        joined([part.points for part in parts]),
        joined([part.pose3d for part in parts]),
        joined([part.clip for part in parts]),
    )


def format_list_line(path: str, pose2d: np.ndarray, pose3d: np.ndarray | None, clip: int | None) -> str:
    """A line of a list: six decimals a number, as Caffe's data layers read it.

    Raises:
        UsageError: shapes other than (32,) and (48,), a clip other than 0 and 1, or values that are not finite.
    """
    values = [np.ravel(pose2d)] if pose3d is None else [np.ravel(pose2d), np.ravel(pose3d)]
    if [len(part) for part in values] not in ([32], [32, 48]) or clip not in (None, 0, 1):
        raise UsageError(f"poses of {[len(part) for part in values]} values and clip {clip}", path=path)
    numbers = np.concatenate(values)
    if not np.isfinite(numbers).all():
        raise UsageError("a pose with values that are not finite", path=path)
    return f"{path} {','.join([f'{v:.6f}' for v in numbers] + ([] if clip is None else [str(clip)]))}\n"


def write_list(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    """Write the lines of ``format_list_line``. Raises FileError."""
    with atomic_write(path) as handle:
        for line in lines:
            handle.write(line.encode())


def stream_pictures(path: str | os.PathLike[str]) -> Iterator[str]:
    """The pictures of a list without poses, one by one; a path that is not absolute is below the list's folder.

    Raises:
        FileError: missing or empty, or a line of a list with poses.
    """

    def parse(line: str) -> str:
        name, _, numbers = line.rpartition(" ")
        if name and numbers.count(",") + 1 in _LIST_LINES:
            raise _BadLine("a path alone was expected; poses of lists with poses are what `hpm coarse` gives")
        return line

    folder = os.path.dirname(os.fspath(path))
    for names in _blocks(path, parse, BLOCK):
        yield from (os.path.join(folder, name) for name in names)


def stream_results(
    path: str | os.PathLike[str], width: int, *, block: int = BLOCK, absent: bool = False
) -> Iterator[np.ndarray]:
    """A result CSV in blocks of (n, width); the first column, an index or nothing, is skipped.

    Args:
        absent: a line may hold no pose: ``nan`` in place of every value.

    Raises:
        FileError: missing or empty, or a line with another count of values or something that is no finite number.
    """

    def parse(line: str) -> list[float]:
        first, comma, numbers = line.partition(",")
        if not comma or (first and not first.isdigit()):
            raise _BadLine(f"an index or nothing was expected before the first comma, found {first[:20]!r}")
        return _exactly(numbers, width, absent)

    for rows in _blocks(path, parse, block):
        yield np.array(rows)


def read_results(path: str | os.PathLike[str], width: int, *, absent: bool = False) -> np.ndarray:
    """A whole result CSV, (frames, width); see ``stream_results``."""
    return np.concatenate(list(stream_results(path, width, absent=absent)))


def stream_refined(path: str | os.PathLike[str], *, block: int = BLOCK, absent: bool = False) -> Iterator[np.ndarray]:
    """A file of refined poses in blocks of (n, 48), mm. ``absent`` and errors are those of ``stream_results``."""
    for rows in _blocks(path, lambda line: _exactly(line, 48, absent), block):
        yield np.array(rows)


def read_refined(path: str | os.PathLike[str], *, absent: bool = False) -> np.ndarray:
    """A whole file of refined poses, (frames, 48), mm."""
    return np.concatenate(list(stream_refined(path, absent=absent)))


def read_errors(path: str | os.PathLike[str]) -> np.ndarray:
    """A file of errors, (frames, 3), mm: coarse, corrected, refined."""
    return np.concatenate([np.array(rows) for rows in _blocks(path, lambda t: _exactly(",".join(t.split()), 3), BLOCK)])


class ResultWriter(AbstractContextManager["ResultWriter"]):
    """Writes a result CSV as the original's layers do: six significant digits, as a C++ stream prints them.

    The file appears when the block ends without an error.

    Args:
        indexed: lines begin with an index from 1, as in files of mm; else with nothing, as in normalised ones.
    """

    def __init__(self, path: str | os.PathLike[str], *, indexed: bool) -> None:
        self._file = atomic_write(path)
        self._indexed = indexed
        self._handle: BinaryIO | None = None
        self.lines = 0

    def __enter__(self) -> ResultWriter:
        self._handle = self._file.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self._file.__exit__(kind, error, traceback)

    def write(self, values: np.ndarray) -> None:
        """Add frames, (n, width)."""
        if self._handle is None:
            raise UsageError("a ResultWriter is used in a with block")
        for row in cxx_rows(np.asarray(values, np.float32), ","):
            self.lines += 1
            self._handle.write(f"{self.lines if self._indexed else ''},{row}\n".encode())


def refined_line(pose_mm: np.ndarray) -> str:
    """A line of ``refine3d_<k>.txt``, (48,) mm."""
    return ",".join(map(python2_number, pose_mm.tolist())) + "\n"


def check_lengths(counts: dict[str, int], results: str | None = None, *, allow_short: bool = False) -> None:
    """Raise UsageError unless all files, by name, have as many frames.

    Args:
        results: the file that may have fewer frames than the others with ``allow_short``.
    """
    short = results is not None and counts[results] == min(counts.values())
    if len(set(counts.values())) > 1 and not (short and allow_short):
        found = ", ".join(f"{name} has {count}" for name, count in counts.items())
        hint = (
            "; the original left out an incomplete last batch: --allow-short (allow_short=True) takes such results as "
            "they are"
        )
        raise UsageError(f"different numbers of frames: {found}{hint if short else ''}")


def count_lines(path: str | os.PathLike[str]) -> int:
    """How many lines the readers here find in a file, if they find nothing wrong with it. Raises FileError."""
    count, newlines = 0, 0
    with open_file(path) as handle:
        while chunk := handle.read(1 << 20):
            # What follows the last character that is not blank are no lines.
            if filled := chunk.rstrip(_BLANK):
                count = newlines + filled.count(b"\n") + 1
            newlines += chunk.count(b"\n")
    return count


# What Windows editors begin a text with, and what is no part of a line.
_BOM, _BLANK = b"\xef\xbb\xbf", b"\r\n \t"


class _BadLine(Exception):
    """What is wrong with a line; its reader adds the file and the number."""


def _blocks(path: str | os.PathLike[str], parse: Callable[[str], T], block: int) -> Iterator[list[T]]:
    name, rows, number, blank = os.fspath(path), list[T](), 0, 0
    with open_file(path) as handle:
        for number, raw in enumerate(handle, 1):
            try:
                line = raw.removeprefix(_BOM if number == 1 else b"").strip(_BLANK).decode("utf-8")
                if not line:
                    # Editors leave some at the end, where they mean nothing.
                    blank = blank or number
                    continue
                if blank:
                    raise FileError("it is empty", path=name, line=blank)
                rows.append(parse(line))
            except UnicodeDecodeError as error:
                raise FileError("no UTF-8 text", path=name, line=number) from error
            except _BadLine as error:
                raise FileError(str(error), path=name, line=number) from None
            if len(rows) == block:
                yield rows
                rows = []
    if not number or blank == 1:
        raise FileError("is empty; a line per frame was expected", path=name)
    if rows:
        yield rows


def _exactly(text: str, width: int, absent: bool = False) -> list[float]:
    if absent and text.split(",") == ["nan"] * width:
        return [float("nan")] * width
    values = _floats(text)
    if len(values) != width:
        raise _BadLine(f"{len(values)} values; {width} were expected")
    return values


def _floats(text: str) -> list[float]:
    values = []
    for k, part in enumerate(text.split(","), 1):
        try:
            values.append(float(part))
        except ValueError:
            raise _BadLine(f"value {k} is {part[:20]!r}, no number") from None
        # A NaN differs from itself; infinities are as little a place.
        if values[-1] - values[-1] != 0:
            raise _BadLine(f"value {k} is {part.strip()}, no finite number")
    return values
