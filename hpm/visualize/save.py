"""A scene as what the ending of a file's name says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from caffe_compat.errors import UsageError

from .figure import save_contact_sheet, save_png
from .page import save_page
from .scene import Scene
from .video import save_video

__all__ = ["ENDINGS", "check_ending", "save_scene"]

ENDINGS = (".png", ".mp4", ".gif", ".html")


def check_ending(path: str | os.PathLike[str], option: str = "path") -> None:
    """Raise UsageError unless :func:`save_scene` knows the ending. ``option`` names where the path came from."""
    if Path(path).suffix.lower() not in ENDINGS:
        ends = ", ".join(ENDINGS[:-1])
        raise UsageError(f"{option} {os.fspath(path)}: a name that ends in {ends} or {ENDINGS[-1]} was expected")


def save_scene(
    scene: Scene,
    path: str | os.PathLike[str],
    *,
    fps: float = 10.0,
    title: str = "Poses",
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a ``.png`` of one frame or a sheet of six, an ``.mp4`` or ``.gif`` that plays, or an ``.html`` page.

    Args:
        fps: frames per second of what plays. title: of a page.
        progress: told how many frames are drawn, and of how many.

    Raises:
        UsageError: another ending. FileError, MissingExtraError: see the functions for each kind.
    """
    check_ending(path)
    ending = Path(path).suffix.lower()
    if ending == ".html":
        save_page(scene, path, title, fps, progress=progress)
    elif ending != ".png":
        save_video(scene, path, fps, progress=progress)
    elif len(scene) == 1:
        save_png(scene, 0, path)
    else:
        save_contact_sheet(scene, path, progress=progress)
