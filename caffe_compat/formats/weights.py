"""Weights, mean images and solver snapshots: every file that Caffe writes, read and written.

Binary files are laid out as protobuf serialises BVLC Caffe 1.0.0's messages (fields in the order of their numbers,
arrays packed), HDF5 files as its ``Net::ToHDF5`` and ``SGDSolver::SnapshotSolverStateToHDF5`` write them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import h5py
import numpy as np

from caffe_compat.errors import FileError, WeightsError
from caffe_compat.formats.files import atomic_write, open_file
from caffe_compat.formats.hdf5 import Sink
from caffe_compat.formats.sizes import MAX_BLOB_AXES, MAX_LAYERS
from caffe_compat.formats.wire import (
    BLOBS_FIELD,
    BYTES,
    NET_LAYER,
    NET_V1_LAYERS,
    V1_V0_LAYER,
    BlobView,
    LayerRecord,
    NetFile,
    SolverState,
    Source,
    read_blob,
    read_net,
    read_solver_state,
    varint,
)

__all__ = [
    "WeightsFile",
    "read_binaryproto",
    "read_solverstate",
    "read_weights",
    "write_binaryproto",
    "write_caffemodel",
    "write_caffemodel_hdf5",
    "write_solverstate",
]

Path: TypeAlias = "str | os.PathLike[str]"
Blob: TypeAlias = "np.ndarray | BlobView"
Kind: TypeAlias = Literal["binary", "hdf5"]

_MAX_BLOB_INDEX = 4096  # no layer comes near; bounds what a data set named "999999999" can ask for
_MAX_LAYER_DEPTH = 32

# Decoding a compressed data set may make memory of almost nothing. Weights hardly compress; a bias of zeros does.
_MAX_INFLATED_BYTES = 1 << 20
_MAX_INFLATION = 64

_IEEE_LITTLE_ENDIAN = ((h5py.h5t.IEEE_F32LE, "<f4"), (h5py.h5t.IEEE_F64LE, "<f8"), (h5py.h5t.IEEE_F16LE, "<f2"))

# What h5py raises, depending on which byte of a file is wrong.
_HDF5_FAILURES = (OSError, RuntimeError, LookupError, ValueError, TypeError, OverflowError, MemoryError)


class WeightsFile:
    """A binary or HDF5 weights file.

    ``layers`` are records of name, type (None in HDF5) and blobs, in the file's order (HDF5: sorted by name).
    ``structure`` is the rest of the network as bytes of a NetParameter, None in HDF5, which stores none. A blob that
    HDF5 leaves out because its layer shares it with another has ``is_empty`` set, unless it comes last: then the
    record is that much shorter.
    """

    __slots__ = ("_file", "kind", "path", "structure")

    def __init__(self, file: NetFile, kind: Kind) -> None:
        self._file = file
        self.kind: Kind = kind
        self.path = file.path
        self.structure = file.structure if kind == "binary" else None

    @property
    def layers(self) -> tuple[LayerRecord, ...]:
        return self._file.layers

    def release(self, blob: BlobView) -> None:
        """Give the memory of a blob's mapped pages back. Its views stay valid: reading them maps the pages again."""
        self._file.release(blob)

    def close(self) -> None:
        """Forget the file. Views that somebody still holds stay valid."""
        self._file.close()

    def __enter__(self) -> WeightsFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_weights(path: Path) -> WeightsFile:
    """Read a ``.caffemodel`` or ``.caffemodel.h5``; its first bytes tell which.

    Raises FileError (WireError for binary files), naming the place in the file.
    """
    if _is_hdf5(path):
        return WeightsFile(_read_hdf5_net(os.fspath(path)), "hdf5")
    return WeightsFile(read_net(path), "binary")


def read_binaryproto(path: Path) -> np.ndarray:
    """The array of a ``.binaryproto`` (often a mean image of shape (1, channels, height, width), BGR), as a copy."""
    return read_blob(path).data.copy()


def read_solverstate(path: Path) -> SolverState:
    """Read a ``.solverstate`` or ``.solverstate.h5``; its first bytes tell which. Raises FileError."""
    if _is_hdf5(path):
        return _read_hdf5_solverstate(os.fspath(path))
    return read_solver_state(path)


# Writing binary files


def write_caffemodel(
    path: Path, structure: bytes, blobs: Sequence[Sequence[Blob]], *, legacy_shapes: bool = False
) -> None:
    """Write a ``.caffemodel``: ``structure``, a NetParameter without blobs, with ``blobs[k]`` put into its k-th layer.

    Each array is written as it is reached, never all at once. Arrays are float32 or float64; a BlobView's diff is
    written too. Layers of generation V0 and V1 get the 4-d shapes of their time; with ``legacy_shapes`` all layers do,
    for blobs of old files, whose shapes (1, 1, 1, N) Caffe only takes for (N,) if they are written so.

    A file that :func:`read_weights` read
    is written back byte for byte if its fields were in order. Raises FileError; WeightsError if the arrays do not fit.
    """
    pieces = list(_net_pieces(structure, blobs, os.fspath(path), legacy_shapes))
    with atomic_write(path) as handle:
        _write_pieces(handle, pieces)


def write_binaryproto(path: Path, array: np.ndarray) -> None:
    """Write one array as a ``.binaryproto``; of four axes, with the old num/channels/height/width as
    compute_image_mean does."""
    pieces = _blob_pieces(array, array.ndim == 4, "the array")
    with atomic_write(path) as handle:
        _write_pieces(handle, pieces)


def write_solverstate(
    path: Path, iteration: int, learned_net: str | None, current_step: int, history: Sequence[Blob]
) -> None:
    """Write a solver's snapshot: HDF5 if ``path`` ends in ``.h5``, as in Caffe, else binary. See :class:`SolverState`.

    Raises FileError; WeightsError if a history array is not float32 or float64.
    """
    if os.fspath(path).endswith(".h5"):
        _write_hdf5_solverstate(path, iteration, learned_net, current_step, history)
        return
    pieces: list[_Piece] = [b"\x08", _int32(iteration)]
    if learned_net is not None:
        pieces += _field(2, [learned_net.encode()])
    for i, blob in enumerate(history):
        pieces += _field(3, _blob_pieces(blob, False, f"history blob {i}"))
    pieces += [b"\x20", _int32(current_step)]
    with atomic_write(path) as handle:
        _write_pieces(handle, pieces)


_Piece: TypeAlias = "bytes | np.ndarray"


def _net_pieces(structure: bytes, blobs: Sequence[Sequence[Blob]], path: str, legacy_shapes: bool) -> Iterator[_Piece]:
    source = Source(structure) if structure else None
    position, index = 0, 0
    while source is not None and position < source.size:
        at = position
        number, wire, value, position = source.field(at, source.size)
        if number in (NET_LAYER, NET_V1_LAYERS) and wire == BYTES:
            if index < len(blobs):
                generation = 2 if number == NET_LAYER else 1
                pieces = _layer_pieces(source, value, position, generation, blobs[index], index, legacy_shapes)
                yield from _field(number, pieces)
            index += 1
        else:
            yield source.bytes(at, position)
    if index != len(blobs):
        raise WeightsError(f"the network has {index} layers, but blobs for {len(blobs)} are given", path=path)


def _layer_pieces(
    source: Source, start: int, end: int, generation: int, blobs: Sequence[Blob], index: int, legacy_shapes: bool
) -> list[_Piece]:
    """A layer message with its blobs put before the first field of a higher number, where protobuf writes them."""
    insert_at: int | None = None
    position = start
    while position < end:
        at = position
        number, wire, value, position = source.field(at, end)
        if generation == 1 and number == V1_V0_LAYER and wire == BYTES:
            inner = _layer_pieces(source, value, position, 0, blobs, index, legacy_shapes)
            return [source.bytes(start, at), *_field(number, inner), source.bytes(position, end)]
        if number == BLOBS_FIELD[generation]:
            raise WeightsError("the structure holds blobs already; pass one without them", place=f"layer {index}")
        if insert_at is None and number > BLOBS_FIELD[generation]:
            insert_at = at
    if insert_at is None:
        insert_at = end
    pieces: list[_Piece] = [source.bytes(start, insert_at)]
    for i, blob in enumerate(blobs):
        legacy = legacy_shapes or generation < 2
        pieces += _field(BLOBS_FIELD[generation], _blob_pieces(blob, legacy, f"layer {index}, blob {i}"))
    return [*pieces, source.bytes(insert_at, end)]


def _blob_pieces(blob: Blob, legacy: bool, where: str) -> list[_Piece]:
    """A BlobProto; with ``legacy``, one of four axes has them in the old fields."""
    data, diff = (blob.data, blob.diff) if isinstance(blob, BlobView) else (blob, None)
    shape = blob.shape
    arrays = {5 if _width(data, where) == 4 else 8: data}
    if diff is not None:
        arrays[6 if _width(diff, where) == 4 else 9] = diff

    pieces: list[_Piece] = []
    legacy = legacy and len(shape) == 4
    if legacy:
        for axis, length in enumerate(shape):
            pieces += [varint(axis + 1 << 3), varint(length)]
    for number in (5, 6, 7, 8, 9):
        if number == 7 and shape and not legacy:
            pieces += _field(7, _field(1, [b"".join(map(varint, shape))]))
        elif number in arrays and arrays[number].size:
            pieces += _field(number, [arrays[number]])
    return pieces


def _width(array: np.ndarray, where: str) -> int:
    """Bytes per value of an array that Caffe can store."""
    if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        raise WeightsError(
            f"an array of {array.dtype}; Caffe stores float32 and float64, so convert it first", place=where
        )
    return array.dtype.itemsize


def _field(number: int, pieces: Sequence[_Piece]) -> list[_Piece]:
    """A length-delimited field."""
    length = sum(len(piece) if isinstance(piece, bytes) else piece.nbytes for piece in pieces)
    return [varint(number << 3 | BYTES), varint(length), *pieces]


def _int32(value: int) -> bytes:
    """A signed integer as protobuf writes int32: negative ones as 64 bits."""
    return varint(value & 0xFFFF_FFFF_FFFF_FFFF)


def _write_pieces(handle: Any, pieces: Iterable[_Piece]) -> None:
    for piece in pieces:
        if not isinstance(piece, bytes):
            # At most this one array is copied, and only if its layout in memory is not the file's.
            little_endian = piece.astype(piece.dtype.newbyteorder("<"), copy=False)
            handle.write(np.ascontiguousarray(little_endian).data.cast("B"))
        else:
            handle.write(piece)


# Reading HDF5 files


def _is_hdf5(path: Path) -> bool:
    with open_file(path):  # so that a missing file or a folder is named as such
        return bool(h5py.is_hdf5(os.fspath(path)))


@contextmanager
def _hdf5_errors(path: str, doing: str) -> Iterator[None]:
    """HDF5's own errors as FileError."""
    try:
        yield
    except _HDF5_FAILURES as error:
        reason = " ".join(str(error.args[0] if error.args else error).split())
        raise FileError(f"{doing}: {reason}", path=path) from error


@contextmanager
def _open_hdf5(path: str) -> Iterator[tuple[Any, Source]]:
    """The HDF5 file for its headers, and its bytes for its arrays."""
    source = Source(path)
    # No lock: the file may lie on a read-only or network file system, and is only read.
    with _hdf5_errors(path, "damaged HDF5 file"), h5py.File(path, "r", locking=False) as file:
        yield file, source


def _read_hdf5_net(path: str) -> NetFile:
    with _open_hdf5(path) as (file, source):
        if "data" not in file:
            found = ", ".join(sorted(file)[:10]) or "nothing"
            raise FileError(f"no group 'data': not weights written by Caffe (found: {found})", path=path)
        data = _read_hdf5_layers(file, "data", source)
        diff = _read_hdf5_layers(file, "diff", source) if "diff" in file else {}
        if not data:
            raise FileError("no layers in group 'data'", path=path)
        layers = []
        for index, (name, arrays) in enumerate(data.items()):
            diffs = diff.get(name, {})
            count = 1 + max([-1, *arrays, *diffs])
            blobs = tuple(
                _hdf5_blob(arrays.get(i), diffs.get(i), path, f"layer {name!r}, blob {i}") for i in range(count)
            )
            layers.append(LayerRecord(index, name, None, blobs, (), (0, 0), 2))
        return NetFile(source, "", tuple(layers), b"")


_Stored: TypeAlias = "tuple[np.ndarray, tuple[int, int]]"  # an array, and its bytes in the file


def _hdf5_blob(data: _Stored | None, diff: _Stored | None, path: str, where: str) -> BlobView:
    if data is None:
        # Caffe leaves out what another layer owns, but writes its diff.
        shape = () if diff is None else diff[0].shape
        return BlobView(shape, np.empty(0, np.float32), None if diff is None else diff[0], (0, 0))
    if diff is not None and diff[0].shape != data[0].shape:
        raise FileError(f"data of shape {data[0].shape} but diff of shape {diff[0].shape}", path=path, place=where)
    return BlobView(data[0].shape, data[0], None if diff is None else diff[0], data[1])


def _read_hdf5_layers(file: Any, root: str, source: Source) -> dict[str, dict[int, _Stored]]:
    """The arrays below a group by layer and index.

    Caffe takes a layer's name for an HDF5 path, so a layer ``a/b`` is a group in a group.
    """
    layers: dict[str, dict[int, _Stored]] = {}
    seen: set[int] = set()
    pending: list[tuple[Any, str, int]] = [(_hdf5_member(file, root, h5py.Group, source.path), "", 0)]
    while pending:
        group, layer, depth = pending.pop()
        with _hdf5_errors(source.path, f"group {root}/{layer}"):
            address = h5py.h5o.get_info(group.id).addr
            names = list(group)
        if address in seen or depth > _MAX_LAYER_DEPTH or len(seen) > MAX_LAYERS:
            raise FileError(f"group {root}/{layer}: linked twice, or nested too deeply", path=source.path)
        seen.add(address)
        arrays: dict[int, _Stored] = {}
        inner = []
        for name in names:
            member = _hdf5_member(group, name, (h5py.Group, h5py.Dataset), source.path)
            if isinstance(member, h5py.Group):
                inner.append((member, f"{layer}/{name}" if layer else name, depth + 1))
                continue
            if not layer or not name.isascii() or not name.isdecimal() or str(int(name[:9])) != name:
                raise FileError(f"data set {member.name} is no blob: they are named 0, 1, ...", path=source.path)
            if int(name) > _MAX_BLOB_INDEX:
                raise FileError(f"data set {member.name}: no layer has so many blobs", path=source.path)
            arrays[int(name)] = _read_hdf5_array(member, source)
        if layer and (arrays or not inner):
            layers[layer] = arrays
        pending += reversed(inner)
    return layers


def _hdf5_member(group: Any, name: str, kinds: Any, path: str) -> Any:
    """A group's or file's member, which must lie in this file: links elsewhere could name any file of the reader's."""
    where = f"{group.name.rstrip('/')}/{name}"
    with _hdf5_errors(path, where):
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise FileError(f"{where} is a link to another place; Caffe writes none, so it is not followed", path=path)
        member = group[name]
    if not isinstance(member, kinds):
        raise FileError(f"{where} is a {type(member).__name__.lower()}, not what Caffe writes there", path=path)
    return member


def _read_hdf5_array(dataset: Any, source: Source) -> _Stored:
    """A data set of floats: a view of the file where HDF5 stores it in one piece, as Caffe does, else a copy."""
    where = f"data set {dataset.name}"
    path = source.path
    with _hdf5_errors(path, where):
        dtype, shape = dataset.dtype, dataset.shape
        if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
            raise FileError(f"{where} holds {dtype}, not floating-point numbers", path=path)
        if shape is None or len(shape) > MAX_BLOB_AXES:
            raise FileError(f"{where} has no shape that a blob could have", path=path)
        creation = dataset.id.get_create_plist()
        layout = creation.get_layout()
        if layout == h5py.h5d.VIRTUAL or creation.get_external_count():
            raise FileError(f"{where} stores its values in other files; they are not opened", path=path)

        size = math.prod(shape) * dtype.itemsize
        stored = min(dataset.id.get_storage_size(), source.size)
        if size == 0:
            return _read_only(np.empty(shape, dtype.newbyteorder("<"))), (0, 0)
        if layout == h5py.h5d.CONTIGUOUS:
            offset = dataset.id.get_offset()
            if offset is None or stored < size or offset + size > source.size:
                raise FileError(f"{where} of shape {shape} declares more bytes than the file holds", path=path)
            for kind, name in _IEEE_LITTLE_ENDIAN:
                if dataset.id.get_type().equal(kind):
                    view = source.array((offset, math.prod(shape), int(name[2])), name)
                    return view.reshape(shape), (offset, offset + size)
        elif layout == h5py.h5d.CHUNKED:
            chunk = math.prod(dataset.chunks) * dtype.itemsize
            compressed = creation.get_nfilters() > 0
            limit = max(_MAX_INFLATED_BYTES, _MAX_INFLATION * stored) if compressed else stored
            needed = max(size, chunk) if compressed else size
            if stored == 0 or needed > limit:
                raise FileError(
                    f"{where} of shape {shape} declares {needed} bytes but stores {stored}"
                    + ("; if it is sound, `h5repack -f NONE` rewrites it uncompressed" if compressed else ""),
                    path=path,
                )
        return _read_only(dataset[()].astype(dtype.newbyteorder("<"), copy=False)), (0, 0)


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _read_hdf5_solverstate(path: str) -> SolverState:
    with _open_hdf5(path) as (file, source):
        for name in ("iter", "current_step", "history"):
            if name not in file:
                raise FileError(f"no {name!r}: not a solver's state written by Caffe", path=path)
        learned_net = _read_hdf5_text(file, "learned_net", path) if "learned_net" in file else None
        group = _hdf5_member(file, "history", h5py.Group, path)
        history = []
        for i in range(len(group)):
            if str(i) not in group:
                raise FileError(f"history: {len(group)} blobs, but none is named {i}", path=path)
            array, span = _read_hdf5_array(_hdf5_member(group, str(i), h5py.Dataset, path), source)
            history.append(BlobView(array.shape, array, None, span))
        return SolverState(
            _read_hdf5_int(file, "iter", path), learned_net, _read_hdf5_int(file, "current_step", path), tuple(history)
        )


def _read_hdf5_int(file: Any, name: str, path: str) -> int:
    dataset = _hdf5_member(file, name, h5py.Dataset, path)
    if dataset.dtype.kind not in "iu" or dataset.size != 1 or dataset.is_virtual or dataset.external:
        raise FileError(f"data set {name} is not one integer", path=path)
    return int(dataset[()].reshape(-1)[0])


def _read_hdf5_text(file: Any, name: str, path: str) -> str:
    dataset = _hdf5_member(file, name, h5py.Dataset, path)
    text = h5py.check_string_dtype(dataset.dtype)
    if text is None or dataset.size != 1 or dataset.dtype.itemsize > 1 << 16 or dataset.is_virtual or dataset.external:
        raise FileError(f"data set {name} is not one string", path=path)
    value = np.asarray(dataset[()]).reshape(-1)[0]
    return bytes(value).decode("utf-8", "backslashreplace")


# Writing HDF5 files


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
    with _create_hdf5(path) as file:
        data = file.create_group("data")
        diff = file.create_group("diff") if has_diff else None
        for name, blobs in layers:
            group = data.require_group(name)
            diff_group = None if diff is None else diff.require_group(name)
            for i, blob in enumerate(blobs):
                where = f"layer {name!r}, blob {i}"
                if isinstance(blob, BlobView):
                    if diff_group is not None and blob.diff is not None:
                        _write_hdf5_array(diff_group, str(i), blob.diff, where)
                    if blob.is_empty:
                        continue
                    blob = blob.data
                if blob is not None:
                    _write_hdf5_array(group, str(i), blob, where)


def _write_hdf5_solverstate(
    path: Path, iteration: int, learned_net: str | None, current_step: int, history: Sequence[Blob]
) -> None:
    with _create_hdf5(path) as file:
        file.create_dataset("iter", data=np.array([iteration], "<i4"))
        if learned_net is not None:
            # A C string with its end mark, which Caffe's reader relies on.
            text = learned_net.encode() + b"\0"
            kind = h5py.h5t.C_S1.copy()
            kind.set_size(len(text))
            space = h5py.h5s.create(h5py.h5s.SCALAR)
            h5py.h5d.create(file.id, b"learned_net", kind, space).write(space, space, np.array(text, f"S{len(text)}"))
        file.create_dataset("current_step", data=np.array([current_step], "<i4"))
        group = file.create_group("history")
        for i, blob in enumerate(history):
            array = blob.data if isinstance(blob, BlobView) else blob
            _write_hdf5_array(group, str(i), array, f"history blob {i}")


@contextmanager
def _create_hdf5(path: Path) -> Iterator[Any]:
    with atomic_write(path) as handle:
        sink = Sink(handle)
        with (
            _hdf5_errors(os.fspath(path), "cannot be written"),
            # The oldest format, which every HDF5 that a Caffe was built with reads.
            h5py.File(handle.name, "w", driver="fileobj", fileobj=sink, libver=("earliest", "latest")) as file,
        ):
            yield file
        sink.check()


def _write_hdf5_array(group: Any, name: str, array: np.ndarray, where: str) -> None:
    width = _width(array, where)
    group.create_dataset(name, data=array, dtype=f"<f{width}")
