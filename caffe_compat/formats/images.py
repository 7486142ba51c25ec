"""Pictures decoded and written: the only place that does it. By OpenCV, within one limit, and whole or not at all.

What Caffe and pycaffe make of the pixels (resizing, floats, another order of channels) is built on this where it is
needed.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any, Literal

import numpy as np

from ..errors import FileError, first_line, located
from ..extras import require
from .files import atomic_write, read_file
from .limits import PICTURE
from .picture_header import FORMATS, jpeg_segments, read_header

__all__ = ["Mode", "decode_picture", "encode_picture", "opencv", "read_picture", "write_picture"]

Mode = Literal["color", "gray", "native"]

# Scans of a JPEG times its pixels: some seconds of work. Encoders make ten or twenty scans; one may be 30 bytes long.
MAX_SCANNED = 2**31


@cache
def opencv() -> Any:
    """The ``cv2`` module. Raises MissingExtraError."""
    return require("cv2", "images")


def read_picture(path: str | os.PathLike[str], mode: Mode) -> np.ndarray:
    """The picture in a file; see :func:`decode_picture`.

    Raises:
        FileError: it is missing, truncated, too large, or nothing that OpenCV decodes.
    """
    name = os.fspath(path)
    # From memory OpenCV decodes faster than from the file.
    return decode_picture(read_file(name, PICTURE), mode, name)


def decode_picture(data: bytes, mode: Mode, path: str | None = None) -> np.ndarray:
    """An encoded picture as (height, width, channels).

    Args:
        mode: ``"color"`` (blue, green, red) and ``"gray"`` (one channel) are uint8, turned as the EXIF data say;
            ``"native"`` keeps channels (blue first, alpha last), depth and orientation of the file.
        path: the file's name, for error messages.

    Raises:
        FileError: no picture of the formats known, truncated, or larger than the limit ``PICTURE``, which its header
            tells before anything is decoded. MissingExtraError: OpenCV is not installed.
    """
    if not data:
        raise FileError("is empty: no image", path=path)
    header = read_header(data)
    if header is not None:
        PICTURE.check(header.bytes, f"a picture of {header.width} x {header.height} pixels", path)
        if header.scans > 20 and header.scans * header.height * header.width > MAX_SCANNED:
            raise FileError(f"is a JPEG of {header.scans} scans, which would take very long to decode", path=path)
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data, path, header.data_at if header is not None else None)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_png(data, path)
    if header is None:
        raise FileError(f"is no image that OpenCV can decode ({FORMATS})", path=path)
    cv2 = opencv()
    flag = {"color": cv2.IMREAD_COLOR, "gray": cv2.IMREAD_GRAYSCALE, "native": cv2.IMREAD_UNCHANGED}[mode]
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error as error:
        raise FileError(f"OpenCV cannot decode it: {str(error).strip().splitlines()[-1].strip()}", path=path) from error
    if picture is None:
        raise FileError(f"is no image that OpenCV can decode: a damaged or unusual {header.format}", path=path)
    return np.asarray(picture if picture.ndim == 3 else picture[:, :, np.newaxis])


# OpenCV decodes what there is of a truncated JPEG and fills the rest with grey, and takes as much memory for a PNG's
# chunk as that says it needs. So both are looked at here. Of other formats its decoders refuse what is cut short.


def write_picture(path: str | os.PathLike[str], picture: np.ndarray) -> None:
    """Write (height, width) or (height, width, channels), uint8, blue first, in the format that the name ends in.

    Whole or not at all.

    Raises:
        FileError: it cannot be written, or OpenCV has no such format. MissingExtraError: OpenCV is not installed.
    """
    name = os.fspath(path)
    with located(path=name):
        data = encode_picture(picture, os.path.splitext(name)[1][1:])
    with atomic_write(name) as file:
        file.write(data)


def encode_picture(picture: np.ndarray, kind: str) -> bytes:
    """A picture as :func:`write_picture` takes it in the format that file names ending in ``.kind`` have.

    Raises:
        FileError: OpenCV has no such format. MissingExtraError: OpenCV is not installed.
    """
    cv2 = opencv()
    try:
        done, data = cv2.imencode(f".{kind}", picture)
    except cv2.error as error:
        raise FileError(f"no picture can be encoded as {kind!r}: {first_line(error)}") from error
    if not done:
        raise FileError(f"the picture cannot be encoded as {kind!r}")
    return bytes(data)


def _check_png(data: bytes, path: str | None) -> None:
    """Walk the chunks: each lies within the file, and the last is IEND."""
    at = 8
    while at + 12 <= len(data):
        kind = data[at + 4 : at + 8]
        at += 12 + int.from_bytes(data[at : at + 4], "big")
        if kind == b"IEND" and at <= len(data):
            return
    raise FileError("is a truncated PNG, or a damaged one: its chunks go beyond its end", path=path)


def _check_jpeg(data: bytes, path: str | None, begins: int | None) -> None:
    """The end marker has to come after the first scan, whose data cannot contain it; a thumbnail before may.

    Args:
        begins: where the first scan does, if the header told.
    """
    if begins is None:
        segments = jpeg_segments(data)
        marker, begins = segments[-1] if segments else (0, 0)
        if marker == 0xD9:
            raise FileError("is a JPEG without image data", path=path)
        if marker != 0xDA:
            raise FileError("is a truncated JPEG: it ends before its first scan", path=path)
    if data.rfind(b"\xff\xd9", begins) < 0:
        raise FileError("is a truncated JPEG: its end marker is missing", path=path)
