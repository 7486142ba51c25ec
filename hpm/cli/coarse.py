"""``hpm coarse``."""

from __future__ import annotations

import click

from caffe_compat.cli.options import device_option, note, parse_device, say

from ..drivers.coarse_files import coarse_files
from .options import (
    Bars,
    actions_option,
    bounds_option,
    data_folder,
    data_option,
    layout_option,
    model_arguments,
    optimize_option,
    parse_actions,
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
    with Bars() as bars:
        summary = coarse_files(
            model,
            data,
            save,
            weights=weights,
            images=images,
            actions=parse_actions(actions, data),
            window=window,
            readers=readers,
            optimize=optimize,
            bounds=bounds,
            pose_blob=pose_blob,
            device=parse_device(device),
            progress=bars.actions(data),
            tell=note,
        )
    for done in summary.done:
        kept = " (kept from an earlier run)" if done.kept else ""
        say(f"{data.called(done.action)}: {done.frames} frames{kept}")
    return report_problems(data, summary.problems, len(summary.done))
