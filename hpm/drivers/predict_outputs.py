"""What is made of the poses of one person beside their text files: exports and a drawing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from caffe_compat.errors import UsageError

from ..files.exports import ENDINGS, Motion, export_poses, smoothed
from ..files.motions import BvhNames
from ..files.pictures import PictureFiles
from ..visualize import Scene, check_ending, save_scene
from .footage_sinks import Footage, Poses

__all__ = ["Outputs", "write_outputs"]


@dataclass(frozen=True)
class Outputs:
    """Exports and a drawing, and how they are made. Raises UsageError of names and numbers that cannot be."""

    exports: tuple[Path, ...]
    overlay: Path | None
    smooth: float
    fps: float | None
    bvh_names: BvhNames = "bones"

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


def _named(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-person{number}{path.suffix}")


def write_outputs(
    footage: Footage,
    poses: Poses,
    wanted: Outputs,
    fps: float,
    title: str,
    progress: Callable[[str, int, int | None], None] | None,
) -> None:
    """Write exports and overlay. Raises FileError; see :func:`.exports.export_poses` and :func:`.save_scene`."""
    if not wanted.exports and wanted.overlay is None:
        return
    stages = {name: smoothed(pose, wanted.smooth) for name, pose in poses.stages_mm.items()}
    last = list(stages)[-1]
    for export in wanted.exports:
        export_poses(stages[last], export, Motion(fps, last, title, poses.rests_on.tolist(), wanted.bvh_names))
    if wanted.overlay is None:
        return
    scene = Scene(
        pictures=PictureFiles([footage.crop(k) for k in range(footage.frames)]),
        pose2d_normalised=poses.pose2d,
        coarse=stages["coarse"],
        refined=stages.get("refined"),
    )
    show = None if progress is None else lambda done, total: progress("frames", done, total)
    save_scene(scene, wanted.overlay, fps=fps, title=title, progress=show)
