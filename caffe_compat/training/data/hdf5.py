"""HDF5Data: rows of the data sets in HDF5 files that a list names; HDF5Output: blobs written to one."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from ...errors import FileError
from ...formats.hdf5 import Sink
from ...network.registry import Shape
from .lists import read_lines
from .order import Cursor, permutation, stream
from .source import Empty, Setup, Source, Values

__all__ = ["HDF5Data", "HDF5Output"]

# What h5py raises, depending on which byte of a file is wrong.
_FAILURES = (OSError, RuntimeError, LookupError, ValueError, TypeError, OverflowError)


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

    def __getstate__(self) -> dict[str, Any]:
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
        with _hdf5_errors(path), h5py.File(path, "r") as file:
            for top in self.tops:
                dataset = file.get(top)
                if not isinstance(dataset, h5py.Dataset):
                    raise FileError(f"has no data set {top!r}, only {', '.join(file) or 'nothing'}", path=path)
                if dataset.ndim < 1 or dataset.dtype.kind not in "fiu":
                    raise FileError(
                        f"data set {top!r} ({dataset.dtype}, shape {list(dataset.shape)}) holds no rows of numbers",
                        path=path,
                    )
                shape = tuple(dataset.shape[1:])
                if self._row_shapes.setdefault(top, shape) != shape:
                    raise FileError(
                        f"rows of {top!r} have shape {list(shape)}, the first file's {list(self._row_shapes[top])}",
                        path=path,
                    )
                rows.add(dataset.shape[0])
        if len(rows) > 1 or 0 in rows:
            counts = " and ".join(map(str, sorted(rows)))
            raise FileError(f"has data sets of {counts} rows; equally many, and some, were expected", path=path)
        return rows.pop()

    def _load(self, number: int) -> dict[str, np.ndarray]:
        """The data sets of a file, float32. The last two stay in memory, since a batch may span two."""
        if number not in self._open:
            path = self._files[number].path
            with _hdf5_errors(path), h5py.File(path, "r") as file:
                self._open[number] = {top: file[top][()].astype(np.float32) for top in self.tops}
            while len(self._open) > 2:
                self._open.popitem(last=False)
        return self._open[number]


class HDF5Output:
    """Writes what reaches an HDF5Output layer: data sets ``data`` and ``label``, each as (N, C, H, W) float32.

    Real Caffe makes the file anew when the net is built and fails at the second forward pass; here later passes append
    their rows.

    Raises:
        FileError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        with _hdf5_errors(self.path, "written"):
            self._raw = open(self.path, "w+b")  # noqa: SIM115  # until close()
            self._sink = Sink(self._raw)
            self._file = h5py.File(self.path, "w", driver="fileobj", fileobj=self._sink)

    def write(self, data: Tensor, label: Tensor) -> None:
        """Append the rows of both blobs, which must be equally many."""
        if data.dim() < 1 or label.dim() < 1 or data.shape[0] != label.shape[0]:
            shapes = f"data {list(data.shape)} and label {list(label.shape)}"
            raise FileError(f"{shapes} must have equally many rows", path=self.path)
        with _hdf5_errors(self.path, "written"):
            for name, blob in (("data", data), ("label", label)):
                if blob.dim() > 4:
                    raise FileError(f"{name} has {blob.dim()} axes; Caffe's HDF5Output takes up to 4", path=self.path)
                array = blob.detach().to("cpu", torch.float32).numpy()
                array = array.reshape(array.shape + (1,) * (4 - array.ndim))
                if name not in self._file:
                    self._file.create_dataset(name, data=array, maxshape=(None, *array.shape[1:]))
                    continue
                dataset = self._file[name]
                before, *row_shape = dataset.shape
                if tuple(row_shape) != array.shape[1:]:
                    raise FileError(
                        f"{name} has rows of shape {list(array.shape[1:])} after {row_shape}", path=self.path
                    )
                dataset.resize(before + len(array), axis=0)
                dataset[before:] = array
            self._file.flush()
            self._sink.check()

    def close(self) -> None:
        """Finish the file. Raises FileError if that fails and nothing did before."""
        failed = self._sink.error is not None
        try:
            with _hdf5_errors(self.path, "written"):
                self._file.close()
                self._raw.close()
                self._sink.check()
        except FileError:
            if not failed:
                raise

    def __enter__(self) -> HDF5Output:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextmanager
def _hdf5_errors(path: str, doing: str = "read") -> Iterator[None]:
    try:
        yield
    except FileError:
        raise
    except _FAILURES as error:
        raise FileError(f"cannot be {doing} as HDF5: {error}", path=path) from error
