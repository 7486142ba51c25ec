"""Where snapshots lie: names, folders, and files that are not complete yet."""

from __future__ import annotations

import glob
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...errors import FileAccessError, FileError

if sys.platform != "win32":
    import fcntl

__all__ = [
    "SnapshotPaths",
    "check_place",
    "latest_snapshot",
    "place_of",
    "remove_unfinished",
    "resume_file_of",
    "snapshot_paths",
    "working_folder",
]

_STATE_NAME = re.compile(r"(?P<stem>.*_iter_(?P<iteration>\d+))\.solverstate(\.h5)?")
_MODEL_NAME = re.compile(r"_iter_\d+\.caffemodel(\.h5)?$")


@dataclass(frozen=True)
class SnapshotPaths:
    """The three files; ``learned_net`` and ``state_name`` are the names that Caffe gives the first two."""

    model: Path
    state: Path
    resume: Path
    learned_net: str
    state_name: str


def snapshot_paths(
    prefix: str, iteration: int, kind: Literal["BINARYPROTO", "HDF5"], base: Path = Path()
) -> SnapshotPaths:
    """The names that Caffe gives the files of a snapshot; a relative ``prefix`` is taken from ``base``."""
    stem, end = f"{prefix}_iter_{iteration}", ".h5" if kind == "HDF5" else ""
    model, state = f"{stem}.caffemodel{end}", f"{stem}.solverstate{end}"
    return SnapshotPaths(base / model, base / state, base / f"{stem}.resume.npz", model, state)


def place_of(prefix: str, base: Path = Path()) -> tuple[Path, str]:
    """The folder of the snapshots of ``prefix``, and how their names begin: nothing for a prefix that ends in ``/``."""
    path = base / f"{prefix}_iter_"
    return path.parent, path.name.removesuffix("_iter_")


def check_place(prefix: str, base: Path, write_root: Path) -> None:
    """That snapshots may be and can be written, before hours of training.

    Raises:
        FileAccessError: they would lie outside ``write_root``. FileError: they cannot be written there.
    """
    folder, name = place_of(prefix, base)
    if not folder.resolve().is_relative_to(write_root):
        raise FileAccessError(
            f"snapshot_prefix {prefix!r} lies outside {write_root}; allow another folder with --write-root"
        )
    probe = folder / f".{name}.{secrets.token_hex(6)}.tmp"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise FileError(
            f"snapshots cannot be written there: {error.strerror}; does the folder exist?", path=str(folder)
        ) from error
    remove_unfinished(prefix, base)


def resume_file_of(state: Path) -> Path | None:
    """The third file that may lie beside a solverstate; None if it is not called as a snapshot is."""
    match = _STATE_NAME.fullmatch(state.name)
    return state.with_name(f"{match['stem']}.resume.npz") if match else None


def latest_snapshot(prefix: str, base: Path = Path(), newer_than: int = 0) -> Path | None:
    """The solverstate of the most iterations that ``prefix`` has, or None.

    Args:
        newer_than: overlook those that were written before, in nanoseconds since 1970.
    """
    folder, name = place_of(prefix, base)
    found = []
    for path in folder.glob("*.solverstate*"):
        match = _STATE_NAME.fullmatch(path.name)
        ours = match and match["stem"] == f"{name}_iter_{match['iteration']}"
        if match and ours and path.stat().st_mtime_ns >= newer_than:
            found.append((int(match["iteration"]), path))
    return max(found)[1] if found else None


@contextmanager
def working_folder(model: Path) -> Iterator[Path]:
    """A folder beside ``model`` for the block, locked so that :func:`remove_unfinished` lets it be. Raises OSError."""
    prefix = _working_prefix(_MODEL_NAME.sub("", model.name))
    while True:
        work = Path(tempfile.mkdtemp(prefix=prefix, dir=model.parent))
        lock = _lock(work, wait=True)
        if work.exists():  # not removed before it was locked
            break
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def remove_unfinished(prefix: str, base: Path = Path()) -> None:
    """Remove what processes that were killed while they wrote a snapshot of ``prefix`` have left."""
    folder, name = place_of(prefix, base)
    for work in folder.glob(f"{glob.escape(_working_prefix(name))}*"):
        lock = _lock(work, wait=False)
        if lock is not None:  # whoever wrote there has gone
            shutil.rmtree(work, ignore_errors=True)
            os.close(lock)


def _working_prefix(name: str) -> str:
    return f".{name}.snapshot."


def _lock(folder: Path, wait: bool) -> int | None:
    """A lock on ``folder`` until the result is closed or the process ends; None if taken, or where there are none."""
    if sys.platform == "win32":
        return None
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            return descriptor
        except OSError:
            os.close(descriptor)
    return None
