"""Timing by turns, and peers that live in a process of their own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

HERE = Path(__file__).parent


def fastest(
    runs: Mapping[str, Callable[[], float | None]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """The least time of each run in seconds, of ``rounds`` by turns, so that a busy machine troubles all alike.

    A run may return a time that it took itself.
    """
    best = dict.fromkeys(runs, float("inf"))
    for i in range(rounds + 1):
        for name, run in runs.items():
            start = clock()
            own = run()
            took = clock() - start if own is None else own
            if i > 0:  # the first round only warms up
                best[name] = min(best[name], took)
    return best


def drop(_: object) -> None:
    """Forget a result, so that it is not taken for a time."""


class Peer:
    """A process that says how long it took to get ready, and answers every line with a number.

    ``loaded`` is how long that took, in seconds.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self._name = name
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.loaded = self._answer()

    def run(self) -> float:
        """Seconds of one forward pass, as it took them itself."""
        return self.ask("")

    def ask(self, line: str) -> float:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then there is no answer either
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> float:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self._name} ended with {self._process.wait()}; its own message is above")
        return float(line)

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


class OpenCV(Peer):
    """OpenCV's importer in the Python ``python``, on 2 threads, or on one and by processor time if ``busy``."""

    def __init__(self, python: str, prototxt: Path, weights: Path, shape: tuple[int, ...], busy: bool = False) -> None:
        command = [python, str(HERE / "opencv_peer.py"), str(prototxt), str(weights), ",".join(map(str, shape))]
        super().__init__("OpenCV", command + ["--busy"] * busy)


class Runtime(Peer):
    """onnxruntime or OpenVINO in the Python ``python``, with an ONNX file and arrays of inputs."""

    def __init__(self, name: str, python: str, model: Path, inputs: Path, threads: int, *options: str) -> None:
        command = [python, str(HERE / "runtime_peer.py"), name, str(model), str(inputs), str(threads), *options]
        super().__init__(name, command)


def runtimes_of(python: str) -> list[str]:
    """Which of onnxruntime and OpenVINO the Python ``python`` has."""
    code = "import importlib.util as u; print(*[m for m in ('onnxruntime', 'openvino') if u.find_spec(m)])"
    try:
        return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"--peers {python}: {error}")


# Between runs by turns, so that threads of one runtime that still wait in a loop do not trouble the next, in seconds.
PAUSE = 0.02


def by_turns(
    runs: Mapping[str, Callable[[], float | None]],
    seconds: float,
    rounds: tuple[int, int] = (3, 50),
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each run, round by round, after one round that warms up.

    The run that begins moves on from round to round. A run may return a time that it took itself.

    Args:
        seconds: when no further round begins. rounds: at least and at most.
    """
    took: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    begin = time.perf_counter()
    for i in range(rounds[1] + 1):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start = clock()
            own = runs[name]()
            if i > 0:
                took[name].append(clock() - start if own is None else own)
            time.sleep(PAUSE)
        if i >= rounds[0] and time.perf_counter() - begin > seconds:
            break
    return took


@dataclass(frozen=True)
class Spread:
    """Half of the values lie between ``lower`` and ``upper``."""

    lower: float
    median: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75))
        return cls(float(lower), float(median), float(upper))

    def reaches(self, target: float) -> str:
        """``ok``, ``near`` where the target lies within the spread, or ``MISS``."""
        return "ok" if self.median >= target else "near" if self.upper >= target else "MISS"

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lower:.2f} to {self.upper:.2f})"


def verdict(what: str, value: float, limit: float, unit: str = "", *, least: bool = False) -> bool:
    """Print one line; True if the value is within its limit."""
    good = value >= limit if least else value <= limit
    print(f"{'ok  ' if good else 'MISS'} {what}: {value:.3g}{unit} (target {'>=' if least else '<='} {limit:g}{unit})")
    return good
