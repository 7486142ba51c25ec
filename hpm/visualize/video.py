"""Videos: the pictures of :mod:`.figure` one after the other, as mp4 or gif."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np

from caffe_compat.errors import FileError, MissingExtraError, UsageError
from caffe_compat.extras import require
from caffe_compat.formats.files import atomic_write

from .figure import Figure, Progress
from .scene import Scene

__all__ = ["save_video"]


def save_video(
    scene: Scene,
    path: str | os.PathLike[str],
    fps: float = 10.0,
    indices: Sequence[int] | None = None,
    height: int = 420,
    progress: Progress | None = None,
) -> None:
    """Write a video; the ending of ``path`` chooses H.264 (.mp4) or .gif.

    Args:
        fps: frames per second. The default is the speed of every fifth frame of Human3.6M. A gif counts time in
            hundredths of a second, so its frames may last unequally long, and players show no more than 50 a second.
        indices: which frames, in this order; all if None.
        height: of a frame, pixels.
        progress: told how many frames are written, and of how many.

    Raises:
        UsageError: another ending, a speed that cannot be, no frames. FileError: the file cannot be written.
        MissingExtraError: matplotlib, Pillow (gif) or imageio-ffmpeg (mp4) is not installed.
    """
    ending = Path(path).suffix.lower()
    if ending not in (".mp4", ".gif"):
        raise UsageError("a video ends in .mp4 or .gif", path=os.fspath(path))
    if not 0.1 <= fps <= (50 if ending == ".gif" else 1000):
        raise UsageError(
            f"{fps} frames per second; from 0.1 to 1000, and 50 in a gif, are possible", path=os.fspath(path)
        )
    chosen = range(len(scene)) if indices is None else indices
    if not chosen:
        raise UsageError("a video of 0 frames", path=os.fspath(path))
    pictures = _pictures(Figure(scene, height), chosen, progress)
    (_write_mp4 if ending == ".mp4" else _write_gif)(pictures, path, fps, len(chosen))


def _pictures(figure: Figure, indices: Sequence[int], progress: Progress | None) -> Iterator[np.ndarray]:
    for done, index in enumerate(indices, 1):
        yield figure.draw(index)
        if progress is not None:
            progress(done, len(indices))


def _write_mp4(pictures: Iterator[np.ndarray], path: str | os.PathLike[str], fps: float, count: int) -> None:
    """H.264 with 4:2:0 colours and its index in front: what browsers and players everywhere show."""
    try:
        program = require("imageio_ffmpeg", "plots").get_ffmpeg_exe()
    except RuntimeError as error:
        raise MissingExtraError(f"mp4 videos need the program ffmpeg: {error}") from error
    first = next(pictures)
    rate = str(Fraction(fps).limit_denominator(10**6))
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{first.shape[1]}x{first.shape[0]}", "-r", rate, "-i", "-"]
    wanted = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-movflags", "+faststart", "-f", "mp4"]
    with atomic_write(path) as handle, tempfile.TemporaryFile() as complaints:
        command = [program, "-y", "-v", "error", *given, "-frames:v", str(count), *wanted, handle.name]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=complaints) as process:
            try:
                assert process.stdin is not None
                for picture in chain([first], pictures):
                    process.stdin.write(picture.tobytes())
                process.stdin.close()
            except BrokenPipeError:
                pass  # it gave up; its status and what it said follow
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            complaints.seek(0)
            said = complaints.read(2000).decode(errors="replace").strip()
            raise FileError(f"ffmpeg stopped with status {process.returncode}: {said}", path=os.fspath(path))


def _write_gif(pictures: Iterator[np.ndarray], path: str | os.PathLike[str], fps: float, count: int) -> None:
    image = require("PIL.Image", "plots")
    # Rounded are the frames' ends, so that over the whole video the speed is right. Pillow counts in milliseconds.
    ends = np.round(np.arange(count + 1) * 100 / fps).astype(int)
    durations = (10 * np.diff(ends)).tolist()
    frames = (image.fromarray(picture).quantize(method=image.Quantize.FASTOCTREE) for picture in pictures)
    first = next(frames)
    with atomic_write(path) as handle:
        first.save(handle, format="GIF", save_all=True, append_images=frames, duration=durations, loop=0)
