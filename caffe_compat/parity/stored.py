"""Files of recorded outputs: groups, arrays and fingerprints by blob name."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..errors import FileError, UsageError
from ..formats.files import open_file
from .compare import Fingerprint

__all__ = [
    "attribute",
    "attribute_names",
    "blobs_below",
    "name_of",
    "named_arrays",
    "open_reference",
    "own_entries",
    "params_below",
    "pick_group",
    "plain_array",
    "split_reference",
    "text_of",
    "whole_array",
    "whole_or_fingerprint",
]

# What a recorded array may hold; a file that declares more is lying.
MAX_VALUES = 2**28
# Groups in groups: a blob name has few slashes.
MAX_DEPTH = 32


def split_reference(reference: str | os.PathLike[str]) -> tuple[str, str]:
    """``ref.h5:group`` -> (path, group); a path may itself hold a colon.

    >>> split_reference("ref.h5:net"), split_reference("ref.h5")
    (('ref.h5', 'net'), ('ref.h5', ''))
    """
    name = os.fspath(reference)
    if Path(name).exists() or ":" not in name:
        return name, ""
    path, _, group = name.rpartition(":")
    return path, group


@contextlib.contextmanager
def open_reference(path: str | Path) -> Iterator[h5py.File]:
    """Open a file of recorded outputs for reading. Raises FileError."""
    open_file(path).close()  # says clearly what is wrong with a path
    try:
        file = h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        raise FileError(f"is no HDF5 file ({str(error).splitlines()[0]})", path=str(path)) from error
    with file:
        yield file


def pick_group(file: h5py.File, name: str = "") -> h5py.Group:
    """The reference called ``name`` in ``file``; without a name, the only one there is.

    Raises:
        FileError: no such group. UsageError: there are several.
    """
    groups = {key: entry for key, entry in own_entries(file).items() if isinstance(entry, h5py.Group)}
    if name:
        found: Any = file
        for part in name.strip("/").split("/"):
            found = own_entries(found).get(part) if isinstance(found, h5py.Group) else None
        if not isinstance(found, h5py.Group):
            raise FileError(
                f"has no group {name!r}; it has {', '.join(list(groups)[:10]) or 'none'}", path=file.filename
            )
        return found
    if "blob" in groups or any(key.startswith("batch_") for key in groups):
        return file
    if len(groups) != 1:
        listed = ", ".join(list(groups)[:10]) or "(none)"
        raise UsageError(f"{file.filename} has {len(groups)} groups: pass {file.filename}:GROUP with one of {listed}")
    return next(iter(groups.values()))


@contextlib.contextmanager
def _reading(entry: Any) -> Iterator[None]:
    """What h5py raises on a damaged file depends on the byte that is wrong; here it is a FileError."""
    try:
        yield
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, OverflowError, MemoryError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        name, path = _place(entry)
        raise FileError(f"{name} cannot be read: {reason}", path=path) from error


def _place(entry: Any) -> tuple[str, str | None]:
    """The name of ``entry`` and the path of its file, as far as a damaged file tells."""
    try:
        return str(entry.name), str(entry.file.filename)
    except Exception:  # as above
        return "an entry", None


def own_entries(group: h5py.Group) -> dict[str, Any]:
    """What lies in ``group`` itself, not behind a soft link or in another file."""
    with _reading(group):
        return {n: group[n] for n in group if isinstance(group.get(n, getlink=True), h5py.HardLink)}


def attribute(entry: Any, name: str, default: Any = None) -> Any:
    """One attribute of a group or dataset. Raises FileError."""
    with _reading(entry):
        return entry.attrs.get(name, default)


def attribute_names(entry: Any) -> list[str]:
    """The attributes of a group or dataset. Raises FileError."""
    with _reading(entry):
        return list(entry.attrs)


def plain_array(dataset: Any) -> np.ndarray:
    """The values of a dataset. Raises UsageError if it is no plain array of numbers, or declares more than it holds."""
    with _reading(dataset):
        plain = isinstance(dataset, h5py.Dataset) and dataset.dtype.kind in "fiu" and dataset.dtype.itemsize <= 8
        plain = plain and not dataset.is_virtual and not dataset.external and dataset.shape is not None
        size = dataset.size if plain else 0
        held = dataset.id.get_storage_size() if plain else 0
    if not plain:
        raise UsageError(f"{dataset.name} is no plain array of numbers")
    if size > MAX_VALUES or (size > 4096 and held * 1000 < dataset.nbytes):
        raise UsageError(f"{dataset.name} declares {size} values that the file does not hold")
    with _reading(dataset):
        return np.asarray(dataset[()])


def whole_or_fingerprint(entry: Any, name: str) -> np.ndarray | Fingerprint:
    """What is stored of blob ``name``: a dataset, or a group with ``data``, or with ``positions`` and ``values``.

    Raises:
        UsageError: values without positions. FileError: a damaged file.
    """
    if not isinstance(entry, h5py.Group):
        return plain_array(entry)
    whole = whole_array(entry)
    if whole is not None:
        return whole
    parts = own_entries(entry)
    positions, values = np.zeros(0, np.int64), np.zeros(0)
    if "values" in parts:
        if "positions" not in parts:
            raise UsageError(f"reference of {name}: it has values and no positions")
        positions, values = (
            plain_array(parts["positions"]).astype(np.int64).ravel(),
            plain_array(parts["values"]).ravel(),
        )
    with _reading(entry):
        statistics = np.array(attribute(entry, "mean_std_min_max", ()), np.float64).ravel()
    return Fingerprint(_stored_shape(entry), positions, values, statistics)


def whole_array(entry: Any) -> np.ndarray | None:
    """All values of a dataset, or of a group with ``data`` and a shape; None of what is not stored whole."""
    if isinstance(entry, h5py.Dataset):
        return plain_array(entry)
    if isinstance(entry, h5py.Group) and "shape" in attribute_names(entry):
        data = own_entries(entry).get("data")
        if data is not None:
            return _shaped(data, _stored_shape(entry))
    return None


def _stored_shape(group: h5py.Group) -> tuple[int, ...]:
    with _reading(group):
        return tuple(int(n) for n in np.atleast_1d(attribute(group, "shape")))


def _shaped(dataset: h5py.Dataset, shape: tuple[int, ...]) -> np.ndarray:
    array = plain_array(dataset)
    with _reading(dataset):
        return array.reshape(shape)


def blobs_below(group: h5py.Group, key: str) -> dict[str, Any]:
    """Arrays and fingerprints below ``key`` by blob name; blob names with a slash are nested groups."""
    found: dict[str, Any] = {}

    def visit(parent: h5py.Group, prefix: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise UsageError(f"groups are nested deeper than {MAX_DEPTH}, or in a circle", path=parent.name)
        for name, child in own_entries(parent).items():
            if isinstance(child, h5py.Dataset) or "shape" in attribute_names(child):
                found[name_of(child, prefix + name)] = child
            elif isinstance(child, h5py.Group):
                visit(child, f"{prefix}{name}/", depth + 1)

    start = own_entries(group).get(key) if key else group
    if isinstance(start, h5py.Group):
        visit(start, "", 0)
    return found


def name_of(entry: Any, default: str) -> str:
    """The name that an entry says it has, which HDF5 may not allow as the name of a group; else ``default``."""
    name = attribute(entry, "name")
    return default if name is None else text_of(name)


def named_arrays(group: h5py.Group, key: str) -> dict[str, np.ndarray]:
    """The arrays below ``key`` by blob name."""
    return {name: plain_array(entry) for name, entry in blobs_below(group, key).items()}


def params_below(group: h5py.Group, key: str) -> dict[tuple[str, int], Any]:
    """What lies below ``key`` as ``<layer>/<blob number>``, by layer and number."""
    return {_layer_and_index(name): entry for name, entry in blobs_below(group, key).items()}


def _layer_and_index(name: str) -> tuple[str, int]:
    layer, _, index = name.rpartition("/")
    if not re.fullmatch("[0-9]{1,6}", index):
        raise UsageError(f"{name!r}: <layer>/<blob number> was expected")
    return layer, int(index)


def text_of(value: Any) -> str:
    """Text, however HDF5 gives it."""
    return value.decode() if isinstance(value, bytes) else str(value)
