"""Runs something in a forked process and ends it at a moment: after a time, or amid its writing."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["Ended", "Moment", "together", "until"]

# Events of Python's audit hooks that open, replace or remove files.
_WRITING = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


@dataclass(frozen=True)
class Moment:
    """When a process gets ``signal``.

    Attributes:
        after: so many seconds after it has begun; or
        event: after so many events of writing below its folder, of which the first is 1; and then
        later: so many seconds after that event.
    """

    after: float | None = None
    event: int | None = None
    later: float = 0.0
    signal: int = signal.SIGKILL


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        status: its exit status, or less than 0: the signal that ended it. seconds: that it took.
        events: of writing, if it came to its end.
    """

    status: int
    seconds: float
    events: int = 0


def until(do: Callable[[], object], folder: Path, moment: Moment | None = None) -> Ended:
    """Run ``do`` in a process of its own, whose current folder is ``folder``, until it ends or ``moment`` is there."""
    began = time.monotonic()
    pid, told = _begun(do, folder, moment)
    if moment is not None and moment.after is not None:
        left = began + moment.after - time.monotonic()
        while left > 0 and not _is_over(pid):
            time.sleep(min(left, 0.002))
            left = began + moment.after - time.monotonic()
        if not _is_over(pid):
            os.kill(pid, moment.signal)
    return _awaited(pid, told, began)


def together(first: Callable[[], object], second: Callable[[], object], folder: Path) -> tuple[Ended, Ended]:
    """Run both at once."""
    began = time.monotonic()
    (one, told), (other, more) = _begun(first, folder, None), _begun(second, folder, None)
    return _awaited(one, told, began), _awaited(other, more, began)


def _begun(do: Callable[[], object], folder: Path, moment: Moment | None) -> tuple[int, int]:
    back, there = os.pipe()
    # A signal that comes before the command begins, or when it has ended, is not for us to stumble over.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.close(back)
            os.setsid()
            silence = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(silence, descriptor)
            os.chdir(folder)
            faulthandler.disable()
            torch.set_num_threads(1)  # a pool of threads does not survive a fork
            counter = _Counter(folder, moment)
            sys.addaudithook(counter.heard)
            status = _status_of(do, counter)
            os.write(there, str(counter.count).encode())
        finally:
            os._exit(status)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
    os.close(there)
    return pid, back


def _status_of(do: Callable[[], object], counter: _Counter) -> int:
    """The exit status of ``do``; of an interrupt that comes before it could catch one or when it has ended, 130."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
        try:
            do()
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except KeyboardInterrupt as interrupt:
        through = isinstance(interrupt.__context__, SystemExit)
        return 130 if through or not counter.count else 70
    return 0


class _Counter:
    """Counts events of writing, and ends the process at one of them."""

    def __init__(self, folder: Path, moment: Moment | None) -> None:
        self.folder, self.moment, self.count = os.path.realpath(folder) + "/", moment, 0

    def heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in _WRITING:
            path = arguments[0]
        else:
            return
        if not isinstance(path, str | bytes | os.PathLike):
            return
        if not os.path.abspath(os.fsdecode(path)).startswith(self.folder):
            return
        self.count += 1
        moment = self.moment
        if moment is not None and moment.event == self.count:
            if moment.later == 0:
                os.kill(os.getpid(), moment.signal)
            else:  # wherever it is by then, in native code, too
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_REAL, moment.later)


def _is_over(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _awaited(pid: int, told: int, began: float) -> Ended:
    _, status = os.waitpid(pid, 0)
    count = os.read(told, 20)
    os.close(told)
    return Ended(os.waitstatus_to_exitcode(status), time.monotonic() - began, int(count or b"0"))
