"""Pictures from lists, folders and videos, read when they are asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from caffe_compat.errors import UsageError
from caffe_compat.formats.images import read_picture
from caffe_compat.formats.videos import frames_per_second, video_frames

from .lists import stream_pictures

__all__ = [
    "FramesInOrder",
    "PictureFiles",
    "footage_name",
    "frame_names",
    "frame_rate",
    "picture_names",
    "read_frames",
    "sources_digest",
]

_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_LIST = ".txt"


class PictureFiles:
    """Pictures (height, width, 3), uint8, blue first, by number, each read when asked for. Raises FileError then."""

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self._paths = [os.fspath(path) for path in paths]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_picture(self._paths[index], "color")


class FramesInOrder:
    """The frames of :func:`read_frames` by number, one at a time in memory: fast when they are asked for in order.

    Args:
        sources, every: see :func:`read_frames`. count: how many frames there are.

    Raises:
        UsageError, FileError: when a frame is asked for; see :func:`read_frames`.
    """

    def __init__(self, sources: Sequence[str | os.PathLike[str]], every: int, count: int) -> None:
        self._sources, self._every, self._count = list(sources), every, count
        self._frames: Iterator[np.ndarray] = iter(())
        self._number, self._last = -1, np.zeros((0, 0, 3), np.uint8)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < self._count:
            raise IndexError(index)
        if index < self._number or self._number < 0:
            self._frames, self._number = read_frames(self._sources, self._every), -1
        while self._number < index:
            picture = next(self._frames, None)
            if picture is None:
                raise UsageError(f"{self._number + 1} frames, and there were {self._count} when they were read before")
            self._number, self._last = self._number + 1, picture
        return self._last


def frame_names(sources: Sequence[str | os.PathLike[str]], every: int, count: int) -> list[str]:
    """What the frames of :func:`read_frames` are called: a video's by their own numbers, pictures by their files."""
    paths = _pictures(sources, every)
    if paths is None:
        return [f"frame {number * every}" for number in range(count)]
    return [f"frame {number * every}: {Path(path).name}" for number, path in enumerate(islice(paths, count))]


def read_frames(sources: Sequence[str | os.PathLike[str]], every: int = 1, start: int = 0) -> Iterator[np.ndarray]:
    """The pictures of a video, of a folder (by name), of a list, or of files: (height, width, 3), uint8, blue first.

    Args:
        sources: a list is a ``.txt`` with a path a line, which is read as the frames are.
        every: the first of so many is kept. start: of those, so many are passed over.

    Raises:
        UsageError: nothing to read. FileError: a picture, a list or a video that is missing, truncated or nothing that
            OpenCV reads. MissingExtraError: no OpenCV.
    """
    paths = _pictures(sources, every)
    if paths is None:
        for number, decode in enumerate(video_frames(Path(sources[0]))):
            if number % every == 0 and number >= start * every:
                yield decode()
        return
    for path in islice(paths, start, None):
        yield read_picture(path, "color")


def footage_name(sources: Sequence[str | os.PathLike[str]]) -> str:
    """What the frames of :func:`read_frames` are called together: a video, a folder, a list or a picture by its name,
    several pictures by that of the folder that holds them all.

    >>> footage_name(["films/walk.mp4"]), footage_name(["run/walk/1.png", "run/walk/2.png", "run/walk/3.png"])
    ('walk.mp4', 'walk')
    >>> footage_name(["run/walk/1.png", "run/sit/1.png"])
    'run'
    """
    paths = [os.path.abspath(source) for source in sources]
    if len(paths) > 1:
        try:
            paths = [os.path.commonpath([os.path.dirname(path) for path in paths])]
        except ValueError:  # on several drives
            paths = [""]
    return os.path.basename(paths[0]) or "pictures"


def sources_digest(sources: Sequence[str | os.PathLike[str]], every: int = 1) -> str:
    """Of the files that :func:`read_frames` reads: their names, sizes and times of change; one name in memory.

    Raises UsageError, FileError: nothing to read.
    """
    digest = hashlib.sha256()
    paths = _pictures(sources, every)
    for path in [os.fspath(sources[0])] if paths is None else paths:
        digest.update(f"{path}\0{_written(path)}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _written(path: str) -> str:
    """Size and time of change; what is missing is said when it is read."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"


def picture_names(sources: Sequence[str | os.PathLike[str]], every: int = 1) -> list[str] | None:
    """The files that :func:`read_frames` reads; None of a video. Raises UsageError, FileError: nothing to read."""
    paths = _pictures(sources, every)
    return None if paths is None else list(paths)


def _pictures(sources: Sequence[str | os.PathLike[str]], every: int) -> Iterator[str] | None:
    """One after the other; None of a video. Raises UsageError: nothing to read."""
    if not sources:
        raise UsageError("no pictures to read")
    only = os.fspath(sources[0]) if len(sources) == 1 else None
    if only is None:
        paths: Iterable[str] = [os.fspath(source) for source in sources]
    elif os.path.isdir(only):
        paths = [os.path.join(only, name) for name in sorted(os.listdir(only)) if _ending(name) in _PICTURES]
        if not paths:
            raise UsageError(f"{only} holds no pictures ({', '.join(_PICTURES)})")
    elif _ending(only) == _LIST:
        paths = stream_pictures(only)
    elif _ending(only) in _PICTURES:
        paths = [only]
    else:
        return None
    return islice(paths, 0, None, every)


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def frame_rate(sources: Sequence[str | os.PathLike[str]], every: int = 1) -> float | None:
    """Frames per second that :func:`read_frames` keeps of a video; None of pictures, or if the video does not tell."""
    path = Path(sources[0])
    if len(sources) != 1 or os.path.isdir(path) or path.suffix.lower() in (*_PICTURES, _LIST):
        return None
    rate = frames_per_second(path)
    return rate / every if rate is not None else None
