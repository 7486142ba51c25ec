"""Videos, frame by frame: the only place that opens one."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..errors import FileError
from .images import opencv
from .limits import PICTURE
from .sniff import FileKind, kind_of

__all__ = ["frame_count", "frames_per_second", "video_frames"]


def video_frames(path: str | os.PathLike[str]) -> Iterator[Callable[[], np.ndarray]]:
    """The frames of a video, each as a function that decodes it: (height, width, 3), uint8, blue first.

    A frame is decoded before the next one is asked for, or not at all. They come one by one: to seek in a compressed
    video is not exact. Damage within a video that its decoder makes up for cannot be told from here.

    Raises:
        FileError: no video that OpenCV can read, frames that are too large, one that cannot be decoded, or an end long
            before the frames that the video says it has. MissingExtraError: no OpenCV.
    """
    name, done = os.fspath(path), 0

    def decode() -> np.ndarray:
        read, picture = capture.retrieve()
        if not read:
            raise FileError(f"frame {done} cannot be decoded", path=name)
        return np.asarray(picture)

    with _opened(name) as capture:
        said = float(capture.get(opencv().CAP_PROP_FRAME_COUNT))
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
    with _opened(os.fspath(path)) as capture:
        return float(capture.get(opencv().CAP_PROP_FRAME_COUNT))


def frames_per_second(path: str | os.PathLike[str]) -> float | None:
    """The rate of a video; None if it does not tell. Raises FileError if it cannot be opened."""
    with _opened(os.fspath(path)) as capture:
        rate = float(capture.get(opencv().CAP_PROP_FPS))
    return rate if math.isfinite(rate) and rate > 0 else None


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """OpenCV's reader of a video.

    Raises:
        FileError: there is no such file, it is text (playlists name other files, which would be opened), or its frames
        are too large.
    """
    if kind_of(path) in (FileKind.TEXT, FileKind.UTF16, FileKind.WEB_PAGE):
        raise FileError("is text, no video that OpenCV can read", path=path)
    cv2 = opencv()
    capture = cv2.VideoCapture(path)
    try:
        height, width = (capture.get(what) for what in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        if math.isfinite(height * width):
            PICTURE.check(int(3 * height * width), f"a frame of {width:.0f} x {height:.0f} pixels", path)
        yield capture
    finally:
        capture.release()
