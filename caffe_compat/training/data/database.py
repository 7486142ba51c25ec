"""Data: samples (Datum messages) in an LMDB or LevelDB."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn
from weakref import WeakValueDictionary

import numpy as np
import torch
from google.protobuf.message import DecodeError

from ...errors import FileError, located
from ...extras import require
from ...network.registry import Shape
from ...schema import load_schema
from ...schema.messages import Datum
from .images import decode_image
from .order import Cursor
from .source import Empty, Setup, Source, Values
from .transformer import DataTransformer

__all__ = ["Data"]


class Data(Source):
    """The records of a database in the order of their keys, over and over.

    Processes that train together take turns record by record, as Caffe's solvers do; in phase TEST each reads them all.
    LevelDB lets one process at a time open a database and writes its own logs into the folder even then.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        params = setup.params("data_param")
        setup.check_tops(1, 2)
        self.batch_size = setup.batch_size(params)
        self.prefetch = max(1, params.prefetch)
        self.transformer = DataTransformer(setup)
        setup.ignore_moved(params)
        for name in ("rand_skip", "force_encoded_color"):
            if params.has(name):
                setup.note(f"data_param.{name} has no effect, as in Caffe")
        path = setup.folder.locate(params.source, self.name)
        self.database: _Database = _Lmdb(path) if params.backend == "LMDB" else _LevelDb(path)
        self.max_workers = self.database.max_readers
        self._datum = load_schema().message("Datum")
        self.cursor = Cursor(
            len(self.database.keys),
            self.batch_size,
            rank=setup.rank,
            world_size=setup.world_size,
            interleaved=True,
        )
        first = int(self.cursor.samples(0)[0])
        image, _ = self._read(first)
        if self.transformer.decode_mode != "native" and not self._datum.FromString(self.database.get(first)).encoded:
            setup.note("force_color and force_gray have no effect on images that are stored raw, as in Caffe")
        try:
            self._data_shape = self.transformer.output_shape(*image.shape)
        except FileError as error:
            self._refuse(first, error)
        self.byte_tops = self.tops[:1] if self.transformer.mean is None and image.dtype == np.uint8 else ()
        self.database.close()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_datum"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._datum = load_schema().message("Datum")

    def shapes(self) -> dict[str, Shape]:
        return dict(zip(self.tops, ((self.batch_size, *self._data_shape), (self.batch_size,)), strict=False))

    def read(self, index: int, empty: Empty) -> dict[str, Values]:
        samples: list[int] = self.cursor.samples(index).tolist()
        labels: list[int] = []

        def images() -> Iterator[np.ndarray]:
            for i in samples:
                image, label = self._read(i)
                labels.append(label)
                yield image

        positions = self.cursor.positions(index).tolist()
        tops = [self.transformer(images(), positions, empty, lambda i, error: self._refuse(samples[i], error))]
        if len(self.tops) > 1:
            tops.append(Values(torch.tensor(labels, dtype=torch.float32)))
        return dict(zip(self.tops, tops, strict=True))

    def _read(self, i: int) -> tuple[np.ndarray, int]:
        """Image (H, W, C) and label of record ``i``."""
        try:
            datum = self._datum.FromString(self.database.get(i))
        except DecodeError as error:
            self._refuse(i, FileError(f"is no Datum: {error}"))
        with located(place=self.database.label(i), path=self.database.path):
            return _image_of(datum, self.transformer), datum.label

    def _refuse(self, i: int, error: FileError) -> NoReturn:
        raise error.within(place=self.database.label(i), path=self.database.path)


def _image_of(datum: Datum, transformer: DataTransformer) -> np.ndarray:
    """The pixels of a datum: (H, W, C), uint8 or float32. Raw ones are stored as planes."""
    if datum.encoded:
        return decode_image(datum.data, transformer.decode_mode)
    shape = (datum.channels, datum.height, datum.width)
    planes = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    if min(shape) < 1 or planes.size != shape[0] * shape[1] * shape[2]:
        raise FileError(f"has {planes.size} values for channels, height and width {list(shape)}")
    return planes.reshape(shape).transpose(1, 2, 0)


# Neither library opens one database twice in a process, and neither survives a fork with one open.
_OPEN: WeakValueDictionary[tuple[int, str], _Handle] = WeakValueDictionary()


@dataclass(eq=False)
class _Handle:
    """A library's open database, closed with the last reference to it."""

    database: Any

    def __del__(self) -> None:
        self.database.close()


class _Database(ABC):
    """Keys in order, and values by number. Every process opens the files for itself, once."""

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
    def get(self, i: int) -> bytes:
        """The value of record ``i``."""


class _Lmdb(_Database):
    def _open(self) -> Any:
        lmdb = require("lmdb", "lmdb")
        with self._errors():
            handle = lmdb.open(
                self.path, readonly=True, create=False, lock=False, readahead=False, subdir=os.path.isdir(self.path)
            )
            # The library maps the file: a page beyond its end would end the process, not raise.
            used = (handle.info()["last_pgno"] + 1) * handle.stat()["psize"]
        file = os.path.join(self.path, "data.mdb") if os.path.isdir(self.path) else self.path
        if os.path.getsize(file) < used:
            handle.close()
            raise FileError(f"is truncated: {os.path.getsize(file)} of {used} bytes are there", path=file)
        return handle

    def _read_keys(self) -> list[bytes]:
        with self._errors(), self.handle.begin() as transaction:
            return list(transaction.cursor().iternext(keys=True, values=False))

    def get(self, i: int) -> bytes:
        with self._errors(), self.handle.begin() as transaction:
            value = transaction.get(self.keys[i])
        if value is None:
            raise FileError("is gone: the database changed while it was read", path=self.path, place=self.label(i))
        return bytes(value)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except require("lmdb", "lmdb").Error as error:
            raise FileError(f"LMDB cannot read it: {error}", path=self.path) from error


class _LevelDb(_Database):
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

    def get(self, i: int) -> bytes:
        with self._errors():
            value = self.handle.get(self.keys[i], verify_checksums=True)
        if value is None:
            raise FileError("is gone: the database changed while it was read", path=self.path, place=self.label(i))
        return bytes(value)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except require("plyvel", "leveldb").Error as error:
            raise FileError(f"LevelDB cannot read it: {error}", path=self.path) from error
