"""The protobuf wire format: a walk over a mapped file, field by field, that copies nothing.

The encoding is described at https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import mmap
import os
from typing import TypeAlias

import numpy as np

from caffe_compat.errors import FileError, WireError
from caffe_compat.formats.files import open_file
from caffe_compat.formats.sniff import HEAD_BYTES, refusal

__all__ = ["BYTES", "FIXED32", "FIXED64", "VARINT", "Field", "PathOrBuffer", "Run", "Source"]

PathOrBuffer: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | mmap.mmap"
# What was read of a field: wire type, value (of a varint) or where it starts, where the field ends.
Field: TypeAlias = tuple[int, int, int]
# Numbers at equal distances: where the first one starts, how many, bytes from one to the next.
Run: TypeAlias = tuple[int, int, int]

VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 = 0, 1, 2, 3, 4, 5
_MAX_FIELD_NUMBER = (1 << 29) - 1
_MAX_GROUP_DEPTH = 100  # protobuf's own limit on nesting


class Source:
    """Bytes to walk: a mapped file, or a buffer."""

    __slots__ = ("_mapping", "buffer", "path", "size")

    def __init__(self, file: PathOrBuffer) -> None:
        self._mapping: mmap.mmap | None = None
        self.buffer: bytes | memoryview | mmap.mmap
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

    def array(self, piece: Run, dtype: str) -> np.ndarray:
        start, count, step = piece
        if step == int(dtype[2]):
            array = np.frombuffer(self.buffer, dtype, count, start)
        else:
            array = np.ndarray((count,), dtype, self.buffer, start, (step,))
        array.flags.writeable = False
        return array

    def expect(self, field: Field, wire: int, what: str) -> tuple[int, int]:
        """The value and end of a field, which must have this wire type."""
        if field[0] != wire:
            raise self.error(f"{what} has wire type {field[0]}, not {wire}", field[2])
        return field[1], field[2]

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
