"""Shards: what was extracted so far, in a folder beside the output, whole and checked.

A shard is a file that appears when it is complete. Then a line with its checksum is added to ``done.jsonl``. So a run
that was killed at any moment finds what is done, and does the rest; a line or a file that is cut short is no shard.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from ..errors import FileError, UsageError
from ..formats.arrays import read_npz, write_npz
from ..formats.files import atomic_write, read_file, reason_of, sha256_of

if sys.platform != "win32":
    import fcntl

__all__ = ["BadRow", "Shard", "ShardStore", "has_shards", "job_of"]

_JOB = "job.json"
_LIST = "done.jsonl"
# What is written there beside the job, and what a writer that was killed leaves of it.
_OURS = re.compile(r"lock|done\.jsonl|[0-9]{8,}\.npz|\..*\.[0-9a-f]{12}\.tmp")


@dataclass(frozen=True)
class BadRow:
    """An image of which there are no features: its row, its id, and why."""

    row: int
    id: str
    reason: str


@dataclass(frozen=True)
class Shard:
    """Features of some rows.

    Attributes:
        rows: (n,), the numbers of the rows, ascending. arrays: blob name -> (n, ...). bad: those that are left out.
    """

    rows: np.ndarray
    arrays: Mapping[str, np.ndarray]
    bad: tuple[BadRow, ...] = ()


class ShardStore:
    """The shards of one job.

    Args:
        folder: where they lie; made if it is missing. job: what identifies the job; a folder that was begun for another
            one is refused. finished: the output has all of them already; the shards themselves may be gone.

    Attributes:
        done: the numbers of the shards that are there.

    Raises:
        UsageError: the folder is of another job, or another process is at work on it. FileError.
    """

    def __init__(self, folder: str, job: Mapping[str, str | int], finished: bool = False) -> None:
        self.folder, self._finished = folder, finished
        try:
            os.makedirs(folder, exist_ok=True)
            self._lock = _claimed(self._path("lock"))
        except OSError as error:
            raise FileError(f"cannot be written: {reason_of(error)}", path=folder) from error
        try:
            self._check_job(dict(job))
            self._bad: dict[int, tuple[BadRow, ...]] = {}
            lines = self._found()
            with atomic_write(self._path(_LIST)) as file:  # without what was cut short
                file.write("".join(lines).encode())
            self._list = open(self._path(_LIST), "ab")  # noqa: SIM115  # until close()
        except BaseException:
            self._lock.close()
            raise

    @property
    def done(self) -> frozenset[int]:
        return frozenset(self._bad)

    def add(self, number: int, shard: Shard) -> None:
        """Keep a shard. When this returns, it is on disk. Raises FileError."""
        data = io.BytesIO()
        arrays = {"rows": shard.rows, **{f"blob{i}": array for i, array in enumerate(shard.arrays.values())}}
        write_npz(data, arrays)
        with atomic_write(self._path(_name(number))) as file:
            file.write(data.getbuffer())
        line = {
            "shard": number,
            "sha256": hashlib.sha256(data.getbuffer()).hexdigest(),
            "bad": [[bad.row, bad.id, bad.reason] for bad in shard.bad],
        }
        try:
            self._list.write((json.dumps(line) + "\n").encode())
            self._list.flush()
            os.fsync(self._list.fileno())
        except OSError as error:
            raise FileError(f"cannot be written: {reason_of(error)}", path=self._path(_LIST)) from error
        self._bad[number] = shard.bad

    def read(self, number: int, blobs: list[str]) -> Shard:
        """A shard that is done, with the names of its blobs as it was added. Raises FileError."""
        arrays = read_npz(self._path(_name(number)))
        named = {blob: arrays[f"blob{i}"] for i, blob in enumerate(blobs)}
        return Shard(arrays["rows"], named, self._bad[number])

    def bad(self) -> Iterator[BadRow]:
        """All that were left out, in the order of their rows."""
        for number in sorted(self._bad):
            yield from self._bad[number]

    def close(self) -> None:
        """Let go of the folder."""
        self._list.close()
        self._lock.close()

    def remove(self) -> None:
        """Remove all of it. What says whose it is goes last: one that is killed amid this can be told.

        What somebody else has put there stays, and so does the folder then.
        """
        self.close()
        with suppress(OSError):
            for name in sorted(os.listdir(self.folder), key=(_LIST, _JOB).__contains__):
                if _OURS.fullmatch(name) is not None:
                    os.remove(self._path(name))
            os.remove(self._path(_JOB))
            os.rmdir(self.folder)

    def __enter__(self) -> ShardStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def _check_job(self, job: dict[str, str | int]) -> None:
        path = self._path(_JOB)
        if not os.path.exists(path):
            if os.path.exists(self._path(_LIST)) or any(name.endswith(".npz") for name in os.listdir(self.folder)):
                raise UsageError(
                    f"holds shards of nobody knows what: its {_JOB} is missing; remove it", path=self.folder
                )
            with atomic_write(path) as file:
                file.write(json.dumps(job, indent=1).encode())
            return
        try:
            begun = json.loads(read_file(path))
        except (ValueError, RecursionError) as error:
            raise FileError(f"is damaged: {error}; remove the folder", path=path) from error
        if not isinstance(begun, dict):
            raise FileError("is damaged: what identifies the job was expected; remove the folder", path=path)
        for key, value in job.items():
            if begun.get(key) != value:
                raise UsageError(
                    f"was begun with another {key} ({begun.get(key)}, now {value}); remove it to begin anew",
                    path=self.folder,
                )

    def _found(self) -> list[str]:
        """The lines of shards that are whole; which they are is noted."""
        path = self._path(_LIST)
        if not os.path.exists(path):
            return []
        kept = []
        for raw in read_file(path).decode("utf-8", "replace").splitlines(keepends=True):
            try:
                line = json.loads(raw)
                number, wanted = int(line["shard"]), str(line["sha256"])
                bad = tuple(BadRow(int(row), str(name), str(reason)) for row, name, reason in line["bad"])
                whole = raw.endswith("\n") and (self._finished or sha256_of(self._path(_name(number))) == wanted)
            except (ValueError, OverflowError, KeyError, TypeError, RecursionError, FileError):
                continue
            if whole and number not in self._bad:
                self._bad[number] = bad
                kept.append(raw)
        return kept


def has_shards(folder: str) -> bool:
    """Whether a job was begun there, and not removed again."""
    return os.path.exists(os.path.join(folder, _JOB))


def job_of(folder: str) -> dict[str, Any] | None:
    """What identifies the job that was begun there; None if none was, or nothing says which. Raises FileError."""
    if not has_shards(folder):
        return None
    try:
        begun = json.loads(read_file(os.path.join(folder, _JOB)))
    except (ValueError, RecursionError):
        return None
    return begun if isinstance(begun, dict) else None


def _name(number: int) -> str:
    return f"{number:08d}.npz"


def _claimed(path: str) -> BinaryIO:
    """A file that is locked for as long as this process lives. Raises UsageError: another one has it; OSError.

    The lock is this process's alone: with the other kind of lock, workers that outlive a killed process for a moment
    would hold it on.
    """
    file = open(path, "ab")  # noqa: SIM115  # until close()
    if sys.platform != "win32":
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.close()
            raise UsageError("another process is at work on it", path=os.path.dirname(path)) from None
        except OSError:  # a file system without locks
            pass
    return file
