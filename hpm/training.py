"""The phases of training, one after the other: 2D pre-training, of two kinds, then the original's four.

    from hpm.training import TrainingOptions, train_phase
    train_phase("2d_to_3d", data="data", weights="cpm.caffemodel", out="run")

A phase leaves in its folder the network and the solver that it ran (which ``caffe-compat train`` runs as well), its
snapshots, and at its end ``<phase>.caffemodel``. A phase that was stopped goes on from its last snapshot.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.distributed as dist

from caffe_compat.errors import UsageError
from caffe_compat.files import atomic_write, open_file
from caffe_compat.net import CaffeNet
from caffe_compat.prototxt import format_message, quoted
from caffe_compat.solver import Action, Event, Solver, SolverSettings, latest_snapshot, read_solver
from caffe_compat.solver.events import Note
from caffe_compat.training import Feed, open_solver

from .datasets.heatmaps import HeatMapOptions, HeatMaps
from .networks import ORIGINAL, NetworkOptions, define

__all__ = ["HEAT_MAPS", "PHASES", "PRETRAINING", "Phase", "TrainingOptions", "train_phase", "trained_model"]


@dataclass(frozen=True)
class Phase:
    """One phase with the original's numbers. ``after`` is the phase whose weights it starts from."""

    name: str
    learning_rate: float
    iterations: int
    after: str | None
    snapshot: int
    display: int


PRETRAINING = "train_test_cpm"
HEAT_MAPS = "pose_train_test_from_release"

PHASES: Mapping[str, Phase] = MappingProxyType(
    {
        phase.name: phase
        for phase in (
            Phase(HEAT_MAPS, 1e-4, 600_000, None, 10_000, 100),
            Phase(PRETRAINING, 1e-4, 5_000_000, None, 10_000, 100),
            Phase("2d_to_3d", 1e-4, 2_000_000, PRETRAINING, 20_000, 1000),
            Phase("3d_to_2d", 1e-4, 300_000, "2d_to_3d", 20_000, 1000),
            Phase("finetune_whole", 1e-5, 400_000, "3d_to_2d", 20_000, 1000),
            Phase("mask3d", 1e-5, 400_000, "finetune_whole", 50_000, 1000),
        )
    }
)
"""In their order. The original went on to ``3d_to_2d`` from iteration 300,000 of ``2d_to_3d``. It took a snapshot of
the pre-training every 100 iterations; here it is every 10,000. It has no solver for the pre-training by heat maps: the
iterations are the CPM release's, the rest is the other pre-training's. Either kind's weights do to start ``2d_to_3d``
from; it takes those of ``train_test_cpm`` unless told."""


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; None is what the original does.

    Attributes:
        network: sizes and lists. Paths of lists are relative to the folder of the data.
        iterations: at the phase's end. learning_rate: at its start.
        schedule: ``"fixed"``, or ``"linear"`` down to zero at the phase's end.
        initial: what layers get that no weights fill: ``"original"``, the network's own fillers, made for wide networks
            that start from released weights; ``"scaled"``, values that keep the size of signals whatever the width.
        batches: batches whose gradients are added up for one step.
        snapshot, display: every so many iterations.
        heat_maps: what the pre-training by heat maps learns from; no other phase reads it.
    """

    network: NetworkOptions = field(default_factory=lambda: ORIGINAL)
    iterations: int | None = None
    learning_rate: float | None = None
    schedule: Literal["fixed", "linear"] = "fixed"
    initial: Literal["original", "scaled"] = "original"
    batches: int = 1
    snapshot: int | None = None
    display: int | None = None
    heat_maps: HeatMapOptions = field(default_factory=HeatMapOptions)


def trained_model(phase: str, out: str | Path) -> Path:
    """Where :func:`train_phase` leaves the weights of a phase that is done. Raises UsageError for an unknown phase."""
    return Path(out) / f"{_phase(phase).name}.caffemodel"


def train_phase(
    phase: str,
    data: str | Path,
    out: str | Path,
    weights: str | Path | None = None,
    options: TrainingOptions = TrainingOptions(),
    *,
    seed: int | None = None,
    device: torch.device | str = "cpu",
    workers: int | None = None,
    observer: Callable[[Event], None] | None = None,
    requested: Callable[[], Action] | None = None,
) -> Path | None:
    """Train one phase to its end, from its last snapshot in ``out`` if there is one.

    Args:
        phase: one of :data:`PHASES`.
        data: the folder that the lists' paths are relative to (see :class:`.datasets.layout.TrainingFolder`).
        out: a folder for everything that is written; it is made if missing.
        weights: to start from; None takes those that the phase before left in ``out``.
        seed: of the run; None draws one. device, workers, observer, requested: as for
            :func:`caffe_compat.training.open_solver`.

    Returns:
        The trained model; None if ``requested`` stopped the run before its end.

    Raises:
        UsageError: an unknown phase, no weights to start from, or snapshots in ``out`` of a run with other settings.
        CaffeCompatError: one of its kinds, naming the file, layer or setting at fault.
    """
    plan, folder = _phase(phase), Path(out).resolve()
    done = trained_model(phase, folder)
    prefix = folder / plan.name
    definition, solver = folder / f"{plan.name}.prototxt", folder / f"{plan.name}.solver.prototxt"
    texts = {
        definition: format_message(_network(plan, options)),
        solver: _solver_text(plan, options, definition, prefix),
    }
    if plan.name == HEAT_MAPS:
        texts[folder / f"{plan.name}.data.json"] = _data_text(options)
    snapshot = latest_snapshot(str(prefix), folder) if folder.is_dir() else None
    if snapshot is not None or done.exists():
        _check_same(texts, plan)
        if done.exists():
            return done
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        with atomic_write(path) as handle:
            handle.write(text.encode())
    settings, start = read_solver(solver, base=data), [] if snapshot is not None else _start(plan, folder, weights)
    with (
        _open_on_heat_maps(
            settings, options, snapshot, start, device, seed, Path(data), folder, workers, observer, requested
        )
        if plan.name == HEAT_MAPS
        else open_solver(
            settings,
            snapshot=snapshot,
            weights=start,
            device=device,
            seed=seed,
            base=data,
            write_root=folder,
            workers=workers,
            observer=observer,
            requested=requested,
        )
    ) as running:
        running.solve()
        if running.stopped:
            return None
    last = folder / f"{plan.name}_iter_{running.iteration}.caffemodel"
    with open_file(last) as source, atomic_write(done) as target:
        shutil.copyfileobj(source, target)
    return done


@contextmanager
def _open_on_heat_maps(
    settings: SolverSettings,
    options: TrainingOptions,
    snapshot: str | Path | None,
    weights: Sequence[Path],
    device: torch.device | str,
    seed: int | None,
    data: Path,
    folder: Path,
    workers: int | None,
    observer: Callable[[Event], None] | None,
    requested: Callable[[], Action] | None,
) -> Iterator[Solver]:
    """A solver whose Input layer :class:`HeatMaps` feeds; its readers end with the block."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        raise UsageError(f"{HEAT_MAPS} trains in one process; {dist.get_world_size()} were started")
    definition, state = settings.train.definition()
    solver = Solver(
        replace(settings, weights=tuple(map(str, weights))),
        CaffeNet(definition.message, state, dialect=definition.schema.name, path=definition.path),
        lambda index: feed(index),
        device=device,
        seed=seed,
        base=data,
        write_root=folder,
        observer=observer,
        requested=requested,
    )
    if snapshot is not None:
        solver.restore(snapshot)
    # Only now is the seed known: without a given one it is the snapshot's.
    if seed is None:
        solver.tell(Note(f"random_seed is not set: this run has {solver.seed}"))
    network = options.network
    maps = HeatMaps(
        data,
        options.heat_maps,
        size=network.image_size,
        batch=network.train_frames(4),
        seed=solver.seed,
        shuffle=network.shuffle,
    )
    for text in maps.notes:
        solver.tell(Note(text))
    feed = Feed([maps], workers)
    try:
        yield solver
    finally:
        feed.close()


def _phase(name: str) -> Phase:
    if name not in PHASES:
        raise UsageError(f"no phase {name!r}; there are {', '.join(PHASES)}")
    return PHASES[name]


def _start(plan: Phase, folder: Path, weights: str | Path | None) -> list[Path]:
    """The weights to start from."""
    if weights is not None:
        return [Path(weights).resolve()]
    if plan.after is None:
        return []
    before = trained_model(plan.after, folder)
    if not before.exists():
        raise UsageError(
            f"{plan.name} starts from the weights of {plan.after}; there is no {before}: train it or give weights"
        )
    return [before]


def _network(plan: Phase, options: TrainingOptions) -> Any:
    """The network of the phase without its evaluations, which only write every pose that training sees to files."""
    message = define(plan.name, options.network).message
    kept = [layer for layer in message.layer if layer.type not in ("MPJPEEvaluation", "SavePath")]
    if options.initial == "scaled":
        for layer in kept:
            _scale_fillers(layer)
    result = type(message)()
    result.CopyFrom(message)
    del result.layer[:]
    result.layer.extend(kept)
    return result


def _scale_fillers(layer: Any) -> None:
    if layer.type == "LSTM":
        bound = layer.recurrent_param.num_output**-0.5
        layer.recurrent_param.weight_filler.min, layer.recurrent_param.weight_filler.max = -bound, bound
    for field_name in ("convolution_param", "inner_product_param"):
        if layer.HasField(field_name):
            filler = getattr(layer, field_name).weight_filler
            filler.Clear()
            filler.type = "msra"


def _solver_text(plan: Phase, options: TrainingOptions, definition: Path, prefix: Path) -> str:
    iterations = plan.iterations if options.iterations is None else options.iterations
    policy = {"fixed": 'lr_policy: "fixed"', "linear": 'lr_policy: "poly"\npower: 1'}[options.schedule]
    return "\n".join(
        (
            f"net: {quoted(str(definition))}",
            'type: "Adam"',
            f"base_lr: {plan.learning_rate if options.learning_rate is None else options.learning_rate!r}",
            policy,
            "momentum: 0.9",
            "momentum2: 0.999",
            "clip_gradients: 5",
            f"iter_size: {options.batches}",
            f"max_iter: {iterations}",
            f"display: {plan.display if options.display is None else options.display}",
            f"average_loss: {100 if options.display is None else max(1, options.display)}",
            f"snapshot: {plan.snapshot if options.snapshot is None else options.snapshot}",
            f"snapshot_prefix: {quoted(str(prefix))}",
            "",
        )
    )


def _data_text(options: TrainingOptions) -> str:
    """What the network does not tell about its data."""
    return json.dumps({**asdict(options.heat_maps), "shuffle": options.network.shuffle}, indent=1) + "\n"


def _check_same(texts: Mapping[Path, str], plan: Phase) -> None:
    """That what is in the folder was trained with these settings."""
    for path, text in texts.items():
        if not path.exists():
            raise UsageError(f"there is a trained {plan.name} in {path.parent}, but no {path.name} that tells how")
        with open_file(path) as handle:
            if handle.read().decode("utf-8", "replace") != text:
                raise UsageError(
                    f"{path} was written by a run with other settings; give those again, or another folder to write to"
                )
