"""What is made of the poses of one person beside their text files: exports and a drawing."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from caffe_compat.errors import UsageError
from caffe_compat.formats.arrays import read_npy

from ..files.exports import ENDINGS, Motion, export_poses, smoothed
from ..files.motions import BvhNames
from ..files.pictures import FramesInOrder, footage_name, frame_names, frame_rate
from ..skeleton import H36M16
from ..visualize import Scene, check_ending, save_scene
from .footage_sinks import Footage, Poses

__all__ = ["Outputs", "outputs_of", "write_outputs"]

_Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Outputs:
    """Exports and a drawing, and how they are made. Raises UsageError of names and numbers that cannot be."""

    exports: tuple[Path, ...]
    overlay: Path | None
    smooth: float
    fps: float | None
    bvh_names: BvhNames = "bones"
    truth: np.ndarray | None = None
    """(frames, 16, 3), mm, hip-centred, in the camera's axes: drawn beside the poses."""

    def __post_init__(self) -> None:
        if self.overlay is not None:
            check_ending(self.overlay, "--overlay")
        for export in self.exports:
            if export.suffix.lower() not in ENDINGS:
                raise UsageError(f"--export {export}: a name that ends in {', '.join(ENDINGS)} was expected")
        if not (self.smooth >= 0 and math.isfinite(self.smooth)):
            raise UsageError(f"--smooth {self.smooth}: a number of frames, 0 or more, was expected")
        if self.fps is not None and not (self.fps > 0 and math.isfinite(self.fps)):
            raise UsageError(f"--fps {self.fps}: a number above 0 was expected")

    def of_person(self, number: int) -> Outputs:
        """The same under names of that person."""
        exports = tuple(_named(export, number) for export in self.exports)
        overlay = None if self.overlay is None else _named(self.overlay, number)
        return replace(self, exports=exports, overlay=overlay)


def outputs_of(
    exports: Iterable[_Path],
    overlay: _Path | None,
    smooth: float,
    fps: float | None,
    bvh_names: BvhNames,
    truth: _Path | np.ndarray | None,
) -> Outputs:
    """What :func:`.predict.predict` was asked for. Raises UsageError of what cannot be, FileError of ``truth``."""
    if truth is not None and overlay is None:
        raise UsageError("ground truth is drawn: --truth goes with --overlay")
    shown = truth if truth is None or isinstance(truth, np.ndarray) else read_npy(truth)
    drawing = None if overlay is None else Path(overlay)
    pose = None if shown is None else np.asarray(shown, np.float64)
    return Outputs(tuple(map(Path, exports)), drawing, smooth, fps, bvh_names, pose)


def _named(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-person{number}{path.suffix}")


def write_outputs(
    footage: Footage,
    poses: Poses,
    wanted: Outputs,
    sources: Sequence[str | os.PathLike[str]],
    every: int,
    progress: Callable[[str, int, int | None], None] | None,
) -> None:
    """Write exports and overlay. Raises FileError; see :func:`.exports.export_poses` and :func:`.save_scene`."""
    if not wanted.exports and wanted.overlay is None:
        return
    fps, title = wanted.fps or frame_rate(sources, every) or 10.0, footage_name(sources)
    stages = {name: smoothed(pose, wanted.smooth) for name, pose in poses.stages_mm.items()}
    last = list(stages)[-1]
    for export in wanted.exports:
        export_poses(stages[last], export, Motion(fps, last, title, poses.rests_on.tolist(), wanted.bvh_names))
    if wanted.overlay is None:
        return
    if wanted.truth is not None and wanted.truth.shape != (footage.frames, len(H36M16), 3):
        raise UsageError(
            f"ground truth of shape ({footage.frames}, {len(H36M16)}, 3) was expected, found {wanted.truth.shape}"
        )
    scene = Scene(
        pictures=FramesInOrder(sources, every, footage.frames),
        pose2d_pixels=poses.pose2d_pixels,
        truth=wanted.truth,
        coarse=stages["coarse"],
        refined=stages.get("refined"),
        names=frame_names(sources, every, footage.frames),
    )
    show = None if progress is None else lambda done, total: progress("frames", done, total)
    save_scene(scene, wanted.overlay, fps=fps, title=title, progress=show)
