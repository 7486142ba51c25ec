"""``hpm refine``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click
import torch

from caffe_compat.cli.groups import gathered
from caffe_compat.cli.options import device_option, note, parse_device
from caffe_compat.cli.tables import print_table

from ..drivers.refine_files import refine_files
from ..refine import ORIGINAL, PAPER, RefineSettings
from .options import (
    Bars,
    actions_option,
    bounds_option,
    data_folder,
    data_option,
    layout_option,
    parse_actions,
    protocol_option,
    report_problems,
)

__all__ = ["refine"]


def _settings(
    paper: bool,
    mode: Any,
    steps: int | None,
    learning_rate: float | None,
    update: str | None,
    stop_mm: float | None,
    discard_mm: float | None,
) -> RefineSettings:
    given = {
        "mode": mode,
        "steps": steps,
        "learning_rate": learning_rate,
        "update_projector": None if update is None else update == "projector",
        "stop_mm": stop_mm,
        "discard_mm": discard_mm,
    }
    return replace(PAPER if paper else ORIGINAL, **{k: v for k, v in given.items() if v is not None})


settings_options = gathered(
    "settings",
    _settings,
    click.option("--paper", is_flag=True, help="The variant that the paper describes; options below change it."),
    click.option(
        "--mode",
        type=click.Choice(["faithful", "independent"]),
        help="faithful: Adam's state carries over from frame to frame. [default: faithful]",
    ),
    click.option("--steps", type=click.IntRange(1), help="Forward passes per frame. [default: 2]"),
    click.option("--learning-rate", type=float, help="[default: 0.00015]"),
    click.option(
        "--update",
        type=click.Choice(["correction", "projector"]),
        help="What the steps update: the correction module, or the projector as well. [default: correction]",
    ),
    click.option("--stop-mm", type=float, help="Stop when the torso moves by less."),
    click.option("--discard-mm", type=float, help="Discard a result whose torso moved farther."),
)


def weights_options(command: Callable[..., object]) -> Callable[..., object]:
    """The weights to refine with, and what vouches for them."""
    options = [
        click.option(
            "--model",
            "--trained_model",
            required=True,
            type=click.Path(),
            help="A verified .pt, or a pickle of 12 arrays.",
        ),
        click.option(
            "--verified-by",
            type=click.Path(),
            help="For a pickle: a verified .pt with the same arrays. [default: the .pt of its name beside it]",
        ),
        click.option(
            "--allow-unverified", is_flag=True, help="Refine with a model that was not shown to give the same numbers."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@weights_options
@protocol_option
@layout_option
@click.option("--pose2d", type=click.Choice(["ours", "hourglass", "gt"]), default="ours", show_default=True)
@click.option(
    "--coarse-3d",
    "--coarse_3d",
    type=click.Path(file_okay=False),
    help="Folder of result<k>_norm.csv. [default: DATA/ours_3d/mask3d-400000]",
)
@data_option
@click.option("--save", required=True, type=click.Path(file_okay=False), help="Folder for the refined poses.")
@actions_option
@settings_options
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--allow-short", is_flag=True, help="Labels and 2D poses may have more frames than the coarse poses.")
@bounds_option
@device_option
def refine(
    model: str,
    verified_by: str | None,
    allow_unverified: bool,
    protocol: str,
    layout: str,
    pose2d: str,
    coarse_3d: str | None,
    data_dir: str,
    save: str,
    actions: str,
    settings: RefineSettings,
    dtype: str,
    allow_short: bool,
    bounds: str | None,
    device: str,
) -> int:
    """Refine the coarse poses of all actions by their 2D poses.

    Writes refine3d_<k>.txt (48 mm values per frame) and <rate>mpjp_<k>.txt (errors of the coarse, corrected and refined
    pose). Finished actions are kept when the command runs again. A line of the original's pred_v2.py works as it is
    with hpm refine in place of its first two words.
    """
    data = data_folder(data_dir, protocol, layout)
    with Bars() as bars:
        summary = refine_files(
            model,
            data,
            save,
            coarse=coarse_3d,
            pose2d=pose2d,
            settings=settings,
            verified_by=verified_by,
            allow_unverified=allow_unverified,
            bounds=bounds,
            actions=parse_actions(actions, data),
            allow_short=allow_short,
            dtype={"float32": torch.float32, "float64": torch.float64}[dtype],
            device=parse_device(device),
            progress=bars.actions(data),
            tell=note,
        )
    rows = [
        (
            data.called(d.action),
            str(d.frames),
            *(f"{v:.2f}" for v in (d.coarse_mm, d.change_mm, d.refined_mm)),
            str(d.discarded),
            "yes" if d.kept else "",
        )
        for d in summary.done
    ]
    columns = ("action", "frames", "coarse mm", "change mm", "refined mm", "discarded", "kept")
    if rows:
        print_table(columns, rows, right=columns[1:6])
    return report_problems(data, summary.problems, len(summary.done))
