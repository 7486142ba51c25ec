"""Pictures from lists, folders and videos, read when they are asked for."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from caffe_compat.errors import FileError, UsageError
from caffe_compat.extras import require
from caffe_compat.formats.files import open_file
from caffe_compat.training.data.images import read_image

__all__ = ["PictureFiles", "frame_rate", "read_frames"]

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
        UsageError: nothing to read. FileError: a file that OpenCV cannot read. MissingExtraError: no OpenCV.
    """
    paths = [Path(source) for source in sources]
    if len(paths) == 1 and paths[0].is_dir():
        folder = paths[0]
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES)
        if not paths:
            raise UsageError(f"{folder} holds no pictures ({', '.join(_PICTURES)})")
    if len(paths) == 1 and paths[0].suffix.lower() not in _PICTURES:
        yield from _video(paths[0], every)
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
    cv2 = require("cv2", "images")
    capture = cv2.VideoCapture(str(path))
    try:
        rate = float(capture.get(cv2.CAP_PROP_FPS))
    finally:
        capture.release()
    return rate / every if math.isfinite(rate) and rate > 0 else None


def _video(path: Path, every: int) -> Iterator[np.ndarray]:
    cv2 = require("cv2", "images")
    open_file(path).close()
    capture = cv2.VideoCapture(str(path))
    try:
        number = 0
        while capture.grab():
            if number % every == 0:
                read, picture = capture.retrieve()
                if not read:
                    raise FileError(f"frame {number + 1} cannot be decoded", path=str(path))
                yield picture
            number += 1
        if not number:
            raise FileError("is no video that OpenCV can read", path=str(path))
    finally:
        capture.release()
