"""The records of an LMDB, looked through once; run by :func:`.guarded.guarded`.

LMDB maps its file and follows the page numbers in it: one beyond the end of the file, or a value that is said to be
longer than the file, ends the process that touches it. So the tree of pages is followed here first, without touching
the values. Its layout is that of lmdb.h and mdb.c, version 0.9, on machines of 64 bits.
"""

from __future__ import annotations

import mmap
import os
import struct
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np

from ..errors import FileError
from ..extras import require
from .files import open_file

__all__ = ["data_file", "open_lmdb", "read_keys"]

_PAGE = struct.Struct("<QHHHH")  # number, (unused), flags, end of the nodes' places, begin of the nodes
_META = struct.Struct("<II8x8x 48x IHHQQQQQ QQ")  # magic, version, ..., the main tree, last page, transaction
_MAGIC = 0xBEEFC0DE
_BRANCH, _LEAF = 1, 2
_BIG = 1  # a node whose value lies in pages of its own
_NODE = 8  # bytes before its key
_LONGEST_KEY = 511
_DEPTH = 32  # the library's stack of pages


def data_file(path: str) -> str:
    """The file that holds the records: an LMDB is a folder, or the file alone."""
    return os.path.join(path, "data.mdb") if os.path.isdir(path) else path


def open_lmdb(path: str) -> Any:
    """The library's environment, for reading.

    Raises:
        FileError: it cannot be opened, or is cut short. MissingExtraError: lmdb is not installed.
    """
    lmdb = require("lmdb", "lmdb")
    try:
        handle = lmdb.open(path, readonly=True, create=False, lock=False, readahead=False, subdir=os.path.isdir(path))
        used = (handle.info()["last_pgno"] + 1) * handle.stat()["psize"]
    except lmdb.Error as error:
        raise FileError(f"LMDB cannot read it: {error}", path=path) from error
    file = data_file(path)
    if os.path.getsize(file) < used:
        handle.close()
        raise FileError(f"is truncated: {os.path.getsize(file)} of {used} bytes are there", path=file)
    return handle


def read_keys(path: str) -> dict[str, np.ndarray]:
    """All keys in order: ``bytes``, one after the other (uint8), and their ``lengths``. Every value lies in the file.

    Raises:
        FileError: damaged, or cut short.
    """
    lmdb = require("lmdb", "lmdb")
    handle = open_lmdb(path)
    try:
        _check_tree(data_file(path), handle.stat()["psize"])
        with handle.begin() as transaction:
            keys = list(transaction.cursor().iternext(keys=True, values=False))
        if any(not a < b for a, b in pairwise(keys)) or not all(keys):
            _refuse(path, "its keys are not in order")  # the library would not find them
    except lmdb.Error as error:
        raise FileError(f"LMDB cannot read it: {error}", path=path) from error
    finally:
        handle.close()
    return {
        "bytes": np.frombuffer(b"".join(keys), np.uint8),
        "lengths": np.array([len(key) for key in keys], np.int64),
    }


def _check_tree(path: str, page_size: int) -> None:
    """Follow every page of the main tree.

    Raises:
        FileError: a page, node or value lies where there is none.
    """
    with open_file(path) as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # goes with the last array that looks into it
    pages = _Pages(np.frombuffer(mapped, np.uint8), page_size, path)
    depth, root = pages.tree()
    level, seen = [] if root == 2**64 - 1 else [root], 0
    for _ in range(depth):
        seen += len(level)
        if seen > pages.count:
            _refuse(path, "its pages go round")
        level = [child for page in level for child in pages.children(page)]
    if level:
        _refuse(path, f"its tree is deeper than the {depth} pages that it says")


class _Pages:
    def __init__(self, data: np.ndarray, size: int, path: str) -> None:
        self.data, self.size, self.path = data, size, path
        self.count = len(data) // size

    def tree(self) -> tuple[int, int]:
        """Depth and root of the main tree, as the newer of the two first pages says."""
        metas = [_META.unpack_from(self.data.data, page * self.size + _PAGE.size) for page in (0, 1)]
        meta = max((meta for meta in metas if meta[0] == _MAGIC), key=lambda meta: meta[-1], default=None)
        if meta is None or meta[4] > _DEPTH:
            _refuse(self.path, "its first pages are none")
        return int(meta[4]), int(meta[9])

    def children(self, page: int) -> list[int]:
        """Check a page and all its nodes; the pages below a branch."""
        start = page * self.size
        if not 2 <= page < self.count:
            _refuse(self.path, f"page {page} is none of its {self.count} pages")
        _, _, flags, lower, upper = _PAGE.unpack_from(self.data.data, start)
        kind = flags & (_BRANCH | _LEAF)
        if kind not in (_BRANCH, _LEAF) or not _PAGE.size <= lower <= upper <= self.size or flags & 0x20 or lower % 2:
            _refuse(self.path, f"page {page} is no page of keys")
        places = self.data[start + _PAGE.size : start + lower].view("<u2").astype(np.int64)
        if (places + _NODE > self.size).any() or (places < upper).any():
            _refuse(self.path, f"a key of page {page} lies beyond it")
        low, high, flags, key_size = self._words(start + places, 4)
        if (key_size > _LONGEST_KEY).any():
            _refuse(self.path, f"a key of page {page} is longer than keys are")
        ends = places + _NODE + key_size
        if kind == _BRANCH:
            below = low | high << 16 | flags << 32
            if (ends > self.size).any():
                _refuse(self.path, f"a key of page {page} lies beyond it")
            return [int(child) for child in below]
        sizes, big = low | high << 16, (flags & _BIG).astype(bool)
        if (ends + np.where(big, 8, sizes) > self.size).any():
            _refuse(self.path, f"a value of page {page} lies beyond it")
        words = self._words(start + ends[big], 4)
        first = words[0] | words[1] << 16 | words[2] << 32
        beyond = first * self.size + _PAGE.size + sizes[big] > len(self.data)
        if (words[3] | beyond | (first < 2)).any():
            _refuse(self.path, f"a value that page {page} names lies beyond the end of the file")
        return []

    def _words(self, places: np.ndarray, count: int) -> list[np.ndarray]:
        """The ``count`` numbers of 16 bits at each place, one array for each of them."""
        found = self.data[places[:, np.newaxis] + np.arange(2 * count)].view("<u2").astype(np.int64)
        return list(found.reshape(-1, count).T)


def _refuse(path: str, detail: str) -> NoReturn:
    raise FileError(f"is a damaged LMDB: {detail}", path=path)
