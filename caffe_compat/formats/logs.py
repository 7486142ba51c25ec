"""Training logs, real Caffe's and ours: from text to numbers."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import FileError
from .files import read_file
from .sniff import decode_text

__all__ = ["LogClock", "LogRow", "TrainLog", "news", "parse_log", "read_log"]

# I1123 06:19:00.123456 12345 solver.cpp:239] message, or I20261123 ... of a newer glog
_LINE = re.compile(
    r"[IWEF](?P<year>\d{4})?(?P<month>\d\d)(?P<day>\d\d) (?P<clock>\d\d:\d\d:\d\d\.\d+)"
    r"\s+\d+ \S+?:\d+\] ?(?P<message>.*)"
)
_NUMBER = r"(?P<value>[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf))"
# What a message of a training begins with; forks for several GPUs put a number in brackets before. Where that comes
# later, it is part of a name.
_NEWS = re.compile(r"\s*(?:\[[\w.]+\] )?((?:Iteration \d|(?:Train|Test) net output #|Test score #).*)")
# As many digits as a 64-bit number may have: what is longer is no count of anything.
_ITERATION = re.compile(r"Iteration (?P<iteration>\d{1,18})\b")
_LOSS = re.compile(rf"Iteration \d+(?: \([^)]*\))?, loss = {_NUMBER}")
_RATE = re.compile(rf"Iteration \d+, lr = {_NUMBER}")
# Caffe of 2014 had one test network, without a number, and gave its outputs none of their names.
_TESTING = re.compile(r"Iteration \d+, Testing net(?: \(#(?P<net>\d{1,9})\))?")
_SCORE = re.compile(rf"Test score #(?P<index>\d{{1,9}}): {_NUMBER}$")
_OUTPUT = re.compile(
    rf"\s*(?P<phase>Train|Test) net output #(?P<index>\d{{1,9}}): (?P<blob>.+?) = {_NUMBER}(?P<loss> \(\* .* loss\))?$"
)


@dataclass
class LogRow:
    """What a log tells about one iteration.

    Attributes:
        seconds: since the first line with a time; None where lines have none.
        loss: the smoothed one; of training rows only. rate: the learning rate.
        outputs: by blob name; ``name#index`` where an output blob has several numbers. The nameless ones of 2014's
            Caffe (``Test score #0: 0.93``) are ``score``, or ``score#0``, ``score#1``, ... in its order.
    """

    iteration: int
    seconds: float | None
    loss: float | None = None
    rate: float | None = None
    outputs: dict[str, float] = field(default_factory=dict)


@dataclass
class TrainLog:
    """A log: rows in the order of the file. A run that was resumed, or started anew, just goes on.

    Attributes:
        train: iterations that were shown. tests: by number of the test network.
        losses: output blobs that count in the loss.
    """

    train: list[LogRow] = field(default_factory=list)
    tests: dict[int, list[LogRow]] = field(default_factory=dict)
    losses: set[str] = field(default_factory=set)


def read_log(path: str | Path) -> TrainLog:
    """Parse the log in ``path``.

    Raises:
        FileError: it cannot be read, or holds nothing of a training.
    """
    log = parse_log(decode_text(read_file(path), str(path), replace=True).splitlines())
    if not log.train and not log.tests:
        raise FileError("no line of a Caffe training (Iteration N, loss = ...) is in it", path=str(path))
    return log


def parse_log(lines: Iterable[str]) -> TrainLog:
    """Parse the lines of a log, with glog's prefix or without. Everything that is not about training is passed over."""
    log = TrainLog()
    clock = LogClock()
    outputs: list[tuple[int, str, float]] = []
    row: LogRow | None = None  # that the next outputs belong to
    rate: tuple[int, float] | None = None  # the last learning rate and its iteration

    def close() -> None:
        if row is not None:
            row.outputs.update(_named(outputs))
        outputs.clear()

    for line in lines:
        match = _LINE.search(line)
        seconds = clock.seconds(match) if match else None
        message = match["message"] if match else line.strip("\r\n")
        output = _OUTPUT.match(message)
        if output is not None:
            outputs.append((int(output["index"]), output["blob"], float(output["value"])))
            if output["loss"]:
                log.losses.add(output["blob"])
            continue
        score = _SCORE.match(message)
        if score is not None:
            outputs.append((int(score["index"]), "score", float(score["value"])))
            continue
        iteration = _ITERATION.search(message)
        if iteration is None or (match is not None and not _NEWS.match(message)):
            continue
        number = int(iteration["iteration"])
        if (found := _TESTING.search(message)) is not None:
            close()
            row = LogRow(number, seconds)
            log.tests.setdefault(int(found["net"] or 0), []).append(row)
        elif (found := _LOSS.search(message)) is not None:
            close()
            row = LogRow(number, seconds, loss=float(found["value"]))
            if rate is not None and rate[0] == number:  # 2014's Caffe told the rate before the loss
                row.rate = rate[1]
            log.train.append(row)
        elif (found := _RATE.search(message)) is not None:
            rate = number, float(found["value"])
            if log.train and log.train[-1].iteration == number:
                log.train[-1].rate = rate[1]
    close()
    return log


def news(line: str) -> str | None:
    """What a line with glog's prefix tells of a training; None if it tells of a layer whose name looks like that."""
    match = _LINE.search(line)
    found = _NEWS.match(match["message"]) if match else None
    return found and found[1]


def _named(outputs: Sequence[tuple[int, str, float]]) -> dict[str, float]:
    """Outputs by name; those of a blob with several numbers get their place within it added."""
    count = Counter(blob for _, blob, _ in outputs)
    places: Counter[str] = Counter()
    named: dict[str, float] = {}
    for _, blob, value in outputs:
        named[f"{blob}#{places[blob]}" if count[blob] > 1 else blob] = value
        places[blob] += 1
    return named


class LogClock:
    """Times of log lines, which may have no year, as seconds since the first."""

    def __init__(self) -> None:
        self._first: datetime.datetime | None = None
        self._last_month = 0
        self._year = 2000  # a leap year: logs may be from a 29th of February

    def of_line(self, line: str) -> float | None:
        """The time of a line; None if it has none."""
        match = _LINE.search(line)
        return self.seconds(match) if match else None

    def seconds(self, match: re.Match[str]) -> float | None:
        month = int(match["month"])
        if month < self._last_month:
            self._year += 1
        self._last_month = month
        text = f"{match['year'] or self._year} {month} {match['day']} {match['clock'][:15]}"
        try:
            time = datetime.datetime.strptime(text, "%Y %m %d %H:%M:%S.%f")
        except ValueError:
            return None
        self._first = self._first or time
        return (time - self._first).total_seconds()
