"""``hpm visualize``."""

from __future__ import annotations

import re
from typing import Any

import click

from caffe_compat.cli.options import note, say
from caffe_compat.errors import UsageError

from ..drivers.visualize import draw_action
from ..files.folders import ACTIONS
from .options import Bars, data_folder, data_option, label_bounds_option, protocol_option

__all__ = ["visualize"]


@click.command()
@data_option
@click.option("--action", required=True, type=click.IntRange(1, len(ACTIONS)), help="Number of the action.")
@click.option("--coarse-3d", type=click.Path(file_okay=False), help="Folder of result<k>_unnorm.csv or _norm.csv.")
@click.option("--refined", type=click.Path(file_okay=False), help="Folder of refine3d_<k>.txt.")
@click.option(
    "--pose2d",
    type=click.Choice(["ours", "hourglass", "gt", "none"]),
    default="gt",
    show_default=True,
    help="2D poses.",
)
@click.option(
    "--images", type=click.Path(file_okay=False), help="Folder of the pictures. [default: DATA/h36m, if there]"
)
@click.option("--no-images", is_flag=True, help="Poses only.")
@click.option(
    "--frames", default="all", show_default=True, metavar="FROM:TO", help="Which frames, from 0; TO is left out."
)
@click.option("--fps", default=10.0, show_default=True, help="Speed of videos and pages.")
@click.option("-o", "--output", required=True, type=click.Path(), help=".png, .mp4, .gif or .html.")
@protocol_option
@label_bounds_option
def visualize(
    data_dir: str,
    action: int,
    coarse_3d: str | None,
    refined: str | None,
    pose2d: Any,
    images: str | None,
    no_images: bool,
    frames: str,
    fps: float,
    output: str,
    protocol: str,
    bounds: str | None,
) -> None:
    """Picture with 2D skeleton, ground truth, coarse and refined 3D poses side by side.

    A .png shows one frame, or six spread over several; .mp4 and .gif play; .html is a page of its own with a 3D view to
    turn and a time slider.
    """
    data = data_folder(data_dir, protocol)
    with Bars() as bars:
        drawn = draw_action(
            data,
            action,
            output,
            coarse=coarse_3d,
            refined=refined,
            pose2d=pose2d,
            images=False if no_images else images,
            frames=_part(frames),
            fps=fps,
            bounds=bounds,
            progress=bars.of("frames"),
            tell=note,
        )
    say(f"wrote {output}: {drawn} frame{'s' * (drawn != 1)}")


def _part(text: str) -> slice:
    """``FROM:TO``, ``FROM`` or ``all``."""
    if text == "all":
        return slice(None)
    match = re.fullmatch(r"(\d{0,9})(?:(:)(\d{0,9}))?", text)
    if match is None or text in ("", ":"):
        raise UsageError(f"--frames {text!r}: FROM:TO was expected, such as 0:50")
    start = int(match[1] or 0)
    if match[2] is None:
        return slice(start, start + 1)
    return slice(start, int(match[3]) if match[3] else None)
