"""Ways to damage a file: bytes of any, and with an eye for structure protobuf, text, zip archives and HDF5.

Each takes the content and a source of chance and returns another content; what a mutator cannot take apart comes back
with damaged bytes.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeAlias

import h5py
import numpy as np

from tests.fuzz.fence import BAIT

Mutator: TypeAlias = Callable[[bytes, Random], bytes]

_NUMBERS = (0, 1, -1, 2, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63)
_TOKENS = (
    *("", "{", "}", '"', "'", ":", ",", "[", "]", "#", "\\", "\n", "\0", "\x1b[2J", "é", "\u202e", "-", "nan", "inf"),
    *(
        "1e400",
        "-0",
        "0x7fffffff",
        "99999999999999999999",
        "-9223372036854775808",
        "1" * 5000,
        "a" * 300,
        BAIT,
    ),
    *(BAIT, "../" * 8, "TRAIN", "true", "$x^", "%s%n", "{" * 200, "dim: 0", "num_output: -1"),
    *("type: 'Python'", "null"),
)


def of_bytes(content: bytes, chance: Random) -> bytes:
    """Flip, set, insert, delete, copy or cut bytes; written bytes rather than the zeros between them."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        at = _place(data, chance)
        kind = chance.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = chance.choice((0, 0xFF, 0x7F, 0x80, chance.randrange(256)))
        elif kind == 2:
            value, width = chance.choice(_NUMBERS) % 2**64, chance.choice((1, 2, 4, 8))
            data[at : at + width] = (value % 256**width).to_bytes(width, chance.choice(("little", "big")))
        elif kind == 3:
            data[at:at] = chance.randbytes(chance.choice((1, 4, 64)))
        elif kind == 4:
            del data[at : at + chance.choice((1, 4, 64, 4096))]
        elif kind == 5:
            size = chance.choice((4, 64, 1024))
            data[at:at] = data[_place(data, chance) :][:size]
        elif kind == 6 and chance.random() < 0.3:
            del data[at:]
        elif kind == 7 and data:
            data[at : at + 16] = bytes(len(data[at : at + 16]))
    return bytes(data)


def _place(data: Sequence[int], chance: Random) -> int:
    place = 0
    for _ in range(4):
        place = chance.randrange(len(data) + 1)
        if place < len(data) and data[place]:
            break
    return place


# Protobuf


def of_wire(content: bytes, chance: Random) -> bytes:
    """Drop, double, move, renumber, retype, grow or empty fields, at any depth."""
    fields = _fields(content)
    if not fields or chance.random() < 0.1:
        return of_bytes(content, chance)
    at = chance.randrange(len(fields))
    number, kind, value = fields[at]
    # Deeper, where there is something: a message looks like one.
    if kind == 2 and len(value) > 1 and chance.random() < 0.8 and _fields(value):
        fields[at] = number, kind, of_wire(value, chance)
        return b"".join(_written(*field) for field in fields)
    change = chance.randrange(8)
    if change == 0:
        del fields[at]
    elif change == 1:
        fields[at:at] = [fields[at]] * chance.choice((1, 2, 40))
    elif change == 2:
        fields[at] = chance.choice((1, number + 1, number ^ 1, 100, 2**29 - 1)), kind, value
    elif change == 3:
        fields[at] = number, 0, _varint(chance.choice(_NUMBERS) % 2**64)
    elif change == 4:
        fields[at] = (
            number,
            2,
            chance.choice((b"", b"\xff" * 9, chance.randbytes(20), value * 3 if kind == 2 else b"x")),
        )
    elif change == 5:
        fields[at] = number, 5, struct.pack("<f", chance.choice((0.0, float("nan"), float("inf"), 1e38, -1.0)))
    elif change == 6:
        fields.insert(chance.randrange(len(fields) + 1), fields.pop(at))
    else:
        fields[at] = number, kind, of_bytes(value, chance)
    return b"".join(_written(*field) for field in fields)


def _fields(data: bytes) -> list[tuple[int, int, bytes]]:
    """Number, wire type and raw value of each field; none if this is no message."""
    found, at = [], 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, kind = key >> 3, key & 7
        if at < 0 or not number:
            return []
        if kind == 0:
            _, end = _read_varint(data, at)
        elif kind == 2:
            size, at = _read_varint(data, at)
            end = at + size if at >= 0 else -1
        else:
            end = at + {1: 8, 5: 4}.get(kind, -1 - at)
        if at < 0 or not 0 <= end <= len(data):
            return []
        found.append((number, kind, data[at:end]))
        at = end
    return found


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at
    return 0, -1


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _written(number: int, kind: int, value: bytes) -> bytes:
    head = _varint(number << 3 | kind)
    return head + (_varint(len(value)) + value if kind == 2 else value)


# Text


def of_text(content: bytes, chance: Random) -> bytes:
    """Drop, double, swap, replace and insert words, lines and brackets."""
    if chance.random() < 0.15:
        return of_bytes(content, chance)
    parts = re.findall(rb"[A-Za-z_]\w*|[-+.\d][\w.+-]*|\n|\s+|.", content, re.DOTALL) or [b""]
    for _ in range(chance.choice((1, 1, 2, 5))):
        if not parts:
            break
        at, other = chance.randrange(len(parts)), chance.randrange(len(parts))
        change = chance.randrange(7)
        if change == 0:
            del parts[at : at + chance.choice((1, 2, 10))]
        elif change == 1:
            parts[at:at] = parts[other : other + chance.choice((1, 5, 50))]
        elif change == 2:
            parts[at], parts[other] = parts[other], parts[at]
        elif change == 3:
            parts[at] = chance.choice(_TOKENS).encode()
        elif change == 4:
            parts.insert(at, chance.choice(_TOKENS).encode())
        elif change == 5:
            numbers = [k for k, part in enumerate(parts) if part[:1].isdigit()]
            if numbers:
                parts[chance.choice(numbers)] = str(chance.choice(_NUMBERS)).encode()
        else:
            parts[at:at] = parts[at : at + 3] * chance.choice((2, 100))
    return b"".join(parts)


def of_settings(content: bytes, chance: Random) -> bytes:
    """Another number, word or line here and there, so that much of it is still accepted; else as :func:`of_text`."""
    if chance.random() < 0.2:
        return of_text(content, chance)
    lines = content.split(b"\n")
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(lines))
        parts = re.findall(rb'"[^"]*"|[A-Za-z_]\w*|[-+.\d]+|.', lines[at])
        numbers = [k for k, part in enumerate(parts) if part[:1].isdigit()]
        quoted = [k for k, part in enumerate(parts) if part[:1] == b'"']
        change = chance.randrange(8)
        if change < 4 and numbers:
            parts[chance.choice(numbers)] = chance.choice((b"0", b"1", b"2", b"3", b"4", b"7", b"-1", b"0.5", b"65536"))
        elif change < 6 and quoted:
            names = re.findall(rb'"[^"]*"', content)
            parts[chance.choice(quoted)] = chance.choice(names)
        elif change == 6:
            parts = []
        else:
            parts += parts
        lines[at] = b"".join(parts)
    return b"\n".join(lines)


# Archives: npz, .pt, .pt2


def of_zip(content: bytes, chance: Random) -> bytes:
    """Damage, drop, double, rename or bloat members."""
    if chance.random() < 0.2:
        return of_bytes(content, chance)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # damaged already
        return of_bytes(content, chance)
    at = chance.randrange(len(members)) if members else 0
    change = chance.randrange(8)
    if members and change <= 4:
        members[at] = members[at][0], of_bytes(members[at][1], chance)
    elif members and change == 5:
        del members[at]
    elif members and change == 6:
        name = chance.choice(("../" + members[at][0], "/tmp/x", "a\0b", "a\nb", members[-1][0], "\x1b[2J", "x" * 300))
        members[at] = name, members[at][1]
    else:
        members.append((chance.choice(("extra.npy", "archive/data.pkl")), chance.randbytes(50)))
    packed = io.BytesIO()
    method = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w", method) as archive:
        warnings.simplefilter("ignore", UserWarning)  # two members of one name are meant
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return packed.getvalue()


# safetensors


def of_safetensors(content: bytes, chance: Random) -> bytes:
    """Damage the JSON that describes the arrays, its length, or anything."""
    size = int.from_bytes(content[:8], "little")
    if chance.random() < 0.3 or size > len(content):
        return of_bytes(content, chance)
    text, arrays = of_text(content[8 : 8 + size], chance), content[8 + size :]
    told = len(text) if chance.random() < 0.9 else chance.choice(_NUMBERS) % 2**64
    return told.to_bytes(8, "little") + text + arrays


# HDF5


def of_hdf5(content: bytes, chance: Random) -> bytes:
    """Damage bytes, or write the file again with an entry that is another than it was."""
    if chance.random() < 0.6:
        return of_bytes(content, chance)
    try:
        with h5py.File(io.BytesIO(content)) as file:
            names: list[str] = []
            file.visit(names.append)
            copy = io.BytesIO()
            with h5py.File(copy, "w") as made:
                for name in file:
                    file.copy(name, made)
                for name, value in file.attrs.items():
                    made.attrs[name] = value
                _change(made, chance.choice(names) if names else "x", chance)
        return copy.getvalue()
    except Exception:  # h5py cannot copy what is damaged already
        return of_bytes(content, chance)


def _change(file: h5py.File, name: str, chance: Random) -> None:
    change = chance.randrange(9)
    if change < 7 and name in file:
        del file[name]
    if change == 0:
        file.create_dataset(name, (2**40,), "f4", chunks=(1024,))
    elif change == 1:
        file[name] = h5py.ExternalLink(BAIT, "x")
    elif change == 2:
        file[name] = h5py.SoftLink("/" + name)
    elif change == 3:
        file.create_dataset(name, (4,), "f4", external=[(BAIT, 0, 16)])
    elif change == 4:
        file[name] = ["text", "é"]
    elif change == 5:
        file.create_group(name).attrs["layers"] = np.array([b"a", b"\xff"])
    elif change == 6:
        shape = chance.choice(((), (0,), (0, 5), (3,), (1,) * 32))
        file[name] = np.full(shape, np.nan, chance.choice(("f2", "f8", "i1", "u8", "?", "c8")))
    elif change == 7:
        file[name].attrs["more"] = np.zeros(1000)
    else:
        owner = file[name]
        for key in list(owner.attrs)[:1]:
            owner.attrs[key] = chance.choice((b"\xff\xfe", 3, np.zeros((2, 2)), "x" * 70_000, [1.5, 2.5]))
