"""Caffe's binary files read where they lie: a walk of the protobuf wire format over a memory map.

Only what holds weights is decoded here (layer names, types and blobs); everything else of a network is handed on as
bytes, :attr:`NetFile.structure`, for protobuf to parse without the weights. Blobs are numpy views of the mapped file:
reading a network costs its headers, not its size, and no length is limited to 2 GB.

Field numbers are those of BVLC Caffe 1.0.0's ``caffe.proto``; ``raw_data`` (fields 10 to 13 of BlobProto) is the
NVIDIA fork's. The encoding is described at https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import math
import mmap
import os
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from caffe_compat.errors import FileError, WeightsError, WireError, located
from caffe_compat.formats.files import open_file
from caffe_compat.formats.sizes import MAX_BLOB_AXES, MAX_BLOB_VALUES, MAX_LAYERS
from caffe_compat.formats.sniff import HEAD_BYTES, refusal

__all__ = [
    "BlobView",
    "LayerRecord",
    "NetFile",
    "SolverState",
    "Source",
    "float_width",
    "read_blob",
    "read_net",
    "read_solver_state",
    "varint",
]

PathOrBuffer: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | mmap.mmap"

VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 = 0, 1, 2, 3, 4, 5
_MAX_FIELD_NUMBER = (1 << 29) - 1
_MAX_GROUP_DEPTH = 100  # protobuf's own limit on nesting

# Far beyond any network; they bound what a file of empty messages can make us allocate.
_MAX_BLOBS = 100_000
_MAX_PIECES = 4096

NET_NAME, NET_V1_LAYERS, NET_LAYER = 1, 2, 100
_NET_WIRE_TYPES = {1: BYTES, 2: BYTES, 3: BYTES, 5: VARINT, 6: BYTES, 7: VARINT, 8: BYTES, 100: BYTES}

# The blobs field of each generation's layer message: V0LayerParameter, V1LayerParameter, LayerParameter.
BLOBS_FIELD = (50, 6, 7)
V1_V0_LAYER = 1

# NVIDIA's enum Type, as far as it names floating-point numbers.
_RAW_DTYPES = {0: "<f8", 1: "<f4", 2: "<f2"}

# BlobProto's repeated numbers: field -> (dtype, wire type of one unpacked value).
_NUMBERS = {5: ("<f4", FIXED32), 6: ("<f4", FIXED32), 8: ("<f8", FIXED64), 9: ("<f8", FIXED64)}

_NOTHING = np.empty(0, np.float32)
_NOTHING.flags.writeable = False


@dataclass(frozen=True, slots=True)
class BlobView:
    """One blob of a file.

    ``data`` is read-only, little-endian float32, float64 or float16, and has ``shape``; it is a view of the mapped file
    (not always aligned) unless the file stores its values one by one. ``diff`` is the same for the gradient, or None.
    ``span`` is the byte range in the file that holds the blob.
    """

    shape: tuple[int, ...]
    data: np.ndarray
    diff: np.ndarray | None
    span: tuple[int, int]

    @property
    def is_empty(self) -> bool:
        """True if the file declares the blob but stores no values for it; ``data`` then has shape ``(0,)``."""
        return self.data.size == 0 and math.prod(self.shape) != 0


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """What a weights file says of one layer.

    ``type`` is a string, or the number of the V1 enum, or None where the file does not say. ``fields`` are the distinct
    field numbers of the layer's message in order of appearance, ``span`` its byte range, ``generation`` 0, 1 or 2 for
    V0LayerParameter, V1LayerParameter and LayerParameter. Bytes of a name that are not UTF-8 read as ``\\xNN``.
    """

    index: int
    name: str
    type: str | int | None
    blobs: tuple[BlobView, ...]
    fields: tuple[int, ...]
    span: tuple[int, int]
    generation: int


class NetFile:
    """A binary network: its layers with their blobs, and everything else as ``structure``.

    ``structure`` is the NetParameter without any blob, unknown fields included. The views in ``layers`` keep the file
    mapped, also after :meth:`close`, for as long as one of them lives.
    """

    __slots__ = ("_layers", "_source", "name", "path", "structure")

    def __init__(self, source: Source, name: str, layers: tuple[LayerRecord, ...], structure: bytes) -> None:
        self._source: Source | None = source
        self._layers: tuple[LayerRecord, ...] | None = layers
        self.path = source.path
        self.name = name
        self.structure = structure

    @property
    def layers(self) -> tuple[LayerRecord, ...]:
        if self._layers is None:
            raise ValueError(f"{self.path}: the file was closed")
        return self._layers

    def release(self, blob: BlobView) -> None:
        """Give the memory of a blob's mapped pages back. Its views stay valid: reading them maps the pages again."""
        if self._source is not None:
            self._source.release(*blob.span)

    def close(self) -> None:
        """Forget the file. Views that somebody still holds stay valid."""
        self._source = None
        self._layers = None

    def __enter__(self) -> NetFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class SolverState:
    """A solver's snapshot: iteration, the weights file it names (None if it names none), step of a multistep policy,
    and the optimiser's history blobs in Caffe's order (for each parameter; Adam, AdaDelta: all first moments, then all
    second ones)."""

    iteration: int
    learned_net: str | None
    current_step: int
    history: tuple[BlobView, ...]


def read_net(file: PathOrBuffer) -> NetFile:
    """Read a ``.caffemodel``. No data page of the file is touched.

    Raises FileError if the file cannot be opened, WireError (with the byte offset) if it is no network.
    """
    source = Source(file)
    source.refuse_foreign_formats("a .caffemodel")
    name = ""
    layers: list[LayerRecord] = []
    structure: list[bytes] = []
    blob_count = 0
    position, end = 0, source.size
    while position < end:
        at = position
        number, wire, value, position = source.field(at, end)
        expected = _NET_WIRE_TYPES.get(number)
        if expected is not None and wire != expected:
            hint = "; a .solverstate or a .binaryproto begins like this" if number == 1 and at == 0 else ""
            raise source.error(f"field {number} of NetParameter has wire type {wire}, not {expected}{hint}", at)
        if number in (NET_LAYER, NET_V1_LAYERS):
            layer, layer_structure = _read_layer(source, len(layers), value, position, 2 if number == NET_LAYER else 1)
            layers.append(layer)
            structure += (varint(number << 3 | BYTES), varint(len(layer_structure)), layer_structure)
            blob_count += len(layer.blobs)
            if len(layers) > MAX_LAYERS or blob_count > _MAX_BLOBS:
                raise source.error(f"more than {MAX_LAYERS} layers or {_MAX_BLOBS} blobs: not a network", at)
        else:
            if number == NET_NAME:
                name = source.text(value, position)
            structure.append(source.bytes(at, position))
    if not layers:
        raise source.error("no layers: the bytes parse, but they are not the NetParameter of a .caffemodel", 0)
    return NetFile(source, name, tuple(layers), b"".join(structure))


def read_blob(file: PathOrBuffer) -> BlobView:
    """Read a ``.binaryproto``: one bare BlobProto, such as the mean image that compute_image_mean writes."""
    source = Source(file)
    source.refuse_foreign_formats("a .binaryproto")
    number, wire, _, _ = source.field(0, source.size)
    if number == 1 and wire == BYTES:
        raise source.error("not a BlobProto; a .caffemodel begins like this", 0)
    blob = _read_blob(source, 0, source.size)
    if blob.is_empty:
        raise source.error(f"a blob of shape {blob.shape} without values", 0)
    return blob


def read_solver_state(file: PathOrBuffer) -> SolverState:
    """Read a binary ``.solverstate``. Raises FileError, WireError."""
    source = Source(file)
    source.refuse_foreign_formats("a .solverstate")
    iteration: int | None = None
    learned_net: str | None = None
    current_step = 0
    history: list[BlobView] = []
    position, end = 0, source.size
    while position < end:
        at = position
        number, wire, value, position = source.field(at, end)
        expected = {1: VARINT, 2: BYTES, 3: BYTES, 4: VARINT}.get(number, wire)
        if wire != expected:
            hint = "; a .caffemodel begins like this" if number == 1 and wire == BYTES else ""
            raise source.error(f"field {number} of SolverState has wire type {wire}, not {expected}{hint}", at)
        if number == 1:
            iteration = _signed(value, 32)
        elif number == 2:
            learned_net = source.text(value, position)
        elif number == 3:
            with located(place=f"history blob {len(history)}"):
                history.append(_read_blob(source, value, position))
            if len(history) > _MAX_BLOBS:
                raise source.error(f"more than {_MAX_BLOBS} history blobs: not a solver's state", at)
        elif number == 4:
            current_step = _signed(value, 32)
    if iteration is None:
        raise source.error("no iteration (field 1): not the SolverState of a .solverstate", 0)
    return SolverState(iteration, learned_net, current_step, tuple(history))


def _read_layer(source: Source, index: int, start: int, end: int, generation: int) -> tuple[LayerRecord, bytes]:
    """One layer message, and its bytes without the blobs."""
    fields, values, blob_ranges, structure = _scan_layer(source, start, end, generation)
    if generation == 2:
        name_at, kind_at = values.get(1), values.get(2)
    elif V1_V0_LAYER in values:
        generation = 0
        _, inner, _, _ = _scan_layer(source, *values[V1_V0_LAYER][1:], 0)
        name_at, kind_at = inner.get(1), inner.get(2)
    else:
        name_at, kind_at = values.get(4), values.get(5)

    name = "" if name_at is None else source.text(*_expect(source, name_at, BYTES, f"the name of layer {index}"))
    kind: str | int | None = None
    if kind_at is not None and generation == 1:
        kind = _signed(_expect(source, kind_at, VARINT, f"the type of layer {name!r}")[0], 32)
    elif kind_at is not None:
        kind = source.text(*_expect(source, kind_at, BYTES, f"the type of layer {name!r}"))

    blobs = []
    for i, (first, last) in enumerate(blob_ranges):
        with located(layer=name, index=i):
            blobs.append(_read_blob(source, first, last))
    return LayerRecord(index, name, kind, tuple(blobs), tuple(fields), (start, end), generation), structure


_Value: TypeAlias = tuple[int, int, int]  # wire type, value or where it starts, where the field ends


def _scan_layer(
    source: Source, start: int, end: int, generation: int
) -> tuple[dict[int, None], dict[int, _Value], list[tuple[int, int]], bytes]:
    """A layer message's field numbers, last values, byte ranges of its blobs, and its bytes without those blobs.

    A V1 message may hold a V0 one, whose blobs count as the layer's.
    """
    numbers: dict[int, None] = {}
    values: dict[int, _Value] = {}
    blobs: list[tuple[int, int]] = []
    kept: list[bytes] = []
    kept_from = position = start
    while position < end:
        at = position
        number, wire, value, position = source.field(at, end)
        numbers[number] = None
        if number == BLOBS_FIELD[generation]:
            if wire != BYTES:
                raise source.error(f"a blobs field with wire type {wire}, not {BYTES}", at)
            blobs.append((value, position))
            kept.append(source.bytes(kept_from, at))
            kept_from = position
        elif number == V1_V0_LAYER and generation == 1:
            if wire != BYTES:
                raise source.error(f"the V0 layer of a V1 layer has wire type {wire}, not {BYTES}", at)
            if number in values:
                raise source.error("a V1 layer that holds two V0 layers", at)
            _, _, inner_blobs, inner = _scan_layer(source, value, position, 0)
            blobs += inner_blobs
            kept += (source.bytes(kept_from, at), varint(number << 3 | BYTES), varint(len(inner)), inner)
            kept_from = position
        values[number] = (wire, value, position)
        if len(blobs) > _MAX_BLOBS:
            raise source.error(f"more than {_MAX_BLOBS} blobs in a layer: not a network", at)
    kept.append(source.bytes(kept_from, end))
    return numbers, values, blobs, b"".join(kept)


def _expect(source: Source, field: _Value, wire: int, what: str) -> tuple[int, int]:
    """The value and end of a field, which must have this wire type."""
    if field[0] != wire:
        raise source.error(f"{what} has wire type {field[0]}, not {wire}", field[2])
    return field[1], field[2]


def _read_blob(source: Source, start: int, end: int) -> BlobView:
    """Decode the BlobProto in bytes ``start`` to ``end``."""
    legacy = [0, 0, 0, 0]
    has_legacy = False
    dims: list[int] = []
    pieces: dict[int, list[_Piece]] = {}
    others: dict[int, _Value] = {}
    position = start
    while position < end:
        at = position
        number, wire, value, position = source.field(at, end)
        if number in _NUMBERS:
            dtype, unpacked = _NUMBERS[number]
            width = int(dtype[2])
            if wire == BYTES:
                if (position - value) % width:
                    raise source.error(f"{position - value} bytes are no whole number of {dtype} values", at)
                piece = (value, (position - value) // width, width)
            elif wire == unpacked:
                run = source.run_length(position, end, number << 3 | wire, width)
                piece = (value, 1 + run, width + 1)
                position += run * (width + 1)
            elif number == 5 and wire == VARINT:
                raise source.error(
                    "field 5 is one integer: blobs of 5 axes as the C3D and Caffe_3D_FF forks write them "
                    "are not supported; save the model with BVLC Caffe's BlobProto",
                    at,
                )
            else:
                raise source.error(f"field {number} has wire type {wire}", at)
            found = pieces.setdefault(number, [])
            found.append(piece)
            if len(found) > _MAX_PIECES:
                raise source.error(f"its values lie in more than {_MAX_PIECES} pieces", at)
        elif number == 7:
            if wire != BYTES:
                raise source.error(f"its shape has wire type {wire}, not {BYTES}", at)
            _read_dims(source, value, position, dims)
        elif 1 <= number <= 4:
            if wire != VARINT:
                raise source.error(f"field {number} (an axis' length) has wire type {wire}, not {VARINT}", at)
            legacy[number - 1] = _signed(value, 32)
            has_legacy = True
        else:
            others[number] = (wire, value, position)

    shape = tuple(dims) if dims or not has_legacy else tuple(legacy)
    if dims and has_legacy and (1,) * (4 - len(dims)) + shape != tuple(legacy):
        # Caffe takes num, channels, height and width, and then stops where they do not fit the layer.
        raise source.error(
            f"its shape is {list(shape)}, its num, channels, height and width say {legacy}",
            start,
        )
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count > MAX_BLOB_VALUES:
        raise source.error(f"impossible shape {shape}", start)
    data = _values(source, pieces, (8, 5), others, (10, 12))
    diff = _values(source, pieces, (9, 6), others, (11, 13))
    if data.size == 0:
        foreign = [n for n, (wire, a, b) in others.items() if wire == BYTES and a < b]
        if foreign and count:
            raise source.error(
                f"no values in a field that BVLC or NVIDIA Caffe writes, but bytes in field {foreign[0]}, "
                "where some forks (such as BVLC's opencl branch) pack them; save the model with BVLC Caffe's BlobProto",
                start,
            )
    for what, array in (("values", data), ("diff values", diff)):
        if array.size not in (0, count):
            no_shape = "" if dims or has_legacy else " (it names no shape)"
            raise source.error(f"shape {shape}{no_shape} needs {count} {what}, but {array.size} are stored", start)
    return BlobView(
        shape,
        data.reshape(shape) if data.size == count else data,
        diff.reshape(shape) if diff.size else None,
        (start, end),
    )


_Piece: TypeAlias = tuple[int, int, int]  # where the first value starts, number of values, bytes from one to the next


def _values(
    source: Source,
    pieces: dict[int, list[_Piece]],
    numbers: tuple[int, int],
    others: dict[int, _Value],
    raw: tuple[int, int],
) -> np.ndarray:
    """A blob's data or diff: raw bytes if their type is given, else the doubles if there are any, else the floats.

    That is the order of preference of NVIDIA's and BVLC's readers.
    """
    kind, values = others.get(raw[0]), others.get(raw[1])
    if kind is not None and values is not None and kind[0] == VARINT and values[0] == BYTES:
        dtype = _RAW_DTYPES.get(kind[1])
        start, size = values[1], values[2] - values[1]
        if dtype is None or size % int(dtype[2]):
            raise source.error(f"{size} bytes of raw data of type {kind[1]}: not an array of floats", start)
        return source.array((start, size // int(dtype[2]), int(dtype[2])), dtype)
    for number in numbers:
        found = pieces.get(number)
        if found is not None and any(count for _, count, _ in found):
            arrays = [source.array(piece, _NUMBERS[number][0]) for piece in found]
            if len(arrays) == 1 and arrays[0].flags.c_contiguous:
                return arrays[0]
            joined = np.concatenate(arrays)
            joined.flags.writeable = False
            source.release(found[0][0], found[-1][0] + found[-1][1] * found[-1][2])
            return joined
    return _NOTHING


def _read_dims(source: Source, start: int, end: int, dims: list[int]) -> None:
    """Append the dims of a BlobShape message."""
    position = start
    while position < end:
        at = position
        number, wire, value, position = source.field(at, end)
        if number != 1:
            continue
        if wire == BYTES:
            while value < position:
                dim, value = source.varint(value, position)
                dims.append(_signed(dim, 64))
                if len(dims) > MAX_BLOB_AXES:
                    break
        elif wire == VARINT:
            dims.append(_signed(value, 64))
        else:
            raise source.error(f"a dim has wire type {wire}, not {VARINT}", at)
        if len(dims) > MAX_BLOB_AXES:
            raise source.error(f"more than {MAX_BLOB_AXES} axes", at)


def _signed(value: int, bits: int) -> int:
    """A varint as protobuf's int32 or int64: the low bits in two's complement."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def float_width(array: np.ndarray) -> int:
    """Bytes per value of an array that Caffe can store."""
    if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        raise WeightsError(f"an array of {array.dtype}; Caffe stores float32 and float64, so convert it first")
    return array.dtype.itemsize


def varint(value: int) -> bytes:
    """The wire encoding of a non-negative integer."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Source:
    """Bytes to walk: a mapped file, or a buffer."""

    __slots__ = ("_mapping", "buffer", "path", "size")

    def __init__(self, file: PathOrBuffer) -> None:
        self._mapping: mmap.mmap | None = None
        self.buffer: Any
        if isinstance(file, (str, os.PathLike)):
            self.path = os.fspath(file)
            with open_file(self.path) as handle:
                if os.fstat(handle.fileno()).st_size == 0:
                    raise self.error("the file is empty; was its download or copy cut short?", 0)
                try:
                    self.buffer = self._mapping = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
                except (OSError, ValueError) as error:
                    raise FileError(f"cannot be mapped into memory: {error}", path=self.path) from error
            self.size = len(self.buffer)
        else:
            self.path = "<bytes>"
            self.buffer = file if isinstance(file, bytes) else memoryview(file).cast("B")
            self.size = len(self.buffer)
            if self.size == 0:
                raise self.error("no bytes", 0)

    def error(self, message: str, offset: int) -> WireError:
        return WireError(message, path=self.path, offset=offset)

    def bytes(self, start: int, end: int) -> bytes:
        return bytes(self.buffer[start:end])

    def text(self, start: int, end: int) -> str:
        return self.bytes(start, end).decode("utf-8", "backslashreplace")

    def array(self, piece: _Piece, dtype: str) -> np.ndarray:
        start, count, step = piece
        if step == int(dtype[2]):
            array = np.frombuffer(self.buffer, dtype, count, start)
        else:
            array = np.ndarray((count,), dtype, self.buffer, start, (step,))
        array.flags.writeable = False
        return array

    def release(self, start: int, end: int) -> None:
        if self._mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            # Dropping a page of a read-only mapping loses nothing, so the pages shared with neighbours go too.
            first = start - start % mmap.PAGESIZE
            if end > first:
                self._mapping.madvise(mmap.MADV_DONTNEED, first, min(end, self.size) - first)

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """The varint at ``position``, and where it ends."""
        value = shift = 0
        at = position
        while position < end:
            byte = self.buffer[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, position
            shift += 7
            if shift == 70:
                raise self.error("a varint of more than 10 bytes", at)
        raise self.error("the message ends inside a varint: truncated or damaged", at)

    def field(self, position: int, end: int) -> tuple[int, int, int, int]:
        """The field at ``position``: number, wire type, value (a varint) or where the value starts, where it ends."""
        at = position
        buffer = self.buffer
        # Varints of one byte, nearly all there are, are read here: a call each would double the time of a network.
        key = buffer[position]
        if key < 0x80:
            position += 1
        else:
            key, position = self.varint(position, end)
        number, wire = key >> 3, key & 7
        if not 1 <= number <= _MAX_FIELD_NUMBER:
            raise self.error(f"field number {number}: not a protobuf message, or damaged", at)
        if wire == BYTES:
            if position < end and (length := buffer[position]) < 0x80:
                start = position + 1
            else:
                length, start = self.varint(position, end)
            position = start + length
            if position > end:
                raise self.error(
                    f"field {number} declares {length} bytes, but {end - start} remain: truncated or damaged", at
                )
            return number, wire, start, position
        if wire == VARINT:
            value, position = self.varint(position, end)
            return number, wire, value, position
        if wire in (FIXED32, FIXED64):
            start = position
            position += 4 if wire == FIXED32 else 8
            if position > end:
                raise self.error(f"the message ends inside field {number}: truncated or damaged", at)
            return number, wire, start, position
        if wire == GROUP:
            return number, wire, position, self._group_end(number, position, end, at)
        raise self.error(f"field {number} has wire type {wire}: not a protobuf message, or damaged", at)

    def _group_end(self, number: int, position: int, end: int, at: int) -> int:
        """Where the group that began before ``position`` ends."""
        open_groups = [number]
        while position < end:
            here = position
            key, position = self.varint(here, end)
            inner, wire = key >> 3, key & 7
            if wire == GROUP and 1 <= inner <= _MAX_FIELD_NUMBER:
                open_groups.append(inner)
                if len(open_groups) > _MAX_GROUP_DEPTH:
                    raise self.error(f"groups nested deeper than {_MAX_GROUP_DEPTH}", here)
            elif wire == END_GROUP:
                if inner != open_groups.pop():
                    raise self.error(f"a group ends with field {inner}, which it did not begin with", here)
                if not open_groups:
                    return position
            else:
                position = self.field(here, end)[3]
        raise self.error(f"group {number} never ends: truncated or damaged", at)

    def run_length(self, position: int, end: int, tag: int, width: int) -> int:
        """How many fields of this one-byte tag and ``width`` bytes of value follow each other from ``position``."""
        limit = (end - position) // (width + 1)
        total = 0
        # Growing windows: a long run costs a few numpy calls, a short one never looks far ahead.
        window = 64
        while total < limit:
            size = min(window, limit - total)
            tags = np.ndarray((size,), np.uint8, self.buffer, position + total * (width + 1), (width + 1,))
            other = np.flatnonzero(tags != tag)
            if other.size:
                return total + int(other[0])
            total += size
            window = min(window * 2, 1 << 20)
        return total

    def refuse_foreign_formats(self, wanted: str) -> None:
        """Say what a file is that is plainly something else."""
        reason = refusal(self.bytes(0, min(self.size, HEAD_BYTES)), wanted)
        if reason:
            raise self.error(reason, 0)
