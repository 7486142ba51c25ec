"""Files of recorded outputs: groups, arrays and fingerprints by blob name."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..errors import FileError, UsageError
from ..formats.hdf5 import (
    Entry,
    Group,
    attribute,
    attribute_names,
    is_dataset,
    is_group,
    members,
    open_hdf5,
    path_of,
    read_array,
)
from .compare import Fingerprint

__all__ = [
    "VERSION",
    "blobs_below",
    "name_of",
    "named_arrays",
    "open_recorded",
    "params_below",
    "pick_group",
    "split_reference",
    "stored_shape",
    "whole_array",
    "whole_or_fingerprint",
]

VERSION = 1
"""Of the layout of files of recorded outputs, attribute ``version``; files from before it had one are of the first."""

# Groups in groups: a blob name has few slashes.
MAX_DEPTH = 32


@contextmanager
def open_recorded(path: str | os.PathLike[str]) -> Iterator[Group]:
    """A file of recorded outputs, open.

    Raises:
        FileError: it cannot be read, holds weights, or a later release wrote it.
    """
    with open_hdf5(path) as file:
        if _holds_weights(file):
            raise FileError(
                "holds weights; recorded outputs were expected (`caffe-compat capture-script` helps to record them)",
                path=os.fspath(path),
            )
        version = attribute(file, "version", VERSION)
        if not np.ndim(version) == 0 or not np.issubdtype(np.asarray(version).dtype, np.integer):
            raise FileError(f"attribute version holds {str(version)[:40]!r}, no number", path=os.fspath(path))
        if version > VERSION:
            raise FileError(
                f"is of version {version} of recorded outputs, and this release reads {VERSION}; install a later one",
                path=os.fspath(path),
            )
        yield file


def _holds_weights(file: Group) -> bool:
    """Whether this is a ``.caffemodel.h5``: ``data`` with layers in it, each with blobs ``0``, ``1``, ..."""
    entries = members(file)
    if not {"data"} <= entries.keys() <= {"data", "diff"} or not is_group(entries["data"]):
        return False
    layers = members(entries["data"]).values()
    return bool(layers) and all(is_group(layer) and all(name.isdigit() for name in members(layer)) for layer in layers)


def split_reference(reference: str | os.PathLike[str]) -> tuple[str, str]:
    """``ref.h5:group`` -> (path, group); a path may itself hold a colon.

    >>> split_reference("ref.h5:net"), split_reference("ref.h5")
    (('ref.h5', 'net'), ('ref.h5', ''))
    """
    name = os.fspath(reference)
    if os.path.exists(name) or ":" not in name:
        return name, ""
    path, _, group = name.rpartition(":")
    return path, group


def pick_group(file: Group, name: str = "") -> Group:
    """The reference called ``name`` in ``file``; without a name, the only one there is.

    Raises:
        FileError: no such group, or none at all. UsageError: there are several.
    """
    groups = {key: entry for key, entry in members(file).items() if is_group(entry)}
    if name:
        found: Any = file
        for part in name.strip("/").split("/"):
            found = members(found).get(part) if is_group(found) else None
        if not is_group(found):
            raise FileError(
                f"has no group {name!r}; it has {', '.join(list(groups)[:10]) or 'none'}", path=path_of(file)
            )
        return found
    if "blob" in groups or any(key.startswith("batch_") for key in groups):
        return file
    if not groups:
        raise FileError("holds no recorded outputs: it has no group", path=path_of(file))
    if len(groups) != 1:
        listed = ", ".join(list(groups)[:10]) or "(none)"
        raise UsageError(f"{path_of(file)} has {len(groups)} groups: pass {path_of(file)}:GROUP with one of {listed}")
    return next(iter(groups.values()))


def whole_or_fingerprint(entry: Any, name: str) -> np.ndarray | Fingerprint:
    """What is stored of blob ``name``: a dataset, or a group with ``data``, or with ``positions`` and ``values``.

    Raises:
        UsageError: values without positions. FileError: a damaged file.
    """
    if not is_group(entry):
        return read_array(entry)
    whole = whole_array(entry)
    if whole is not None:
        return whole
    parts = members(entry)
    positions, values = np.zeros(0, np.int64), np.zeros(0)
    if "values" in parts:
        if "positions" not in parts:
            raise UsageError(f"reference of {name}: it has values and no positions")
        positions, values = (read_array(parts[key]).ravel() for key in ("positions", "values"))
    statistics = _numbers(entry, "mean_std_min_max", ())
    return Fingerprint(stored_shape(entry), positions.astype(np.int64), values, statistics)


def whole_array(entry: Any) -> np.ndarray | None:
    """All values of a dataset, or of a group with ``data`` and a shape; None of what is not stored whole."""
    if is_dataset(entry):
        return read_array(entry)
    if is_group(entry) and "shape" in attribute_names(entry):
        data = members(entry).get("data")
        if data is not None:
            return _shaped(data, stored_shape(entry))
    return None


def stored_shape(group: Group) -> tuple[int, ...]:
    """Of the array that a fingerprint stands for. Raises FileError if the group tells none."""
    return tuple(int(n) for n in _numbers(group, "shape", None))


def _numbers(entry: Entry, name: str, default: Any) -> np.ndarray:
    """An attribute of numbers, in a row. Raises FileError if it is none."""
    value = attribute(entry, name, default)
    found = f"attribute {name} holds {str(value)[:40]!r}"
    try:
        numbers = np.asarray(value, np.float64).ravel()
    except (TypeError, ValueError) as error:
        raise FileError(f"{found}, not numbers", path=path_of(entry), place=entry.name) from error
    if name == "shape" and not (np.isfinite(numbers) & (numbers >= 0) & (numbers < 2**53)).all():
        raise FileError(f"{found}, not lengths", path=path_of(entry), place=entry.name)
    return numbers


def _shaped(dataset: Entry, shape: tuple[int, ...]) -> np.ndarray:
    array = read_array(dataset)
    if array.size != math.prod(shape):
        raise FileError(f"{dataset.name} has {array.size} values for the shape {list(shape)}", path=path_of(dataset))
    return array.reshape(shape)


def blobs_below(group: Group, key: str) -> dict[str, Any]:
    """Arrays and fingerprints below ``key`` by blob name; blob names with a slash are nested groups."""
    found: dict[str, Any] = {}

    def visit(parent: Group, prefix: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise UsageError(f"groups are nested deeper than {MAX_DEPTH}, or in a circle", path=parent.name)
        for name, child in members(parent).items():
            if is_dataset(child) or "shape" in attribute_names(child):
                found[name_of(child, prefix + name)] = child
            elif is_group(child):
                visit(child, f"{prefix}{name}/", depth + 1)

    start = members(group).get(key) if key else group
    if is_group(start):
        visit(start, "", 0)
    return found


def name_of(entry: Any, default: str) -> str:
    """The name that an entry says it has, which HDF5 may not allow as the name of a group; else ``default``."""
    name = attribute(entry, "name")
    return default if name is None else str(name)


def named_arrays(group: Group, key: str) -> dict[str, np.ndarray]:
    """The arrays below ``key`` by blob name."""
    return {name: read_array(entry) for name, entry in blobs_below(group, key).items()}


def params_below(group: Group, key: str) -> dict[tuple[str, int], Any]:
    """What lies below ``key`` as ``<layer>/<blob number>``, by layer and number."""
    return {_layer_and_index(name): entry for name, entry in blobs_below(group, key).items()}


def _layer_and_index(name: str) -> tuple[str, int]:
    layer, _, index = name.rpartition("/")
    if not re.fullmatch("[0-9]{1,6}", index):
        raise UsageError(f"{name!r}: <layer>/<blob number> was expected")
    return layer, int(index)
