"""Arrays in ``.npy`` and ``.npz`` files: the only place that reads them. Nothing in them runs.

A header is compared with what the file holds before memory is taken. Numpy's own reader is asked for the header alone.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np

from ..errors import FileError, first_line
from .files import open_file
from .limits import ARRAYS
from .sizes import MAX_BLOB_AXES

__all__ = ["read_npy", "read_npz", "write_npy", "write_npz"]

_NUMBERS = "fiub"
_NUMBERS_AND_TEXT = "biufcSU"


def read_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """The array of numbers in an ``.npy`` file, mapped and read-only.

    Raises:
        FileError: it cannot be read, is damaged, declares more than it holds, or holds something else than numbers.
    """
    name = os.fspath(path)
    with open_file(name) as file:
        shape, fortran, dtype = _header(file, "is no .npy array", name)
        if dtype.kind not in _NUMBERS:
            raise FileError(f"an .npy array of numbers was expected, found {dtype}", path=name)
        start, held = file.tell(), os.fstat(file.fileno()).st_size
        needed = math.prod(shape) * dtype.itemsize
        if needed > held - start:
            message = f"declares {needed} bytes for its shape {list(shape)} and holds {held - start}"
            raise FileError(f"is no .npy array: its header {message}", path=name)
        try:
            return np.memmap(file, dtype, "r", start, shape, "F" if fortran else "C").view(np.ndarray)
        except (OSError, ValueError, OverflowError) as error:
            raise FileError(f"cannot be mapped into memory: {error}", path=name) from error


def read_npz(path: str | os.PathLike[str], unpickle: Callable[[bytes, str], Any] | None = None) -> dict[str, Any]:
    """Every array of an npz file by name, read-only.

    Args:
        unpickle: what reads an array of objects, from its pickle and its name for error messages; None refuses them.

    Raises:
        FileError: no npz, damaged, too large, or with something else in it than arrays of numbers and text.
    """
    name = os.fspath(path)
    found: dict[str, Any] = {}
    with open_file(name) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                for entry in _checked(archive, os.fstat(file.fileno()).st_size, name):
                    key = entry.filename.removesuffix(".npy")
                    if key in found:
                        raise FileError(f"has two arrays named {key!r}", path=name)
                    found[key] = _array(_member(archive, entry), f"{name}: {entry.filename}", unpickle)
        except FileError:
            raise
        except Exception as error:  # zipfile raises nearly anything, depending on which byte is wrong
            raise FileError(f"no npz file, or a damaged one: {first_line(error)}", path=name) from error
    return found


def _checked(archive: zipfile.ZipFile, size: int, name: str) -> list[zipfile.ZipInfo]:
    """The members, if together they neither overlap nor unpack to too much."""
    entries = archive.infolist()
    for entry in entries:
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise FileError(f"no npz file: {entry.filename} is packed by a method that numpy does not write", path=name)
    packed = sum(entry.compress_size for entry in entries)
    stored = sum(entry.file_size for entry in entries if entry.compress_type == zipfile.ZIP_STORED)
    if max(packed, stored) > size:
        raise FileError("no npz file, or a damaged one: it declares more bytes than it holds", path=name)
    ARRAYS.check(sum(entry.file_size for entry in entries), "all its arrays unpacked", name)
    return entries


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as handle:
        data = handle.read(entry.file_size + 1)  # to the end, where the checksum is looked at
    if len(data) != entry.file_size:
        raise zipfile.BadZipFile(f"{entry.filename} is not as long as it says")
    return data


def _array(data: bytes, path: str, unpickle: Callable[[bytes, str], Any] | None) -> Any:
    stream = io.BytesIO(data)
    shape, fortran, dtype = _header(stream, "no npy array", path)
    start = stream.tell()
    if not dtype.hasobject:
        if dtype.kind not in _NUMBERS_AND_TEXT or dtype.itemsize == 0:
            raise FileError(f"no npy array: {dtype}; arrays of numbers or text are admitted", path=path)
        if math.prod(shape) * dtype.itemsize != len(data) - start:
            message = f"{len(data) - start} bytes for an array of shape {shape} and type {dtype}"
            raise FileError(f"no npy array: {message}", path=path)
        return np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if fortran else "C")
    if unpickle is None:
        raise FileError("no npy array: it holds objects, not numbers", path=path)
    value = unpickle(data[start:], path)
    held = value.shape if isinstance(value, np.ndarray) else ()
    if held != shape:
        raise FileError(f"says that its shape is {shape}, and holds {held}", path=path)
    return value


def _header(file: BinaryIO, otherwise: str, path: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether it is in Fortran's order, and type; the file then stands at the data."""
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"npy format version {version}")
        if min(shape, default=0) < 0 or len(shape) > MAX_BLOB_AXES:
            raise ValueError(f"an array of shape {shape}")
        return shape, fortran, dtype
    except Exception as error:  # a header is parsed as Python text, which can fail in any way
        raise FileError(f"{otherwise}: {first_line(error)}", path=path) from error


def write_npy(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype, pieces: Iterable[np.ndarray]) -> None:
    """An ``.npy`` of an array that comes in pieces along its first axis, of which one at a time is in memory.

    Raises:
        FileError: the pieces do not make up ``shape``; OSError as ``file`` does.
    """
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    rows = 0
    for piece in pieces:
        if piece.shape[1:] != shape[1:] or piece.dtype != dtype:
            raise FileError(f"a piece of shape {list(piece.shape)} and type {piece.dtype} in an array of {list(shape)}")
        file.write(np.ascontiguousarray(piece).data)
        rows += len(piece)
    if rows != shape[0]:
        raise FileError(f"{rows} rows for an array of {shape[0]}")


def write_npz(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """What ``np.savez`` writes, for any names of arrays: to numpy's function, ``file`` is an argument of its own.

    Raises:
        FileError: a name that leads out of the folder in which somebody unpacks the file; OSError as ``file`` does.
    """
    for name in arrays:
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or parts[0] == "" or parts[0].endswith(":") or "\0" in name:
            raise FileError(f"an npz file cannot hold an array named {name!r}: unpacked, it would leave its folder")
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
