"""Runs a target on many damaged files in forked processes, so that one that dies or hangs takes nothing with it.

A fork server that needs nothing: everything is imported once, every process gets a run of inputs, says which one it is
at, and is followed by another after the input that ended it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import getpass
import os
import resource
import selectors
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch

from caffe_compat.errors import CaffeCompatError
from tests.fuzz.fence import Fence
from tests.fuzz.mutators import of_bytes
from tests.fuzz.target import ROOT, Target

SPARE_BYTES = 2**30
# An input may take this many times as long by the clock as in processor time, on a machine that does other things too.
_PATIENCE = 6
_RUN = 500  # inputs of one process
_USER = getpass.getuser()


@dataclass
class Findings:
    """What became of inputs, and those that should have had another end: (target, input number, what)."""

    counts: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[str, int, str]] = field(default_factory=list)


def content_of(target: Target, number: int) -> bytes:
    """The input ``number`` of a target: always the same."""
    chance = Random(f"{target.name} {number}")
    # What is damaged already is not taken apart again: that is what its reader may not survive.
    content = target.mutate(chance.choice(target.seeds), chance)
    for _ in range(chance.choice((0, 0, 0, 1))):
        content = of_bytes(content, chance)
    return content


def run(target: Target, first: int, count: int, deadline: float | None = None) -> Findings:
    """Run inputs ``first`` to ``first + count``, or those before ``deadline`` (monotonic)."""
    findings = Findings()
    number, end = first, first + count
    while number < end and (deadline is None or time.monotonic() < deadline):
        number = _one_process(target, number, min(end, number + _RUN), deadline, findings)
    return findings


def _one_process(target: Target, first: int, end: int, deadline: float | None, findings: Findings) -> int:
    """Fork, and follow what the child says; the number after the last input that it began."""
    back, there = os.pipe()
    gc.freeze()  # so that the child, when it collects, does not copy all that was there before
    child = os.fork()
    if child == 0:
        os.close(back)
        _child(target, first, end, deadline, there)
    os.close(there)
    at, ended = first, False
    try:
        for line in _lines(back, _PATIENCE * target.seconds):
            word, _, rest = line.partition(" ")
            if word == "at":
                at = int(rest)
            elif word == "done":
                ended = True
            else:
                findings.counts[word] += 1
                if word == "BAD":
                    findings.bad.append((target.name, at, rest))
    except TimeoutError:
        os.kill(child, signal.SIGKILL)
    os.close(back)
    _, status = os.waitpid(child, 0)
    if ended:
        return end if deadline is None else max(at + 1, first + 1)
    why = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
    findings.counts["DEAD"] += 1
    findings.bad.append((target.name, at, f"the process ended: {why}"))
    return at + 1


def _lines(pipe: int, patience: float) -> Iterator[str]:
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            if not selector.select(patience):
                raise TimeoutError
            read = os.read(pipe, 1 << 16)
            if not read:
                return
            *whole, rest = (rest + read).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)


class _TooSlow(BaseException):
    pass


def _too_slow(number: int, frame: object) -> None:
    raise _TooSlow


def _child(target: Target, first: int, end: int, deadline: float | None, pipe: int) -> None:
    status = 1
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        for name in ("elsewhere", "tmp"):
            folder.joinpath(name).mkdir()
        os.environ.setdefault("CAFFE_COMPAT_MAX_READER_SECONDS", "1")
        os.environ.setdefault("CAFFE_COMPAT_MAX_READER_BYTES", str(SPARE_BYTES))
        torch.set_num_threads(1)  # a pool of threads does not survive a fork
        warnings.simplefilter("ignore")
        faulthandler.disable()  # what ends the process is told by whoever waits for it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        os.chdir(folder / "elsewhere")
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder / "tmp")
        os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)  # where torch, had it traced before, would go on keeping things
        sys.dont_write_bytecode = True
        signal.signal(signal.SIGPROF, _too_slow)
        held = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (held + SPARE_BYTES, resource.RLIM_INFINITY))
        code = Path("/") if target.names_files else ROOT
        fence = Fence([folder / "tmp", folder / "inputs"], code, runs_files=target.runs_files)
        for number in range(first, end):
            if deadline is not None and time.monotonic() > deadline:
                break
            os.write(pipe, f"at {number}\n".encode())
            os.write(pipe, _outcome(target, number, folder, fence).encode() + b"\n")
        os.write(pipe, b"done\n")
        status = 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(status)


def _outcome(target: Target, number: int, folder: Path, fence: Fence) -> str:
    work = folder / "inputs" / str(number)
    path = work / target.file
    for name, content in {**target.beside, target.file: content_of(target, number)}.items():
        place = work / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    before = _around(folder)
    fence.crossed()
    signal.setitimer(signal.ITIMER_PROF, target.seconds)  # of the processor, however busy it is
    try:
        target.read(path)
        outcome = "accepted"
    except CaffeCompatError as error:
        text = str(error)
        multiline = len(text.splitlines()) > 1 or len(text) > 5000
        outcome = f"BAD the error has {len(text)} letters in several lines" if multiline else "refused"
        if "\x1b" in text or "\0" in text:
            outcome = "BAD the error holds control characters"
    except _TooSlow:
        outcome = f"BAD takes longer than {target.seconds:g} s"
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "/tests/" not in f.filename]
        at = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
        outcome = f"BAD {type(error).__name__}: {str(error)[:150]!r} at {at}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    crossed = fence.crossed()
    if crossed and not outcome.startswith("BAD"):
        outcome = f"BAD outside its folder: {crossed}"
    if left := _around(folder) - before:
        outcome = f"BAD it left files outside its folder: {', '.join(sorted(left))}"
    with contextlib.suppress(OSError):
        shutil.rmtree(work)
    if number % 50 == 0:
        gc.collect()
    return outcome.replace("\n", "\\n")


def _around(folder: Path) -> set[str]:
    """What lies about the folders of inputs, without what torch and onnxruntime keep from run to run."""
    found = {path for part in (".", "elsewhere", "tmp", "inputs") for path in folder.joinpath(part).iterdir()}
    return {str(path) for path in found if path.name not in (f"torchinductor_{_USER}", ".ses")}
