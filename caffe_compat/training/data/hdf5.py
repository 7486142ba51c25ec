"""HDF5Data: rows of the data sets in HDF5 files that a list names."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch

from ...errors import FileError
from ...formats.hdf5 import Group, check_array, find, is_dataset, names_in, open_hdf5, read_array, shape_and_type
from ...network.registry import Shape
from .lists import read_lines
from .order import Cursor, permutation, stream
from .source import Empty, Setup, Source, Values

__all__ = ["HDF5Data"]


@dataclass(frozen=True)
class _File:
    path: str
    rows: int


class HDF5Data(Source):
    """The rows of all files, file after file; with ``shuffle`` the files in random order, and the rows within each.

    Every top has a data set of its name. Processes that train together take turns row by row, as Caffe's solvers do.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        params = setup.params("hdf5_data_param")
        setup.check_tops(1, 10**6)
        if setup.message.HasField("transform_param"):
            setup.fail("does not transform data; leave transform_param out")
        self.batch_size = setup.batch_size(params)
        list_path = setup.folder.locate(params.source, self.name)
        self._files = []
        self._row_shapes: dict[str, Shape] = {}
        for number, line in read_lines(list_path):
            for word in line.split():  # Caffe separates names by any white space
                path = setup.folder.locate(os.fsdecode(word), self.name)
                if not os.path.isfile(path):
                    raise FileError(f"there is no file {path}", path=list_path, line=number)
                self._files.append(_File(path, self._look_at(path)))
        self._ends = np.cumsum([file.rows for file in self._files])
        self._shuffle = setup.stream("shuffle") if params.shuffle else None
        self.cursor = Cursor(
            int(self._ends[-1]),
            self.batch_size,
            rank=setup.rank,
            world_size=setup.world_size,
            interleaved=True,
        )
        self._open: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}

    def shapes(self) -> dict[str, Shape]:
        return {top: (self.batch_size, *self._row_shapes[top]) for top in self.tops}

    def read(self, index: int, empty: Empty) -> dict[str, Values]:
        tops = {top: empty(shape, torch.float32) for top, shape in self.shapes().items()}
        for i, position in enumerate(self.cursor.positions(index).tolist()):
            file, row = self._place(*divmod(position, self.cursor.size))
            arrays = self._load(file)
            for top, blob in tops.items():
                blob[i] = torch.from_numpy(np.asarray(arrays[top][row]))
        return {top: Values(blob) for top, blob in tops.items()}

    def _place(self, epoch: int, at: int) -> tuple[int, int]:
        """File and row of the sample ``at`` of a pass over all files."""
        if self._shuffle is None:
            file = int(np.searchsorted(self._ends, at, side="right"))
            return file, at - int(self._ends[file]) + self._files[file].rows
        files = permutation(stream(self._shuffle, epoch, "files"), len(self._files))
        ends = np.cumsum([self._files[f].rows for f in files])
        turn = int(np.searchsorted(ends, at, side="right"))
        file = int(files[turn])
        rows = permutation(stream(self._shuffle, epoch, file), self._files[file].rows)
        return file, int(rows[at - int(ends[turn]) + self._files[file].rows])

    def _look_at(self, path: str) -> int:
        """How many rows a file has; all its data sets must agree, and fit those of the files before."""
        rows = set()
        with open_hdf5(path) as file:
            for top in self.tops:
                count, *row = self._shape_of(file, top, path)
                shape = tuple(row)
                if 0 in shape:  # nothing in the file bounds how many there are
                    raise FileError(f"rows of {top!r} of shape {list(shape)} hold no values", path=path)
                if self._row_shapes.setdefault(top, shape) != shape:
                    raise FileError(
                        f"rows of {top!r} have shape {list(shape)}, the first file's {list(self._row_shapes[top])}",
                        path=path,
                    )
                rows.add(count)
        if len(rows) > 1 or 0 in rows:
            counts = " and ".join(map(str, sorted(rows)))
            raise FileError(f"has data sets of {counts} rows; equally many, and some, were expected", path=path)
        return rows.pop()

    def _shape_of(self, file: Group, top: str, path: str) -> Shape:
        """The shape of the data set that ``top`` takes its rows from. Raises FileError if it has none."""
        dataset = find(file, top)
        if not is_dataset(dataset):
            raise FileError(f"has no data set {top!r}, only {', '.join(names_in(file)) or 'nothing'}", path=path)
        shape, dtype = shape_and_type(dataset)
        if not shape or dtype.kind not in "fiu":
            raise FileError(f"data set {top!r} ({dtype}, shape {shape}) holds no rows of numbers", path=path)
        return check_array(dataset)

    def _load(self, number: int) -> dict[str, np.ndarray]:
        """The data sets of a file, float32. The last two stay in memory, since a batch may span two."""
        if number not in self._open:
            with open_hdf5(self._files[number].path) as file:
                self._open[number] = {top: self._rows(file, top) for top in self.tops}
            while len(self._open) > 2:
                self._open.popitem(last=False)
        return self._open[number]

    def _rows(self, file: Group, top: str) -> np.ndarray:
        dataset = find(file, top)
        if dataset is None:
            raise FileError(f"has no data set {top!r} any more", path=file.filename)
        return read_array(dataset).astype(np.float32, copy=False)
