"""How many of the networks below a folder can be read, wired, built and run, and why not the others.

Files are handled by worker processes: one that hangs, crashes or eats the memory costs only the file it had, which is
reported as ``internal: ...``.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import IO

import torch

from ..errors import (
    CaffeCompatError,
    DialectError,
    FileError,
    UnknownLayerError,
    UsageError,
)
from ..formats.sniff import is_text
from ..formats.textformat import TextTree, parse_text
from ..network.graph import Graph, NetState, phase_graph, undeclared, with_inputs
from ..network.guessing import net_of
from ..network.net import CaffeNet
from ..network.plugins import load_plugins
from ..network.registry import find_layer
from ..schema import Schema
from ..schema.messages import NetParameter
from ..schema.prototxt import bind_tree, read_text
from ..schema.upgrade import upgrade_net
from .inspection import text_kind
from .network import layer_rows
from .survey_reasons import reason_of
from .survey_states import combined_states, plain_states

__all__ = ["FileResult", "Survey", "survey", "survey_file"]

# How far a network got.
UNREAD, READ, GRAPH, KNOWN, BUILT, RAN = range(6)

# A network larger than this is not run: it would take a machine of its own.
MAX_RUN_MACS = 20_000_000_000
MAX_RUN_BYTES = 2**30
# What a worker may need beyond what it has when it starts.
WORKER_BYTES = 4 * 2**30
EXAMPLES = 5
# Where several forks fit a file, so many of them are tried.
MAX_DIALECTS = 4

# A solver with one of these counts as the first network in it.
_NETWORKS_IN_SOLVER = ("net_param", "train_net_param", "test_net_param")


@dataclass(frozen=True)
class FileResult:
    """One file.

    Attributes:
        path: relative to the folder.
        network: False for a solver (unless a network is inside), a label map or other text.
        reached: 0 nothing, 1 read, 2 its layers form a graph, 3 their types are all known, 4 built (every shape is
            inferred), 5 run.
        state: the phase (and stages, and level) that got that far; empty if none was tried.
        reasons: what stopped it, grouped: one, or one for every layer type that is not known. detail: the error itself.
        guessed: the shapes of inputs that were guessed, in words.
        dialect: the fork that it was read as where several fit, and mean different things: ``--dialect`` must say it.
    """

    path: str
    network: bool
    reached: int = UNREAD
    state: str = ""
    reasons: tuple[str, ...] = ()
    detail: str = ""
    guessed: tuple[str, ...] = ()
    dialect: str = ""


@dataclass(frozen=True)
class Survey:
    """What became of every file, in the order of their paths. ``with_run`` tells whether networks were run too."""

    results: tuple[FileResult, ...]
    with_run: bool = False

    def count(self, reached: int) -> int:
        """How many networks got at least that far."""
        return sum(result.network and result.reached >= reached for result in self.results)

    @property
    def reasons(self) -> dict[str, int]:
        """How many files each reason stopped, most first. A file counts for every unknown layer type that it has."""
        counts = Counter(reason for result in self.results for reason in result.reasons)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def examples(self) -> dict[str, list[str]]:
        """A few files for each reason."""
        found: dict[str, list[str]] = {reason: [] for reason in self.reasons}
        for result in self.results:
            for reason in result.reasons:
                if len(found[reason]) < EXAMPLES:
                    found[reason].append(result.path)
        return found

    def counts(self) -> dict[str, int]:
        """How many got how far: ``files`` are all that were found; from ``read`` on, networks count."""
        counts = {
            "files": len(self.results),
            "not_networks": sum(not result.network for result in self.results),
            "read": self.count(READ),
            "graph": self.count(GRAPH),
            "known": self.count(KNOWN),
            "built": self.count(BUILT),
        }
        guessed = sum(bool(result.guessed) for result in self.results)
        if guessed:
            counts["built_on_guesses"] = guessed
        told = sum(bool(result.dialect) for result in self.results)
        if told:
            counts["built_with_dialect"] = told
        if self.with_run:
            counts["ran"] = self.count(RAN)
        return counts

    def to_json(self) -> dict[str, object]:
        """:meth:`counts`, and grouped reasons."""
        return {**self.counts(), "reasons": self.reasons}


def survey(
    folder: str | Path,
    *,
    run: bool = False,
    guess_shapes: bool = False,
    workers: int = 2,
    time_limit: float = 30.0,
    plugins: Sequence[str] = (),
) -> Survey:
    """Try every ``*.prototxt``, and every ``*.pt`` that is text, below ``folder``.

    Symbolic links to folders are not followed.

    Args:
        run: execute what was built once, with seeded weights and inputs of the declared shapes; networks of more than
            20 billion multiply-accumulates or 1 GiB are left out, which their reason says.
        guess_shapes: whether inputs whose shape no file tells get the one that they probably have.
        workers: processes at a time. time_limit: seconds for one file.
        plugins: Python files that register layers; the workers run them.

    Raises:
        FileError: no such folder. UsageError: a plugin fails.
    """
    root = Path(folder)
    if not os.path.isdir(root):
        raise FileError("no such folder", path=str(root))
    paths = sorted(_candidates(root))
    results: dict[str, FileResult] = {}
    queue = iter(paths)
    lock = threading.Lock()
    failures: list[CaffeCompatError] = []

    def serve() -> None:
        with _Worker(root, run, guess_shapes, plugins, time_limit) as worker:
            while not failures:
                with lock:
                    path = next(queue, None)
                if path is None:
                    return
                try:
                    results[path] = worker.survey_file(path)
                except CaffeCompatError as error:
                    failures.append(error)

    threads = [threading.Thread(target=serve) for _ in range(min(workers, len(paths)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return Survey(tuple(results[path] for path in paths), run)


def _candidates(root: Path) -> Iterator[str]:
    for path in root.rglob("*"):
        if path.suffix in (".prototxt", ".pt") and path.is_file() and (path.suffix == ".prototxt" or is_text(path)):
            yield str(path.relative_to(root))


# One file


def survey_file(root: str | Path, path: str, *, run: bool = False, guess_shapes: bool = False) -> FileResult:
    """How far the file ``path`` below ``root`` gets. It counts as far as any of its phases and stages gets.

    Where several forks fit the file and mean different things, it counts as far as it gets under one of them.
    """
    try:
        text = read_text(Path(root) / path)
    except FileError as error:
        return FileResult(path, True, UNREAD, "", (reason_of(error),), str(error))
    try:
        tree = parse_text(text)
        kind = text_kind(tree)
        inner = next((field.name for field in tree.fields if field.name in _NETWORKS_IN_SOLVER), None)
        if kind == "other" or (kind == "solver" and inner is None):
            return FileResult(path, False)
        inner = None if kind == "network" else inner
        message, schema = _network_in(tree, inner)
    except CaffeCompatError as error:
        # What a broken text was meant to be is a guess.
        if re.search(r"\blayers?\s*:?\s*[{<]", text) is None:
            return FileResult(path, False, UNREAD, "", (), str(error))
        return FileResult(path, True, UNREAD, "", (reason_of(error),), str(error))
    attempt = _Attempt(path, run, guess_shapes)
    best, choices = attempt.survey(message, schema)
    # A fork may lack what another one adds that the file has as well.
    named = (dialect for one in choices[:MAX_DIALECTS] for dialect in (one, f"{one}+{schema.name}"))
    for dialect in named:
        with suppress(CaffeCompatError):  # one that cannot read the rest of the file
            found, _ = replace(attempt, dialect_is_open=False).survey(*_network_in(tree, inner, dialect))
            if found.reached >= BUILT:
                return replace(found, dialect=dialect)
    return best


def _network_in(tree: TextTree, inner: str | None, dialect: str | None = None) -> tuple[NetParameter, Schema]:
    """The network of a text, which may lie in the field ``inner`` of a solver."""
    if inner is None:
        network = bind_tree(tree, dialect=dialect)
        return network.message, network.schema
    solver = bind_tree(tree, "SolverParameter", dialect)
    inside = getattr(solver.message, inner)
    return inside[0] if inner == "test_net_param" else inside, solver.schema


@dataclass(frozen=True)
class _Attempt:
    """What is tried with one file, under whichever dialect."""

    path: str
    run: bool
    guess_shapes: bool
    dialect_is_open: bool = True

    def survey(self, message: NetParameter, schema: Schema) -> tuple[FileResult, tuple[str, ...]]:
        """The best of all states, and the dialects of which one settles what stopped it, if that is all it lacks."""
        try:
            message = upgrade_net(message, schema).message
        except CaffeCompatError as error:
            return FileResult(self.path, True, READ, "", (reason_of(error),), str(error)), ()
        best, choices = FileResult(self.path, True), tuple[str, ...]()
        for state in chain(plain_states(message), combined_states(message)):
            found, dialects = self.state(message, schema.name, state)
            if found.reached > best.reached:
                best, choices = found, dialects
            if best.reached >= BUILT:
                break
        return best, choices

    def state(self, message: NetParameter, dialect: str, state: NetState) -> tuple[FileResult, tuple[str, ...]]:
        """What becomes of one state, and the dialects of which one would settle a layer that is in doubt."""
        reached, label = (
            READ,
            " ".join((state.phase, *state.stages, *([f"level {state.level}"] if state.level else []))),
        )
        try:
            # Wired first, and without shapes: whether its types are known does not depend on any.
            open_inputs = dict.fromkeys(undeclared(message)) if self.guess_shapes else {}
            graph = phase_graph(with_inputs(message, open_inputs), state, dialect)
            reached = GRAPH
            unknown = _unknown_types(graph, dialect)
            if unknown:
                reasons = tuple(f"unknown layer type {name}" for name in unknown)
                return FileResult(self.path, True, reached, label, reasons, ", ".join(unknown)), ()
            reached = KNOWN
            net = net_of(
                message, state, dialect=dialect, guess_shapes=self.guess_shapes, dialect_is_open=self.dialect_is_open
            )
            guessed = tuple(map(str, net.guessed))
            reached = BUILT
            if not self.run:
                return FileResult(self.path, True, reached, label, guessed=guessed), ()
            too_large = _too_large(net)
            if too_large:
                reasons = ("not run: too large",)
                return FileResult(self.path, True, reached, label, reasons, too_large, guessed), ()
            _run_seeded(net)
            return FileResult(self.path, True, RAN, label, guessed=guessed), ()
        except CaffeCompatError as error:
            choices = tuple(error.choices) if isinstance(error, DialectError) else ()
            return FileResult(self.path, True, reached, label, (reason_of(error),), str(error)), choices


def _unknown_types(graph: Graph, dialect: str) -> list[str]:
    unknown: dict[str, None] = {}
    for node in graph.nodes:
        if node not in graph.sources:
            try:
                find_layer(node.type, dialect)
            except UnknownLayerError:
                unknown[node.type] = None
    return sorted(unknown)


# Running


def _too_large(net: CaffeNet) -> str:
    """Why ``net`` is not run; empty if it is."""
    macs = sum(row.macs or 0 for row in layer_rows(net))
    needed = 4 * (sum(map(math.prod, net.shapes)) + sum(p.numel() for p in (*net.parameters(), *net.buffers())))
    if macs > MAX_RUN_MACS:
        return f"{macs:,} multiply-accumulates"
    return f"{needed:,} bytes" if needed > MAX_RUN_BYTES else ""


def _run_seeded(net: CaffeNet) -> None:
    """One forward pass, on weights that keep activations in range, and inputs that are valid as labels and indices."""
    net.materialize(0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for node in net.nodes_with_blobs():
            for blob in net.blobs_of(node.module_name).values():
                if blob.dim() > 1:
                    blob.normal_(0, math.sqrt(2 / max(math.prod(blob.shape[1:]), 1)), generator=generator)
                elif node.type == "BatchNorm":  # mean, variance and their factor
                    blob.uniform_(0.5, 1.5, generator=generator)
                else:
                    blob.uniform_(-0.1, 0.1, generator=generator)
    # Below 1, so that a label or an index reads as 0.
    net.run({name: torch.rand(shape, generator=generator) for name, shape in net.input_shapes.items()})


# Workers


class _Worker:
    """A process that surveys files, started when it is needed and again after it had to be killed."""

    def __init__(self, root: Path, run: bool, guess_shapes: bool, plugins: Sequence[str], time_limit: float) -> None:
        settings = {"root": str(root.resolve()), "run": run, "guess_shapes": guess_shapes, "plugins": list(plugins)}
        self.settings = json.dumps(settings)
        self.time_limit = time_limit
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def survey_file(self, path: str) -> FileResult:
        """The result for one file, whatever happens."""
        if self.process is None:
            self._start()
        process = self.process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        timed_out = threading.Event()

        def stop() -> None:
            timed_out.set()
            process.kill()

        timer = threading.Timer(self.time_limit, stop)
        timer.start()
        try:
            process.stdin.write(json.dumps(path) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except (BrokenPipeError, OSError):
            answer = ""
        finally:
            timer.cancel()
            timer.join()
        if timed_out.is_set():
            self._stop()
        if answer.endswith("\n"):
            plain = json.loads(answer)
            return FileResult(**{**plain, "reasons": tuple(plain["reasons"]), "guessed": tuple(plain["guessed"])})
        self._stop()
        if timed_out.is_set():
            return _internal(path, "time limit", f"took more than {self.time_limit:g} seconds")
        return _internal(path, "crashed", f"the process ended with status {process.returncode}")

    def _start(self) -> None:
        # An interpreter of its own: a fork of this process would share the locks of torch's threads.
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from caffe_compat.reports.survey import _serve; _serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            errors="surrogateescape",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(OSError):  # it has ended already, and says nothing instead of "ready"
            self.process.stdin.write(self.settings + "\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if answer != "ready":
            self._stop()
            raise UsageError(answer or "a worker process of the survey does not start")

    def _stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    _close(pipe)
            self.process = None


def _close(pipe: IO[str]) -> None:
    with suppress(OSError):  # what was not yet sent has nobody left to read it
        pipe.close()


def _internal(path: str, what: str, detail: str) -> FileResult:
    return FileResult(path, True, UNREAD, "", (f"internal: {what}",), detail)


def _serve() -> None:
    """The worker: settings on the first line of stdin, then a path per line; one result per line on stdout."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="surrogateescape")
    os.dup2(2, 1)  # what a layer prints is no answer
    settings = json.loads(sys.stdin.readline())
    try:
        load_plugins(settings["plugins"])
    except CaffeCompatError as error:
        print(str(error).replace("\n", " "), file=answers, flush=True)
        return
    torch.set_num_threads(1)
    _limit_memory()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        path = json.loads(line)
        try:
            result = survey_file(settings["root"], path, run=settings["run"], guess_shapes=settings["guess_shapes"])
        except MemoryError:
            result = _internal(path, "out of memory", "more memory than a worker may have")
        except Exception as error:
            result = _internal(path, type(error).__name__, str(error))
        print(json.dumps(asdict(result)), file=answers, flush=True)


def _limit_memory() -> None:
    # Only Linux has all of it.
    with suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + WORKER_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
