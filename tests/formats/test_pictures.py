"""The one reader of pictures: what headers say of every format, one limit, and nothing made up where a file is cut."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from caffe_compat.errors import FileError
from caffe_compat.formats.images import decode_picture, read_picture, write_picture
from caffe_compat.formats.limits import PICTURE
from caffe_compat.formats.picture_header import FORMATS, PictureHeader, read_header

# Smooth, so that lossy formats stay near it; every side another length.
COLOR = cv2.resize(np.random.RandomState(3).randint(0, 256, (5, 7, 3)).astype(np.uint8), (53, 37))
GREY = COLOR[:, :, 0].copy()
ALPHA = np.dstack([COLOR, GREY])
FLOATS = (COLOR / np.float32(255)).astype(np.float32)

ROWS_PER_STRIP = 278  # the TIFF tag, for which OpenCV 4.8 has no name

# Every format that OpenCV writes: its ending, the picture, options; the header's format, channels and sample_bytes.
WRITTEN: dict[str, tuple[str, np.ndarray, list[int], str, int, int]] = {
    "png": (".png", COLOR, [], "PNG", 3, 1),
    "png, grey": (".png", GREY, [], "PNG", 1, 1),
    "png, alpha": (".png", ALPHA, [], "PNG", 4, 1),
    "png, 16 bits": (".png", COLOR.astype(np.uint16) * 256, [], "PNG", 3, 2),
    "jpeg": (".jpg", COLOR, [], "JPEG", 3, 1),
    "jpeg, grey": (".jpg", GREY, [], "JPEG", 1, 1),
    "jpeg, progressive": (".jpg", COLOR, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], "JPEG", 3, 3),
    "jpeg, restarts": (".jpg", COLOR, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2], "JPEG", 3, 1),
    "bmp": (".bmp", COLOR, [], "BMP", 3, 1),
    "bmp, alpha": (".bmp", ALPHA, [], "BMP", 4, 1),
    "webp": (".webp", COLOR, [cv2.IMWRITE_WEBP_QUALITY, 80], "WebP", 3, 1),
    "webp, lossless": (".webp", COLOR, [cv2.IMWRITE_WEBP_QUALITY, 101], "WebP", 4, 1),
    "webp, alpha": (".webp", ALPHA, [cv2.IMWRITE_WEBP_QUALITY, 80], "WebP", 4, 1),
    "tiff": (".tiff", COLOR, [], "TIFF", 3, 1),
    "tiff, 16 bits": (".tiff", COLOR.astype(np.uint16) * 256, [], "TIFF", 3, 2),
    "tiff, plain": (".tiff", COLOR, [cv2.IMWRITE_TIFF_COMPRESSION, 1], "TIFF", 3, 1),
    "tiff, one strip": (".tiff", GREY, [ROWS_PER_STRIP, 37], "TIFF", 1, 1),
    "ppm": (".ppm", COLOR, [], "PNM", 3, 1),
    "ppm, letters": (".ppm", COLOR, [cv2.IMWRITE_PXM_BINARY, 0], "PNM", 3, 1),
    "ppm, 16 bits": (".ppm", COLOR.astype(np.uint16) * 256, [], "PNM", 3, 2),
    "pgm": (".pgm", GREY, [], "PNM", 1, 1),
    "pbm": (".pbm", GREY, [], "PNM", 1, 1),
    "pam": (".pam", COLOR, [], "PAM", 3, 1),
    "pfm": (".pfm", FLOATS, [], "PFM", 3, 4),
    "hdr": (".hdr", FLOATS, [], "Radiance HDR", 3, 4),
    "sun raster": (".ras", COLOR, [], "Sun raster", 3, 1),
    "jpeg 2000": (".jp2", COLOR, [], "JPEG 2000", 3, 4),
}
if hasattr(cv2, "IMWRITE_GIF_QUALITY"):  # since OpenCV 4.11
    WRITTEN["gif"] = (".gif", COLOR, [], "GIF", 4, 1)
if cv2.haveImageWriter("a.avif"):
    WRITTEN["avif"] = (".avif", COLOR, [], "AVIF", 4, 2)


def encoded(ending: str, picture: np.ndarray = COLOR, options: list[int] | None = None) -> bytes:
    written, data = cv2.imencode(ending, picture, options or [])
    assert written
    return bytes(data)


@pytest.mark.parametrize("kind", WRITTEN)
def test_headers_say_what_is_decoded(kind: str) -> None:
    ending, picture, options, name, channels, sample = WRITTEN[kind]
    data = encoded(ending, picture, options)
    header = read_header(data)
    assert header is not None
    assert (header.format, header.height, header.width) == (name, 37, 53)
    assert (header.channels, header.sample_bytes) == (channels, sample)
    assert name in FORMATS.replace("PNM,", "PNM ")
    for mode, flag in (("color", cv2.IMREAD_COLOR), ("gray", cv2.IMREAD_GRAYSCALE), ("native", cv2.IMREAD_UNCHANGED)):
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        found = decode_picture(data, mode)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found, expected.reshape(37, 53, -1))
        assert found.nbytes <= header.bytes


@pytest.mark.parametrize("kind", WRITTEN)
def test_every_truncation_is_refused(kind: str) -> None:
    ending, picture, options, *_ = WRITTEN[kind]
    data = encoded(ending, picture, options)
    for size in range(0, len(data) - 13, max(1, len(data) // 40)):
        with pytest.raises(FileError):
            decode_picture(data[:size], "color")


@pytest.mark.parametrize("kind", WRITTEN)
def test_cut_headers(kind: str) -> None:
    ending, picture, options, *_ = WRITTEN[kind]
    data = encoded(ending, picture, options)
    for size in range(min(len(data), 700)):
        header = read_header(data[:size])
        assert header is None or (header.height, header.width) == (37, 53)


# Sizes that lie


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def big_png(side: int = 2**15) -> bytes:
    return png((b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IEND", b""))


def patched(data: bytes, at: int, code: str, *values: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(code, changed, at, *values)
    return bytes(changed)


def big_tiff(order: str) -> bytes:
    """A BigTIFF of one pixel row, with 64-bit lengths."""
    tags = ((256, 16, 2**31 - 1), (257, 4, 3), (258, 3, 8), (277, 3, 3))
    mark = b"II+\0" if order == "<" else b"MM\0+"
    text = mark + struct.pack(order + "HHQQ", 8, 0, 16, len(tags))
    for tag, kind, value in tags:
        short = struct.pack(order + {3: "H", 4: "I", 16: "Q"}[kind], value)
        text += struct.pack(order + "HHQ", tag, kind, 1) + short.ljust(8, b"\0")
    return text + bytes(8)


def large(kind: str) -> bytes:
    """A small file whose header claims a side of some 30,000 pixels."""
    jpeg, bmp, tiff = encoded(".jpg"), encoded(".bmp"), encoded(".tiff", GREY, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    match kind:
        case "png":
            return big_png()
        case "jpeg":
            return patched(jpeg, jpeg.index(b"\xff\xc0") + 5, ">HH", 2**15, 2**15)
        case "bmp":
            return patched(bmp, 18, "<ii", 2**15, -(2**15))
        case "webp":
            return patched(encoded(".webp", COLOR, [cv2.IMWRITE_WEBP_QUALITY, 80]), 26, "<HH", 0x3FFF, 0x3FFF)
        case "tiff":
            at = tiff.index(struct.pack("<HHI", 256, 4 if struct.pack("<HHI", 256, 4, 1) in tiff else 3, 1))
            return patched(tiff, at + 2, "<HII", 4, 1, 2**25)
        case "tiff with a strip of many rows":
            at = tiff.index(struct.pack("<H", 278), tiff.index(struct.pack("<HH", 256, 3)))
            return patched(tiff, at + 2, "<HII", 4, 1, 2**25)
        case "bigtiff":
            return big_tiff("<")
        case "bigtiff, big-endian":
            return big_tiff(">")
        case "pnm":
            return b"P6 # 1 1\n 32768\n# x\n32768 255\n"
        case "pam":
            return b"P7\nWIDTH 9\nHEIGHT 9\nDEPTH 99999999\nMAXVAL 255\nENDHDR\n"
        case "pfm":
            return b"PF\n32768 32768\n-1.0\n"
        case "hdr":
            return b"#?RADIANCE\n-Y 1 +X 1\nFORMAT=32-bit_rle_rgbe\n\n-Y 32768 +X 32768\n"
        case "gif":
            return patched(b"GIF89a" + bytes(20), 6, "<HH", 2**15, 2**15)
        case "jpeg 2000":
            data = encoded(".jp2")
            return patched(data, data.index(b"\xff\x4f\xff\x51") + 8, ">II", 2**15, 2**15)
        case "sun raster":
            return patched(encoded(".ras"), 4, ">II", 2**15, 2**15)
        case "avif":
            sizes = (b"\0\0\0\x14ispe\0\0\0\0" + struct.pack(">II", side, side) for side in (8, 2**15, 9))
            return b"\0\0\0\x18ftypavif\0\0\0\0avifmif1" + b"".join(sizes)
    raise AssertionError(kind)


LARGE = (
    *("png", "jpeg", "bmp", "webp", "tiff", "tiff with a strip of many rows", "bigtiff", "bigtiff, big-endian", "pnm"),
    *("pam", "pfm", "hdr", "gif", "jpeg 2000", "sun raster", "avif"),
)


@pytest.mark.parametrize("kind", LARGE)
def test_the_limit_holds_before_decoding(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    path = tmp_path / "big"
    path.write_bytes(large(kind))
    with pytest.raises(
        FileError, match=r"big: a picture of \d+ x \d+ pixels takes [\d,]+ bytes.* 536,870,912; .*MAX_PICTURE_BYTES"
    ):
        read_picture(path, "color")


def test_the_limit_can_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    side = 300
    data = encoded(".png", np.zeros((side, side, 3), np.uint8))
    monkeypatch.setenv("CAFFE_COMPAT_MAX_PICTURE_BYTES", str(3 * side * side - 1))
    with pytest.raises(FileError, match="300 x 300 pixels takes 270,000 bytes, more than the limit of 269,999"):
        decode_picture(data, "color")
    monkeypatch.setenv("CAFFE_COMPAT_MAX_PICTURE_BYTES", str(3 * side * side))
    assert decode_picture(data, "color").shape == (side, side, 3)
    assert PICTURE.default >= 3 * 170_000_000  # more than cameras take


@pytest.mark.parametrize("length", [31, 2**20, 0x84000020, 2**32 - 1])
def test_a_chunk_that_claims_more_than_the_file_holds(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder takes as much memory as a chunk says it has, and then looks for it."""
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    data = patched(encoded(".png", GREY[:2, :2].copy()), 33, ">I", length)
    with pytest.raises(FileError, match="is a truncated PNG, or a damaged one"):
        decode_picture(data, "color")


def test_a_jpeg_of_countless_scans() -> None:
    """Each repeats 31 bytes and takes as long as any other: 100 KB make a minute."""
    data = encoded(".jpg", np.zeros((4000, 4000), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    scan, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    with pytest.raises(FileError, match="is a JPEG of 1006 scans, which would take very long"):
        decode_picture(data[:end] + 1000 * data[scan:end] + data[end:], "gray")
    small = encoded(".jpg", GREY, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    scan, end = small.rindex(b"\xff\xda"), small.rindex(b"\xff\xd9")
    assert decode_picture(small[:end] + 100 * small[scan:end] + small[end:], "gray").shape == (37, 53, 1)


def test_a_fake_size_before_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A codestream's mark in another box, or a size in a comment, is not the one that the decoder takes."""
    data = large("jpeg 2000")
    small = encoded(".jp2")
    fake = small[small.index(b"\xff\x4f\xff\x51") :][:60]
    box = struct.pack(">I4s", 8 + len(fake), b"free") + fake
    header = read_header(data[:12] + box + data[12:])
    assert header == PictureHeader("JPEG 2000", 2**15, 2**15, 3, 4)
    jpeg = large("jpeg")
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + 19) + encoded(".jpg")[: 4 + 15]
    assert read_header(jpeg[:2] + thumbnail + jpeg[2:]) == PictureHeader("JPEG", 2**15, 2**15, 3)


# What is no picture


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty: no image"),
        (b"hello", "is no image that OpenCV can decode"),
        (b"BM" + bytes(60), "is no image that OpenCV can decode: a damaged or unusual BMP"),
        (b"\xff\xd8\xff\xd9" + bytes(8), "is a JPEG without image data"),
        (b"\0\0\0\x0cjP  " + bytes(40), "is no image"),
    ],
)
def test_what_is_no_picture(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    with pytest.raises(FileError, match=f"x.jpg: {message}"):
        read_picture(path, "color")


def test_what_the_decoder_raises_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise cv2.error("OpenCV(5) somewhere\n error: (-215) a size")

    monkeypatch.setattr(cv2, "imdecode", fail)
    with pytest.raises(FileError, match=r"a.png: OpenCV cannot decode it: error: \(-215\) a size"):
        decode_picture(encoded(".png"), "color", "a.png")


def test_writing(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    write_picture(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png", "color"), picture)
    with pytest.raises(FileError, match="cannot be written: there is no folder") as caught:
        write_picture(tmp_path / "gone" / "a.png", picture)
    assert caught.value.path == str(tmp_path / "gone" / "a.png")
    with pytest.raises(FileError, match=r"a\.odd: no picture can be encoded as 'odd': "):
        write_picture(tmp_path / "a.odd", picture)
