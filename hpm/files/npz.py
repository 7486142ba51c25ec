"""Arrays of npz and npy files; those of objects as :mod:`.pickles` reads them, without running anything."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from typing import Any

import numpy as np

from caffe_compat.errors import FileError
from caffe_compat.formats.files import open_file, read_file

from .pickles import MAX_BYTES, Refused, array_view, safe_load

__all__ = ["read_npy", "read_npz"]


def read_npz(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Every array of an npz file by name; an array of objects is read as ``safe_load`` reads a pickle.

    Raises:
        FileError: no npz, damaged, too large, or an array of objects that are not plain values.
    """
    name = os.fspath(path)
    with open_file(path) as handle:
        try:
            with zipfile.ZipFile(handle) as archive:
                entries = archive.infolist()
                if sum(entry.file_size for entry in entries) > 4 * MAX_BYTES:
                    raise FileError(f"unpacks to more than {4 * MAX_BYTES} bytes", path=name)
                return {
                    e.filename.removesuffix(".npy"): _npy(_member(archive, e), f"{name}: {e.filename}") for e in entries
                }
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError, OSError) as error:
            raise FileError(f"no npz file, or a damaged one: {error}", path=name) from error


def read_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """An ``.npy`` array of numbers. Raises FileError of anything else."""
    name = os.fspath(path)
    array = _npy(read_file(path), name)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise FileError("an .npy array of numbers was expected", path=name)
    return array


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as handle:
        data = handle.read(entry.file_size + 1)
    if len(data) > entry.file_size:
        raise zipfile.BadZipFile(f"{entry.filename} is longer than it says")
    return data


def _npy(data: bytes, path: str) -> Any:
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"npy format version {version}")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(stream)
        if not dtype.hasobject:
            return array_view(data[stream.tell() :], dtype, shape, fortran)
    except (ValueError, Refused) as error:
        raise FileError(f"no npy array: {error}", path=path) from error
    value = safe_load(data[stream.tell() :], path=path)
    found = value.shape if isinstance(value, np.ndarray) else ()
    if found != shape:
        raise FileError(f"says that its shape is {shape}, and holds {found}", path=path)
    return value
