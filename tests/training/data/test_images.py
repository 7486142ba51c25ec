"""Decoding: OpenCV's numbers, and refusals where OpenCV would make pixels up."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_compat.errors import FileError
from caffe_compat.training.data.images import decode_image, read_image

IMAGE = np.random.RandomState(3).randint(0, 256, (11, 17, 3)).astype(np.uint8)


def encoded(extension: str, image: np.ndarray = IMAGE) -> bytes:
    return bytes(cv2.imencode(extension, image)[1])


@pytest.mark.parametrize("extension", [".png", ".jpg", ".bmp"])
def test_colour_gray_and_size(extension: str, tmp_path: Path) -> None:
    path = str(tmp_path / f"a{extension}")
    Path(path).write_bytes(encoded(extension))
    np.testing.assert_array_equal(read_image(path, color=True), cv2.imread(path, cv2.IMREAD_COLOR))
    gray = read_image(path, color=False, height=7, width=23)
    assert gray.shape == (7, 23, 1)
    whole = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
    assert whole is not None
    np.testing.assert_array_equal(gray[:, :, 0], cv2.resize(whole, (23, 7)))


def test_a_size_that_no_memory_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(".png"))
    with pytest.raises(FileError, match=r"a\.png: resized to 40000 x 30000 pixels it takes 3,600,000,000 bytes"):
        read_image(str(path), color=True, height=30_000, width=40_000)


def test_native_keeps_the_channels() -> None:
    four = np.dstack([IMAGE, IMAGE[:, :, :1]])
    np.testing.assert_array_equal(decode_image(encoded(".png", four), "native"), four)
    np.testing.assert_array_equal(decode_image(encoded(".png", four), "color"), IMAGE)
    assert decode_image(encoded(".png", IMAGE[:, :, 0]), "native").shape == (11, 17, 1)


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_every_truncation_is_refused(extension: str) -> None:
    data = encoded(extension)
    for size in range(0, len(data) - 12, 3):
        with pytest.raises(FileError):
            decode_image(data[:size], "color")


def test_a_thumbnails_end_marker_does_not_hide_a_truncation() -> None:
    data = encoded(".jpg")
    thumbnail = b"\xff\xe1" + struct.pack(">H", 8) + b"ab\xff\xd9cd"
    whole = data[:2] + thumbnail + data[2:]
    np.testing.assert_array_equal(decode_image(whole, "color"), decode_image(data, "color"))
    with pytest.raises(FileError, match="truncated JPEG"):
        decode_image(whole[:-2], "color")


def test_bytes_after_the_end_do_not_matter() -> None:
    data = encoded(".jpg")
    np.testing.assert_array_equal(decode_image(data + b"\0\0more", "color"), decode_image(data, "color"))


def test_sixteen_bits_are_refused() -> None:
    with pytest.raises(FileError, match="uint16"):
        decode_image(encoded(".png", IMAGE.astype(np.uint16) * 256), "native")


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "is empty: no image"), (b"hello", "is no image that OpenCV can decode")]
)
def test_what_is_no_image(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    with pytest.raises(FileError, match=f"x.jpg: {message}"):
        read_image(str(path), color=True)
