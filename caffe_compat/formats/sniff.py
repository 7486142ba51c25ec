"""What kind of file is this? Told by its first bytes, never by its name."""

from __future__ import annotations

import codecs
import mmap
import os
from enum import Enum
from typing import Any, BinaryIO

from ..errors import FileError
from .files import open_file

__all__ = [
    "HEAD_BYTES",
    "TEXT_KINDS",
    "FileKind",
    "decode_text",
    "find_hdf5",
    "is_checkpoint",
    "is_text",
    "kind_of",
    "kind_of_head",
    "nul_in_text",
    "refusal",
]

HEAD_BYTES = 4096
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class FileKind(Enum):
    """Kinds of files that people pass to this program, on purpose or not."""

    EMPTY = "nothing"
    TEXT = "text"
    UTF16 = "text in UTF-16"
    WEB_PAGE = "a web page"
    LFS_POINTER = "a git-LFS pointer"
    HDF5 = "HDF5"
    ZIP = "a zip archive"
    NPY = "a numpy array"
    SAFETENSORS = "arrays of safetensors"
    PICKLE = "a Python pickle"
    TAR = "a tar archive"
    FOREIGN = "something else that is known"
    BINARY = "something else"
    """A message of protobuf's, or damage: protobuf has no first bytes of its own."""


# What is_text takes for text: also an empty file, which may be an empty network.
TEXT_KINDS = frozenset({FileKind.EMPTY, FileKind.TEXT, FileKind.UTF16})

# First bytes, the kind, and the kind in words: "looks like ...".
_MAGIC = (
    (HDF5_SIGNATURE, FileKind.HDF5, "an HDF5 file; HDF5 weights are read by read_weights()"),
    (b"PK\x03\x04", FileKind.ZIP, "a zip archive (a PyTorch .pt, a .npz or a download to unpack)"),
    (b"\x93NUMPY", FileKind.NPY, "a numpy .npy file"),
    (b"\x80\x02", FileKind.PICKLE, "a Python pickle (an old PyTorch file)"),
    (b"\x80\x03", FileKind.PICKLE, "a Python pickle"),
    (b"\x80\x04", FileKind.PICKLE, "a Python pickle"),
    (b"\x80\x05", FileKind.PICKLE, "a Python pickle"),
    # Before protocol 2: a list or a tuple of arrays.
    (b"(l", FileKind.PICKLE, "a Python pickle"),
    (b"(c", FileKind.PICKLE, "a Python pickle"),
    (b"]q", FileKind.PICKLE, "a Python pickle"),
    (
        b"version https://git-lfs",
        FileKind.LFS_POINTER,
        "a git-LFS pointer, not the file it stands for; run `git lfs pull`",
    ),
    (b"\x89PNG", FileKind.FOREIGN, "a PNG image"),
    (b"\xff\xd8\xff", FileKind.FOREIGN, "a JPEG image"),
    (b"GIF8", FileKind.FOREIGN, "a GIF image"),
    (b"\x1f\x8b", FileKind.FOREIGN, "a gzip archive; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", FileKind.FOREIGN, "a 7-Zip archive; unpack it first"),
    (b"Rar!", FileKind.FOREIGN, "a RAR archive; unpack it first"),
)
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_WORDS = {
    FileKind.SAFETENSORS: "weights in safetensors; they go beside a prototxt",
    FileKind.TAR: "a tar archive; unpack it first",
    FileKind.WEB_PAGE: "a web page; fetch the file itself (the raw download)",
    FileKind.TEXT: "text; a .prototxt goes where the network is expected, not the weights",
    FileKind.UTF16: "text; a .prototxt goes where the network is expected, not the weights",
}
# The tags and lengths of a binary message are full of control characters; text has blanks and line ends only.
_CONTROL = bytes(set(range(0x20)) - set(b"\t\n\v\f\r\x1a"))


def kind_of(path: str | os.PathLike[str]) -> FileKind:
    """The kind of a file. Raises FileError if it cannot be read."""
    try:
        with open_file(path) as file:
            head = file.read(HEAD_BYTES)
            kind = kind_of_head(head)
            return FileKind.HDF5 if kind in (FileKind.BINARY, FileKind.TEXT) and _has_hdf5_inside(file) else kind
    except OSError as error:
        raise FileError(error.strerror or str(error), path=os.fspath(path)) from error


def kind_of_head(head: bytes) -> FileKind:
    """The kind of a file that begins with ``head``, its first :data:`HEAD_BYTES` or fewer."""
    if not head:
        return FileKind.EMPTY
    for magic, kind, _ in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[257:262] == b"ustar":
        return FileKind.TAR
    # The length of a table in JSON, which no reader takes beyond 100 MB, and its first character.
    if head[4:9] == b"\0\0\0\0{":
        return FileKind.SAFETENSORS
    if _is_utf16(head):
        return FileKind.UTF16
    if head == head.translate(None, _CONTROL):
        return FileKind.WEB_PAGE if head.lstrip()[:1] == b"<" else FileKind.TEXT
    return FileKind.BINARY if nul_in_text(head) is None else FileKind.TEXT


def refusal(head: bytes, wanted: str) -> str:
    """Why a file that begins with ``head`` is not what was wanted, if it is plainly something else.

    >>> refusal(b"GIF89a", "a .caffemodel")
    'looks like a GIF image. Wanted: a .caffemodel'
    >>> refusal(b"\x0a\x03net", "a .caffemodel")
    ''
    """
    kind = kind_of_head(head)
    words = next((words for magic, _, words in _MAGIC if head.startswith(magic)), _WORDS.get(kind, ""))
    if kind in (FileKind.LFS_POINTER, FileKind.WEB_PAGE):
        return f"looks like {words}"  # got in place of the right file
    return f"looks like {words}. Wanted: {wanted}" if words else ""


def nul_in_text(data: bytes) -> tuple[int, int] | None:
    """Line and column, from 1, of the first NUL byte in what is text but for a few of these; None if it is not so."""
    at, head = data.find(b"\0"), data[:HEAD_BYTES]
    rest = head.replace(b"\0", b"")
    # Every message of Caffe's that has a NUL byte has other control characters too: its tags are some.
    if at < 0 or 2 * len(rest) < len(head) or kind_of_head(rest) is not FileKind.TEXT:
        return None
    begin = data.rfind(b"\n", 0, at) + 1
    return data.count(b"\n", 0, at) + 1, len(data[begin:at].decode("utf-8", "replace")) + 1


def is_text(path: str | os.PathLike[str]) -> bool:
    """Whether a file looks like text rather than one of Caffe's binary formats. Raises FileError."""
    return kind_of(path) in TEXT_KINDS


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a file as torch writes them (a zip archive). Raises FileError."""
    return kind_of(path) is FileKind.ZIP


def decode_text(data: bytes, path: str | None = None, *, replace: bool = False) -> str:
    """The text in ``data``: UTF-8, or UTF-16 with its mark, as programs for Windows write.

    Args:
        replace: put U+FFFD in the place of what is neither; otherwise bytes that are no UTF-8 become surrogates.

    Raises:
        FileError: UTF-16 that is without a mark, or (unless ``replace``) damaged.
    """
    if kind_of_head(data[:HEAD_BYTES]) is not FileKind.UTF16:
        return data.decode("utf-8", "replace" if replace else "surrogateescape")
    if not data.startswith(_UTF16_MARKS):
        raise FileError("looks like text in UTF-16 without a byte order mark; save it as UTF-8", path=path)
    try:
        return data.decode("utf-16", "replace" if replace else "strict")
    except UnicodeDecodeError as error:
        raise FileError(f"is damaged text in UTF-16 ({error.reason}); save it as UTF-8", path=path) from error


def _is_utf16(head: bytes) -> bool:
    if head.startswith(_UTF16_MARKS):
        return not head.startswith(codecs.BOM_UTF32_LE)
    # Without a mark: every other byte of English is zero, and there is nothing else that is not text.
    zeros = [half.count(0) for half in (head[0::2], head[1::2])]
    blank = head.replace(b"\0", b" ")
    return min(zeros) == 0 and max(zeros) > max(4, 3 * len(head) // 8) and blank == blank.translate(None, _CONTROL)


def find_hdf5(data: Any) -> int | None:
    """Where an HDF5 file begins in bytes or a map: at 0 or, behind a block of the user's, at 512, 1024, 2048, ..."""
    at = 0
    while at + len(HDF5_SIGNATURE) <= len(data):
        if data[at : at + len(HDF5_SIGNATURE)] == HDF5_SIGNATURE:
            return at
        at = max(512, 2 * at)
    return None


def _has_hdf5_inside(file: BinaryIO) -> bool:
    if os.fstat(file.fileno()).st_size == 0:
        return False
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return find_hdf5(data) is not None
