"""What has to hold after a job was ended: its files are whole or not there, and it goes on as if nothing had been."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.crash.jobs import Job
from tests.crash.killing import Ended, Moment, together, until

__all__ = ["Outcome", "check"]

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass
class Outcome:
    """Counts of what was done, and what should have been otherwise."""

    counts: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)


def check(job: Job, kills: int, seed: int = 0) -> Outcome:
    """Kill ``job`` so often: at any time, at an event of its writing, and just after one, in turn."""
    outcome = Outcome()
    chance = Random(f"{job.name} {seed}")
    with tempfile.TemporaryDirectory() as folder:
        peace = _prepared(job, Path(folder))
        ended = until(job.run, peace)
        if ended.status:
            outcome.bad.append(f"undisturbed, it ends with status {ended.status}")
            return outcome
        expected = _made(job, peace)
        _killed(job, Path(folder), expected, ended, kills, chance, outcome)
        _signalled(job, Path(folder), expected, ended, chance, outcome)
        if job.other is not None:
            _two_writers(job, Path(folder), expected, outcome)
    return outcome


def _prepared(job: Job, root: Path) -> Path:
    """A folder with the inputs, always the same one: records of what is done name it."""
    folder = root / "work"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    job.prepare(folder)
    return folder


def _made(job: Job, folder: Path) -> dict[str, bytes]:
    """What the job left, by name, without what is being written."""
    found = {path for pattern in job.made for path in folder.glob(pattern) if path.is_file()}
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(found) if path.suffix != ".tmp"}


def _killed(
    job: Job, root: Path, expected: dict[str, bytes], ended: Ended, kills: int, chance: Random, outcome: Outcome
) -> None:
    folder = _prepared(job, root)
    before: dict[str, bytes] = {}
    if job.other is not None:
        until(job.other, folder)
        before = _made(job, folder)
        assert before.keys() == expected.keys()
        assert before != expected
    for number in range(kills):
        kind = ("time", "event", "after an event")[number % 3]
        event = chance.randint(1, max(1, ended.events))
        moment = {
            "time": Moment(after=chance.uniform(0, ended.seconds)),
            "event": Moment(event=event),
            "after an event": Moment(event=event, later=chance.uniform(1e-5, 3e-3)),
        }[kind]
        through = job.other is None and _made(job, folder) == expected  # when the kill before came
        status = until(job.run, folder, moment).status
        outcome.counts[f"killed at a {kind}" if kind == "time" else f"killed at {kind}"] += status < 0
        if through and status == 2:  # some refuse to write what is there
            status = 0
        if status > 0:
            outcome.bad.append(f"{moment}: a run after kills ends with status {status}")
            _afresh(job, folder, outcome)
        _check_whole(job, folder, before, expected, moment, outcome)
        if status == 0:  # from the start again
            outcome.counts["came to an end"] += 1
            _check_end(job, folder, expected, moment, outcome)
            _afresh(job, folder, outcome)
    until(job.run, folder)
    _check_end(job, folder, expected, None, outcome)


def _afresh(job: Job, folder: Path, outcome: Outcome) -> None:
    if job.other is not None:
        until(job.other, folder)
    else:
        _prepared(job, folder.parent)


def _check_whole(
    job: Job, folder: Path, before: dict[str, bytes], expected: dict[str, bytes], moment: Moment, outcome: Outcome
) -> None:
    """Every file is what it was before, or what it is to be."""
    for name, content in _made(job, folder).items():
        if (
            name in expected
            and content not in (before.get(name), expected[name])
            and not _grows(content, expected[name])
        ):
            outcome.bad.append(f"{moment}: {name} is neither old nor new")


def _grows(content: bytes, expected: bytes) -> bool:
    """Files of lines that are written one by one may end after any of them."""
    return expected.startswith(content) and content.endswith(b"\n")


def _check_end(job: Job, folder: Path, expected: dict[str, bytes], moment: Moment | None, outcome: Outcome) -> None:
    made = _made(job, folder)
    if made != expected:
        differing = [name for name in {**made, **expected} if made.get(name) != expected.get(name)]
        outcome.bad.append(f"{moment}: in the end {', '.join(sorted(differing))} differ from an undisturbed run")
    if left := [str(path.relative_to(folder)) for path in folder.rglob("*.tmp")]:
        outcome.bad.append(f"{moment}: {', '.join(sorted(left))} are left after a run that came to its end")


def _signalled(
    job: Job, root: Path, expected: dict[str, bytes], ended: Ended, chance: Random, outcome: Outcome
) -> None:
    """SIGTERM and SIGINT leave no half of a file; after SIGINT nothing temporary is left, either."""
    for number in SIGNALS:
        folder = _prepared(job, root)
        for moment in (
            Moment(after=chance.uniform(0, ended.seconds), signal=number),
            Moment(event=chance.randint(1, max(1, ended.events)), signal=number),
        ):
            status = until(job.run, folder, moment).status
            outcome.counts[number.name] += 1
            if status not in (0, 130, -number):
                outcome.bad.append(f"{moment}: status {status}")
            _check_whole(job, folder, {}, expected, moment, outcome)
            left = [str(path.relative_to(folder)) for path in folder.rglob("*.tmp")]
            if left and number == signal.SIGINT:
                outcome.bad.append(f"{moment}: {', '.join(sorted(left))} are left")
            if status == 0:  # it was through before the signal came; some refuse to write what is there
                _prepared(job, root)
        until(job.run, folder)
        _check_end(job, folder, expected, None, outcome)


def _two_writers(job: Job, root: Path, expected: dict[str, bytes], outcome: Outcome) -> None:
    """Of two that write the same files at once, the files are of one of them, each of them whole."""
    assert job.other is not None
    folder = _prepared(job, root)
    until(job.other, folder)
    other = _made(job, folder)
    for _ in range(3):
        ends = together(job.run, job.other, folder)
        outcome.counts["two writers"] += 1
        if any(end.status not in (0, 2) for end in ends) or all(end.status for end in ends):
            outcome.bad.append(f"two writers end with {[end.status for end in ends]}")
        for name, content in _made(job, folder).items():
            if content not in (expected.get(name), other.get(name)):
                outcome.bad.append(f"{name} is of neither of two writers")
