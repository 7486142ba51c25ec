"""What several of the programs share."""

from __future__ import annotations

from ...errors import UsageError
from ...formats.databases import Backend
from ..options import note

__all__ = ["backend_of", "usage"]


def usage(text: str) -> int:
    """Show how a program is called, on stderr; the status that Caffe's end with."""
    note(f"Usage: {text}")
    return 1


def backend_of(text: str) -> Backend:
    """The backend that a program was told. Raises UsageError: another than Caffe's two."""
    if text not in ("lmdb", "leveldb"):
        raise UsageError(f"unknown database backend {text!r}; lmdb or leveldb was expected")
    return "LMDB" if text == "lmdb" else "LEVELDB"
