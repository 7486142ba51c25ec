"""Square pictures: cut out, scaled, and written for a whole view, once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caffe_compat.errors import UsageError, located
from caffe_compat.extras import require
from caffe_compat.formats.files import atomic_write, open_file
from caffe_compat.formats.images import write_picture

from .cameras import Crop
from .layout import make_folder
from .views import Images, View

__all__ = ["ViewPictures", "crop_picture", "cut_otherwise", "write_crop", "write_view"]

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
    """Write a crop; see :func:`crop_picture`, whose UsageError names ``path`` here. Raises FileError."""
    with located(path=str(path)):
        crop = crop_picture(picture, corner, side, size)
    write_picture(path, crop)


@dataclass(frozen=True)
class ViewPictures:
    """How many pictures of a view are there, and how many of those were there before."""

    pictures: int = 0
    kept: int = 0


def cut_otherwise(place: Path, paths: list[str], view: View, crops: Crop, size: int) -> bool:
    """Whether a view's pictures are there, all of them, and show other squares or frames, or in another size."""
    return bool(paths) and (found := _stamp(place, paths)) is not None and found[0] != _cut(view, crops, size)


def write_view(place: Path, paths: list[str], view: View, crops: Crop, size: int) -> ViewPictures:
    """Write the crops of a view's frames to ``paths`` below ``place``, all in one folder.

    A folder that is whole gets a file that tells how its pictures were cut, and from what. It is kept as it is when the
    same is asked for again, so an interrupted preparation goes on where it was; so is one that was cut in the same way
    if the view comes without pictures.

    Raises:
        FileError: a picture is missing or damaged, or cannot be written.
    """
    if not paths:
        return ViewPictures()
    found = _stamp(place, paths)
    if view.images is None:
        there = len(paths) if found is not None and found[0] == _cut(view, crops, size) else 0
        return ViewPictures(there, there)
    content = _cut(view, crops, size), _origin(view.images)
    if found == content:
        return ViewPictures(len(paths), len(paths))
    folder = (place / paths[0]).parent
    (folder / _STAMP).unlink(missing_ok=True)
    make_folder(folder)
    pictures = view.images.read(view.numbers.tolist())
    for path, corner, side, picture in zip(paths, crops.corner, crops.side, pictures, strict=True):
        write_crop(place / path, picture, corner, int(side), size)
    with atomic_write(folder / _STAMP) as handle:
        handle.write("".join(f"{line}\n" for line in content).encode())
    return ViewPictures(len(paths), 0)


def _stamp(place: Path, paths: list[str]) -> tuple[str, str] | None:
    """What is written about the pictures of a folder that is whole: how they were cut, and from what."""
    stamp = (place / paths[0]).parent / _STAMP
    if not stamp.is_file():
        return None
    with open_file(stamp) as handle:
        cut, _, origin = handle.read(1 << 10).decode("utf-8", "replace").partition("\n")
    return cut, origin.strip()


def _cut(view: View, crops: Crop, size: int) -> str:
    """A checksum of the frames that are cut, of their squares and of the pictures' size."""
    digest = hashlib.sha256(repr((size, len(view.numbers))).encode())
    for values in (view.numbers, crops.corner, crops.side):
        digest.update(np.ascontiguousarray(values, np.float64).tobytes())
    return digest.hexdigest()


def _origin(images: Images) -> str:
    """A checksum of which video or folder it is, and of its state."""
    source = images.source
    digest = hashlib.sha256(str(source.resolve()).encode())
    if source.exists():
        state = source.stat()
        digest.update(repr((state.st_size, state.st_mtime_ns)).encode())
    return digest.hexdigest()
