"""Poses of one's own footage, from pictures or a video to files, drawings and exports."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from caffe_compat.errors import UsageError

from ..bridging import Bridged, Bridging
from ..datasets.layout import make_folder
from ..files.exports import ENDINGS, Motion, export_poses, smoothed
from ..files.keypoints import read_boxes
from ..files.motions import BvhNames
from ..files.pictures import PictureFiles, frame_rate
from ..model import PoseMachine
from ..refine import ORIGINAL, Refiner
from ..scaling import check_agreement
from ..visualize import Scene, check_ending, save_scene
from .bounds import GivenBounds, given_bounds
from .footage import footage_blocks
from .footage_poses import frames_with_poses
from .footage_sinks import Checks, Crops, Footage, PoseFiles, Poses, Sink
from .models import load

__all__ = ["Predicted", "predict", "predict_footage"]

_Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Predicted:
    """What :func:`predict` wrote: the folder of crops and poses, exports and a drawing."""

    footage: Footage
    exports: tuple[Path, ...] = ()
    overlay: Path | None = None


@dataclass(frozen=True)
class _Outputs:
    """What is made of the poses beside their text files."""

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


def predict(
    sources: _Path | Sequence[_Path],
    model: _Path,
    save: _Path,
    *,
    boxes: _Path | np.ndarray | None = None,
    keypoints: _Path | np.ndarray | None = None,
    joints: str | None = None,
    bridging: Bridging | None = None,
    every: int = 1,
    window: int = 5,
    mode: Literal["faithful", "independent"] = "faithful",
    allow_unverified: bool = False,
    overlay: _Path | None = None,
    exports: Iterable[_Path] = (),
    smooth: float = 0.0,
    fps: float | None = None,
    bvh_names: BvhNames = "bones",
    bounds: GivenBounds = None,
    optimize: bool = False,
    device: torch.device | str = "cpu",
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Predicted:
    """3D poses of one person in a video, a folder of pictures, or pictures: what ``hpm predict`` does.

    Crops are squares about ``boxes``, else about ``keypoints``, else whole frames; both count the frames that ``every``
    keeps. With keypoints, poses are refined.

    Args:
        model: a ``.pt``; refinement asks for a verified one, unless ``allow_unverified``.
        save: the folder for crops and poses; see :class:`.footage_sinks.PoseFiles`.
        boxes: (frames, 4) or (4,), pixels, or their file; see :func:`hpm.files.keypoints.read_boxes`.
        keypoints: (frames, 16, 2) or, with confidences, (frames, 16, 3), pixels, in the order of H36M16; or the file of
            a detector's, see :func:`hpm.files.keypoints.read_keypoints`.
        joints: the order of the joints in that file; None for what its kind tells.
        bridging: what counts as seen, and how far gaps are bridged; None for the defaults.
        every: keeps the first of so many frames. window: see :meth:`PoseMachine.predict`.
        mode: of the refinement; see :class:`hpm.refine.RefineSettings`.
        overlay: also drawn: ``.png``, ``.mp4``, ``.gif`` or ``.html``.
        exports: also written, the refined poses or else the coarse ones; see :func:`hpm.files.exports.export_poses`.
        bvh_names: of a ``.bvh``'s nodes: ``bones``, or ``conventional`` ones.
        smooth: frames that overlay and exports are averaged over.
        fps: speed of overlay and exports; None for the video's, or 10 of pictures.
        bounds: what the poses refer to; None for those that the model holds, or else the released model's.
        optimize: convolutions in their inference form: faster, and other rounding.
        progress: told what is done, how many, and of how many (None while nobody knows).

    Raises:
        UsageError: names, numbers, boxes or keypoints that cannot be, or bounds that differ from the model's own.
        ParityError: refinement with a model that is unverified. FileError: something cannot be read or written.

    Warns:
        CaffeCompatWarning: see :class:`.footage_sinks.Checks`; several people; bounds that are not known.

    Example:
        >>> done = predict("walk", "mask3d.pt", "out", exports=["walk.npy"])
        >>> done.footage.frames, np.load("walk.npy").shape  # mm
        (20, (20, 16, 3))
    """
    wanted = _Outputs(tuple(map(Path, exports)), None if overlay is None else Path(overlay), smooth, fps, bvh_names)
    named = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    machine = _loaded(model, bounds, optimize, device)
    frames, pose2d = frames_with_poses(named, every, keypoints, joints, bridging)
    settings, poses = replace(ORIGINAL, mode=mode), Poses(machine)
    refiner = None if pose2d is None else machine.refiner(settings, allow_unverified=allow_unverified)
    footage = predict_footage(
        machine,
        frames,
        save,
        boxes=boxes if boxes is None or isinstance(boxes, np.ndarray) else read_boxes(boxes),
        pose2d_pixels=pose2d,
        refiner=refiner,
        window=window,
        sinks=[poses] if wanted.exports or wanted.overlay else [],
        progress=None if progress is None else lambda done: progress("frames", done, None),
    )
    speed = fps or frame_rate(named, every) or 10.0
    _export(footage, poses, wanted, speed, Path(named[0]).name, progress)
    return Predicted(footage, wanted.exports, wanted.overlay)


def _loaded(model: _Path, bounds: GivenBounds, optimize: bool, device: torch.device | str) -> PoseMachine:
    machine = load(model).to(device)
    if optimize:
        machine.optimize()
    if (chosen := given_bounds(bounds)) is not None:
        check_agreement(os.fspath(model), machine.known_bounds, chosen)
        machine.bounds = chosen
    return machine


def predict_footage(
    machine: PoseMachine,
    frames: Iterable[np.ndarray],
    save: _Path,
    *,
    boxes: np.ndarray | None = None,
    pose2d_pixels: np.ndarray | Bridged | None = None,
    refiner: Refiner | None = None,
    window: int = 5,
    margin: float = 0.125,
    sinks: Iterable[Sink] = (),
    progress: Callable[[int], None] | None = None,
) -> Footage:
    """Predict consecutive frames of one person to a folder: crops, and the files of :class:`.footage_sinks.PoseFiles`.

    Args:
        frames, boxes, pose2d_pixels, refiner, window, margin: see :func:`.footage.footage_blocks`.
        sinks: what else takes the blocks.
        progress: told how many frames are done.

    Raises:
        UsageError: see :func:`.footage.footage_blocks`. FileError: something cannot be written.

    Warns:
        CaffeCompatWarning: left and right of the 2D poses seem exchanged, they lie outside the pictures, or the limbs
            of the 3D poses are of lengths that no body has; with the evidence.
    """
    blocks = footage_blocks(
        machine,
        frames,
        boxes=boxes,
        pose2d_pixels=pose2d_pixels,
        refiner=refiner,
        window=window,
        margin=margin,
    )
    root, count = Path(save), 0
    make_folder(root)
    crops, checks = Crops(root), Checks(machine)
    with PoseFiles(root, machine, refined=refiner is not None) as files:
        takers: list[Sink] = [crops, files, checks, *sinks]
        for block in blocks:
            for sink in takers:
                sink.take(block)
            count += len(block.coarse)
            if progress is not None:
                progress(count)
    checks.warn()
    crops.end(count)
    return Footage(root, count, refiner is not None)


def _export(
    footage: Footage,
    poses: Poses,
    wanted: _Outputs,
    fps: float,
    title: str,
    progress: Callable[[str, int, int | None], None] | None,
) -> None:
    """Write exports and overlay."""
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
