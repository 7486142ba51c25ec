"""Training and testing as Caffe's command does them: settings, networks, data and files put together.

from caffe_compat.training.solver import read_solver
from caffe_compat.training.session import train
train(read_solver("solver.prototxt"), weights=["bvlc_reference_caffenet.caffemodel"])
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from ..access import FileAccess
from ..errors import FileAccessError, UsageError
from ..formats.weights import read_weights
from ..network.definition import Definition, read_definition
from ..network.filling import fill_net
from ..network.graph import NetState, phase_graph
from ..network.net import CaffeNet
from ..network.python_config import PythonConfig
from .data import Loader, Source, make_sources
from .parallel import ParallelNet, Rank, Vote, gather, share
from .solver import Action, Solver, SolverSettings, read_snapshot
from .solver.events import BlobOutput, HeaderLine, Note, Observer
from .solver.header import net_header, settings_header, source_header, weights_header
from .solver.outputs import output_numbers

__all__ = ["Fed", "Feed", "Scores", "TrainingFiles", "feed_net", "open_solver", "opened_net", "score", "train"]


class TrainingFiles(FileAccess):
    """What training and testing may touch: read whatever the network names, write below ``base`` or ``write_root``.

    Names are relative to ``base``, Caffe's working directory.
    """

    def __init__(self, base: str | Path = ".", write_root: str | Path | None = None) -> None:
        super().__init__(base, base if write_root is None else write_root)
        self.base = Path(base).resolve()

    def place_to_read(self, path: str, layer: str) -> Path:
        return (self.base / path).resolve()

    def place_to_write(self, path: str, layer: str) -> Path:
        full = (self.base / path).resolve()
        allowed = [self.base, *([self.write_root] if self.write_root else [])]
        if not any(full.is_relative_to(root) for root in allowed):
            raise FileAccessError(
                f"writes {path!r}, outside {self.base}; allow another folder with --write-root", layer=layer
            )
        return full


# Networks with their data


@dataclass(frozen=True)
class Fed:
    """A network, the sources of its inputs, and its batches by number."""

    net: CaffeNet
    sources: tuple[Source, ...]
    batches: Feed


class Feed:
    """The batches of some sources by number, read ahead. Another order than one after the other starts reading anew."""

    def __init__(self, sources: Sequence[Source], workers: int | None) -> None:
        self._sources, self._workers = tuple(sources), workers
        self._loader: Loader | None = None
        self._next = 0

    def __call__(self, index: int) -> Mapping[str, Tensor]:
        if not self._sources:
            return {}
        if self._loader is None or index != self._next:
            self.close()
            self._loader = Loader(self._sources, start=index, workers=self._workers)
        self._next = index + 1
        return next(self._loader)

    def close(self) -> None:
        if self._loader is not None:
            self._loader.close()
        self._loader = None


def feed_net(
    definition: Definition,
    state: NetState,
    *,
    base: str | Path = ".",
    write_root: str | Path | None = None,
    seed: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    workers: int | None = None,
    gradients: Literal["caffe", "true"] = "caffe",
    allow_python: bool = False,
    zeros: bool = False,
    inputs: Sequence[Source] = (),
) -> Fed:
    """Build a network over the data that its data layers name. Its blobs have no memory yet.

    Args:
        base: the folder that file names start from, Caffe's working directory.
        write_root: a folder besides ``base`` below which layers may write.
        seed, rank, world_size: as for :func:`.data.make_source`. workers: as for :class:`.data.Loader`.
        gradients: ``"caffe"`` for Caffe's own backward pass, ``"true"`` for the true gradient where the two differ.
        allow_python: whether ``Python`` layers may run the code they name.
        zeros: feed ``Input`` layers zeros instead of refusing them.
        inputs: what feeds ``Input`` layers, by the names of their tops.

    Raises:
        CaffeCompatError: the network cannot be built, or its data not found.
    """
    graph = phase_graph(definition.message, state, definition.schema.name, allow_python=allow_python)
    given = {top for source in inputs for top in source.tops}
    fed_by_hand = [
        node.name for node in graph.sources if node.type == "Input" and not given.issuperset(node.message.top)
    ]
    if fed_by_hand and not zeros:
        raise UsageError(
            f"nothing feeds the Input layers {', '.join(map(repr, fed_by_hand))}; use data "
            "layers, or caffe_compat.training.solver.Solver with batches of your own",
            path=definition.path,
        )
    sources = (*make_sources(graph, root=base, seed=seed, rank=rank, world_size=world_size), *inputs)
    shapes = {top: shape for source in sources for top, shape in source.shapes().items()}
    net = CaffeNet(
        definition.message,
        state,
        dialect=definition.schema.name,
        input_shapes=shapes,
        files=TrainingFiles(base, write_root),
        gradients=gradients,
        allow_python=allow_python,
        path=definition.path,
    )
    return Fed(net, sources, Feed(sources, workers))


# Training


@contextmanager
def open_solver(
    settings: SolverSettings,
    *,
    snapshot: str | Path | None = None,
    weights: Sequence[str | Path] = (),
    device: torch.device | str = "cpu",
    seed: int | None = None,
    base: str | Path = ".",
    write_root: str | Path | None = None,
    workers: int | None = None,
    dialect: str | None = None,
    gradients: Literal["caffe", "true"] = "caffe",
    allow_python: bool = False,
    python_config: PythonConfig | None = None,
    observer: Observer | None = None,
    requested: Callable[[], Action] | None = None,
    stop_at_nan: bool = True,
    bfloat16: bool = False,
    inputs: Callable[[int, Rank], Sequence[Source]] = lambda seed, rank: (),
) -> Iterator[Solver]:
    """A solver over the networks and data of ``settings``, ready for ``solve()``; its readers end with the block.

    Where ``torch.distributed`` is initialized, each process reads batches of its own, gradients are averaged, and rank
    0 tests and writes snapshots.

    Args:
        snapshot: a solverstate to go on from. weights: instead of ``settings.weights``; not both.
        seed: instead of ``settings.random_seed``; without either, that of the snapshot, else a drawn one.
        base: the folder that file names start from. write_root: a folder besides it where files may be written.
        workers: processes that read data, for each network; None takes one for each core but one.
        gradients, python_config: as :func:`.network.loading.load` takes them.
        inputs: makes what feeds the trained network's ``Input`` layers, for the run's seed and this process's rank.
        Others: as for :class:`.solver.Solver`.

    Raises:
        CaffeCompatError: one of its kinds, naming the file, layer or setting at fault.
    """
    settings = _starting_from(settings, snapshot, weights)
    rank = Rank(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Rank()
    tell = _only_first(observer, rank)
    _tell_all(tell, settings.notes, settings.warnings, settings_header(settings))
    seed = _seed_for(settings, snapshot, base, tell) if seed is None else seed
    tested, settings = bool(settings.tests), settings if rank.rank == 0 else replace(settings, tests=())
    place: dict[str, Any] = {"base": base, "write_root": write_root, "rank": rank.rank, "world_size": rank.size}
    feed = partial(feed_net, seed=seed, workers=workers, gradients=gradients, allow_python=allow_python, **place)
    with ExitStack() as stack:
        how, opened = (dialect, python_config), partial(_opened, stack, feed, settings, tell)
        trained = opened(settings.train.definition(*how), source_header(settings.train), inputs(seed, rank))
        tests = [opened(test.definition(*how), source_header(test, i)) for i, test in enumerate(settings.tests)]
        tell(HeaderLine("Solver scaffolding done.", "solver.cpp:57"))
        vote = Vote(requested, torch.device(device), lambda: tested and solver.tests_are_due) if rank.size > 1 else None
        solver = Solver(
            settings,
            trained.net,
            trained.batches,
            [(fed.net, fed.batches) for fed in tests],
            device=device,
            rank=rank.rank,
            world_size=rank.size,
            seed=seed,
            base=base,
            write_root=_root_of(settings.snapshot_prefix, base, write_root),
            observer=tell if vote is None else vote.before(tell),
            requested=vote.requested if vote else requested,
            stop_at_nan=stop_at_nan,
            bfloat16=bfloat16,
        )
        _join_processes(solver, vote)
        if snapshot is not None:
            solver.restore(snapshot)
        yield solver


def train(settings: SolverSettings, **options: object) -> Solver:
    """Train up to ``max_iter``; the solver as it then is. Options as for :func:`open_solver`, which see."""
    with open_solver(settings, **options) as solver:  # type: ignore[arg-type]
        solver.solve()
        return solver


def _starting_from(
    settings: SolverSettings, snapshot: str | Path | None, weights: Sequence[str | Path]
) -> SolverSettings:
    """The settings, with the weights of a run that starts from files named beside them."""
    if snapshot is not None and weights:
        raise UsageError("a snapshot to resume from and weights to start from were given; one of them was expected")
    if snapshot is None and not weights:
        return settings
    return replace(settings, weights=tuple(map(str, weights)))


def _opened(
    stack: ExitStack,
    feed: Callable[..., Fed],
    settings: SolverSettings,
    tell: Observer,
    read: tuple[Definition, NetState],
    header: HeaderLine,
    inputs: Sequence[Source] = (),
) -> Fed:
    """A network with its data, whose readers end with ``stack``; what there is to say of it is told."""
    definition, state = read
    tell(header)
    fed = feed(definition, state, inputs=inputs)
    stack.callback(fed.batches.close)
    notes = [note for source in fed.sources for note in source.notes]
    _tell_all(tell, [*definition.notes, *notes], [*definition.warnings, *fed.net.warnings])
    for line in (*net_header(fed.net), *weights_header(settings)):
        tell(line)
    return fed


def _join_processes(solver: Solver, vote: Vote | None) -> None:
    """Let the solvers of several processes, who vote, train as one."""
    if vote is None:
        return
    solver.gather = gather
    solver.on_start.append(lambda: vote.after_tests(solver))
    if any(p.requires_grad for p in solver.model.parameters()):
        solver.model = ParallelNet(solver.model)


def _tell_all(tell: Observer, notes: Iterable[str], warnings: Iterable[str], header: Iterable[HeaderLine] = ()) -> None:
    for line in header:
        tell(line)
    for text in notes:
        tell(Note(text))
    for text in warnings:
        tell(Note(text, warning=True))


def _only_first(observer: Observer | None, rank: Rank) -> Observer:
    return observer if observer is not None and rank.rank == 0 else lambda event: None


def _seed_for(settings: SolverSettings, snapshot: str | Path | None, base: str | Path, tell: Observer) -> int:
    """The settings' seed; else the snapshot's, so that a run goes on with the same draws; else a new one, for all."""
    if settings.random_seed is not None:
        return settings.random_seed
    resume = read_snapshot(snapshot, Path(base)).resume if snapshot is not None else None
    seed = share(secrets.randbits(31) if resume is None else resume.seed)
    tell(Note(f"random_seed is not set: this run has {seed}"))
    return seed


def _root_of(prefix: str, base: str | Path, write_root: str | Path | None) -> str | Path:
    """The one of the two folders that ``prefix`` lies in."""
    if write_root is not None and (Path(base) / prefix).resolve().is_relative_to(Path(write_root).resolve()):
        return write_root
    return base


# Testing


@dataclass(frozen=True)
class Scores:
    """What a test measured: the mean loss, and the mean of every number of the output blobs over the batches."""

    loss: float
    outputs: tuple[BlobOutput, ...]


def score(
    model: str | Path,
    weights: Sequence[str | Path],
    iterations: int = 50,
    *,
    level: int = 0,
    stages: Sequence[str] = (),
    device: torch.device | str = "cpu",
    seed: int | None = None,
    base: str | Path = ".",
    write_root: str | Path | None = None,
    workers: int | None = None,
    dialect: str | None = None,
    allow_python: bool = False,
    python_config: PythonConfig | None = None,
    warn: Callable[[str], None] = lambda text: None,
    on_batch: Callable[[int, Sequence[BlobOutput]], None] = lambda index, outputs: None,
) -> Scores:
    """Score a network on ``iterations`` batches of its own test data, as ``caffe test``.

    Args:
        weights: files, in the order in which they are loaded.
        level, stages: of the network's state. seed: of random layers.
        warn: told what Caffe lets pass. on_batch: told the outputs of every batch.
        Others: as for :func:`open_solver`.

    Raises:
        UsageError: no weights, or no iterations. CaffeCompatError: what cannot be read or built.
    """
    if iterations < 1:
        raise UsageError(f"{iterations} iterations: at least 1 was expected")
    if not weights:
        raise UsageError("a test needs the weights of the model")
    with opened_net(
        model,
        weights,
        level=level,
        stages=stages,
        device=device,
        seed=seed,
        base=base,
        write_root=write_root,
        workers=workers,
        dialect=dialect,
        allow_python=allow_python,
        python_config=python_config,
        warn=warn,
    ) as (net, feed):
        return _scored(net, feed, iterations, on_batch)


def _scored(
    net: CaffeNet,
    feed: Callable[[int], Mapping[str, Tensor]],
    iterations: int,
    on_batch: Callable[[int, Sequence[BlobOutput]], None],
) -> Scores:
    sums: list[float] = []
    loss = 0.0
    outputs: tuple[BlobOutput, ...] = ()
    with torch.no_grad():
        for i in range(iterations):
            net.randomness.iteration = i
            values = net.values(feed(i), keep=False)
            outputs = output_numbers(net, values)
            loss += float(net.loss(values)) if net.loss_weights else 0.0
            on_batch(i, outputs)
            sums = [a + o.value for a, o in zip(sums or [0.0] * len(outputs), outputs, strict=True)]
    means = tuple(replace(o, value=total / iterations) for o, total in zip(outputs, sums, strict=True))
    return Scores(loss / iterations, means)


@contextmanager
def opened_net(
    model: str | Path,
    weights: Sequence[str | Path],
    *,
    level: int = 0,
    stages: Sequence[str] = (),
    device: torch.device | str = "cpu",
    seed: int | None = None,
    base: str | Path = ".",
    write_root: str | Path | None = None,
    workers: int | None = None,
    dialect: str | None = None,
    allow_python: bool = False,
    python_config: PythonConfig | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> Iterator[tuple[CaffeNet, Callable[[int], Mapping[str, Tensor]]]]:
    """A network of phase TEST with its weights, and the batches of its own data by number, on ``device``.

    Arguments and errors as of :func:`score`. The readers of the data end with the block.
    """
    definition = read_definition(model, dialect, filled_from=weights[0], python_config=python_config)
    fed = feed_net(
        definition,
        NetState("TEST", level, tuple(stages)),
        base=base,
        write_root=write_root,
        seed=seed,
        workers=workers,
        allow_python=allow_python,
    )
    net = fed.net
    texts = [*definition.warnings, *net.warnings]
    for path in weights:
        with read_weights(path) as opened:
            texts += fill_net(net, opened).warnings
    for text in texts:
        warn(text)
    net.materialize(seed, device).to(device)
    net.randomness.seed = seed
    try:
        yield net, lambda index: {name: x.to(device) for name, x in fed.batches(index).items()}
    finally:
        fed.batches.close()
