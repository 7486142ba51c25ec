"""``hpm coarse``."""

from __future__ import annotations

import click

from caffe_compat.cli.options import device_option, parse_device
from caffe_compat.errors import UsageError

from ..drivers.coarse import predict_actions
from ..projector import POSE_3D
from .options import (
    Bars,
    actions_option,
    bounds_option,
    choose_bounds,
    data_folder,
    data_option,
    label,
    layout_option,
    model_arguments,
    open_machine,
    optimize_option,
    parse_actions,
    picture_folder,
    protocol_option,
    report_problems,
)

__all__ = ["coarse"]


@click.command()
@model_arguments
@data_option
@click.option("--images", type=click.Path(file_okay=False), help="Folder of the pictures. [default: DATA/h36m]")
@click.option("--save", required=True, type=click.Path(file_okay=False), help="Folder for the CSV files.")
@protocol_option
@layout_option
@actions_option
@click.option(
    "--window", default=5, show_default=True, type=click.IntRange(1), help="Frames that the network sees together."
)
@click.option("--readers", default=4, show_default=True, type=click.IntRange(1), help="Threads that read pictures.")
@optimize_option
@bounds_option
@device_option
def coarse(
    model: str,
    weights: str | None,
    pose_blob: str | None,
    data_dir: str,
    images: str | None,
    save: str,
    protocol: str,
    layout: str,
    actions: str,
    window: int,
    readers: int,
    optimize: bool,
    bounds: str | None,
    device: str,
) -> int:
    """Predict the poses of the actions' lists with MODEL (a .pt, or a prototxt and its WEIGHTS).

    A 3D network writes result<k>_norm.csv, result<k>_unnorm.csv and result<k>_change_unnorm.csv, a 2D network
    result<k>_norm.csv: save those to DATA/ours_2d/bilstm2d-p1-800000 (or -p3-), where hpm refine --pose2d ours looks.
    Finished actions are kept when the command runs again.
    """
    data = data_folder(data_dir, protocol, layout)
    machine = open_machine(model, weights, pose_blob).to(parse_device(device))
    if optimize:
        machine.optimize()
    if machine.values == POSE_3D:
        machine.bounds, _ = choose_bounds(bounds, data, model, machine.known_bounds)
    elif bounds is not None:
        raise UsageError(f"{model} gives 2D poses, which have no --bounds")
    with Bars() as bars:
        summary = predict_actions(
            machine,
            data.ground_truth,
            picture_folder(data, images),
            save,
            window=window,
            actions=parse_actions(actions, data),
            readers=readers,
            progress=bars.actions(data),
        )
    for done in summary.done:
        kept = " (kept from an earlier run)" if done.kept else ""
        click.echo(f"{label(data, done.action)}: {done.frames} frames{kept}")
    return report_problems(data, summary.problems, len(summary.done))
