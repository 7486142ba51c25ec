"""What the header of a picture says, so that nobody decodes a billion pixels to find out that they are too many.

The formats are those that OpenCV decodes. Each is read the way its decoder reads it: where the decoder follows one of
two numbers that say the same thing, so does this.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["FORMATS", "PictureHeader", "read_header"]

FORMATS = "PNG, JPEG, BMP, WebP, TIFF, PNM, PAM, PFM, GIF, JPEG 2000, AVIF, Radiance HDR, Sun raster"


@dataclass(frozen=True)
class PictureHeader:
    """The size of a picture, and what decoding it takes.

    Attributes:
        channels: how many a decoder may make of it at most. sample_bytes: of one channel of a pixel, while decoding.
        block: pixels that are unpacked at once, if they are more than the picture has.
        scans: how often a decoder goes over all pixels. data_at: where the first scan of a JPEG begins, if it does.
    """

    format: str
    height: int
    width: int
    channels: int
    sample_bytes: int = 1
    block: int = 0
    scans: int = 1
    data_at: int | None = field(default=None, compare=False)

    @property
    def bytes(self) -> int:
        """Memory that decoding takes, about."""
        return max(self.height * self.width, self.block) * max(self.channels, 3) * self.sample_bytes


def read_header(data: bytes) -> PictureHeader | None:
    """The header of the encoded picture ``data``; None for another format than ``FORMATS``, or a cut header."""
    for magic, read in _READERS:
        if magic.match(data):
            try:
                return read(data)
            except (struct.error, IndexError):
                return None
    return None


def _png(data: bytes) -> PictureHeader | None:
    width, height, depth, kind = struct.unpack_from(">IIBB", data, 16)
    # Grey, colour, palette, grey with alpha, colour with alpha; a palette may have alpha, and grey becomes colour.
    channels = {0: 1, 2: 3, 3: 4, 4: 4, 6: 4}.get(kind, 4)
    return PictureHeader("PNG", height, width, channels, 2 if depth > 8 else 1)


# Frame headers of JPEG (ITU T.81, table B.1): C0 to CF without DHT (C4), JPG (C8) and DAC (CC).
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})


def jpeg_segments(data: bytes) -> list[tuple[int, int]]:
    """Marker and place of each segment before the first scan, the scan's own last; without it the file is cut."""
    found: list[tuple[int, int]] = []
    at = 2
    while True:
        at = data.find(b"\xff", at)  # a decoder passes over what lies between segments
        if at < 0 or at + 4 > len(data):
            return found
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # without a length
            at += 2
        else:
            found.append((marker, at))
            if marker in (0xDA, 0xD9):  # the first scan, or the end
                return found
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _jpeg(data: bytes) -> PictureHeader | None:
    segments = jpeg_segments(data)
    frame = next(((marker, at) for marker, at in segments if marker in _JPEG_FRAMES), None)
    if frame is None:
        return None
    height, width, channels = struct.unpack_from(">HHB", data, frame[1] + 5)
    marker, at = segments[-1]
    begins = at if marker == 0xDA else None
    in_one_scan = frame[0] not in _JPEG_PROGRESSIVE and (marker != 0xDA or data[at + 4] >= channels)
    if in_one_scan:
        return PictureHeader("JPEG", height, width, channels, data_at=begins)
    # Of several scans the decoder keeps all coefficients, two bytes each, beside the pixels.
    scans = data.count(b"\xff\xda", at)
    return PictureHeader("JPEG", height, width, channels, 3, scans=scans, data_at=begins)


def _bmp(data: bytes) -> PictureHeader | None:
    if struct.unpack_from("<I", data, 14)[0] == 12:  # the header of OS/2 has 16-bit sizes
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits = struct.unpack_from("<iiHH", data, 18)
    # A negative height means that the first row is on top.
    return PictureHeader("BMP", abs(height), abs(width), 4 if bits == 32 else 3)


def _webp(data: bytes) -> PictureHeader | None:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return PictureHeader("WebP", height & 0x3FFF, width & 0x3FFF, 3)
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return PictureHeader("WebP", (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, 4)
    if kind == b"VP8X":
        struct.unpack_from("<II", data, 22)  # so that a cut header is one
        height, width = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (27, 24))
        return PictureHeader("WebP", height, width, 4)
    return None


# What is looked at in a TIFF's first directory, and the size of the integers that may stand there.
_WIDTH, _HEIGHT, _BITS, _SAMPLES, _STRIP_ROWS, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 258, 277, 278, 322, 323
_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}


def _tiff(data: bytes) -> PictureHeader | None:
    order = "<" if data[:1] == b"I" else ">"
    big = data[2:4] in (b"+\0", b"\0+")  # BigTIFF: offsets and counts of 64 bits
    offset, entry = ("Q", 20) if big else ("I", 12)
    at = struct.unpack_from(order + offset, data, 8 if big else 4)[0]
    first = at + (8 if big else 2)
    found: dict[int, int] = {}
    for i in range(min(struct.unpack_from(order + ("Q" if big else "H"), data, at)[0], 4096)):
        place = first + entry * i
        tag, kind, count = struct.unpack_from(f"{order}HH{offset}", data, place)
        if _WIDTH <= tag <= _TILE_HEIGHT and kind in _TIFF_INTEGERS:
            value = place + (12 if big else 8)
            code = _TIFF_INTEGERS[kind]
            if count * struct.calcsize(code) > entry - (12 if big else 8):  # too long to stand here
                value = struct.unpack_from(order + offset, data, value)[0]
            found[tag] = struct.unpack_from(order + code, data, value)[0]
    if _WIDTH not in found or _HEIGHT not in found:
        return None
    height, width = found[_HEIGHT], found[_WIDTH]
    # A tile or a strip is unpacked whole, however little of it lies in the picture. All ones: one strip for all rows.
    rows = found.get(_STRIP_ROWS, height)
    rows = height if rows == 0xFFFF_FFFF else rows
    block = max(rows, found.get(_TILE_HEIGHT, 0)) * max(width, found.get(_TILE_WIDTH, 0))
    return PictureHeader("TIFF", height, width, found.get(_SAMPLES, 1), -(-found.get(_BITS, 1) // 8), block)


# Comments may stand between the numbers of a PNM header; bitmaps have two numbers, the others a third, the maximum.
_BLANK = rb"(?:\s|#[^\n]*\n)"
_PNM = re.compile(rb"P([1-6])%b+(\d{1,9})%b+(\d{1,9})\s(?:%b*(\d{1,9})\s)?" % (_BLANK, _BLANK, _BLANK))
_PAM = re.compile(rb"\s(WIDTH|HEIGHT|DEPTH|MAXVAL)\s+(\d{1,9})(?=\s)")
_PFM = re.compile(rb"P[Ff]\s+(\d{1,9})\s+(\d{1,9})\s")


def _pnm(data: bytes) -> PictureHeader | None:
    found = _PNM.match(data)
    if found is None:
        return None
    deep = found[1] not in b"14" and int(found[4] or 0) > 255
    return PictureHeader("PNM", int(found[3]), int(found[2]), 3 if found[1] in b"36" else 1, 2 if deep else 1)


def _pam(data: bytes) -> PictureHeader | None:
    head = data[: data.find(b"ENDHDR")] if b"ENDHDR" in data[:65536] else b""
    found = {name: int(value) for name, value in _PAM.findall(head)}
    if not found.keys() >= {b"WIDTH", b"HEIGHT", b"DEPTH"}:
        return None
    sample = 2 if found.get(b"MAXVAL", 255) > 255 else 1
    return PictureHeader("PAM", found[b"HEIGHT"], found[b"WIDTH"], found[b"DEPTH"], sample)


def _pfm(data: bytes) -> PictureHeader | None:
    found = _PFM.match(data)
    return PictureHeader("PFM", int(found[2]), int(found[1]), 3, 4) if found else None


def _gif(data: bytes) -> PictureHeader | None:
    width, height = struct.unpack_from("<HH", data, 6)
    return PictureHeader("GIF", height, width, 4)


def _jpeg_2000(data: bytes) -> PictureHeader | None:
    """From the codestream, which the decoder follows, not from the box that says the same."""
    at = 0
    while not data.startswith(b"\xff\x4f\xff\x51", at):
        length, kind = struct.unpack_from(">I4s", data, at)
        header = 8
        if length == 1:
            length, header = struct.unpack_from(">Q", data, at + 8)[0], 16
        at += header if kind == b"jp2c" else length
        if kind != b"jp2c" and length < header:
            return None
    right, bottom, left, top = struct.unpack_from(">IIII", data, at + 8)
    channels = struct.unpack_from(">H", data, at + 40)[0]
    return PictureHeader("JPEG 2000", max(bottom - top, 0), max(right - left, 0), channels, 4)


def _avif(data: bytes) -> PictureHeader | None:
    """The largest of the parts that the file lists: tiles, alpha, thumbnails."""
    sizes = [(0, 0)]
    at = data.find(b"ispe")
    while at >= 0:
        width, height = struct.unpack_from(">II", data, at + 8)
        sizes.append((height, width))
        at = data.find(b"ispe", at + 4)
    height, width = max(sizes, key=lambda size: size[0] * size[1])
    return PictureHeader("AVIF", height, width, 4, 2) if height and width else None


_HDR = re.compile(rb"#\?[^\n]*\n(?:[^\n]+\n)*\n-Y\s+(\d{1,9})\s+\+X\s+(\d{1,9})\s")


def _hdr(data: bytes) -> PictureHeader | None:
    found = _HDR.match(data[:65536])
    return PictureHeader("Radiance HDR", int(found[1]), int(found[2]), 3, 4) if found else None


def _sun_raster(data: bytes) -> PictureHeader | None:
    width, height, bits = struct.unpack_from(">III", data, 4)
    return PictureHeader("Sun raster", height, width, 4 if bits == 32 else 3)


_READERS: tuple[tuple[re.Pattern[bytes], Callable[[bytes], PictureHeader | None]], ...] = tuple(
    (re.compile(magic, re.DOTALL), read)
    for magic, read in (
        (rb"\xff\xd8", _jpeg),
        (rb"\x89PNG\r\n\x1a\n", _png),
        (rb"BM", _bmp),
        (rb"RIFF....WEBP", _webp),
        (rb"II[*+]\0|MM\0[*+]", _tiff),
        (rb"P[1-6]", _pnm),
        (rb"P7", _pam),
        (rb"P[Ff]", _pfm),
        (rb"GIF8[79]a", _gif),
        (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", _jpeg_2000),
        (rb"....ftypavi[fs]", _avif),
        (rb"#\?", _hdr),
        (rb"\x59\xa6\x6a\x95", _sun_raster),
    )
)
