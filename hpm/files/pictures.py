"""Pictures from lists, folders and videos, read when they are asked for."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from caffe_compat.errors import FileError, UsageError
from caffe_compat.extras import require
from caffe_compat.formats.files import open_file
from caffe_compat.training.data.images import read_image

__all__ = ["PictureFiles", "frame_count", "frame_rate", "read_frames", "video_frames"]

_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


class PictureFiles:
    """Pictures (height, width, 3), uint8, blue first, by number, each read when asked for. Raises FileError then."""

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self._paths = [os.fspath(path) for path in paths]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_image(self._paths[index], color=True)


def read_frames(sources: Sequence[str | os.PathLike[str]], every: int = 1) -> Iterator[np.ndarray]:
    """The pictures of a video, of a folder (by name) or of a list of files: (height, width, 3), uint8, blue first.

    Args:
        every: the first of so many is kept.

    Raises:
        UsageError: nothing to read. FileError: a picture or a video that is missing, truncated or nothing that OpenCV
            reads. MissingExtraError: no OpenCV.
    """
    paths = [Path(source) for source in sources]
    if len(paths) == 1 and paths[0].is_dir():
        folder = paths[0]
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES)
        if not paths:
            raise UsageError(f"{folder} holds no pictures ({', '.join(_PICTURES)})")
    if len(paths) == 1 and paths[0].suffix.lower() not in _PICTURES:
        for number, decode in enumerate(video_frames(paths[0])):
            if number % every == 0:
                yield decode()
        return
    if not paths:
        raise UsageError("no pictures to read")
    for path in paths[::every]:
        yield read_image(str(path), color=True)


def frame_rate(sources: Sequence[str | os.PathLike[str]], every: int = 1) -> float | None:
    """Frames per second that :func:`read_frames` keeps of a video; None of pictures, or if the video does not tell."""
    path = Path(sources[0])
    if len(sources) != 1 or path.is_dir() or path.suffix.lower() in _PICTURES:
        return None
    with _opened(path) as capture:
        rate = float(capture.get(require("cv2", "images").CAP_PROP_FPS))
    return rate / every if math.isfinite(rate) and rate > 0 else None


def video_frames(path: str | os.PathLike[str]) -> Iterator[Callable[[], np.ndarray]]:
    """The frames of a video, each as a function that decodes it: (height, width, 3), uint8, blue first.

    A frame is decoded before the next one is asked for, or not at all. They come one by one: to seek in a compressed
    video is not exact. Damage within a video that its decoder makes up for cannot be told from here.

    Raises:
        FileError: no video that OpenCV can read, a frame that cannot be decoded, or an end long before the frames that
            the video says it has. MissingExtraError: no OpenCV.
    """
    name, done = os.fspath(path), 0

    def decode() -> np.ndarray:
        read, picture = capture.retrieve()
        if not read:
            raise FileError(f"frame {done} cannot be decoded", path=name)
        return np.asarray(picture)

    with _opened(path) as capture:
        said = float(capture.get(require("cv2", "images").CAP_PROP_FRAME_COUNT))
        while capture.grab():
            done += 1
            yield decode
    if not done:
        raise FileError("is no video that OpenCV can read, or a damaged one", path=name)
    # Some files only estimate; a few frames more or less tell nothing.
    if math.isfinite(said) and said > 1.05 * done + 2:
        raise FileError(
            f"is a truncated video: it ends after {done} of the {said:.0f} frames that it announces", path=name
        )


def frame_count(path: str | os.PathLike[str]) -> float:
    """How many frames a video says it has; 0 or less if it does not tell. Raises FileError if it cannot be opened."""
    with _opened(path) as capture:
        return float(capture.get(require("cv2", "images").CAP_PROP_FRAME_COUNT))


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """OpenCV's reader of a video. Raises FileError if there is no such file."""
    open_file(path).close()
    capture = require("cv2", "images").VideoCapture(os.fspath(path))
    try:
        yield capture
    finally:
        capture.release()
