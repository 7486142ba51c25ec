"""``hpm visualize``."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import click
import numpy as np

from caffe_compat.cli.options import note
from caffe_compat.errors import CaffeCompatWarning, UsageError

from ..drivers.evaluate import read_stage
from ..files.lists import ACTIONS, check_lengths, read_list, read_results
from ..files.pictures import PictureFiles
from ..limbs import LABELS, limb_evidence
from ..projector import POSE_2D
from ..scaling import denormalise
from ..skeleton import H36M16
from ..visualize import Scene, save_contact_sheet, save_page, save_png, save_video
from .options import Bars, data_folder, data_option, label_bounds, label_bounds_option, protocol_option

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
    pose2d: str,
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
    ending = Path(output).suffix.lower()
    if ending not in (".png", ".mp4", ".gif", ".html"):
        raise UsageError(f"-o {output}: a name that ends in .png, .mp4, .gif or .html was expected")
    data = data_folder(data_dir, protocol)
    chosen = label_bounds(bounds, data)
    path = data.ground_truth(action)
    labels = read_list(path, need_3d=True)
    assert labels.pose3d is not None
    poses: dict[str, np.ndarray] = {"truth": denormalise(labels.pose3d, chosen)}
    if (reason := limb_evidence(labels.pose3d, chosen).reason(LABELS)) is not None:
        warnings.warn(f"{chosen.source} may not be right for {path}: {reason}", CaffeCompatWarning, stacklevel=2)
    for stage in ("coarse", "refined"):
        found = read_stage(stage, coarse_3d, refined, action, chosen)
        if found is not None:
            _, poses[stage] = found
    flat = {
        "ours": lambda: read_results(data.pose2d(action, "ours"), POSE_2D),
        "hourglass": lambda: read_list(data.pose2d(action, "hourglass")).pose2d,
        "gt": lambda: labels.pose2d,
        "none": lambda: None,
    }[pose2d]()
    check_lengths({name: len(pose) for name, pose in {**poses, "2D": flat}.items() if pose is not None})
    part = _part(frames, len(labels))
    folder = Path(images) if images is not None else data.root / "h36m"
    pictures = [] if no_images else [folder / name for name in labels.paths[part]]
    if pictures and images is None and not pictures[0].exists():
        note(f"no pictures below {folder}; poses only")
        pictures = []
    shown = {name: pose[part].reshape(-1, len(H36M16), 3) for name, pose in poses.items()}
    scene = Scene(
        pictures=PictureFiles(pictures) if pictures else None,
        pose2d_normalised=None if flat is None else flat[part].reshape(-1, len(H36M16), 2),
        truth=shown["truth"],
        coarse=shown.get("coarse"),
        refined=shown.get("refined"),
        names=[f"{ACTIONS[action]} {k}" for k in range(part.start, part.stop)],
    )
    with Bars() as bars:
        save_scene(scene, output, fps, f"{action} {ACTIONS[action]}", bars)
    click.echo(f"wrote {output}: {len(scene)} frame{'s' * (len(scene) != 1)}")


def save_scene(scene: Scene, output: str, fps: float, title: str, bars: Bars) -> None:
    """Write ``scene`` as what the ending of ``output`` says."""
    ending, progress = Path(output).suffix.lower(), bars.of("frames")
    if ending == ".html":
        save_page(scene, output, title, fps, progress=progress)
    elif ending == ".png":
        if len(scene) == 1:
            save_png(scene, 0, output)
        else:
            save_contact_sheet(scene, output, progress=progress)
    else:
        save_video(scene, output, fps, progress=progress)


def _part(text: str, count: int) -> slice:
    """``FROM:TO``, ``FROM`` or ``all`` of ``count`` frames."""
    if text == "all":
        return slice(0, count)
    match = re.fullmatch(r"(\d{0,9})(?:(:)(\d{0,9}))?", text)
    if match is None or text in ("", ":"):
        raise UsageError(f"--frames {text!r}: FROM:TO was expected, such as 0:50")
    start = int(match[1] or 0)
    stop = start + 1 if match[2] is None else int(match[3] or count)
    if not start < stop <= count:
        raise UsageError(f"--frames {text}: there are frames 0 to {count - 1}")
    return slice(start, stop)
