"""Notes what a process opens, changes or starts beyond the folders that it was given.

Python's own doings are seen by an audit hook. Native code is not: what a damaged file can make it open is a name in
that file, so the mutators write the name of one file, the bait, and the kernel tells if anybody opened that.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["BAIT", "Fence"]

BAIT = "/tmp/caffe-compat-bait/secret"
"""A file that nobody is to open. Its name stands in inputs, which are always the same, so it is always the same."""

# Event -> which of its arguments are paths of something that changes, and which the folders that they are relative to.
_CHANGES = {
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
    "os.truncate": ((0, None),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((0, 2), (1, 3)),
    "os.symlink": ((1, 2),),
    "shutil.rmtree": ((0, 1),),
    "shutil.move": ((0, None), (1, None)),
    "shutil.copyfile": ((1, None),),
}
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn")
_NEVER = ("socket.connect", "socket.bind", "urllib.Request", "ftplib.connect")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_OPENED, _MODIFIED = 0x20, 0x2  # IN_OPEN, IN_MODIFY
_EVENT = struct.Struct("iIII")


class Fence:
    """Once made, it stays up for the rest of the process: an audit hook cannot be taken down.

    Attributes:
        writable: folders in which anything may happen. runs_files: whether processes may be started.
    """

    def __init__(self, writable: Sequence[Path], code: Path, *, runs_files: bool) -> None:
        self.writable = [os.path.realpath(path) for path in writable]
        self.runs_files = runs_files
        own: list[str | Path] = [code, sys.prefix, sys.base_prefix, *sys.path]
        own += [os.path.dirname(os.__file__), os.path.dirname(__file__)]
        # What libraries look at to know the machine, and where the system has its own.
        system = ("/proc", "/sys", "/dev", "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime")
        self.readable = [*self.writable, *(os.path.realpath(path) for path in own if path), *system]
        self._crossed: list[str] = []
        self._busy = False
        self._watch = _watch_of(BAIT)
        sys.addaudithook(self._heard)

    def crossed(self) -> str:
        """The first thing that happened outside since this was last asked; "" if nothing did."""
        found, self._crossed = self._crossed, []
        if self._watch is not None and self._watch():
            found.append(f"native code opened {BAIT}")
        return found[0] if found else ""

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            if event == "open":
                path, _, flags = arguments
                self._check(path, "wrote" if (flags or 0) & _WRITING else "read")
            elif event in _CHANGES:
                for place, folder in _CHANGES[event]:
                    self._check(arguments[place], event, None if folder is None else arguments[folder])
            elif event in _NEVER or (event == "pickle.find_class" and not self.runs_files):
                self._crossed.append(f"{event} {arguments[-2:]!r:.200}")
            elif event in _STARTS and not self.runs_files and arguments[0] != sys.executable:
                self._crossed.append(f"{event} {arguments[0]!r:.200}")
        finally:
            self._busy = False

    def _check(self, path: Any, what: str, folder: int | None = None) -> None:
        """
        Args:
            folder: the descriptor that ``path`` is relative to; None or a negative number for the current folder.
        """
        if not isinstance(path, str | bytes | os.PathLike):  # an open file
            return
        base = f"/proc/self/fd/{folder}" if folder is not None and folder >= 0 else ""
        real = os.path.realpath(os.path.join(base, os.fsdecode(path)))
        allowed = self.readable if what == "read" else [*self.writable, os.devnull, "/proc/self"]
        if not any(real == base or real.startswith(base.rstrip("/") + "/") for base in allowed):
            self._crossed.append(f"{what} {real!r:.200}")


def _watch_of(path: str) -> Callable[[], bool] | None:
    """Makes the file; whether it was opened since the last call. None where the kernel has no inotify."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not os.path.exists(path):
        with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(path), delete=False) as file:
            file.write("this is nobody's to read\n" * 100)
        os.replace(file.name, path)
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "inotify_init1"):
        return None
    descriptor = library.inotify_init1(os.O_NONBLOCK)
    if descriptor < 0 or library.inotify_add_watch(descriptor, os.fsencode(path), _OPENED | _MODIFIED) < 0:
        return None

    def opened() -> bool:
        try:
            return len(os.read(descriptor, 1 << 16)) >= _EVENT.size
        except BlockingIOError:
            return False

    return opened
