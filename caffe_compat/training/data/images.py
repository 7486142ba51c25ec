"""Images decoded and resized by OpenCV, the way Caffe's ReadImageToCVMat does."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np

from ...errors import FileError, located
from ...extras import require
from ...formats.files import open_file

__all__ = ["MAX_PIXELS", "Mode", "decode_image", "opencv", "read_image"]

Mode = Literal["color", "gray", "native"]

# No photograph comes near; a file that claims more would only fill the memory.
MAX_PIXELS = 2**27


@cache
def opencv() -> Any:
    """The ``cv2`` module. Raises MissingExtraError."""
    return require("cv2", "images")


def read_image(path: str, *, color: bool, height: int = 0, width: int = 0) -> np.ndarray:
    """The image in ``path`` as (H, W, C) uint8, BGR or one grey channel, resized bilinearly if a size is given.

    Raises:
        FileError: it is missing, truncated, larger than MAX_PIXELS, or nothing that OpenCV decodes.
    """
    with open_file(path) as file:
        try:
            data = file.read()
        except OSError as error:
            raise FileError(f"cannot be read: {error.strerror}", path=path) from error
    with located(path=path):
        # From memory OpenCV decodes faster than from the file.
        image = decode_image(data, "color" if color else "gray")
    if height > 0 and width > 0 and image.shape[:2] != (height, width):
        image = opencv().resize(image, (width, height)).reshape(height, width, image.shape[2])
    return image


def decode_image(data: bytes, mode: Mode) -> np.ndarray:
    """An encoded image as (H, W, C) uint8, BGR. ``"native"`` keeps the channels of the file.

    Raises:
        FileError: without a path, which the caller knows.
    """
    _check_header(data)
    cv2 = opencv()
    flag = {"color": cv2.IMREAD_COLOR, "gray": cv2.IMREAD_GRAYSCALE, "native": cv2.IMREAD_UNCHANGED}[mode]
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if data else None
    except cv2.error as error:
        raise FileError(f"OpenCV cannot decode it: {str(error).strip().splitlines()[-1]}") from error
    if image is None:
        raise FileError("is empty" if not data else "is no image that OpenCV can decode")
    if image.dtype != np.uint8:
        raise FileError(f"has {image.dtype} pixels; Caffe takes images of 8 bits")
    _check_size(image.shape[0], image.shape[1])
    return image if image.ndim == 3 else image[:, :, np.newaxis]


# OpenCV decodes what there is of a truncated file and fills the rest with grey, so the ends are looked at here.


def _check_header(data: bytes) -> None:
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_size(int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big"))
        if b"IEND" not in data[-4096:] and b"IEND" not in data:
            raise FileError("is a truncated PNG")


def _check_jpeg(data: bytes) -> None:
    """Walk the segments up to the first scan, whose data cannot contain the end marker before the end."""
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            raise FileError("is a truncated JPEG: it ends before its first scan")
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        if marker == 0xD9:
            raise FileError("is a JPEG without image data")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 9 <= len(data):
            _check_size(int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big"))
        if marker == 0xDA:
            break
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    if data.rfind(b"\xff\xd9", at) < 0:
        raise FileError("is a truncated JPEG: its end marker is missing")


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise FileError(f"has {width} x {height} pixels, more than the limit of {MAX_PIXELS}")
