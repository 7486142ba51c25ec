"""The integers of the protobuf wire format: seven bits a byte, the lowest first."""

from __future__ import annotations

__all__ = ["signed", "varint"]


def signed(value: int, bits: int) -> int:
    """A varint as protobuf's int32 or int64: the low bits in two's complement.

    >>> signed(2**64 - 1, 32), signed(5, 32)
    (-1, 5)
    """
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def varint(value: int) -> bytes:
    """The wire encoding of a non-negative integer.

    >>> varint(1), varint(300)
    (b'\\x01', b'\\xac\\x02')
    """
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
