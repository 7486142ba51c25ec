"""An action's labels and results, drawn side by side."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from caffe_compat.errors import CaffeCompatWarning, UsageError

from ..files.folders import DataFolder
from ..files.lists import PoseList, check_lengths, read_list, read_results
from ..files.pictures import PictureFiles
from ..limbs import LABELS, limb_evidence
from ..projector import POSE_2D
from ..scaling import Bounds, denormalise
from ..skeleton import H36M16
from ..visualize import Scene, check_ending, save_scene
from .bounds import GivenBounds, Tell, label_bounds, warn
from .evaluate_actions import read_stage
from .models import find_data

__all__ = ["draw_action"]

_Path = str | os.PathLike[str]


def draw_action(
    data: DataFolder | _Path,
    action: int,
    output: _Path,
    *,
    coarse: _Path | None = None,
    refined: _Path | None = None,
    pose2d: Literal["ours", "hourglass", "gt", "none"] = "gt",
    images: _Path | Literal[False] | None = None,
    frames: slice = slice(None),
    fps: float = 10.0,
    bounds: GivenBounds = None,
    progress: Callable[[int, int], None] | None = None,
    tell: Tell = warn,
) -> int:
    """Draw pictures with 2D poses, ground truth, coarse and refined 3D poses: what ``hpm visualize`` does.

    Args:
        data: the folder with the labels, by its path (protocol I), or a :class:`.folders.DataFolder`.
        output: a ``.png`` of one frame, or a sheet of six; an ``.mp4`` or ``.gif`` that plays; or an ``.html`` page.
        coarse: the folder of ``result<k>_unnorm.csv`` or ``_norm.csv``. refined: that of ``refine3d_<k>.txt``.
        pose2d: which 2D poses.
        images: the folder of the pictures; None for the data folder's own, if they are there; False for poses only.
        frames: which, from 0, without a step.
        fps: frames per second of what plays.
        bounds: what the labels are normalised by; see :func:`.bounds.label_bounds`.
        progress: told how many frames are drawn, and of how many.
        tell: told what was assumed, and that there are no pictures.

    Returns:
        How many frames.

    Raises:
        UsageError: an ending, a folder or frames that there are not, or files that differ in length.
        FileError: something cannot be read or written.

    Warns:
        CaffeCompatWarning: bounds that do not fit the labels, with the evidence.

    Example:
        >>> draw_action("data", 13, "walking.html", coarse="coarse", refined="refined", frames=slice(0, 5))
        5
    """
    check_ending(output, "-o")
    folder = find_data(data)
    chosen = label_bounds(bounds, folder, tell)
    labels = read_list(folder.ground_truth(action), need_3d=True)
    poses = _poses(labels, folder, action, coarse, refined, chosen)
    flat = _flat(labels, folder, action, pose2d, tell)
    check_lengths({name: len(pose) for name, pose in {**poses, "2D": flat}.items() if pose is not None})
    part = _part(frames, len(labels))
    shown = {name: pose[part].reshape(-1, len(H36M16), 3) for name, pose in poses.items()}
    scene = Scene(
        pictures=_pictures(labels.paths[part], folder, images, tell),
        pose2d_normalised=None if flat is None else flat[part].reshape(-1, len(H36M16), 2),
        truth=shown["truth"],
        coarse=shown.get("coarse"),
        refined=shown.get("refined"),
        names=[f"{folder.name(action)} {k}" for k in range(part.start, part.stop)],
    )
    save_scene(scene, output, fps=fps, title=folder.called(action), progress=progress)
    return len(scene)


def _poses(
    labels: PoseList, data: DataFolder, action: int, coarse: _Path | None, refined: _Path | None, bounds: Bounds
) -> dict[str, np.ndarray]:
    """3D poses by stage, mm."""
    assert labels.pose3d is not None
    poses: dict[str, np.ndarray] = {"truth": denormalise(labels.pose3d, bounds)}
    if (reason := limb_evidence(labels.pose3d, bounds).reason(LABELS)) is not None:
        warnings.warn(
            f"{bounds.source} may not be right for {data.ground_truth(action)}: {reason}",
            CaffeCompatWarning,
            stacklevel=3,
        )
    for stage in ("coarse", "refined"):
        found = read_stage(stage, coarse, refined, action, bounds)
        if found is not None:
            _, poses[stage] = found
    return poses


def _flat(labels: PoseList, data: DataFolder, action: int, source: str, tell: Tell) -> np.ndarray | None:
    """The 2D poses (frames, 32), fractions of the crop's side; None if none are wanted, or a list has none."""
    if source == "none":
        return None
    if source == "gt":
        if labels.points is None:
            tell(f"{data.ground_truth(action)} holds no 2D poses; none are drawn")
        return labels.points
    path = data.pose2d(action, source)
    return read_results(path, POSE_2D) if source == "ours" else read_list(path).pose2d


def _part(frames: slice, count: int) -> slice:
    """Which of ``count`` frames. Raises UsageError unless they are there."""
    start = 0 if frames.start is None else frames.start
    stop = count if frames.stop is None else frames.stop
    if frames.step not in (None, 1) or not 0 <= start < stop <= count:
        raise UsageError(f"--frames {start}:{stop}: there are frames 0 to {count - 1}")
    return slice(start, stop)


def _pictures(
    names: list[str], data: DataFolder, images: _Path | Literal[False] | None, tell: Tell
) -> PictureFiles | None:
    if images is False:
        return None
    folder = data.pictures if images is None else Path(images)
    paths = [folder / name for name in names]
    if images is None and not paths[0].exists():
        tell(f"no pictures below {folder}; poses only")
        return None
    return PictureFiles(paths)
