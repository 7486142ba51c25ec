"""The two tables of a training's log, as Caffe's ``parse_log.py`` makes them: of the iterations, and of the tests.

Each has the columns NumIters, Seconds (since the line that says "Solving"), LearningRate, and the outputs by name. The
rate is the last one that the log told before the row, so it is that of the row before, as there; before the first it is
that of the second row. An output of several numbers shows its last one.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..errors import FileError
from .files import atomic_write, read_file
from .logs import LogClock, news
from .sniff import decode_text

__all__ = ["LogTables", "Row", "log_tables", "read_log_tables", "write_log_tables"]

Row = dict[str, float]

_ITERATION = re.compile(r"Iteration (\d{1,18})")
_RATE = re.compile(r"Iteration \d+.*lr = ([-+]?[0-9]*\.?[0-9]+(?:[eE]?[-+]?[0-9]+)?)")
_OUTPUT = re.compile(r"(Train|Test) net output #\d+: (\S+) = ([-+]?(?:nan|inf)|[.\deE+-]+)")


@dataclass
class LogTables:
    """Rows in the order of the log."""

    train: list[Row] = field(default_factory=list)
    test: list[Row] = field(default_factory=list)


def read_log_tables(path: str | os.PathLike[str]) -> LogTables:
    """The tables of the log in ``path``. Raises FileError: it cannot be read, or holds nothing of a training."""
    tables = log_tables(decode_text(read_file(path), os.fspath(path), replace=True).splitlines())
    if not tables.train and not tables.test:
        raise FileError("no output of a Caffe training (Train net output #0: ...) is in it", path=os.fspath(path))
    return tables


def log_tables(lines: Iterable[str]) -> LogTables:
    """The tables of a log, line by line. What comes before the line that says "Solving" is no training yet."""
    clock = LogClock()
    growing = {"Train": _Growing(), "Test": _Growing()}
    rate = math.nan
    iteration: int | None = None
    start: float | None = None
    for line in lines:
        time = clock.of_line(line)
        if time is None:
            continue
        if start is None:
            start = time if "Solving" in line else None
            continue
        message = news(line)
        if message is None:
            continue
        if found := _ITERATION.match(message):
            iteration = int(found[1])
        if iteration is None:
            continue
        if found := _RATE.match(message):
            rate = float(found[1])
        if found := _OUTPUT.match(message):
            growing[found[1]].add(iteration, time - start, rate, found[2], _number(found[3], line))
    return LogTables(growing["Train"].rows(), growing["Test"].rows())


def _number(text: str, line: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise FileError(f"{text!r} is no number: {line.strip()[:120]}") from None


class _Growing:
    """A table that takes one output after the other.

    A row is complete when it has as many columns as the first one, which is complete when another iteration begins:
    so the outputs of several test nets, which have the same names, get rows of their own but in the first, as in Caffe.
    """

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._row: Row | None = None

    def add(self, iteration: int, seconds: float, rate: float, name: str, value: float) -> None:
        if self._row is None or self._row["NumIters"] != iteration:
            self._close()
            self._row = {"NumIters": float(iteration), "Seconds": seconds, "LearningRate": rate}
        self._row[name] = value
        if self._rows and len(self._row) == len(self._rows[0]):
            self._close()

    def _close(self) -> None:
        if self._row is not None:
            self._rows.append(self._row)
        self._row = None

    def rows(self) -> list[Row]:
        """All rows. Caffe's script forgets the last one where it is not complete; here it is kept."""
        self._close()
        if len(self._rows) > 1:
            self._rows[0]["LearningRate"] = self._rows[1]["LearningRate"]
        return self._rows


def write_log_tables(tables: LogTables, name: str, folder: str | os.PathLike[str], delimiter: str = ",") -> list[str]:
    """Write ``name.train`` and ``name.test`` into ``folder``, each if there are rows; the paths that were written.

    Raises:
        FileError: one cannot be written, or a row has a column that the first has not: a test net that came later.
    """
    written = []
    for kind, rows in (("train", tables.train), ("test", tables.test)):
        if not rows:
            continue
        path = os.path.join(folder, f"{name}.{kind}")
        odd = next((column for row in rows for column in row if column not in rows[0]), None)
        if odd is not None:
            raise FileError(
                f"a row has an output {odd!r}, which the first row has not; one table cannot hold them", path=path
            )
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
        with atomic_write(path) as file:
            file.write(text.getvalue().encode())
        written.append(path)
    return written
