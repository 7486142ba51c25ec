"""LMDB and LevelDB written as Caffe writes them: a thousand records a transaction, in the order in which they come.

The database appears under its name when it is complete; one that is there already is never touched, as in Caffe.
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from ..errors import FileError
from ..extras import require
from .databases import Backend
from .files import reason_of, staged_folder

__all__ = ["COMMIT_EVERY", "DatabaseWriter", "new_database"]

COMMIT_EVERY = 1000
_FIRST_MAP = 10 << 20  # bytes; LMDB's own default, which Caffe doubles when it is full
_LONGEST_KEY = 511  # bytes, of LMDB as it is built


class DatabaseWriter(ABC):
    """Takes records.

    Attributes:
        count: of records so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._waiting: list[tuple[bytes, bytes]] = []

    def put(self, key: bytes, value: bytes) -> None:
        """Add a record. Raises FileError: it cannot be written."""
        self._waiting.append((key, value))
        self.count += 1
        if len(self._waiting) == COMMIT_EVERY:
            self.commit()

    def commit(self) -> None:
        """Write what waits."""
        if self._waiting:
            self._write(self._waiting)
        self._waiting = []

    @abstractmethod
    def _write(self, records: list[tuple[bytes, bytes]]) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


@contextmanager
def new_database(path: str, backend: Backend) -> Iterator[DatabaseWriter]:
    """A new database that is at ``path`` when the block ends, and nowhere if it fails.

    Raises:
        FileError: something is at ``path`` already, or it cannot be written. MissingExtraError: the library is not
            installed.
    """
    library = require("lmdb", "lmdb") if backend == "LMDB" else require("plyvel", "leveldb")
    with staged_folder(path) as folder:
        try:
            writer = _LmdbWriter(library, folder) if backend == "LMDB" else _LevelDbWriter(library, folder)
            try:
                yield writer
                writer.commit()
            finally:
                writer.close()
        except library.Error as error:
            raise FileError(f"the database cannot be written: {_reason(error, folder, path)}", path=path) from error


def _reason(error: Exception, folder: str, path: str) -> str:
    """What a library says of a failure in ``folder``, which will be ``path``; LevelDB's says it in bytes."""
    told = error.args[0] if error.args else ""
    text = told.decode("utf-8", "replace") if isinstance(told, bytes) else str(error)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return reason_of(full) if str(full.strerror) in text else text.replace(folder, path)


class _LmdbWriter(DatabaseWriter):
    def __init__(self, library: ModuleType, folder: str) -> None:
        super().__init__()
        self._library = library
        self._size = _FIRST_MAP
        self._database: Any = library.open(folder, map_size=self._size, mode=0o664)

    def put(self, key: bytes, value: bytes) -> None:
        if len(key) > _LONGEST_KEY:
            name = key.decode("utf-8", "replace")
            raise FileError(f"the key {name!r} has {len(key)} bytes, LMDB takes {_LONGEST_KEY}; LevelDB has no limit")
        super().put(key, value)

    def _write(self, records: list[tuple[bytes, bytes]]) -> None:
        while True:
            try:
                with self._database.begin(write=True) as transaction:
                    for key, value in records:
                        transaction.put(key, value)
                return
            except self._library.MapFullError:
                self._size *= 2
                self._database.set_mapsize(self._size)

    def close(self) -> None:
        self._database.close()


class _LevelDbWriter(DatabaseWriter):
    def __init__(self, library: ModuleType, folder: str) -> None:
        super().__init__()
        # Caffe's own settings.
        self._database: Any = library.DB(
            folder, create_if_missing=True, write_buffer_size=1 << 28, block_size=1 << 16, max_open_files=100
        )

    def _write(self, records: list[tuple[bytes, bytes]]) -> None:
        with self._database.write_batch() as batch:
            for key, value in records:
                batch.put(key, value)

    def close(self) -> None:
        self._database.close()
