"""One HTML page with everything in it: a 3D view to turn, a time slider, the pictures, the errors.

It needs no network and opens from disk. Its content security policy forbids everything but the style and the script of
this package, known by their hashes, and pictures inside the page: names and titles are data and cannot become code.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import os
import re
from importlib.resources import files
from typing import Any

import numpy as np

from caffe_compat.display import shown
from caffe_compat.errors import UsageError
from caffe_compat.extras import require
from caffe_compat.formats.files import atomic_write

from .figure import Progress
from .scene import LABELS, SIDE_COLOURS, Scene, sides

__all__ = ["FRAMES", "page_html", "save_page"]

FRAMES = 1500
"""Of a page, at most."""


def save_page(
    scene: Scene,
    path: str | os.PathLike[str],
    title: str = "Poses",
    fps: float = 10.0,
    picture_side: int = 368,
    quality: int = 80,
    progress: Progress | None = None,
) -> None:
    """Write the page of :func:`page_html`. Raises also FileError."""
    page = page_html(scene, title, fps, picture_side, quality, progress)
    with atomic_write(path) as handle:
        handle.write(page.encode("utf-8", "replace"))


def page_html(
    scene: Scene,
    title: str = "Poses",
    fps: float = 10.0,
    picture_side: int = 368,
    quality: int = 80,
    progress: Progress | None = None,
    most: int = FRAMES,
) -> str:
    """The page as text. ``#frame=12`` behind its address opens it at frame 12.

    A frame takes about 0.3 kB for each 3D pose of 16 joints and, with pictures, some 20 kB, and the page holds it all
    in memory. So it thins out: of more than ``most`` frames it has every second, third and so on, and says so.

    Args:
        title: shown above, and in the browser's tab.
        fps: frames per second when it plays at normal speed.
        picture_side: larger pictures are scaled down to this many pixels on their longer side.
        quality: of the pictures' JPEG compression, 1 to 95.
        progress: told how many frames are ready, and of how many.
        most: frames, of which pictures take some 30 MB.

    Raises:
        UsageError: settings or pictures that cannot be. MissingExtraError: there are pictures, and no Pillow.
    """
    if not 0.1 <= fps <= 1000:
        raise UsageError(f"{fps} frames per second; from 0.1 to 1000 are possible")
    if most < 1:
        raise UsageError(f"a page of at most {most} frames")
    if picture_side < 16 or not 1 <= quality <= 95:
        raise UsageError(
            f"pictures of {picture_side} pixels and quality {quality}; at least 16, and 1 to 95, are possible"
        )
    style, script = _resource("visualize_page.css"), _resource("visualize_page.js")
    parts = {
        "title": html.escape(shown(title)),
        "style": style,
        "script": script,
        "style_hash": _hash(style),
        "script_hash": _hash(script),
        "data": _json(_data(scene, fps, picture_side, quality, progress, -(-len(scene) // most))),
    }
    # One pass: what is put in is not searched for further places.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _resource("visualize_page.html"))


def _data(
    scene: Scene, fps: float, picture_side: int, quality: int, progress: Progress | None, step: int
) -> dict[str, Any]:
    """What the script reads. Arrays are float32, little-endian, C order, base64."""
    pictures, sizes, flat = [], [], []
    kept = range(0, len(scene), step)
    for index in kept:
        picture, size, pose = scene.flat(index)
        sizes.append(size)
        if picture is not None:
            pictures.append(_jpeg(picture, picture_side, quality))
        if pose is not None:
            flat.append(pose)
        if progress is not None:
            progress(index + 1, len(scene))
    centre, half = scene.extent() if scene.poses else (np.zeros(3), 1.0)
    poses = [
        {
            "key": name,
            "label": LABELS[name],
            "points": _base64(pose[::step]),
            "errors": _base64(scene.errors[name][::step]) if name in scene.errors else None,
        }
        for name, pose in scene.poses.items()
    ]
    points = _base64(np.stack(flat)) if flat else None
    return {
        "count": len(kept),
        "total": len(scene),
        "step": step,
        "fps": fps / step,
        "names": [shown(scene.name(index)) for index in kept],
        "joints": scene.joints.joints,
        "bones": scene.joints.bones,
        "sides": sides(scene.joints),
        "colours": dict(SIDE_COLOURS),
        "centre": centre.tolist(),
        "half": half,
        "poses": poses,
        "flat": {"sizes": sizes, "points": points, "pictures": pictures} if scene.has_flat else None,
    }


def _jpeg(picture: np.ndarray, side: int, quality: int) -> str:
    """``picture`` (H, W, 3), BGR, as a JPEG file in base64, no larger than ``side``."""
    image = require("PIL.Image", "plots").fromarray(np.ascontiguousarray(picture[..., ::-1]))
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return base64.b64encode(buffer.getvalue()).decode()


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()


def _json(value: object) -> str:
    """JSON that is also safe inside a script element: nothing in it can end the element or begin another."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _resource(name: str) -> str:
    return (files("hpm") / "resources" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
