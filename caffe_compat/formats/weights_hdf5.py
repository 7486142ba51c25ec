"""Caffe's HDF5 files: ``.caffemodel.h5`` and ``.solverstate.h5``.

They are laid out as ``Net::ToHDF5`` and ``SGDSolver::SnapshotSolverStateToHDF5`` of BVLC Caffe 1.0.0 write them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np

from ..errors import FileError, WeightsError, located
from .blob_proto import BlobView, float_width
from .caffemodel import LayerRecord, NetFile
from .hdf5 import Entry, Group, address, is_group, member, names_in, open_hdf5, read_array, read_text, view_array
from .hdf5_writing import create_hdf5, write_c_string
from .sizes import MAX_BLOBS, MAX_LAYER_BLOBS, MAX_LAYERS
from .solverstate import SolverState
from .wire import Source

__all__ = ["read_hdf5_net", "read_hdf5_solverstate", "write_caffemodel_hdf5", "write_hdf5_solverstate"]

Path: TypeAlias = "str | os.PathLike[str]"
Blob: TypeAlias = "np.ndarray | BlobView"

_MAX_LAYER_DEPTH = 32

# Weights hardly compress, so a packed data set may be no more than so many times its bytes in the file.
_INFLATION = 64


@contextmanager
def _opened(path: str) -> Iterator[tuple[Group, Source]]:
    """The HDF5 file for its headers, and its bytes for its arrays."""
    source = Source(path)
    # No lock: the file may lie on a read-only or network file system, and is only read.
    with open_hdf5(path, locking=False) as file:
        yield file, source


def read_hdf5_net(path: str) -> NetFile:
    """Read a ``.caffemodel.h5``. Raises FileError."""
    with _opened(path) as (file, source):
        names = names_in(file)
        if "data" not in names:
            found = ", ".join(sorted(names)[:10]) or "nothing"
            raise FileError(f"no group 'data': not weights written by Caffe (found: {found})", path=path)
        data = _read_layers(file, "data", source)
        diff = _read_layers(file, "diff", source) if "diff" in names else {}
        if not data:
            raise FileError("no layers in group 'data'", path=path)
        layers = []
        blob_count = 0
        for index, (name, arrays) in enumerate(data.items()):
            diffs = diff.get(name, {})
            count = 1 + max([-1, *arrays, *diffs])
            blobs = []
            for i in range(count):
                with located(path=path, layer=name, index=i):
                    blobs.append(_blob(arrays.get(i), diffs.get(i)))
            blob_count += count
            if blob_count > MAX_BLOBS:
                raise FileError(f"more than {MAX_BLOBS} blobs: not a network", path=path)
            layers.append(LayerRecord(index, name, None, tuple(blobs), (), (0, 0), 2))
        return NetFile(source, "", tuple(layers), b"")


_Stored: TypeAlias = "tuple[np.ndarray, tuple[int, int]]"  # an array, and its bytes in the file


def _blob(data: _Stored | None, diff: _Stored | None) -> BlobView:
    if data is None:
        # Caffe leaves out what another layer owns, but writes its diff.
        shape = () if diff is None else diff[0].shape
        return BlobView(shape, np.empty(0, np.float32), None if diff is None else diff[0], (0, 0))
    if diff is not None and diff[0].shape != data[0].shape:
        raise FileError(f"data of shape {data[0].shape} but diff of shape {diff[0].shape}")
    return BlobView(data[0].shape, data[0], None if diff is None else diff[0], data[1])


def _read_layers(file: Group, root: str, source: Source) -> dict[str, dict[int, _Stored]]:
    """The arrays below a group by layer and index.

    Caffe takes a layer's name for an HDF5 path, so a layer ``a/b`` is a group in a group.
    """
    path = source.path
    layers: dict[str, dict[int, _Stored]] = {}
    seen: set[int] = set()
    pending: list[tuple[Group, str, int]] = [(_group(file, root, path), "", 0)]
    while pending:
        group, layer, depth = pending.pop()
        at = address(group)
        if at in seen or depth > _MAX_LAYER_DEPTH or len(seen) > MAX_LAYERS:
            raise FileError(f"group {root}/{layer}: linked twice, or nested too deeply", path=path)
        seen.add(at)
        arrays: dict[int, _Stored] = {}
        inner = []
        for name in names_in(group):
            entry = member(group, name)
            if is_group(entry):
                inner.append((entry, f"{layer}/{name}" if layer else name, depth + 1))
                continue
            if not layer or not name.isascii() or not name.isdecimal() or str(int(name[:9])) != name:
                raise FileError(f"data set {entry.name} is no blob: they are named 0, 1, ...", path=path)
            if int(name) >= MAX_LAYER_BLOBS:
                raise FileError(f"data set {entry.name}: no layer has so many blobs", path=path)
            arrays[int(name)] = view_array(entry, source, inflation=_INFLATION)
        if layer and (arrays or not inner):
            layers[layer] = arrays
        pending += reversed(inner)
    return layers


def _group(parent: Group, name: str, path: str) -> Group:
    entry = member(parent, name)
    if not is_group(entry):
        raise FileError(f"{entry.name} is a dataset, not what Caffe writes there", path=path)
    return entry


def read_hdf5_solverstate(path: str) -> SolverState:
    """Read a ``.solverstate.h5``. Raises FileError."""
    with _opened(path) as (file, source):
        names = names_in(file)
        for name in ("iter", "current_step", "history"):
            if name not in names:
                raise FileError(f"no {name!r}: not a solver's state written by Caffe", path=path)
        learned_net = read_text(member(file, "learned_net")) if "learned_net" in names else None
        group = _group(file, "history", path)
        inside = set(names_in(group))
        if len(inside) > MAX_BLOBS:
            raise FileError(f"more than {MAX_BLOBS} history blobs: not a solver's state", path=path)
        history = []
        for i in range(len(inside)):
            if str(i) not in inside:
                raise FileError(f"history: {len(inside)} blobs, but none is named {i}", path=path)
            array, span = view_array(member(group, str(i)), source, inflation=_INFLATION)
            history.append(BlobView(array.shape, array, None, span))
        iteration, step = (_whole_number(member(file, name), path) for name in ("iter", "current_step"))
        return SolverState(iteration, learned_net, step, tuple(history))


def _whole_number(entry: Entry, path: str) -> int:
    array = read_array(entry)
    if array.dtype.kind not in "iu" or array.size != 1:
        raise FileError(f"data set {entry.name} is not one integer", path=path)
    return int(array.reshape(-1)[0])


def write_caffemodel_hdf5(path: Path, layers: Iterable[tuple[str, Sequence[Blob | None]]]) -> None:
    """Write a ``.caffemodel.h5`` of layers, each a name and its blobs; None for a blob that an earlier layer owns.

    If any blob is a BlobView with a diff, diffs are written as Caffe's ``snapshot_diff`` does. A layer named ``a/b``
    becomes a group in a group, which :func:`read_weights` reads back; Caffe itself writes it only after a layer ``a``,
    and does not read it. Raises FileError; WeightsError for a name that HDF5 cannot hold, names given twice where both
    have blobs, and arrays that are not float32 or float64.
    """
    layers = [(name, list(blobs)) for name, blobs in layers]
    with_blobs: set[str] = set()
    for name, blobs in layers:
        if any(part in ("", ".") for part in name.split("/")) or "\0" in name:
            raise WeightsError(f"HDF5 cannot hold a layer named {name!r}; write a binary file", path=os.fspath(path))
        if blobs and name in with_blobs:
            raise WeightsError(f"two layers named {name!r} have blobs; write a binary file", path=os.fspath(path))
        if blobs:
            with_blobs.add(name)
    has_diff = any(isinstance(blob, BlobView) and blob.diff is not None for _, blobs in layers for blob in blobs)
    with create_hdf5(path) as file:
        data = file.create_group("data")
        diff = file.create_group("diff") if has_diff else None
        for name, blobs in layers:
            group = data.require_group(name)
            diff_group = None if diff is None else diff.require_group(name)
            for i, blob in enumerate(blobs):
                with located(layer=name, index=i):
                    if isinstance(blob, BlobView):
                        if diff_group is not None and blob.diff is not None:
                            _write_array(diff_group, str(i), blob.diff)
                        if blob.is_empty:
                            continue
                        blob = blob.data
                    if blob is not None:
                        _write_array(group, str(i), blob)


def write_hdf5_solverstate(
    path: Path, iteration: int, learned_net: str | None, current_step: int, history: Sequence[Blob]
) -> None:
    """Write a ``.solverstate.h5``. Raises FileError, WeightsError."""
    with create_hdf5(path) as file:
        file.create_dataset("iter", data=np.array([iteration], "<i4"))
        if learned_net is not None:
            write_c_string(file, "learned_net", learned_net)
        file.create_dataset("current_step", data=np.array([current_step], "<i4"))
        group = file.create_group("history")
        for i, blob in enumerate(history):
            array = blob.data if isinstance(blob, BlobView) else blob
            with located(place=f"history blob {i}"):
                _write_array(group, str(i), array)


def _write_array(group: Group, name: str, array: np.ndarray) -> None:
    width = float_width(array)
    group.create_dataset(name, data=array, dtype=f"<f{width}")
