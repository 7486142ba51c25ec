"""Pickles of plain arrays, read without running anything in them.

A pickle is a program. The reader here is an interpreter of its own for the few instructions that lists, dictionaries,
numbers, texts and numpy arrays need, in the pickles of Python 2 and 3 and of old and new numpy. It imports nothing,
calls nothing that a pickle names, and refuses everything else. Arrays are views of the bytes read, so what a pickle
builds is not much larger than the pickle, however often it repeats itself.
"""

from __future__ import annotations

import codecs
import math
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from caffe_compat.errors import FileError

__all__ = ["safe_load"]

MAX_BYTES = 1 << 30


def safe_load(data: bytes, *, path: str | None = None) -> Any:
    """What a pickle of plain values holds: numbers, text, lists, tuples, dictionaries and numpy arrays of numbers.

    Text of Python 2 (its ``str``) is read as latin-1. Arrays are read-only views; a 0-dimensional array of an object
    comes out as the object.

    Args:
        path: the file's name, for error messages.

    Raises:
        FileError: the pickle asks for anything else, is damaged, or is too large.
    """
    if len(data) > MAX_BYTES:
        raise FileError(f"a pickle of {len(data)} bytes; at most {MAX_BYTES} are read", path=path)
    machine = _Machine(data)
    try:
        return machine.run()
    except _Refused as error:
        raise FileError(f"refused at byte {machine.at} of the pickle: {error}", path=path) from None
    except (IndexError, KeyError, ValueError, TypeError, OverflowError, struct.error, SyntaxError) as error:
        raise FileError(f"damaged at byte {machine.at} of the pickle: {error}", path=path) from error


def _view(raw: bytes, dtype: np.dtype, shape: tuple[int, ...], fortran: bool) -> np.ndarray:
    """The array of numbers or text in some bytes. Raises _Refused."""
    if any(size < 0 for size in shape) or len(shape) > 32:
        raise _Refused(f"an array of shape {shape}")
    if dtype.kind not in "biufcSU" or dtype.itemsize == 0:
        raise _Refused(f"an array of {dtype}; arrays of numbers or text are admitted")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise _Refused(f"{len(raw)} bytes for an array of shape {shape} and type {dtype}")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")


class _Refused(Exception):
    """An instruction, a name or a value that a pickle of plain arrays does not need."""


class _Mark:
    """Where a list, tuple or dictionary begins on the stack."""


class _Name:
    """A name that a pickle mentions, one of _NAMES. It stands for itself and calls nothing."""

    def __init__(self, module: str, name: str) -> None:
        self.role = _NAMES.get(f"{module}.{name}")
        if self.role is None:
            raise _Refused(f"it names {module[:80]}.{name[:80]}; only plain numpy arrays are admitted")


_NAMES = {
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    "numpy.dtypes.dtype": "dtype",
    "numpy.core.multiarray._reconstruct": "reconstruct",
    "numpy._core.multiarray._reconstruct": "reconstruct",
    "numpy.core.multiarray.scalar": "scalar",
    "numpy._core.multiarray.scalar": "scalar",
    "numpy.core.numeric._frombuffer": "frombuffer",
    "numpy._core.numeric._frombuffer": "frombuffer",
    "_codecs.encode": "encode",
    "__builtin__.bytes": "bytes",
}


class _DType:
    """An array's element type, until its byte order is known."""

    def __init__(self, code: Any) -> None:
        if not isinstance(code, str) or not (code == "O8" or code == "O" or re.fullmatch(r"[biufcSU]\d{1,6}", code)):
            raise _Refused(f"arrays of type {str(code)[:40]!r}; arrays of numbers or text are admitted")
        self.objects = code.startswith("O")
        self.dtype = np.dtype(object if self.objects else code)

    def build(self, state: Any) -> None:
        # (version, byte order, subtype, names, fields, size, alignment, flags ...)
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise _Refused("a state of an element type")
        if state[2] is not None or state[3] is not None or state[4] is not None:
            raise _Refused("a structured element type")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array that was announced and waits for its state; ``value`` once it came."""

    value: Any = None
    built = False


class _Unfinished(tuple):
    """A tuple with a name or an element type in it, as the arguments of a call have; it is no value of its own."""


class _Machine:
    """The interpreter: a stack, a memo, and the instructions of ``_STEPS``."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, object] = {}
        # Bytes of texts and items of lists that arrays took copies of; a pickle that repeats them does not get to
        # multiply its size.
        self.copied = 0

    def run(self) -> Any:
        while True:
            code = self.take(1)
            if code == b".":
                value = self.pop()
                return _finish(value)
            step = _STEPS.get(code)
            if step is None:
                raise _Refused(f"instruction {code!r} is none that plain arrays need")
            step(self)

    # Input.

    def take(self, count: int) -> bytes:
        if count < 0 or count > len(self.data) - self.at:
            raise _Refused("it ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise _Refused("it ends too early")
        text = self.take(end - self.at)
        self.at += 1
        return text

    # The stack.

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if isinstance(value, _Mark):
            raise _Refused("a value was expected, a mark found")
        return value

    def since_mark(self) -> list[Any]:
        for k in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[k], _Mark):
                values = self.stack[k + 1 :]
                del self.stack[k:]
                return values
        raise _Refused("a mark is missing")

    def top(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise _Refused(f"a {kind.__name__} to add to was expected")
        return self.stack[-1]

    # Instructions with more to them than a push.

    def long_line(self) -> None:
        text = self.line()
        if text in (b"00", b"01"):
            return self.push(text == b"01")
        if len(text) > 40:
            raise _Refused("a number of more than 40 digits")
        return self.push(int(text.rstrip(b"L")))

    def long_bytes(self, count: int) -> None:
        if not 0 <= count <= 16:
            raise _Refused(f"a number of {count} bytes")
        self.push(int.from_bytes(self.take(count), "little", signed=True))

    def quoted(self) -> None:
        text = self.line()
        if len(text) < 2 or text[:1] not in (b"'", b'"') or text[-1:] != text[:1]:
            raise _Refused("a text without quotes")
        self.push(codecs.escape_decode(text[1:-1])[0].decode("latin1"))

    def append(self, values: list[Any]) -> None:
        self.top(list).extend(map(_finish, values))

    def set_items(self, values: list[Any]) -> None:
        if len(values) % 2:
            raise _Refused("a key without a value")
        target = self.top(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            if type(key) not in (str, int, float, bool, bytes, type(None)):
                raise _Refused(f"a key that is a {type(key).__name__}")
            target[key] = _finish(value)

    def dictionary(self) -> None:
        values = self.since_mark()
        self.push({})
        self.set_items(values)

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(_tuple(values[::-1]))

    def name(self) -> None:
        module, name = self.line(), self.line()
        self.push(_Name(module.decode("latin1"), name.decode("latin1")))

    def stack_name(self) -> None:
        name, module = self.pop(), self.pop()
        self.push(_Name(str(module), str(name)))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise _Refused("a call of something that is no name")
        self.push(self.called(function.role, arguments))

    def called(self, role: str | None, arguments: tuple[Any, ...]) -> Any:
        if role == "reconstruct" and isinstance(arguments[0], _Name) and arguments[0].role == "ndarray":
            return _Array()
        if role == "dtype":
            return _DType(arguments[0])
        if role == "bytes" and arguments == ():
            return b""
        if role == "encode" and isinstance(arguments[0], str) and arguments[1:] in (("latin1",), ("latin-1",)):
            return self.bytes_of(arguments[0])
        if role == "scalar" and isinstance(arguments[0], _DType) and not arguments[0].objects:
            return _view(self.bytes_of(arguments[1]), arguments[0].dtype, (), False)[()]
        if role == "frombuffer":
            raw, kind, shape, order = arguments
            if isinstance(kind, _DType) and not kind.objects and order in ("C", "F"):
                return _view(self.bytes_of(raw), kind.dtype, _shape(shape), order == "F")
        raise _Refused(f"a call of {role} that arrays do not need")

    def build(self) -> None:
        state = self.pop()
        target = self.stack[-1] if self.stack else None
        if isinstance(target, _DType):
            target.build(state)
            return
        if not isinstance(target, _Array) or target.built or not isinstance(state, tuple) or len(state) != 5:
            raise _Refused("a state for something that is no array")
        _, size, kind, fortran, content = state
        shape = _shape(size)
        if not isinstance(kind, _DType):
            raise _Refused("an array without an element type")
        if kind.objects:
            target.value = self.object_array(content, shape)
        else:
            target.value = _view(self.bytes_of(content), kind.dtype, shape, bool(fortran))
        target.built = True

    def bytes_of(self, content: Any) -> bytes:
        if isinstance(content, str):
            self.copy(len(content))
            return content.encode("latin1")
        if not isinstance(content, bytes):
            raise _Refused(f"an array whose content is a {type(content).__name__}")
        return content

    def object_array(self, content: Any, shape: tuple[int, ...]) -> Any:
        if type(content) is not list or any(size < 0 for size in shape) or math.prod(shape) != len(content):
            found = f"{len(content) if isinstance(content, list) else 'no'} objects"
            raise _Refused(f"{found} for an array of shape {shape}")
        if shape == ():
            return content[0]
        self.copy(len(content))
        array = np.empty(len(content), object)
        for k, value in enumerate(content):
            array[k] = value
        return array.reshape(shape)

    def copy(self, count: int) -> None:
        self.copied += count
        if self.copied > 2 * len(self.data):
            raise _Refused("it uses its texts or lists over and over")

    def remember(self, key: int) -> None:
        if not self.stack or isinstance(self.stack[-1], _Mark):
            raise _Refused("nothing to remember")
        self.memo[key] = self.stack[-1]


def _finish(value: Any) -> Any:
    """A value as its container keeps it: the array in place of its announcement."""
    if isinstance(value, _Array):
        if not value.built:
            raise _Refused("an array without content")
        return value.value
    if isinstance(value, (_Name, _DType, _Unfinished, _Mark)):
        raise _Refused("a name or an element type where a value was expected")
    return value


def _tuple(values: list[Any]) -> tuple[Any, ...]:
    if any(isinstance(value, (_Name, _DType, _Unfinished)) for value in values):
        return _Unfinished(values)
    return tuple(map(_finish, values))


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or not all(type(size) is int for size in value):
        raise _Refused("a shape that is no tuple of integers")
    return value


def _number(layout: str) -> Callable[[_Machine], None]:
    return lambda m: m.push(m.number(layout))


def _bytes(layout: str) -> Callable[[_Machine], None]:
    return lambda m: m.push(m.take(m.number(layout)))


def _text(layout: str, encoding: str) -> Callable[[_Machine], None]:
    return lambda m: m.push(m.take(m.number(layout)).decode(encoding))


def _constant(value: Any) -> Callable[[_Machine], None]:
    return lambda m: m.push(value)


# The instructions that are admitted; pickletools.py of Python describes them.
_STEPS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m.take(1),  # protocol
    b"\x95": lambda m: m.take(8),  # frame
    b"(": lambda m: m.push(_Mark()),
    b"0": lambda m: m.stack.pop(),
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"I": _Machine.long_line,
    b"L": _Machine.long_line,
    b"J": _number("<i"),
    b"K": _number("<B"),
    b"M": _number("<H"),
    b"\x8a": lambda m: m.long_bytes(m.number("<B")),
    b"\x8b": lambda m: m.long_bytes(m.number("<i")),
    b"F": lambda m: m.push(float(m.line()[:64])),
    b"G": _number(">d"),
    b"S": _Machine.quoted,
    b"T": _text("<i", "latin1"),
    b"U": _text("<B", "latin1"),
    b"B": _bytes("<I"),
    b"C": _bytes("<B"),
    b"\x8e": _bytes("<Q"),
    b"\x96": _bytes("<Q"),
    b"V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
    b"X": _text("<I", "utf-8"),
    b"\x8c": _text("<B", "utf-8"),
    b"\x8d": _text("<Q", "utf-8"),
    b"]": lambda m: m.push([]),
    b"l": lambda m: m.push([_finish(value) for value in m.since_mark()]),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.since_mark()),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(_tuple(m.since_mark())),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"}": lambda m: m.push({}),
    b"d": _Machine.dictionary,
    b"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    b"u": lambda m: m.set_items(m.since_mark()),
    b"g": lambda m: m.push(m.memo[int(m.line()[:20])]),
    b"h": lambda m: m.push(m.memo[m.number("<B")]),
    b"j": lambda m: m.push(m.memo[m.number("<I")]),
    b"p": lambda m: m.remember(int(m.line()[:20])),
    b"q": lambda m: m.remember(m.number("<B")),
    b"r": lambda m: m.remember(m.number("<I")),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"c": _Machine.name,
    b"\x93": _Machine.stack_name,
    b"R": _Machine.call,
    b"b": _Machine.build,
}
