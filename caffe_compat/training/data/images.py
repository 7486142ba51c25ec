"""Images the way Caffe's ReadImageToCVMat reads them: 8 bits, blue first, resized by OpenCV."""

from __future__ import annotations

import numpy as np

from ...errors import FileError
from ...formats.images import Mode, decode_picture, opencv, read_picture
from ...formats.limits import PICTURE

__all__ = ["decode_image", "read_image"]


def read_image(path: str, *, color: bool, height: int = 0, width: int = 0) -> np.ndarray:
    """The image in ``path`` as (H, W, C) uint8, BGR or one grey channel, resized bilinearly if a size is given.

    Raises:
        FileError: it is missing, truncated, too large (also when it is resized), or nothing that OpenCV decodes.
    """
    image = read_picture(path, "color" if color else "gray")
    if height > 0 and width > 0 and image.shape[:2] != (height, width):
        PICTURE.check(height * width * image.shape[2], f"resized to {width} x {height} pixels it", path)
        image = opencv().resize(image, (width, height)).reshape(height, width, image.shape[2])
    return image


def decode_image(data: bytes, mode: Mode) -> np.ndarray:
    """An encoded image as (H, W, C) uint8, BGR. ``"native"`` keeps the channels of the file.

    Raises:
        FileError: without a path, which the caller knows.
    """
    image = decode_picture(data, mode)
    if image.dtype != np.uint8:
        raise FileError(f"has {image.dtype} pixels; Caffe takes images of 8 bits")
    return image
