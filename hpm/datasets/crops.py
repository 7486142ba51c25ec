"""Square pictures: cut out, scaled, and written for a whole view, once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from caffe_compat.errors import FileError, UsageError
from caffe_compat.extras import require
from caffe_compat.formats.files import atomic_write, open_file

from .cameras import Crop
from .layout import make_folder
from .views import View

__all__ = ["crop_picture", "write_crop", "write_view"]

_STAMP = "crops.sha256"
# Sides of the picture. A person who fills it, seen half, has a square of some two.
_LARGEST = 20


def crop_picture(picture: np.ndarray, corner: np.ndarray, side: int, size: int) -> np.ndarray:
    """The square of ``picture`` (height, width, 3) at ``corner`` (x, y), scaled to ``size``; black beyond the edges.

    Raises:
        UsageError: a square so much larger than the picture that there is nothing to see in it.
    """
    cv2 = require("cv2", "images")
    height, width = picture.shape[:2]
    if side > _LARGEST * max(height, width):
        raise UsageError(
            f"a square of {side} pixels about a person in a picture of {width} x {height}: a joint, or a box, far out"
        )
    x, y = (int(v) for v in corner)
    square = np.zeros((side, side, 3), np.uint8)
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
    if left < right and top < bottom:
        square[top - y : bottom - y, left - x : right - x] = picture[top:bottom, left:right]
    way = cv2.INTER_AREA if size < side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (size, size), interpolation=way))


def write_crop(path: Path, picture: np.ndarray, corner: np.ndarray, side: int, size: int) -> None:
    """Write a crop; see :func:`crop_picture`, whose UsageError becomes one that names ``path``. Raises FileError."""
    cv2 = require("cv2", "images")
    try:
        crop = crop_picture(picture, corner, side, size)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    if not cv2.imwrite(str(path), crop):
        raise FileError("the picture cannot be written", path=str(path))


def write_view(place: Path, paths: list[str], view: View, crops: Crop, size: int) -> bool:
    """Write the crops of a view's frames to ``paths`` below ``place``, all in one folder.

    A folder that is whole gets a file that tells from what its pictures were cut, and how. It is kept as it is when the
    same is asked for again, so an interrupted preparation goes on where it was.

    Returns:
        Whether the pictures were there already.

    Raises:
        FileError: a picture is missing or damaged, or cannot be written.
    """
    if view.images is None or not paths:
        return False
    folder = (place / paths[0]).parent
    stamp, content = folder / _STAMP, _origin(view, crops, size)
    if stamp.is_file():
        with open_file(stamp) as handle:
            if handle.read(len(content) + 1) == content:
                return True
        stamp.unlink()
    make_folder(folder)
    pictures = view.images.read(view.numbers.tolist())
    for path, corner, side, picture in zip(paths, crops.corner, crops.side, pictures, strict=True):
        write_crop(place / path, picture, corner, int(side), size)
    with atomic_write(stamp) as handle:
        handle.write(content)
    return False


def _origin(view: View, crops: Crop, size: int) -> bytes:
    """A checksum of what a view's crops depend on."""
    assert view.images is not None
    source = view.images.source
    digest = hashlib.sha256(repr((str(source.resolve()), size, len(view.numbers))).encode())
    if source.exists():
        state = source.stat()
        digest.update(repr((state.st_size, state.st_mtime_ns)).encode())
    for values in (view.numbers, crops.corner, crops.side):
        digest.update(np.ascontiguousarray(values, np.float64).tobytes())
    return f"{digest.hexdigest()}\n".encode()
