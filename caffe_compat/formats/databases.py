"""LMDB and LevelDB, the databases that Caffe reads: keys in order, values by number."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal
from weakref import WeakValueDictionary

import numpy as np

from ..errors import FileError
from ..extras import require
from .guarded import guarded
from .lmdb_records import data_file, open_lmdb, read_keys

__all__ = ["Backend", "Database", "open_database"]

Backend = Literal["LMDB", "LEVELDB"]


def open_database(path: str, backend: Backend) -> Database:
    """The database in ``path``, read-only.

    Raises:
        FileError: it is not there, empty, truncated or damaged. MissingExtraError: the library is not installed.
    """
    return _Lmdb(path) if backend == "LMDB" else _LevelDb(path)


# Neither library opens one database twice in a process, and neither survives a fork with one open.
_OPEN: WeakValueDictionary[tuple[int, str], _Handle] = WeakValueDictionary()


@dataclass(eq=False)
class _Handle:
    """A library's open database, closed with the last reference to it."""

    database: Any

    def __del__(self) -> None:
        self.database.close()


class Database(ABC):
    """Keys in order, and values by number. Every process opens the files for itself, once.

    Attributes:
        title: what kind of database it is. library: the module that reads it, and the extra that brings it.
        max_readers: how many processes may read at a time; None for any number.
    """

    title: str
    library: tuple[str, str]
    max_readers: int | None = None

    def __init__(self, path: str) -> None:
        self.path = path
        self._handle: _Handle | None = None
        self._owner = 0
        self.keys: list[bytes] = self._read_keys()
        if not self.keys:
            raise FileError("is empty: the database holds no records", path=path)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_handle": None, "_owner": 0}

    def label(self, i: int) -> str:
        """Record ``i`` in words."""
        return f"record {i} (key {self.keys[i].decode('utf-8', 'replace')!r})"

    @property
    def handle(self) -> Any:
        """The library's object, opened by this process."""
        if self._handle is None or self._owner != os.getpid():
            if not os.path.isdir(self.path) and not os.path.isfile(self.path):
                raise FileError("there is no such database", path=self.path)
            key = os.getpid(), os.path.realpath(self.path)
            handle = _OPEN.get(key)
            if handle is None:
                handle = _OPEN[key] = _Handle(self._open())
            self._handle, self._owner = handle, os.getpid()
        return self._handle.database

    def close(self) -> None:
        """Let go of the files; the next read opens them again."""
        self._handle = None

    @abstractmethod
    def _open(self) -> Any: ...

    @abstractmethod
    def _read_keys(self) -> list[bytes]: ...

    @abstractmethod
    def _value(self, key: bytes) -> bytes | None: ...

    def get(self, i: int) -> bytes:
        """The value of record ``i``."""
        with self._errors():
            value = self._value(self.keys[i])
        if value is None:
            raise FileError("is gone: the database changed while it was read", path=self.path, place=self.label(i))
        return bytes(value)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What the library raises, as errors of the file."""
        try:
            yield
        except require(*self.library).Error as error:
            raise FileError(f"{self.title} cannot read it: {error}", path=self.path) from error


class _Lmdb(Database):
    title, library = "LMDB", ("lmdb", "lmdb")

    def _open(self) -> Any:
        return open_lmdb(self.path)

    def _read_keys(self) -> list[bytes]:
        require("lmdb", "lmdb")
        file = data_file(self.path)
        if not os.path.isfile(file):
            absent = not os.path.exists(self.path)
            raise FileError(
                "there is no such database" if absent else "LMDB cannot read it: there is no data.mdb in it",
                path=self.path,
            )
        status = os.stat(file)
        version = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        return _keys_of(self.path, version)

    def _value(self, key: bytes) -> bytes | None:
        with self.handle.begin() as transaction:
            found: bytes | None = transaction.get(key)
        return found


# A pass over the keys of ten million pictures; a database of terabytes takes longer.
_BYTES_A_SECOND = 2**26


@lru_cache(maxsize=16)
def _keys_of(path: str, version: tuple[int, ...]) -> list[bytes]:
    """The keys of an LMDB, once for every ``version`` of its file, all of whose values lie within it."""
    found = guarded(read_keys, path, more_seconds=version[2] / _BYTES_A_SECOND)
    whole, ends = found["bytes"].tobytes(), np.cumsum(found["lengths"]).tolist()
    return [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]


class _LevelDb(Database):
    title, library = "LevelDB", ("plyvel", "leveldb")
    max_readers = 1

    def _open(self) -> Any:
        plyvel = require("plyvel", "leveldb")
        try:
            return plyvel.DB(self.path, create_if_missing=False, max_open_files=100)
        except (plyvel.Error, OSError) as error:
            raise FileError(
                f"LevelDB cannot open it: {error}. One process at a time may open it (LMDB has no such limit)",
                path=self.path,
            ) from error

    def _read_keys(self) -> list[bytes]:
        with self._errors(), self.handle.iterator(include_value=False, verify_checksums=True) as iterator:
            return list(iterator)

    def _value(self, key: bytes) -> bytes | None:
        found: bytes | None = self.handle.get(key, verify_checksums=True)
        return found
