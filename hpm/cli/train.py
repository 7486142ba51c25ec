"""``hpm train``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from caffe_compat.cli.caffe_commands import Signals, amp_option, gradients_option, nan_option
from caffe_compat.cli.caffe_log import CaffeLog
from caffe_compat.cli.groups import gathered
from caffe_compat.cli.options import device_option, note, parse_device, say
from caffe_compat.errors import UsageError
from caffe_compat.training import parallel
from caffe_compat.training.solver import Action

from ..datasets.heatmaps import HeatMapOptions
from ..drivers.training import LIFTING, PHASES, TrainingOptions, own_device, train_phase, with_lists
from ..networks import NetworkOptions, scaled_channels

__all__ = ["train"]


def _network(
    image_size: int, width: float, hidden: int, projector: int, batch: int | None, mpii_batch: int, in_order: bool
) -> NetworkOptions:
    if not width > 0:
        raise UsageError(f"--width {width}; a factor above 0 was expected")
    return NetworkOptions(
        image_size=image_size,
        channels=scaled_channels(width),
        hidden=hidden,
        projector=projector,
        batch=batch,
        mpii_batch=mpii_batch,
        shuffle=not in_order,
    )


size_options = gathered(
    "network",
    _network,
    click.option("--image-size", default=368, show_default=True, type=click.IntRange(1), help="Side of the pictures."),
    click.option("--width", default=1.0, show_default=True, help="Factor for the trunk's channels."),
    click.option("--hidden", default=1024, show_default=True, type=click.IntRange(1), help="Size of fc and the LSTMs."),
    click.option("--projector", default=1024, show_default=True, type=click.IntRange(1), help="Size of its layers."),
    click.option("--batch", type=click.IntRange(1), help="Images per batch. [default: the original's]"),
    click.option(
        "--mpii-batch", default=3, show_default=True, type=click.IntRange(1), help="MPII images that join it."
    ),
    click.option("--in-order", is_flag=True, help="Read the lists in order instead of shuffled."),
)


training_options = gathered(
    "options",
    TrainingOptions,
    size_options,
    click.option("--iterations", type=click.IntRange(1), help="[default: the original's]"),
    click.option("--learning-rate", type=float, help="[default: the original's]"),
    click.option("--schedule", type=click.Choice(["fixed", "linear"]), default="fixed", show_default=True),
    click.option(
        "--initial",
        type=click.Choice(["original", "scaled"]),
        default="original",
        show_default=True,
        help="Initial values of layers without weights; scaled suits narrow networks.",
    ),
    click.option("--batches", default=1, show_default=True, type=click.IntRange(1), help="Added up for one step."),
    click.option("--snapshot", type=click.IntRange(1), help="Every so many iterations. [default: the original's]"),
    click.option("--display", type=click.IntRange(1), help="Every so many iterations. [default: the original's]"),
    gradients_option,
    amp_option,
)


@click.command()
@click.argument("phase", type=click.Choice([*PHASES, "all"]))
@click.option("--data", required=True, type=click.Path(file_okay=False), help="Folder that the lists lie in.")
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Folder for weights and snapshots.")
@click.option("--weights", type=click.Path(), help="To start from. [default: what the phase before left in --out]")
@click.option(
    "--protocol",
    type=click.Choice(["1", "3"]),
    default="1",
    show_default=True,
    help="Which training subjects: those of lists as hpm prepare writes them.",
)
@click.option(
    "--train-list",
    help="List of training frames, or MPII's annotation for heat maps, relative to --data. "
    f"[default: as hpm prepare writes it, or {HeatMapOptions.annotation}]",
)
@click.option("--pictures", help=f"MPII's, for heat maps, relative to --data. [default: {HeatMapOptions.pictures}]")
@training_options
@click.option("--seed", type=int)
@click.option("--workers", type=click.IntRange(0), help="Processes that read data; 0 reads in this one.")
@nan_option
@device_option
@click.option("--require-gpu", is_flag=True, help="Train on a GPU, or fail.")
def train(
    phase: str,
    data: str,
    out: str,
    weights: str | None,
    protocol: str,
    train_list: str | None,
    pictures: str | None,
    options: TrainingOptions,
    seed: int | None,
    workers: int | None,
    keep_going_on_nan: bool,
    device: str,
    require_gpu: bool,
) -> int:
    """Train PHASE, or go on from its last snapshot in --out; all is the four phases after the 2D pre-training.

    The 2D pre-training is train_test_cpm, or pose_train_test_from_release: heat maps, from MPII's own annotation and
    pictures. To go on from the latter, name its model as --weights. pose_2d trains a network of 2D poses instead of 3D
    ones, for hpm refine --pose2d ours; it starts from the pre-training, too.

    SIGINT writes a snapshot and stops. Under torchrun (torchrun --nproc-per-node 2 -m hpm train ...) gradients are
    averaged over all processes, each of which reads batches of its own.
    """
    options = with_lists(options, phase, protocol=int(protocol), train_list=train_list, pictures=pictures)
    rank = parallel.this_rank()
    chosen = parse_device("cuda" if require_gpu and device == "auto" else device)
    if require_gpu and chosen.type != "cuda":
        raise UsageError(f"--device {chosen} is no GPU (--require-gpu)")
    where = own_device(chosen, rank)
    settings = {"seed": seed, "device": where, "workers": workers, "stop_at_nan": not keep_going_on_nan}
    with parallel.joined(rank, where):
        for number, name in enumerate(LIFTING if phase == "all" else (phase,)):
            done = _trained(name, data, out, weights if number == 0 else None, options, rank.rank == 0, settings)
            if done is None:
                if rank.rank == 0:
                    note(f"{name} was stopped; run the same command to go on")
                return 130
            if rank.rank == 0:
                say(f"{name}: {done}")
    return 0


def _trained(
    phase: str,
    data: str,
    out: str,
    weights: str | None,
    options: TrainingOptions,
    shown: bool,
    settings: dict[str, Any],
) -> Path | None:
    """Train a phase with Caffe's log on stderr, if ``shown``; SIGINT stops it. None if it was stopped."""
    with CaffeLog(quiet=not shown) as log, Signals({"SIGINT": Action.STOP}) as signals:
        return train_phase(
            phase,
            data,
            out,
            weights,
            options,
            observer=log.event,
            requested=signals.requested,
            progress=_progress(log),
            **settings,
        )


def _progress(log: CaffeLog) -> Callable[[int, int], None]:
    """Shows iterations on a terminal, from the one that comes first."""
    shown: list[Callable[[int], None]] = []

    def show(done: int, total: int) -> None:
        if not shown:
            shown.append(log.follow(done, total))
        shown[0](done)

    return show
