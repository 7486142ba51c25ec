"""Caffe's BlobProto, the form in which binary files hold arrays, read as views; a ``.binaryproto`` is nothing else.

Fields of BVLC Caffe 1.0.0's ``caffe.proto``; ``raw_data`` (fields 10 to 13) is the NVIDIA fork's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from caffe_compat.errors import WeightsError
from caffe_compat.formats.sizes import MAX_BLOB_AXES, MAX_BLOB_VALUES
from caffe_compat.formats.varint import signed
from caffe_compat.formats.wire import BYTES, FIXED32, FIXED64, VARINT, Field, PathOrBuffer, Run, Source

__all__ = ["BlobView", "blob_at", "float_width", "read_blob"]

# NVIDIA's enum Type, as far as it names floating-point numbers.
_RAW_DTYPES = {0: "<f8", 1: "<f4", 2: "<f2"}

# BlobProto's repeated numbers: field -> (dtype, wire type of one unpacked value).
_NUMBERS = {5: ("<f4", FIXED32), 6: ("<f4", FIXED32), 8: ("<f8", FIXED64), 9: ("<f8", FIXED64)}

# Far beyond any blob; bounds what a file of empty messages can make us allocate.
_MAX_PIECES = 4096

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


def read_blob(file: PathOrBuffer) -> BlobView:
    """Read a ``.binaryproto``: one bare BlobProto, such as the mean image that compute_image_mean writes."""
    source = Source(file)
    source.refuse_foreign_formats("a .binaryproto")
    number, wire, _, _ = source.field(0, source.size)
    if number == 1 and wire == BYTES:
        raise source.error("not a BlobProto; a .caffemodel begins like this", 0)
    blob = blob_at(source, 0, source.size)
    if blob.is_empty:
        raise source.error(f"a blob of shape {blob.shape} without values", 0)
    return blob


def blob_at(source: Source, start: int, end: int) -> BlobView:
    """Decode the BlobProto in bytes ``start`` to ``end``."""
    legacy = [0, 0, 0, 0]
    has_legacy = False
    dims: list[int] = []
    pieces: dict[int, list[Run]] = {}
    others: dict[int, Field] = {}
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
            legacy[number - 1] = signed(value, 32)
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


def _values(
    source: Source,
    pieces: dict[int, list[Run]],
    numbers: tuple[int, int],
    others: dict[int, Field],
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
                dims.append(signed(dim, 64))
                if len(dims) > MAX_BLOB_AXES:
                    break
        elif wire == VARINT:
            dims.append(signed(value, 64))
        else:
            raise source.error(f"a dim has wire type {wire}, not {VARINT}", at)
        if len(dims) > MAX_BLOB_AXES:
            raise source.error(f"more than {MAX_BLOB_AXES} axes", at)


def float_width(array: np.ndarray) -> int:
    """Bytes per value of an array that Caffe can store."""
    if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        raise WeightsError(f"an array of {array.dtype}; Caffe stores float32 and float64, so convert it first")
    return array.dtype.itemsize
