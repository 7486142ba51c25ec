"""Readers that a damaged file can crash, or send round for ever, run in a process of their own.

scipy's reader of MATLAB files, cdflib, LMDB and the HDF5 library trust what a file says: a flipped byte can end the
process or keep it busy until somebody kills it. :func:`guarded` runs such a reader in a second process, which has a
limit of time and of memory and is used again for the next file. If it dies, this process says so and goes on.

A reader is a function of a module that any process can import; it takes and returns what :mod:`json` knows, and numpy
arrays of numbers. Nothing that comes back is unpickled.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from ..errors import FileError, UsageError, first_line
from .limits import ARRAYS, READER

__all__ = ["guarded"]

_SECONDS = "CAFFE_COMPAT_MAX_READER_SECONDS"
_DEFAULT_SECONDS = 10.0
_STARTING_SECONDS = 120.0  # of Python and its packages, on a busy machine

# ``{"value": ..., "arrays": [[dtype, shape], ...]}``, then the arrays; or ``{"error": ..., "place": ...}``.
_LENGTH = struct.Struct("<Q")
_LONGEST_HEADER = 1 << 30
_ARRAY = "\0array"

Value: TypeAlias = "bool | int | float | str | list[Any] | dict[str, Any] | np.ndarray | None"

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from caffe_compat.formats.guarded import serve; serve()"
)


def guarded(
    reader: Callable[..., Value], path: str, *arguments: str | int | float | bool | None, more_seconds: float = 0.0
) -> Any:
    """``reader(path, *arguments)``, run in the other process.

    Args:
        reader: a function at the top of a module.
        path: the file that it reads, which errors name.
        more_seconds: what a file of this size may take beyond the limit.

    Returns:
        What the reader returns; tuples have become lists.

    Raises:
        FileError: the reader's own, or it died, took longer than ``CAFFE_COMPAT_MAX_READER_SECONDS`` (10) and
            ``more_seconds``, or needed more memory than ``CAFFE_COMPAT_MAX_READER_BYTES``.
    """
    if not sys.executable:  # Python inside another program: there is nothing to start
        return reader(path, *arguments)
    whole = os.path.abspath(path)  # this process may have gone elsewhere since the other began
    request = {"module": reader.__module__, "name": reader.__qualname__, "arguments": [whole, *arguments]}
    try:
        with _LOCK:
            return _worker().ask(request, whole, _seconds() + more_seconds)
    except FileError as error:
        if error.path is not None and error.path.startswith(whole):
            error.path = path + error.path[len(whole) :]
        raise


def _seconds() -> float:
    text = os.environ.get(_SECONDS, "")
    try:
        seconds = float(text) if text else _DEFAULT_SECONDS
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 10**6:
        raise UsageError(f"{_SECONDS}={text}: a number of seconds was expected")
    return seconds


# This side


class _Worker:
    """The process that reads, as this one sees it."""

    def __init__(self) -> None:
        paths = [os.getcwd() if entry == "" else entry for entry in sys.path if isinstance(entry, str)]
        self.owner = os.getpid()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, json.dumps(paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # an interrupt from the keyboard is for this process alone
        )

    def ask(self, request: dict[str, Any], path: str, seconds: float) -> Any:
        request |= {"seconds": seconds, "bytes": READER.bytes}
        assert self.process.stdin is not None
        try:
            _send(self.process.stdin, json.dumps(request).encode())
            self._receive(time.monotonic() + _STARTING_SECONDS, 0)  # from here on it reads
            deadline = time.monotonic() + seconds
            header = json.loads(self._receive(deadline, _LONGEST_HEADER))
            if "error" in header:
                raise FileError(header["error"], path=header["path"] or path, place=header["place"])
            arrays = [self._array(dtype, shape, deadline) for dtype, shape in header["arrays"]]
        except FileError:
            raise
        except (EOFError, OSError, ValueError) as error:  # a TimeoutError is an OSError
            if not isinstance(error, TimeoutError):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(1)  # it is about to end, and its status tells why
            code = self.process.poll()
            self.stop()
            raise FileError(_end(code, isinstance(error, TimeoutError), seconds), path=path) from None
        except BaseException:  # an interrupt: what is still to come would be taken for the answer to the next question
            self.stop()
            raise
        return _unpacked(header["value"], arrays)

    def _array(self, dtype: str, shape: Sequence[int], deadline: float) -> np.ndarray:
        kind = np.dtype(dtype)
        return np.frombuffer(self._receive(deadline, ARRAYS.bytes), kind).reshape(shape)

    def _receive(self, deadline: float, limit: int) -> bytearray:
        (size,) = _LENGTH.unpack(self._exactly(_LENGTH.size, deadline))
        if size > limit:
            raise ValueError("too large an answer")
        return self._exactly(size, deadline)

    def _exactly(self, size: int, deadline: float) -> bytearray:
        assert self.process.stdout is not None
        taken = bytearray(size)
        view, at = memoryview(taken), 0
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while at < size:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                count = self.process.stdout.readinto(view[at:])  # type: ignore[attr-defined]
                if not count:
                    raise EOFError
                at += count
        return taken

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):  # what was not yet written goes nowhere
                stream.close()
        self.process.wait()


def _end(code: int | None, too_slow: bool, seconds: float) -> str:
    if too_slow or code == -signal.SIGXCPU:
        return (
            f"takes longer than {seconds:.0f} s to read, as a damaged file can; to allow more set the environment "
            f"variable {_SECONDS}"
        )
    with contextlib.suppress(ValueError):
        return f"cannot be read: {signal.Signals(-(code or 0)).name} ended its reader, as a damaged file can cause"
    return "cannot be read: its reader ended, as a damaged file can cause"


_LOCK = threading.Lock()
_current: _Worker | None = None


def _worker() -> _Worker:
    """The process that runs, or a new one: the first, after one that died, and in a process that was forked."""
    global _current
    if _current is None or _current.owner != os.getpid():
        _current = _Worker()
    elif _current.process.poll() is not None:
        _current.stop()
        _current = _Worker()
    return _current


@atexit.register
def _stop() -> None:
    if _current is not None and _current.owner == os.getpid():
        _current.stop()


# The other side


def serve() -> None:
    """Answer questions until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What a library prints must not get among the answers.
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    while length := questions.read(_LENGTH.size):
        request = json.loads(questions.read(_LENGTH.unpack(length)[0]))
        answer, arrays = _answer(request, answers)
        _send(answers, json.dumps(answer).encode())
        for array in arrays:
            _send(answers, array.reshape(-1).view(np.uint8).data if array.size else b"")


def _answer(request: dict[str, Any], answers: BinaryIO) -> tuple[dict[str, Any], list[np.ndarray]]:
    arrays: list[np.ndarray] = []
    reader = getattr(importlib.import_module(request["module"]), request["name"])
    _send(answers, b"")
    try:
        _limit(request["seconds"], request["bytes"])
        value = _packed(reader(*request["arguments"]), arrays)
    except FileError as error:
        return _failure(error.detail, error.place, error.path)
    except MemoryError:
        return _failure(
            f"needs more memory than the {request['bytes']:,} bytes that a reader may take, as a damaged file can; to "
            f"allow more set the environment variable {READER.variable}"
        )
    except Exception as error:  # of libraries that expect no damage
        return _failure(f"cannot be read: {type(error).__name__}: {first_line(error)}")
    return {"value": value, "arrays": [[array.dtype.str, array.shape] for array in arrays]}, arrays


def _failure(detail: str, place: str | None = None, path: str | None = None) -> tuple[dict[str, Any], list[np.ndarray]]:
    return {"error": detail, "place": place, "path": path}, []


def _limit(seconds: float, size: int) -> None:
    """For the next question: processor time, should nobody be left to end this process, and memory."""
    try:
        import resource
    except ImportError:  # not on this system: the other side's clock remains
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    _set(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + seconds) + 1)
    _set(resource.RLIMIT_CORE, 0)
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:  # total, resident, shared, text, library, data
        _set(resource.RLIMIT_DATA, int(file.read().split()[5]) * resource.getpagesize() + size)


def _set(kind: int, value: int) -> None:
    import resource

    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


# Both


def _send(stream: Any, content: Any) -> None:
    stream.write(_LENGTH.pack(len(content)))
    stream.write(content)
    stream.flush()


def _packed(value: Any, arrays: list[np.ndarray]) -> Any:
    """``value`` for :mod:`json`, its arrays taken out."""
    if isinstance(value, np.ndarray):
        arrays.append(np.asarray(value, order="C"))
        return {_ARRAY: len(arrays) - 1}
    if isinstance(value, dict):
        return {str(key): _packed(item, arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_packed(item, arrays) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _unpacked(value: Any, arrays: Sequence[np.ndarray]) -> Any:
    if isinstance(value, dict):
        if _ARRAY in value:
            return arrays[value[_ARRAY]]
        return {key: _unpacked(item, arrays) for key, item in value.items()}
    return [_unpacked(item, arrays) for item in value] if isinstance(value, list) else value
