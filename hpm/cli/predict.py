"""``hpm predict``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from caffe_compat.cli.options import device_option, parse_device
from caffe_compat.cli.verify import load_inputs
from caffe_compat.errors import CaffeCompatWarning, FileError, UsageError
from caffe_compat.formats.files import open_file

from ..drivers.predict import Footage, predict_footage
from ..files.checkpoint_extras import check_agreement
from ..files.exports import ENDINGS, export_poses, smoothed
from ..files.lists import read_results
from ..files.pictures import PictureFiles, frame_rate, read_frames
from ..projector import POSE_2D
from ..refine import RefineSettings
from ..skeleton import H36M16, SKELETONS, convert, skeleton
from ..visualize import Scene
from .options import Bars, given_bounds, open_machine, optimize_option
from .visualize import save_scene

__all__ = ["predict"]


@click.command()
@click.argument("sources", nargs=-1, required=True, type=click.Path())
@click.option("--model", required=True, type=click.Path(), help="A .pt; refinement asks for a verified one.")
@click.option("--save", required=True, type=click.Path(file_okay=False), help="Folder for crops and poses.")
@click.option("--boxes", type=click.Path(), help="x,y,width,height a line (or .npy): one for all, or one a frame.")
@click.option("--keypoints", type=click.Path(), help=".npy (frames, joints, 2 or more) of a 2D detector, pixels.")
@click.option("--joints", type=click.Choice(list(SKELETONS)), default="H36M16", show_default=True, help="Their order.")
@click.option("--every", default=1, show_default=True, type=click.IntRange(1), help="Keep one frame in so many.")
@click.option(
    "--window", default=5, show_default=True, type=click.IntRange(1), help="Frames that the network sees together."
)
@click.option("--mode", type=click.Choice(["faithful", "independent"]), default="faithful", show_default=True)
@click.option(
    "--allow-unverified", is_flag=True, help="Refine with a model that was not shown to give the same numbers."
)
@click.option("--overlay", type=click.Path(), help="Also draw: .png, .mp4, .gif or .html.")
@click.option(
    "--export",
    "exports",
    multiple=True,
    type=click.Path(),
    help="Also write the refined poses, else the coarse ones, in mm: .npy, .json, or .bvh for animation programs.",
)
@click.option("--smooth", default=0.0, show_default=True, help="Average overlay and exports over so many frames.")
@click.option("--fps", type=float, help="Speed of overlay and exports. [default: the video's, 10 of pictures]")
@click.option(
    "--bounds",
    metavar="CSV|published",
    help="Max-min CSV of the training data. [default: the model's own; those of the released model]",
)
@optimize_option
@device_option
def predict(
    sources: tuple[str, ...],
    model: str,
    save: str,
    boxes: str | None,
    keypoints: str | None,
    joints: str,
    every: int,
    window: int,
    mode: Any,
    allow_unverified: bool,
    overlay: str | None,
    exports: tuple[str, ...],
    smooth: float,
    fps: float | None,
    bounds: str | None,
    optimize: bool,
    device: str,
) -> None:
    """3D poses of one person in SOURCES: a video, a folder of pictures, or pictures.

    Crops are squares about --boxes, else about --keypoints, else whole frames. With --keypoints poses are refined.
    Boxes and keypoints count the frames that --every keeps.
    """
    if overlay is not None and Path(overlay).suffix.lower() not in (".png", ".mp4", ".gif", ".html"):
        raise UsageError(f"--overlay {overlay}: a name that ends in .png, .mp4, .gif or .html was expected")
    for export in exports:
        if Path(export).suffix.lower() not in ENDINGS:
            raise UsageError(f"--export {export}: a name that ends in {', '.join(ENDINGS)} was expected")
    if not (smooth >= 0 and math.isfinite(smooth)):
        raise UsageError(f"--smooth {smooth}: a number of frames, 0 or more, was expected")
    if fps is not None and not (fps > 0 and math.isfinite(fps)):
        raise UsageError(f"--fps {fps}: a number above 0 was expected")
    machine = open_machine(model, None, None).to(parse_device(device))
    if optimize:
        machine.optimize()
    if (chosen := given_bounds(bounds)) is not None:
        check_agreement(model, machine.known_bounds, chosen)
        machine.bounds = chosen
    points = None if keypoints is None else _keypoints(keypoints, joints)
    settings = replace(RefineSettings(), mode=mode)
    refiner = None if points is None else machine.refiner(settings, allow_unverified=allow_unverified)
    with Bars() as bars:
        footage = predict_footage(
            machine,
            read_frames(sources, every),
            save,
            boxes=None if boxes is None else _read_boxes(boxes),
            pose2d_pixels=points,
            refiner=refiner,
            window=window,
            progress=lambda done: bars.show("frames", done),
        )
        speed = fps or frame_rate(sources, every) or 10.0
        stages = ["coarse", "refined"] if footage.refined else ["coarse"]
        poses = {name: smoothed(footage.pose_mm(name), smooth) for name in stages} if overlay or exports else {}
        for export in exports:
            export_poses(poses[stages[-1]], export, fps=speed, stage=stages[-1])
        if overlay is not None:
            save_scene(_scene(footage, poses), overlay, speed, Path(sources[0]).name, bars)
    written = [str(footage.root), *exports, *([] if overlay is None else [overlay])]
    click.echo(f"{footage.frames} frames, {'refined' if footage.refined else 'coarse'}; wrote {', '.join(written)}")


def _keypoints(path: str, joints: str) -> np.ndarray:
    values, order = load_inputs({"keypoints": path})["keypoints"], skeleton(joints)
    if values.ndim != 3 or values.shape[1] != len(order) or values.shape[2] < 2:
        raise FileError(f"has shape {values.shape}; (frames, {len(order)}, 2) was expected for {joints}", path=path)
    missing = (values[..., :2] == 0).all(-1)
    if missing.any():
        warnings.warn(
            f"{path}: {int(missing.sum())} joints in {int(missing.any(1).sum())} of {len(values)} frames are at 0, 0, "
            "where detectors put those that they do not find; they are taken as they are",
            CaffeCompatWarning,
            stacklevel=2,
        )
    return convert(np.asarray(values[..., :2], np.float64), order, H36M16)


def _read_boxes(path: str) -> np.ndarray:
    if path.endswith(".npy"):
        return np.asarray(load_inputs({"boxes": path})["boxes"])
    rows = []
    with open_file(path) as file:
        for number, line in enumerate(file.read().decode(errors="replace").splitlines(), 1):
            try:
                rows.append([float(value) for value in line.split(",")])
            except ValueError as error:
                raise FileError(f"line {number}: x,y,width,height were expected: {error}", path=path) from error
            if len(rows[-1]) != 4:
                raise FileError(f"line {number}: {len(rows[-1])} values; x,y,width,height were expected", path=path)
    if not rows:
        raise FileError("is empty; x,y,width,height were expected", path=path)
    return np.array(rows[0] if len(rows) == 1 else rows)


def _scene(footage: Footage, poses: Mapping[str, np.ndarray]) -> Scene:
    flat = footage.root / "pose2d.csv"
    return Scene(
        pictures=PictureFiles([footage.crop(k) for k in range(footage.frames)]),
        pose2d_normalised=read_results(flat, POSE_2D).reshape(-1, len(H36M16), 2) if flat.exists() else None,
        coarse=poses["coarse"],
        refined=poses.get("refined"),
    )
