"""Files opened and written with clear errors; written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from caffe_compat.errors import FileError
from caffe_compat.formats.limits import WHOLE_FILE, Limit

if sys.platform != "win32":
    import fcntl

__all__ = [
    "Checksum",
    "atomic_write",
    "open_file",
    "read_file",
    "reason_of",
    "sha256_of",
    "staged_files",
    "staged_folder",
]

# Flags of :func:`os.open` that not every system has.
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)

# How the names of temporary files end.
_TEMPORARY = re.compile(r"[0-9a-f]{12}\.tmp")


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading bytes. Raises FileError if it is missing, forbidden, a folder, pipe or device."""
    handle, _ = _opened(path)
    return open(path, "rb", opener=lambda *_: handle)


def read_file(path: str | os.PathLike[str], limit: Limit = WHOLE_FILE) -> bytes:
    """All bytes of a regular file. Raises FileError, also if there are more than ``limit`` allows."""
    name = os.fspath(path)
    handle, size = _opened(name)
    try:
        limit.check(size, "the file", name)
        # As large as it is, not as the limit allows: room for that takes longer to make than a picture to read.
        data = os.read(handle, size + 1)
        if len(data) != size:  # it has grown, or is one of the system's that tell no size, or too large for one call
            parts = [data]
            while parts[-1] and (left := limit.bytes + 1 - sum(map(len, parts))) > 0:
                parts.append(os.read(handle, min(left, 1 << 24)))
            data = b"".join(parts)
            limit.check(len(data), "the file", name)
    except OSError as error:
        raise FileError(f"cannot be read: {reason_of(error)}", path=name) from error
    finally:
        os.close(handle)
    return data


def _opened(path: str | os.PathLike[str]) -> tuple[int, int]:
    """The descriptor of a regular file, open for reading, and its size. Raises FileError."""
    name = os.fspath(path)
    try:
        # Opening a pipe would otherwise wait for its writer.
        handle = os.open(name, os.O_RDONLY | _AT_ONCE)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise FileError(f"cannot be opened: {reason_of(error)}", path=name) from error
    found = os.fstat(handle)
    if stat.S_ISREG(found.st_mode):
        return handle, found.st_size
    os.close(handle)
    raise FileError("a folder, not a file" if stat.S_ISDIR(found.st_mode) else "not a regular file", path=name)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal. Raises FileError."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    with open_file(path) as handle:
        try:
            while size := handle.readinto(buffer):  # type: ignore[attr-defined]
                digest.update(buffer[:size])
        except OSError as error:
            raise FileError(f"cannot be read: {reason_of(error)}", path=os.fspath(path)) from error
    return digest.hexdigest()


class Checksum:
    """The SHA-256 of a file, worked out in a thread while something else is done with the file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._result: str | FileError | None = None
        # A daemon: a program that ends with an error does not wait for it.
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._result = sha256_of(self.path)
        except FileError as error:
            self._result = error

    def hexdigest(self) -> str:
        """The checksum in hexadecimal. Raises FileError."""
        self._thread.join()
        if isinstance(self._result, FileError):
            raise self._result
        assert self._result is not None
        return self._result


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` when the block ends, and vanishes if the block fails.

    It is open for reading and writing bytes, lies in the folder of ``path`` (``.name`` tells where, for libraries that
    open files by name) and is on disk before it replaces what was there. A symbolic link is followed, not replaced.
    What writers of the same name left behind when they were killed is removed; one that is still at work is let be.
    Raises FileError if the folder is missing, ``path`` is a folder or a device, permission is missing or the disk full.
    """
    name = os.fspath(path)
    try:
        target = _writable(name)
        folder, base = os.path.split(target)
        _remove_leftovers(folder, f".{base[:50]}.")
        while True:
            temporary = os.path.join(folder, f".{base[:50]}.{secrets.token_hex(6)}.tmp")
            # Not tempfile: its files are private, and the result should have the permissions of any new file.
            handle = open(temporary, "x+b")  # noqa: SIM115
            if _claimed(handle):
                break
            handle.close()
    except (OSError, ValueError) as error:
        raise FileError(f"cannot be written: {reason_of(error)}", path=name) from error
    try:
        with handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
            if sys.platform != "win32":
                os.replace(temporary, target)  # still open, so still ours
        if sys.platform == "win32":
            os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise FileError(f"cannot be written: {reason_of(error)}", path=name) from error
        raise


@contextmanager
def staged_files(path: str | os.PathLike[str]) -> Iterator[str]:
    """A path with the name of ``path`` in a new folder beside it, for one file or several that belong together.

    When the block ends, all files of that folder take their places beside ``path``, the one at the yielded path last;
    if the block fails, none does. The folder vanishes either way, with those that killed writers left behind. What is
    in the files has to be on disk already, as :func:`atomic_write` sees to. A symbolic link is followed. Errors as
    there.
    """
    name = os.fspath(path)
    try:
        target = _writable(name)
        folder, base = os.path.split(target)
        prefix = f".{base[:50]}."
        _remove_leftovers(folder, prefix)
        stage = os.path.join(folder, f"{prefix}{secrets.token_hex(6)}.tmp")
        os.mkdir(stage)
        lock = _claimed_folder(stage)
    except (OSError, ValueError) as error:
        raise FileError(f"cannot be written: {reason_of(error)}", path=name) from error
    main = os.path.join(stage, base)
    try:
        yield main
        for other in sorted(set(os.listdir(stage)) - {base}):
            os.replace(os.path.join(stage, other), os.path.join(folder, other))
        os.replace(main, target)
    except FileError as error:
        _renamed(error, stage, os.path.dirname(name))
        raise
    except OSError as error:
        raise FileError(f"cannot be written: {reason_of(error)}", path=name) from error
    finally:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def staged_folder(path: str | os.PathLike[str]) -> Iterator[str]:
    """A new folder that becomes ``path`` when the block ends, and vanishes if the block fails.

    What killed writers of the same name left behind is removed. Nothing is synced: whoever writes the files does it.

    Raises:
        FileError: ``path`` is there already, the folder that it lies in is not, or permission is missing.
    """
    name = os.fspath(path)
    target = os.path.abspath(name)
    folder, base = os.path.split(target)
    prefix = f".{base[:50]}."
    if os.path.lexists(target):
        raise FileError("is there already; remove it, or choose another name", path=name)
    try:
        if not os.path.isdir(folder):
            raise FileError(f"cannot be written: there is no folder {folder}", path=name)
        _remove_leftovers(folder, prefix)
        stage = os.path.join(folder, f"{prefix}{secrets.token_hex(6)}.tmp")
        os.mkdir(stage)
        lock = _claimed_folder(stage)
    except (OSError, ValueError) as error:
        raise FileError(f"cannot be written: {reason_of(error)}", path=name) from error
    try:
        yield stage
        os.rename(stage, target)
    except FileError as error:
        _renamed(error, stage, name)
        raise
    except OSError as error:
        raise FileError(f"cannot be written: {reason_of(error)}", path=name) from error
    finally:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(stage, ignore_errors=True)


def _renamed(error: FileError, stage: str, place: str) -> None:
    """Let ``error`` tell the place that a file below ``stage`` was meant for."""
    if error.path is not None and error.path.startswith(stage + os.sep):
        error.path = os.path.join(place, os.path.relpath(error.path, stage))


def _claimed_folder(stage: str) -> int | None:
    """A descriptor that keeps a folder locked until it is closed; None where folders cannot be opened (Windows)."""
    if sys.platform == "win32":
        return None
    descriptor = os.open(stage, os.O_RDONLY)
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _writable(name: str) -> str:
    """Where a file called ``name`` is to be written, links followed. Raises FileError if no file can be there."""
    target = os.path.realpath(name)
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileError(f"cannot be written: there is no folder {folder}", path=name)
    if os.path.isdir(target):
        raise FileError("cannot be written: it is a folder", path=name)
    if os.path.exists(target) and not os.path.isfile(target):
        raise FileError("cannot be written: it is a device or a pipe", path=name)
    return target


def _claimed(handle: BinaryIO) -> bool:
    """Lock a temporary file for as long as it is open, so that others see it is in use; False if one removed it before.

    Windows removes no open file, so there no lock is needed.
    """
    if sys.platform != "win32":
        # A file system without locks refuses those of _remove_leftovers too, so there nothing is ever removed.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        return os.fstat(handle.fileno()).st_nlink > 0
    return True


def _remove_leftovers(folder: str, prefix: str) -> None:
    """Remove temporary files and folders that begin with ``prefix`` and that no living process holds."""
    found: list[str] = []
    with suppress(OSError), os.scandir(folder) as entries:  # one may write to folders that one may not list
        found += [e.path for e in entries if e.name.startswith(prefix) and _TEMPORARY.fullmatch(e.name[len(prefix) :])]
    for path in found:
        with suppress(OSError):
            whole = os.path.isdir(path)
            if sys.platform == "win32":
                shutil.rmtree(path) if whole else os.unlink(path)
                continue
            descriptor = os.open(path, (os.O_RDONLY if whole else os.O_RDWR) | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if whole else os.unlink(path)
            finally:
                os.close(descriptor)


def reason_of(error: OSError | ValueError) -> str:
    """Why the system refused, in words; a full disk is one whatever the library says that met it."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full"
    return getattr(error, "strerror", None) or str(error)
