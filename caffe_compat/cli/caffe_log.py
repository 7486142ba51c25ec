"""What ``train``, ``test`` and ``time`` say: Caffe's log on stderr, a progress line, TensorBoard."""

from __future__ import annotations

import datetime
import getpass
import itertools
import os
import re
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ..display import shown
from ..errors import FileError
from ..extras import require
from ..formats.files import reason_of
from ..training.solver import Event, lines_of
from ..training.solver.events import DebugLine, HeaderLine, IterationShown, NetTested, NetTestStarted, Note, RateShown
from .glog import glog_prefix

__all__ = ["CaffeLog", "Charts"]

# Where BVLC's Caffe (commit 9b8915401) writes each line: some people's parsers look at it.
_PLACES = tuple(
    (re.compile(pattern), place)
    for pattern, place in (
        (r"Iteration \d+, lr = ", "sgd_solver.cpp:112"),
        (r"Iteration \d+, Testing net", "solver.cpp:347"),
        (r"Iteration \d+ \(", "solver.cpp:239"),
        (r"Iteration \d+, loss", "solver.cpp:327"),
        (r"    Train net output", "solver.cpp:258"),
        (r"    Test net output", "solver.cpp:414"),
        (r"Test loss", "solver.cpp:401"),
        (r"Test interrupted", "solver.cpp:396"),
        (r"Solving ", "solver.cpp:289"),
        (r"Learning Rate Policy", "solver.cpp:290"),
        (r"Restoring previous", "solver.cpp:296"),
        (r"Optimization stopped", "solver.cpp:311"),
        (r"Optimization Done", "solver.cpp:332"),
        (r"Snapshotting solver state to b", "sgd_solver.cpp:284"),
        (r"Snapshotting solver state to H", "sgd_solver.cpp:296"),
        (r"Snapshotting to b", "solver.cpp:464"),
        (r"Snapshotting to H", "solver.cpp:474"),
        (r"MultiStep", "sgd_solver.cpp:50"),
        (r"Gradient clipping", "sgd_solver.cpp:99"),
        (r"    \[Forward\] Layer .*, top blob", "net.cpp:593"),
        (r"    \[Forward\] Layer .*, param blob", "net.cpp:605"),
        (r"    \[Backward\] Layer .*, bottom blob", "net.cpp:621"),
        (r"    \[Backward\] Layer .*, param blob", "net.cpp:632"),
        (r"    \[Backward\] All net params", "net.cpp:721"),
    )
)


# What Caffe logs as an error, though it is none.
_AS_ERROR = "    [Backward] All net params"


class CaffeLog:
    """Caffe's log on stderr, and on a terminal a line below it with the rate and the time left.

    Args:
        quiet: say nothing (of a process that is not the first). folder: also write a file there, as glog's ``log_dir``.

    Raises:
        FileError: the folder cannot be written to.
    """

    def __init__(self, quiet: bool = False, folder: str | None = None) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True, markup=False, highlight=False, emoji=False)
        self._progress: Progress | None = None
        self._task: Any = None
        self._file = None if folder is None or quiet else _log_file(folder)

    def line(self, text: str, place: str = "caffe.cpp:250", severity: str = "I") -> None:
        """One message. One that cannot be written is lost: a training outlives its log.

        It stays one line, whatever its names are: a parser of the log believes every line that looks like glog's.
        """
        if self._quiet:
            return
        # Caffe's own lines have tabs between their columns.
        whole = glog_prefix(severity, place) + "\t".join(map(shown, text.split("\t")))
        with suppress(OSError, ValueError, AttributeError):  # a full disk, a lost terminal, a closed or missing stderr
            if self._progress is not None:
                self._console.print(Text(whole), soft_wrap=True)
            else:
                sys.stderr.write(whole + "\n")
                sys.stderr.flush()
        if self._file is not None:
            try:
                self._file.write(whole + "\n")
                self._file.flush()
            except OSError as error:
                self._give_up(self._file, error)

    def _give_up(self, file: TextIO, error: OSError) -> None:
        """Go on without the file, and say so."""
        self._file = None
        with suppress(OSError):
            file.close()
        self.warn(f"{file.name}: the log is not written any further: {reason_of(error)}")

    def warn(self, text: str) -> None:
        self.line(text, severity="W")

    def event(self, event: Event) -> None:
        """What happened in a solver."""
        severity = "W" if isinstance(event, Note) and event.warning else "I"
        if isinstance(event, DebugLine) and event.text.startswith(_AS_ERROR):
            severity = "E"
        for text in lines_of(event):
            if isinstance(event, HeaderLine):
                self.line(text, event.place)
                continue
            place = next((place for pattern, place in _PLACES if pattern.match(text)), "solver.cpp:57")
            self.line(text, place, severity)

    def follow(self, start: int, total: int) -> Callable[[int], None]:
        """On a terminal, show progress from iteration ``start`` to ``total``; call the result with each iteration."""
        if self._quiet or not self._console.is_terminal:
            return lambda iteration: None
        self._progress = Progress(
            TextColumn("iteration {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("train", total=total, completed=start)
        self._progress.start()
        progress, task = self._progress, self._task
        return lambda iteration: progress.update(task, completed=iteration)

    def __enter__(self) -> CaffeLog:
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError, ValueError):
            if self._progress is not None:
                self._progress.stop()
        with suppress(OSError):
            if self._file is not None:
                self._file.close()


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.3g} iter/s")


def _log_file(folder: str) -> TextIO:
    """A log file named as glog names its own, and the link ``caffe.INFO`` to it.

    A process that begins two within one second gives the second one the second after: nothing is written over.
    """
    now = datetime.datetime.now()
    host, user = socket.gethostname(), "unknown-user"
    with suppress(KeyError, OSError):  # a user id without a name
        user = getpass.getuser()

    def named(time: datetime.datetime) -> Path:
        return Path(folder, f"caffe.{host}.{user}.log.INFO.{time:%Y%m%d-%H%M%S}.{os.getpid()}")

    try:
        times = (now + datetime.timedelta(seconds=second) for second in itertools.count())
        path = next(path for time in times if not (path := named(time)).exists())
        file = path.open("w", encoding="utf-8")
        try:
            file.write(f"Log file created at: {now:%Y/%m/%d %H:%M:%S}\nRunning on machine: {host}\n")
            file.write("Log line format: [IWEF]mmdd hh:mm:ss.uuuuuu threadid file:line] msg\n")
            file.flush()
        except OSError:
            with suppress(OSError):  # it tries again
                file.close()
            path.unlink()
            raise
        link = path.with_name("caffe.INFO")
        link.unlink(missing_ok=True)
        with suppress(OSError):  # a file system without links
            link.symlink_to(path.name)
    except OSError as error:
        hint = "" if os.path.isdir(folder) else "; does the folder exist?"
        raise FileError(f"the log cannot be written: {reason_of(error)}{hint}", path=folder) from error
    return file


class Charts:
    """What a training shows, as scalars for TensorBoard. Those that cannot be written later on are lost.

    Raises:
        MissingExtraError: the package is not installed. FileError: the folder cannot be written to.
    """

    def __init__(self, folder: str) -> None:
        require("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        try:
            self._writer: Any = SummaryWriter(folder)
        except OSError as error:
            raise FileError(f"the charts cannot be written: {reason_of(error)}", path=folder) from error
        self._iteration = 0

    def event(self, event: Event) -> None:
        """Add what ``event`` tells."""
        with suppress(OSError):
            self._show(event)

    def _show(self, event: Event) -> None:
        match event:
            case IterationShown(iteration=iteration, loss=loss, outputs=outputs):
                self._writer.add_scalar("train/loss", loss, iteration)
                self._add("train", outputs, iteration)
                if event.seconds:
                    self._writer.add_scalar("train/iterations_per_second", event.iterations_per_second, iteration)
            case RateShown(iteration=iteration, rate=rate):
                self._writer.add_scalar("train/learning_rate", rate, iteration)
            case NetTestStarted(iteration=iteration):
                self._iteration = iteration
            case NetTested(net=net, outputs=outputs, loss=loss):
                if loss is not None:
                    self._writer.add_scalar(f"test{net}/loss", loss, self._iteration)
                self._add(f"test{net}", outputs, self._iteration)

    def _add(self, where: str, outputs: Any, iteration: int) -> None:
        many = len(outputs) > len({output.blob for output in outputs})
        for output in outputs:
            name = f"{output.blob}/{output.index}" if many else output.blob
            self._writer.add_scalar(f"{where}/outputs/{name}", output.value, iteration)

    def __enter__(self) -> Charts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._writer.close()
