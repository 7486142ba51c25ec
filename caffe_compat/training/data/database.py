"""Data: samples (Datum messages) in an LMDB or LevelDB."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import numpy as np
import torch
from google.protobuf.message import DecodeError

from ...errors import FileError, located
from ...formats.databases import open_database
from ...network.registry import Shape
from ...schema import load_schema
from .datum import image_of
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
        self.database = open_database(path, "LMDB" if params.backend == "LMDB" else "LEVELDB")
        self.max_workers = self.database.max_readers
        self._datum = load_schema().message("Datum")
        self.cursor = Cursor(
            len(self.database.keys),
            self.batch_size,
            rank=setup.rank,
            world_size=setup.world_size,
            interleaved=True,
        )
        first = self.cursor.first()
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
            return image_of(datum, self.transformer.decode_mode), datum.label

    def _refuse(self, i: int, error: FileError) -> NoReturn:
        raise error.within(place=self.database.label(i), path=self.database.path)
