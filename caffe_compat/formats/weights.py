"""Weights, mean images and solver snapshots: every file that Caffe writes, read and written.

Binary files are laid out as protobuf serialises BVLC Caffe 1.0.0's messages (fields in the order of their numbers,
arrays packed), HDF5 files as its ``Net::ToHDF5`` and ``SGDSolver::SnapshotSolverStateToHDF5`` write them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from caffe_compat.errors import FileError, WeightsError, located
from caffe_compat.formats.blob_proto import BlobView, float_width, read_blob
from caffe_compat.formats.caffemodel import (
    BLOBS_FIELD,
    NET_LAYER,
    NET_V1_LAYERS,
    V1_V0_LAYER,
    LayerRecord,
    NetFile,
    read_net,
)
from caffe_compat.formats.files import atomic_write
from caffe_compat.formats.sniff import FileKind, kind_of
from caffe_compat.formats.solverstate import SolverState, read_solver_state
from caffe_compat.formats.varint import varint
from caffe_compat.formats.wire import BYTES, Source

__all__ = [
    "WeightsFile",
    "read_binaryproto",
    "read_solverstate",
    "read_weights",
    "write_binaryproto",
    "write_caffemodel",
    "write_solverstate",
]

Path: TypeAlias = "str | os.PathLike[str]"
Blob: TypeAlias = "np.ndarray | BlobView"
Kind: TypeAlias = Literal["binary", "hdf5", "safetensors"]


class WeightsFile:
    """A binary or HDF5 weights file, or one of safetensors.

    ``layers`` are records of name, type (of a binary file, else None) and blobs, in the file's order (HDF5: sorted by
    name). ``structure`` is the rest of the network as bytes of a NetParameter, None where none is stored. A blob that
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
    """Read a ``.caffemodel``, ``.caffemodel.h5`` or ``.safetensors``; its first bytes tell which.

    Raises FileError (WireError for binary files), naming the place in the file; also for a file with layers of several
    generations, as Caffe's ``UpgradeV1Net`` refuses it.
    """
    kind = kind_of(path)
    if kind is FileKind.HDF5:
        from .weights_hdf5 import read_hdf5_net

        return WeightsFile(read_hdf5_net(os.fspath(path)), "hdf5")
    if kind is FileKind.SAFETENSORS:
        from .weights_safetensors import read_safetensors_net

        return WeightsFile(read_safetensors_net(os.fspath(path)), "safetensors")
    net = read_net(path)
    current = sum(layer.generation == 2 for layer in net.layers)
    if 0 < current < len(net.layers):
        raise FileError(
            f"holds {len(net.layers) - current} layers of the old form (`layers`) and {current} of the current one "
            "(`layer`); Caffe refuses such a mixture",
            path=os.fspath(path),
        )
    return WeightsFile(net, "binary")


def read_binaryproto(path: Path) -> np.ndarray:
    """The array of a ``.binaryproto`` (often a mean image of shape (1, channels, height, width), BGR), as a copy."""
    return read_blob(path).data.copy()


def read_solverstate(path: Path) -> SolverState:
    """Read a ``.solverstate`` or ``.solverstate.h5``; its first bytes tell which. Raises FileError."""
    if kind_of(path) is FileKind.HDF5:
        from .weights_hdf5 import read_hdf5_solverstate

        return read_hdf5_solverstate(os.fspath(path))
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
    pieces = _blob_pieces(array, array.ndim == 4)
    with atomic_write(path) as handle:
        _write_pieces(handle, pieces)


def write_solverstate(
    path: Path, iteration: int, learned_net: str | None, current_step: int, history: Sequence[Blob]
) -> None:
    """Write a solver's snapshot: HDF5 if ``path`` ends in ``.h5``, as in Caffe, else binary. See :class:`SolverState`.

    Raises FileError; WeightsError if a history array is not float32 or float64.
    """
    if os.fspath(path).endswith(".h5"):
        from .weights_hdf5 import write_hdf5_solverstate

        write_hdf5_solverstate(path, iteration, learned_net, current_step, history)
        return
    pieces: list[_Piece] = [b"\x08", _int32(iteration)]
    if learned_net is not None:
        pieces += _field(2, [learned_net.encode()])
    for i, blob in enumerate(history):
        with located(place=f"history blob {i}"):
            pieces += _field(3, _blob_pieces(blob, False))
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
        with located(place=f"layer {index}", index=i):
            pieces += _field(BLOBS_FIELD[generation], _blob_pieces(blob, legacy))
    return [*pieces, source.bytes(insert_at, end)]


def _blob_pieces(blob: Blob, legacy: bool) -> list[_Piece]:
    """A BlobProto; with ``legacy``, one of four axes has them in the old fields."""
    data, diff = (blob.data, blob.diff) if isinstance(blob, BlobView) else (blob, None)
    shape = blob.shape
    arrays = {5 if float_width(data) == 4 else 8: data}
    if diff is not None:
        arrays[6 if float_width(diff) == 4 else 9] = diff

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
