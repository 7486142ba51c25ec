"""The phases of training, one after the other: 2D pre-training, of two kinds, then the original's four; and 2D poses.

    from hpm.drivers.training import TrainingOptions, train_phase
    train_phase("2d_to_3d", data="data", weights="cpm.caffemodel", out="run")

A phase leaves in its folder the network and the solver that it ran (which ``caffe-compat train`` runs as well), its
snapshots, and at its end ``<phase>.caffemodel``. A phase that was stopped goes on from its last snapshot. Where
``torch.distributed`` is initialized, the processes train together: each reads batches of its own, gradients are
averaged, and rank 0 writes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch

from caffe_compat.errors import UsageError
from caffe_compat.formats.files import atomic_write, open_file
from caffe_compat.schema.messages import LayerParameter, NetParameter
from caffe_compat.schema.printing import format_message, quoted
from caffe_compat.training.data import Source
from caffe_compat.training.parallel import Rank, decided
from caffe_compat.training.session import open_solver
from caffe_compat.training.solver import Action, Event, latest_snapshot, read_solver

from ..datasets.heatmaps import HeatMapOptions, HeatMaps
from ..datasets.layout import TrainingFolder, make_folder
from ..networks import ORIGINAL, NetworkOptions, define

__all__ = [
    "HEAT_MAPS",
    "LIFTING",
    "PHASES",
    "PRETRAINING",
    "Phase",
    "TrainingOptions",
    "own_device",
    "prepared_lists",
    "train_phase",
    "trained_model",
    "with_lists",
]


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
            Phase("pose_2d", 1e-4, 800_000, PRETRAINING, 20_000, 1000),
        )
    }
)
"""In their order. The original went on to ``3d_to_2d`` from iteration 300,000 of ``2d_to_3d``. It took a snapshot of
the pre-training every 100 iterations; here it is every 10,000. It has no solver for the pre-training by heat maps: the
iterations are the CPM release's, the rest is the other pre-training's. Either kind's weights do to start ``2d_to_3d``
from; it takes those of ``train_test_cpm`` unless told.

``pose_2d`` is beside the others: a network of 2D poses for ``hpm refine --pose2d ours``. The authors' own comes without
a solver: the iterations are those that the folder of its results is named after, the rest is that of ``2d_to_3d``."""


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
        gradients: ``"caffe"`` for Caffe's own backward pass, ``"true"`` for the true gradient where the two differ.
        bfloat16: forward passes in mixed precision.
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
    gradients: Literal["caffe", "true"] = "caffe"
    bfloat16: bool = False
    heat_maps: HeatMapOptions = field(default_factory=HeatMapOptions)


LIFTING = ("2d_to_3d", "3d_to_2d", "finetune_whole", "mask3d")
"""The phases after the 2D pre-training: the original's four."""


def prepared_lists(phase: str, protocol: int = 1) -> tuple[str, str]:
    """The training and the test list of a phase, as ``hpm prepare`` names them, relative to the folder of the data.

    Raises:
        UsageError: another protocol than 1 and 3.
    """
    folder = TrainingFolder(Path(), protocol)
    # The 2D pre-training reads a list of its own kind.
    train = folder.images_list if phase == PRETRAINING else folder.train_list
    return train.as_posix(), folder.test_list.as_posix()


def with_lists(
    options: TrainingOptions,
    phase: str,
    *,
    protocol: int = 1,
    train_list: str | None = None,
    pictures: str | None = None,
) -> TrainingOptions:
    """``options`` with what a phase reads, relative to the folder of the data.

    Args:
        protocol: of the lists as ``hpm prepare`` names them: which subjects are trained on.
        train_list: another list of training frames; of the pre-training by heat maps, MPII's annotation.
        pictures: MPII's, for heat maps.

    Raises:
        UsageError: a choice that the phase has no use for.
    """
    heat_maps = phase == HEAT_MAPS
    if pictures is not None and not heat_maps:
        raise UsageError(f"--pictures {pictures}; only {HEAT_MAPS} reads them, the lists of {phase} name their own")
    if protocol != 1 and heat_maps:
        raise UsageError(f"--protocol {protocol}; {HEAT_MAPS} learns from MPII, whose persons belong to no protocol")
    prepared, test_list = prepared_lists(phase, protocol)
    train = prepared if train_list is None or heat_maps else train_list
    maps = options.heat_maps
    return replace(
        options,
        network=replace(options.network, train_list=train, test_list=test_list),
        heat_maps=replace(
            maps,
            annotation=train_list if heat_maps and train_list is not None else maps.annotation,
            pictures=pictures or maps.pictures,
        ),
    )


def own_device(device: torch.device, rank: Rank) -> torch.device:
    """Where a process trains: each process of a machine on a GPU of its own, counted from 0.

    Raises:
        UsageError: one GPU was named for several processes, or there are fewer than processes.
    """
    if device.type != "cuda" or rank.size == 1:
        return device
    count = torch.cuda.device_count()
    if device.index is not None or rank.local_size > count:
        raise UsageError(
            f"--device {device}: {rank.local_size} processes on this machine with {count} GPUs; each takes one, "
            "in their order, with --device cuda"
        )
    return torch.device("cuda", rank.local)


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
    progress: Callable[[int, int], None] | None = None,
    stop_at_nan: bool = True,
) -> Path | None:
    """Train one phase to its end, from its last snapshot in ``out`` if there is one.

    Args:
        phase: one of :data:`PHASES`.
        data: the folder that the lists' paths are relative to (see :class:`.datasets.layout.TrainingFolder`).
        out: a folder for everything that is written; it is made if missing.
        weights: to start from; None takes those that the phase before left in ``out``.
        seed: of the run; None draws one. device, workers, observer, requested, stop_at_nan: as for
            :func:`caffe_compat.training.session.open_solver`.
        progress: told before each iteration, and at the end, how many of how many are done.

    Returns:
        The trained model; None if ``requested`` stopped the run before its end.

    Raises:
        UsageError: an unknown phase, no weights to start from, or snapshots in ``out`` of a run with other settings.
        CaffeCompatError: one of its kinds, naming the file, layer or setting at fault.

    Example:
        >>> small = NetworkOptions(image_size=56, channels=(2, 3, 4, 5, 6, 7), hidden=8, projector=9, batch=2)
        >>> options = with_lists(TrainingOptions(small, iterations=2, initial="scaled"), "train_test_cpm")
        >>> train_phase("train_test_cpm", "made", "run", options=options, seed=1, workers=0).name
        'train_test_cpm.caffemodel'
    """
    plan, folder = _phase(phase), Path(out).resolve()
    done = trained_model(phase, folder)
    start = decided(lambda: _prepare(plan, folder, weights, options))
    if start.is_done:
        return done
    settings = read_solver(folder / f"{plan.name}.solver.prototxt", base=data)
    total = settings.max_iter
    with open_solver(
        settings,
        snapshot=start.snapshot,
        weights=start.weights,
        device=device,
        seed=seed,
        base=data,
        write_root=folder,
        workers=workers,
        gradients=options.gradients,
        observer=observer,
        requested=requested,
        stop_at_nan=stop_at_nan,
        bfloat16=options.bfloat16,
        inputs=_heat_maps(Path(data), options) if plan.name == HEAT_MAPS else _nothing,
    ) as running:
        if progress is not None:
            running.on_start.append(lambda: progress(running.iteration, total))
        running.solve()
        if progress is not None:
            progress(running.iteration, total)
        if running.stopped:
            return None
    decided(lambda: _keep(folder / f"{plan.name}_iter_{running.iteration}.caffemodel", done))
    return done


@dataclass(frozen=True)
class _Start:
    """Where a phase starts: from a snapshot, or from weights; or it was trained before."""

    is_done: bool = False
    snapshot: Path | None = None
    weights: tuple[Path, ...] = ()


def _prepare(plan: Phase, folder: Path, weights: str | Path | None, options: TrainingOptions) -> _Start:
    """Write the network and the solver, unless they are there already; find out where to start."""
    done, prefix = trained_model(plan.name, folder), folder / plan.name
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
            return _Start(is_done=True)
        start = _Start(snapshot=snapshot)
    else:
        start = _Start(weights=_start(plan, folder, weights))
        make_folder(folder)
    for path, text in texts.items():
        with atomic_write(path) as handle:
            handle.write(text.encode())
    return start


def _keep(last: Path, done: Path) -> None:
    """Copy the last snapshot's weights to the name of the trained model."""
    with open_file(last) as source, atomic_write(done) as target:
        shutil.copyfileobj(source, target)


def _nothing(seed: int, rank: Rank) -> Sequence[Source]:
    return ()


def _heat_maps(data: Path, options: TrainingOptions) -> Callable[[int, Rank], Sequence[Source]]:
    """What makes the source of the pictures and maps of one process."""
    network = options.network

    def make(seed: int, rank: Rank) -> Sequence[Source]:
        maps = HeatMaps(
            data,
            options.heat_maps,
            size=network.image_size,
            batch=network.train_frames(4),
            seed=seed,
            shuffle=network.shuffle,
            rank=rank.rank,
            world_size=rank.size,
        )
        return (maps,)

    return make


def _phase(name: str) -> Phase:
    if name not in PHASES:
        raise UsageError(f"no phase {name!r}; there are {', '.join(PHASES)}")
    return PHASES[name]


def _start(plan: Phase, folder: Path, weights: str | Path | None) -> tuple[Path, ...]:
    """The weights to start from."""
    if weights is not None:
        return (Path(weights).resolve(),)
    if plan.after is None:
        return ()
    before = trained_model(plan.after, folder)
    if not before.exists():
        raise UsageError(
            f"{plan.name} starts from the weights of {plan.after}; there is no {before}: train it or give weights"
        )
    return (before,)


def _network(plan: Phase, options: TrainingOptions) -> NetParameter:
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


def _scale_fillers(layer: LayerParameter) -> None:
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
            *(["# with the true gradients where Caffe's differ"] if options.gradients == "true" else []),
            *(["# in mixed precision"] if options.bfloat16 else []),
            "",
        )
    )


def _data_text(options: TrainingOptions) -> str:
    """What the network does not tell about its data."""
    return json.dumps({**asdict(options.heat_maps), "shuffle": options.network.shuffle}, indent=1) + "\n"


def _check_same(texts: Mapping[Path, str], plan: Phase) -> None:
    """That what is in the folder was trained with these settings, wherever the folder was then."""
    for path, text in texts.items():
        if not path.exists():
            raise UsageError(f"there is a trained {plan.name} in {path.parent}, but no {path.name} that tells how")
        with open_file(path) as handle:
            if _settings_in(handle.read().decode("utf-8", "replace")) != _settings_in(text):
                raise UsageError(
                    f"{path} was written by a run with other settings; give those again, or another folder to write to"
                )


def _settings_in(text: str) -> list[str]:
    """The lines of a file of :func:`_prepare` but those that tell where its folder is."""
    return [line for line in text.splitlines() if not line.startswith(("net: ", "snapshot_prefix: "))]
