"""HDF5 files, read: the only place that opens one. Each question that may hurt is asked here.

An HDF5 file may name other files (links, external storage, virtual data sets) and declare arrays of any size; the
library follows the names, takes the memory, and for some damage goes round for ever. So nobody else asks h5py: groups
are listed by :func:`members`, entries found by :func:`find`, values read by :func:`read_array` and :func:`attribute`.
Every failure of h5py becomes one FileError.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, NoReturn, TypeAlias

import h5py
import numpy as np

from ..errors import CaffeCompatError, FileError, first_line
from .files import open_file, reason_of
from .guarded import guarded
from .limits import ARRAYS
from .sizes import MAX_BLOB_AXES
from .sniff import FileKind, find_hdf5, kind_of
from .wire import Source

__all__ = [
    "Entry",
    "Group",
    "address",
    "attribute",
    "attribute_names",
    "check_array",
    "find",
    "hdf5_errors",
    "is_dataset",
    "is_group",
    "member",
    "members",
    "names_in",
    "open_hdf5",
    "path_of",
    "read_array",
    "read_text",
    "shape_and_type",
    "view_array",
    "walk",
]

Group: TypeAlias = h5py.Group
Entry: TypeAlias = "h5py.Group | h5py.Dataset"  # what lies in a group: another, or a data set

_MAX_TEXT_BYTES = 1 << 24  # of an attribute or a string; a network's definition takes far less
_MAX_SOFT_LINKS = 16  # one after the other

# Decoding a compressed data set may make memory of almost nothing. Deflate makes 1032 bytes of one at most.
_MAX_INFLATION = 1032
_FREE_BYTES = 1 << 20

_IEEE_LITTLE_ENDIAN = ((h5py.h5t.IEEE_F32LE, "<f4"), (h5py.h5t.IEEE_F64LE, "<f8"), (h5py.h5t.IEEE_F16LE, "<f2"))


@contextmanager
def open_hdf5(path: str | os.PathLike[str], *, locking: bool = True) -> Iterator[Group]:
    """An HDF5 file for reading, as its group ``/``.

    Args:
        locking: fail if another program writes the file. Without, files on file systems that have no locks, or are
            read-only, are read too.

    Raises:
        FileError: it cannot be opened, is no HDF5 file or a damaged one.
    """
    name = os.fspath(path)
    if kind_of(name) is not FileKind.HDF5:
        raise FileError("is no HDF5 file", path=name)
    status = os.stat(name)
    _check_walk(name, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    with hdf5_errors("cannot be read as HDF5", name):
        file = h5py.File(name, "r", locking=None if locking else False)
    try:
        yield file
    finally:
        with hdf5_errors("cannot be read as HDF5", name):
            file.close()


@contextmanager
def hdf5_errors(doing: str, path: str | None) -> Iterator[None]:
    """What h5py raises depends on the byte that is wrong; here it is a FileError. For calls of h5py alone."""
    try:
        yield
    except CaffeCompatError:
        raise
    except Exception as error:
        raise FileError(f"{doing}: {_reason(error)}", path=path) from error


@contextmanager
def _reading(entry: Entry, what: str = "") -> Iterator[None]:
    try:
        yield
    except CaffeCompatError:
        raise
    except Exception as error:
        name, path = _place_of(entry)
        name = f"{name}: {what}" if what else name
        raise FileError(f"{name} cannot be read: {_reason(error)}", path=path) from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return reason_of(error).partition("\n")[0]
    return first_line(error).strip("'\"")  # of a KeyError


def _place_of(entry: Entry) -> tuple[str, str | None]:
    """The name of ``entry`` and the path of its file, as far as a damaged file tells."""
    try:
        return str(entry.name), str(entry.file.filename)
    except Exception:  # as above
        return "an entry", None


def _refuse(entry: Entry, detail: str, what: str = "data set ") -> NoReturn:
    name, path = _place_of(entry)
    raise FileError(f"{what}{name} {detail}", path=path)


def path_of(entry: Entry) -> str | None:
    """The path of the file that ``entry`` lies in; None if it cannot be told."""
    return _place_of(entry)[1]


def is_group(entry: object) -> bool:
    """Whether an entry is a group."""
    return isinstance(entry, h5py.Group)


def is_dataset(entry: object) -> bool:
    """Whether an entry is a data set."""
    return isinstance(entry, h5py.Dataset)


# A walk of 3,000 entries takes a second on a slow machine, and the least entry 100 bytes.
_BYTES_WALKED_A_SECOND = 2**20


@lru_cache(maxsize=256)
def _check_walk(path: str, version: tuple[int, ...]) -> None:
    """Refuse a file whose groups or attributes end the library's process, or keep it busy. Once for every ``version``.

    Raises:
        FileError: they do.
    """
    guarded(walk, path, more_seconds=version[2] / _BYTES_WALKED_A_SECOND)


def walk(path: str) -> None:
    """Look at all that is asked of a file but its numbers. What raises will raise again, where it is asked for."""
    names = [b"."]
    with suppress(Exception), h5py.File(path, "r", locking=False) as file:
        h5py.h5o.visit(file.id, names.append)  # every group and data set once
        for name in names:
            with suppress(Exception):
                entry = h5py.h5o.open(file.id, name)
                for index in range(h5py.h5a.get_num_attrs(entry)):
                    _walk_attribute(h5py.h5a.open(entry, index=index), path)
                if isinstance(entry, h5py.h5d.DatasetID) and entry.get_create_plist().get_layout() == h5py.h5d.CHUNKED:
                    entry.get_num_chunks()  # goes through the index


def _walk_attribute(found: Any, path: str) -> None:
    if math.prod(found.shape) * found.dtype.itemsize <= _MAX_TEXT_BYTES:
        if found.dtype.hasobject:
            _check_heaps(path)
        found.read(np.empty(found.shape, found.dtype))


# Groups


def members(group: Group) -> dict[str, Entry]:
    """The groups and data sets that lie in ``group`` itself, not behind a soft link or in another file."""
    with _reading(group):
        links = _texts(group, group)
        found = {name: group[name] for name in links if isinstance(group.get(name, getlink=True), h5py.HardLink)}
    return {name: entry for name, entry in found.items() if isinstance(entry, (h5py.Group, h5py.Dataset))}


def names_in(group: Group) -> list[str]:
    """The names of all that is in ``group``, whatever it is."""
    with _reading(group):
        return _texts(group, group)


def _texts(names: Iterable[str | bytes], entry: Entry) -> list[str]:
    """Names as h5py gives them: bytes where they are no UTF-8. Raises FileError for those."""
    found = []
    for name in names:
        if not isinstance(name, str):
            raise FileError(f"the name {name!r} in it is no text", path=entry.file.filename)
        found.append(name)
    return found


def address(group: Group) -> int:
    """Where a group lies in the file: two names of one group have one address."""
    with _reading(group):
        return int(h5py.h5o.get_info(group.id).addr)


def member(group: Group, name: str) -> Entry:
    """What ``group`` itself holds under ``name``.

    Raises:
        FileError: nothing, a link to another place, or neither a group nor a data set.
    """
    with _reading(group):
        link = group.get(name, getlink=True)
        entry = group[name] if isinstance(link, h5py.HardLink) else None
    if isinstance(entry, (h5py.Group, h5py.Dataset)):
        return entry
    if entry is not None:
        found = f"a {type(entry).__name__.lower()}, neither a group nor a data set"
    else:
        found = "missing" if link is None else "a link to another place, which is not followed"
    raise FileError(f"{_below(group, name)} is {found}", path=path_of(group))


def _below(group: Group, name: str) -> str:
    return f"{_place_of(group)[0].rstrip('/')}/{name}"


def find(group: Group, path: str, *, _links: int = _MAX_SOFT_LINKS) -> Entry | None:
    """What lies at ``path`` below ``group``, step by step; soft links within the file are followed. None: nothing.

    Raises:
        FileError: a step leads to another file, or round in a circle.
    """
    here: Any = group
    for part in [part for part in path.split("/") if part not in ("", ".")]:
        if not isinstance(here, h5py.Group):
            return None
        with _reading(here):
            link = here.get(part, getlink=True)
            if isinstance(link, h5py.HardLink):
                here = here[part]
                continue
            start = here.file if isinstance(link, h5py.SoftLink) and link.path.startswith("/") else here
        if link is None:
            return None
        if not isinstance(link, h5py.SoftLink):
            raise FileError(f"{_below(here, part)} is a link to another file, which is not opened", path=path_of(group))
        if not _links:
            raise FileError(f"{_below(here, part)} is one of too many links after another", path=path_of(group))
        here = find(start, link.path, _links=_links - 1)
    return here if isinstance(here, (h5py.Group, h5py.Dataset)) else None


# Attributes


def attribute_names(entry: Entry) -> list[str]:
    """The names of an entry's attributes."""
    with _reading(entry):
        return _texts(entry.attrs, entry)


def attribute(entry: Entry, name: str, default: Any = None) -> Any:
    """An attribute: a string, a number, or an array of numbers or strings; ``default`` if there is none.

    Raises:
        FileError: damaged, too large, or something else.
    """
    with _reading(entry):
        if name not in entry.attrs:
            return default
        found = entry.attrs.get_id(name)
        dtype, shape = found.dtype, found.shape
    text = h5py.check_string_dtype(dtype)
    if shape is None or (text is None and dtype.kind not in "fiub"):
        _refuse(entry, f"has an attribute {name} of {dtype}; numbers or text were expected", "")
    if math.prod(shape) * dtype.itemsize > _MAX_TEXT_BYTES:
        _refuse(entry, f"has an attribute {name} of shape {shape}, which is too large", "")
    if text is not None and text.length is None:
        _check_heaps(path_of(entry))
    with _reading(entry, f"attribute {name}"):
        value = entry.attrs[name]
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


# Data sets


def shape_and_type(entry: Entry) -> tuple[tuple[int, ...] | None, np.dtype]:
    """Shape (None: there is no value) and type of a data set. Raises FileError for a group."""
    if not isinstance(entry, h5py.Dataset):
        _refuse(entry, "is a group, not a data set", "")
    with _reading(entry):
        return entry.shape, entry.dtype


def check_array(entry: Entry) -> tuple[int, ...]:
    """The shape of a data set of numbers that :func:`read_array` will read. Raises FileError as that does."""
    shape = _checked_shape(entry, "fiu")
    _check_storage(entry, _MAX_INFLATION, whole=False)
    return shape


def read_array(entry: Entry) -> np.ndarray:
    """All values of a data set of numbers, read into memory.

    Raises:
        FileError: no data set or one of another type; values in another file; more of them declared than there can be.
    """
    check_array(entry)
    with _reading(entry):
        return np.asarray(entry[()])


def view_array(entry: Entry, source: Source, *, inflation: int) -> tuple[np.ndarray, tuple[int, int]]:
    """A data set of floats, read-only, and its place in the file: a view if HDF5 stores it in one piece, else a copy.

    Args:
        source: the same file's bytes.
        inflation: how many times as large as its bytes in the file a compressed data set may be.

    Raises:
        FileError: as :func:`read_array`; or parts of it were never written, which HDF5 would fill up.
    """
    shape = _checked_shape(entry, "f")
    offset = _check_storage(entry, inflation, whole=True)
    if offset is not None:
        with _reading(entry):
            kind = entry.id.get_type()
            name = next((name for ieee, name in _IEEE_LITTLE_ENDIAN if kind.equal(ieee)), None)
        if name is not None:
            width = int(name[2])
            array = source.array((offset, math.prod(shape), width), name).reshape(shape)
            return array, (offset, offset + math.prod(shape) * width)
    with _reading(entry):
        array = entry[()].astype(entry.dtype.newbyteorder("<"), copy=False)
    array.flags.writeable = False
    return array, (0, 0)


def read_text(entry: Entry) -> str:
    """A data set of one string.

    Raises:
        FileError: it is something else.
    """
    shape, dtype = shape_and_type(entry)
    text = h5py.check_string_dtype(dtype)
    with _reading(entry):
        elsewhere = _lies_elsewhere(entry)
    if text is None or shape is None or math.prod(shape) != 1 or dtype.itemsize > _MAX_TEXT_BYTES or elsewhere:
        _refuse(entry, "is not one string")
    if text.length is None:
        _check_heaps(path_of(entry))
    with _reading(entry):
        value = np.asarray(entry[()]).reshape(-1)[0]
    return value if isinstance(value, str) else bytes(value).decode("utf-8", "backslashreplace")


def _checked_shape(entry: Entry, kinds: str) -> tuple[int, ...]:
    """The shape of a data set whose values are of one of ``kinds``. Raises FileError if they are not."""
    shape, dtype = shape_and_type(entry)
    if shape is None or len(shape) > MAX_BLOB_AXES:
        _refuse(entry, "has no shape that an array could have")
    if dtype.kind not in kinds or dtype.itemsize not in (1, 2, 4, 8):
        _refuse(entry, f"holds {dtype}, not {'floating-point ' if kinds == 'f' else ''}numbers")
    return shape


def _lies_elsewhere(dataset: Entry) -> bool:
    creation = dataset.id.get_create_plist()
    return bool(creation.get_layout() == h5py.h5d.VIRTUAL or creation.get_external_count())


def _check_storage(dataset: Entry, inflation: int, whole: bool) -> int | None:
    """Refuse values in other files, and more of them than the file can hold; where they lie if that is in one piece.

    Raises:
        FileError: either of them.
    """
    with _reading(dataset):
        if _lies_elsewhere(dataset):
            _refuse(dataset, "stores its values in other files; they are not opened")
        creation, shape, width = dataset.id.get_create_plist(), dataset.shape, dataset.dtype.itemsize
        layout, stored = creation.get_layout(), dataset.id.get_storage_size()
        held = dataset.file.id.get_filesize()
        offset = dataset.id.get_offset() if layout == h5py.h5d.CONTIGUOUS else None
        chunk = math.prod(dataset.chunks) * width if layout == h5py.h5d.CHUNKED else 0
        compressed = creation.get_nfilters() > 0
    size, stored = math.prod(shape) * width, min(stored, held)
    if size == 0:
        return None
    if layout == h5py.h5d.CONTIGUOUS and (offset is not None or whole):
        if offset is None or stored < size or offset + size > held:
            _refuse(dataset, f"of shape {shape} declares more bytes than the file holds")
        return int(offset)
    if layout == h5py.h5d.COMPACT:  # in the header, whose size HDF5 checks
        limit = max(stored, 1 << 16)
    elif whole and not compressed:
        limit = stored
    else:
        limit = max(_FREE_BYTES, inflation * stored)
    needed = max(size, chunk) if compressed else size
    if needed > limit or (whole and stored == 0):
        hint = "; if it is sound, `h5repack -f NONE` rewrites it uncompressed" if compressed else ""
        _refuse(dataset, f"of shape {shape} declares {needed} bytes but stores {stored}{hint}")
    if needed > stored and needed > ARRAYS.bytes:
        ARRAYS.check(needed, f"data set {dataset.name} of shape {shape}", path_of(dataset))
    return None


# The library looks for a string in a "global heap", a row of objects each of which tells its size. It goes from one to
# the next for ever where a size is zero, or so large that the sum begins anew.


def _check_heaps(path: str | None) -> None:
    """Refuse a file with a heap that has no end. Raises FileError."""
    if path is not None and os.path.isfile(path):
        status = os.stat(path)
        _check_heaps_of(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=64)
def _check_heaps_of(path: str, version: tuple[int, ...]) -> None:
    """Once for every ``version`` of a file."""
    with open_file(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        width = _width_of_lengths(data)
        code, header = f"<HH4x{ {2: 'H', 4: 'I', 8: 'Q'}.get(width, 'Q') }", -(-(8 + width) // 8) * 8
        at = data.find(b"GCOL\x01\0\0\0")
        while at >= 0:
            if at + 8 + width <= len(data):
                end = at + int.from_bytes(data[at + 8 : at + 8 + width], "little")
                place = at + -(-(8 + width) // 8) * 8
                while place + header <= min(end, len(data)):
                    index, _, size = struct.unpack_from(code, data, place)
                    taken = size if index == 0 else header + -(-size // 8) * 8
                    if taken < header or place + taken > end:
                        raise FileError(f"is a damaged HDF5 file: its strings at byte {at} have no end", path=path)
                    place += taken
            at = data.find(b"GCOL\x01\0\0\0", at + 8)


def _width_of_lengths(data: mmap.mmap) -> int:
    """The bytes of a length in a file, from its superblock (HDF5 File Format Specification, II.A)."""
    start = find_hdf5(data) or 0
    version = data[start + 8] if len(data) > start + 15 else 0
    return data[start + 14] if version < 2 else data[start + 10]
