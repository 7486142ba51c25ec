"""HDF5 files written: whole or not at all, or row by row; also where the disk may fill up."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import h5py
import numpy as np

from ..errors import FileError
from .files import atomic_write
from .hdf5 import Group, attribute, hdf5_errors, open_hdf5
from .sink import Sink

__all__ = ["RowFile", "create_hdf5", "write_c_string"]

# The attribute by which a RowFile knows another.
_MARK, _MADE_BY = "made_by", "caffe_compat HDF5Output"


@contextmanager
def create_hdf5(path: str | os.PathLike[str]) -> Iterator[Group]:
    """A new HDF5 file that takes the place of ``path`` when the block ends, and vanishes if it fails.

    It is of the oldest format, which every HDF5 that a Caffe was built with reads. Raises FileError.
    """
    with atomic_write(path) as handle:
        sink = Sink(handle)
        with (
            hdf5_errors("cannot be written", os.fspath(path)),
            h5py.File(handle.name, "w", driver="fileobj", fileobj=sink, libver=("earliest", "latest")) as file,
        ):
            yield file
        sink.check()


def write_c_string(group: Group, name: str, text: str) -> None:
    """A data set of one string with the zero at its end that C, and Caffe's reader, rely on."""
    encoded = text.encode() + b"\0"
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(encoded))
    space = h5py.h5s.create(h5py.h5s.SCALAR)
    dataset = h5py.h5d.create(group.id, name.encode(), kind, space)
    dataset.write(space, space, np.array(encoded, f"S{len(encoded)}"))


class RowFile:
    """Data sets of float32 of four axes in a new file, to which rows are appended.

    It bears a mark, and only a file with that mark, an earlier run's, is replaced. After every :meth:`write` the file
    on disk is whole. One that could not be finished is removed.

    Raises:
        FileError: the file cannot be written, or is another one's.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._closed = False
        self._check_ours()
        with hdf5_errors("cannot be written as HDF5", self.path):
            self._raw = open(self.path, "w+b")  # noqa: SIM115  # until close()
            self._sink = Sink(self._raw)
            self._file = h5py.File(self.path, "w", driver="fileobj", fileobj=self._sink)
            self._file.attrs[_MARK] = _MADE_BY

    def _check_ours(self) -> None:
        if not os.path.exists(self.path):
            return
        try:
            with open_hdf5(self.path, locking=False) as file:
                ours = attribute(file, _MARK) == _MADE_BY
        except FileError:
            ours = False
        if not ours:
            message = "exists and was not written by an HDF5Output layer of this program, so it is not overwritten"
            raise FileError(f"{message}; remove it, or write elsewhere", path=self.path)

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Append the rows of one array for each name, equally many of each; axes of length 1 are added up to four.

        Raises:
            FileError: arrays that do not fit each other or the rows before, or the file cannot be written.
        """
        shapes = [f"{name} {list(array.shape)}" for name, array in arrays.items()]
        if min(array.ndim for array in arrays.values()) < 1 or len({array.shape[0] for array in arrays.values()}) > 1:
            raise FileError(f"{' and '.join(shapes)} must have equally many rows", path=self.path)
        for name, array in arrays.items():
            if array.ndim > 4:
                raise FileError(f"{name} has {array.ndim} axes; Caffe's HDF5Output takes up to 4", path=self.path)
        try:
            with hdf5_errors("cannot be written as HDF5", self.path):
                self._sink.check()
                for name, array in arrays.items():
                    self._append(name, np.asarray(array, np.float32).reshape(array.shape + (1,) * (4 - array.ndim)))
                self._file.flush()
                self._sink.check()
        except FileError:
            if self._sink.error is not None:
                self.close()
            raise

    def _append(self, name: str, array: np.ndarray) -> None:
        if name not in self._file:
            self._file.create_dataset(name, data=array, maxshape=(None, *array.shape[1:]))
            return
        dataset = self._file[name]
        before, *row_shape = dataset.shape
        if tuple(row_shape) != array.shape[1:]:
            raise FileError(f"{name} has rows of shape {list(array.shape[1:])} after {row_shape}", path=self.path)
        dataset.resize(before + len(array), axis=0)
        dataset[before:] = array

    def close(self) -> None:
        """Finish the file, once. Raises FileError if that fails and nothing did before."""
        if self._closed:
            return
        self._closed = True
        failed = self._sink.error is not None
        try:
            with hdf5_errors("cannot be written as HDF5", self.path):
                self._file.close()
                self._raw.close()
                self._sink.check()
        except FileError:
            if not failed:
                raise
        finally:
            if self._sink.error is not None:
                with suppress(OSError):
                    os.unlink(self.path)

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
