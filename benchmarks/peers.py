"""Timing by turns, and peers that live in a process of their own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

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


class OpenCV:
    """OpenCV's importer in the Python ``python``, on 2 threads, or on one and by processor time if ``busy``.

    ``loaded`` is how long it took to read the network.
    """

    def __init__(self, python: str, prototxt: Path, weights: Path, shape: tuple[int, ...], busy: bool = False) -> None:
        command = [python, str(HERE / "opencv_peer.py"), str(prototxt), str(weights), ",".join(map(str, shape))]
        command += ["--busy"] if busy else []
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.loaded = self._answer()

    def run(self) -> float:
        """Seconds of one forward pass, as it took them itself."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> float:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"OpenCV ended with {self._process.wait()}; its own message is above")
        return float(line)

    def __enter__(self) -> OpenCV:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def verdict(what: str, value: float, limit: float, unit: str = "", *, least: bool = False) -> bool:
    """Print one line; True if the value is within its limit."""
    good = value >= limit if least else value <= limit
    print(f"{'ok  ' if good else 'MISS'} {what}: {value:.3g}{unit} (target {'>=' if least else '<='} {limit:g}{unit})")
    return good
