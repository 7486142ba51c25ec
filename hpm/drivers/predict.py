"""Poses of one's own footage, from pictures or a video to files, drawings and exports."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from caffe_compat.errors import UsageError

from ..bridging import Bridged, Bridging
from ..datasets.layout import make_folder
from ..detectors import Detector
from ..files.keypoints import Keypoints, read_boxes, save_keypoints
from ..files.motions import BvhNames
from ..files.pictures import sources_digest
from ..model import PoseMachine
from ..people import People
from ..refine import ORIGINAL, Refiner, RefineSettings
from ..scaling import check_agreement
from .bounds import GivenBounds, given_bounds
from .doubts import Doubter
from .footage import Block, footage_blocks
from .footage_poses import find_people, frames_with_poses
from .footage_shards import FootageShards, digest_of
from .footage_sinks import Checks, Crops, Footage, PoseFiles, Poses, Sink
from .models import load
from .predict_outputs import Outputs, outputs_of, write_outputs

__all__ = ["Predicted", "predict", "predict_footage"]

_Path = str | os.PathLike[str]

# Frames that squares about a detector's 2D poses are averaged over.
_STEADY = 2.0


@dataclass(frozen=True)
class Predicted:
    """What :func:`predict` wrote: the folder of crops and poses, exports and a drawing."""

    footage: Footage
    exports: tuple[Path, ...] = ()
    overlay: Path | None = None
    others: tuple[Predicted, ...] = ()
    """The same of the people after the first, if several were asked for."""


def predict(
    sources: _Path | Sequence[_Path],
    model: _Path,
    save: _Path,
    *,
    boxes: _Path | np.ndarray | None = None,
    keypoints: _Path | np.ndarray | None = None,
    joints: str | None = None,
    detector: Detector | None = None,
    people: People = "largest",
    bridging: Bridging | None = None,
    every: int = 1,
    window: int = 5,
    mode: Literal["faithful", "independent"] = "faithful",
    allow_unverified: bool = False,
    overlay: _Path | None = None,
    truth: _Path | np.ndarray | None = None,
    exports: Iterable[_Path] = (),
    smooth: float = 0.0,
    fps: float | None = None,
    bvh_names: BvhNames = "bones",
    bounds: GivenBounds = None,
    optimize: bool = False,
    device: torch.device | str = "cpu",
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Predicted:
    """3D poses of people in a video, a folder or a list of pictures, or pictures: what ``hpm predict`` does.

    Crops are squares about ``boxes``, else about 2D poses, else whole frames; boxes and keypoints count the frames that
    ``every`` keeps. With 2D poses, from ``keypoints`` or a ``detector``, poses are refined.

    Args:
        sources: see :func:`.pictures.read_frames`. model: a ``.pt``, for refinement verified or ``allow_unverified``.
        save: the folder for crops and poses; see :class:`.footage_sinks.PoseFiles`.
        boxes: (frames, 4) or (4,), pixels, or their file; see :func:`hpm.files.keypoints.read_boxes`.
        keypoints: (frames, 16, 2) or, with confidences, (frames, 16, 3), pixels, in the order of H36M16; or the file of
            a detector's, see :func:`hpm.files.keypoints.read_keypoints`.
        joints: the order of the joints in that file; None for what its kind tells.
        detector: finds 2D poses, see :mod:`hpm.detectors`; what it found is then ``keypoints.npy`` beside the poses,
            and squares are averaged over 2 frames.
        people: ``largest``, who fills most of the frames; ``all``, or a number: each of these with an own recurrent
            state, in ``save/person1`` and so on, with exports and overlay of that name.
        bridging: what counts as seen, and how far gaps are bridged; None for the defaults.
        every: keeps the first of so many frames. window: see :meth:`PoseMachine.predict`. mode: of the refinement.
        overlay: also drawn, whole frames beside the poses: ``.png``, ``.mp4``, ``.gif`` or ``.html``.
        truth: ground truth in the drawing: (frames, 16, 3), mm, hip-centred, camera's axes, or its ``.npy``.
        exports: also written, the refined poses or else the coarse ones; see :func:`hpm.files.exports.export_poses`.
        bvh_names: of a ``.bvh``'s nodes. smooth: frames that overlay and exports are averaged over.
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
    wanted = outputs_of(exports, overlay, smooth, fps, bvh_names, truth)
    named = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    if (boxes is not None or truth is not None) and people != "largest":
        raise UsageError("boxes and ground truth are those of one person")
    machine = _loaded(model, bounds, optimize, device)
    settings = replace(ORIGINAL, mode=mode)
    if keypoints is not None or detector is not None:
        machine.refiner(settings, allow_unverified=allow_unverified)  # is it allowed at all? Detecting takes long.
    found = find_people(named, every, keypoints, joints, detector, people, _told(progress, "detected"))
    squares = boxes if boxes is None or isinstance(boxes, np.ndarray) else read_boxes(boxes)
    steady = 0.0 if detector is None else _STEADY
    run = _Run(machine, named, every, squares, bridging, window, settings, allow_unverified, steady, progress)
    return run.whole(found, people, Path(save), wanted)


@dataclass(frozen=True, eq=False)
class _Run:
    """What is the same for all people; see :func:`predict`. ``shards`` are those of the people who are done."""

    machine: PoseMachine
    sources: list[_Path]
    every: int
    boxes: np.ndarray | None
    bridging: Bridging | None
    window: int
    settings: RefineSettings
    allow_unverified: bool
    steady: float
    progress: Callable[[str, int, int | None], None] | None
    shards: list[FootageShards] = field(default_factory=list)

    def whole(self, found: list[Keypoints], people: People, root: Path, outputs: Outputs) -> Predicted:
        """Predict those who are asked for; when all is written, what was kept for another run is removed."""
        if people == "largest":
            done = self.of(found[0] if found else None, root, outputs, "frames")
        else:
            done = self.of_all(found, root, outputs)
        for shards in self.shards:
            shards.remove()
        return done

    def of_all(self, found: list[Keypoints], root: Path, outputs: Outputs) -> Predicted:
        """Predict one after the other, each to a folder."""
        first, *others = (
            self.of(person, root / f"person{k}", outputs.of_person(k), f"person {k}")
            for k, person in enumerate(found, 1)
        )
        return replace(first, others=tuple(others))

    def of(self, person: Keypoints | None, root: Path, outputs: Outputs, what: str) -> Predicted:
        """Predict one person, or whoever the pictures show if nobody knows 2D poses."""
        frames, pose2d = frames_with_poses(self.sources, self.every, person, self.bridging)
        poses, refiner = Poses(self.machine), None
        if pose2d is not None:
            refiner = self.machine.refiner(self.settings, allow_unverified=self.allow_unverified)
        make_folder(root)
        with FootageShards(root, self._job(person), self.machine, refiner, pose2d) as shards:
            footage = predict_footage(
                self.machine,
                frames(shards.frames),
                root,
                boxes=self.boxes,
                pose2d_pixels=pose2d,
                refiner=refiner,
                window=self.window,
                steady=self.steady,
                sinks=[poses] if outputs.exports or outputs.overlay else [],
                shards=shards,
                progress=_told(self.progress, what),
            )
        self.shards.append(shards)
        if self.steady > 0 and person is not None:
            save_keypoints(root / "keypoints.npy", person)
        write_outputs(footage, poses, outputs, self.sources, self.every, self.progress)
        return Predicted(footage, outputs.exports, outputs.overlay)

    def _job(self, person: Keypoints | None) -> dict[str, str | int]:
        """What two runs have in common if one goes on where the other was killed."""
        bounds = self.machine.bounds
        known = [] if person is None else [person.points, person.confidence]
        return {
            "version": 1,
            "pictures": sources_digest(self.sources, self.every),
            "boxes": "none" if self.boxes is None else digest_of(self.boxes),
            "2D poses": "none" if person is None else f"{digest_of(*known)} {person.fractions} {person.whole}",
            "bridging": repr(self.bridging),
            "steady": str(self.steady),
            "window": self.window,
            "refinement": repr(self.settings),
            "model": self.machine.fingerprint(),
            "bounds": digest_of(bounds.maximum, bounds.minimum),
            "optimized": int(self.machine.optimized),
            "device": str(self.machine.device),
        }


def _told(progress: Callable[[str, int, int | None], None] | None, what: str) -> Callable[[int], None] | None:
    return None if progress is None else lambda done: progress(what, done, None)


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
    steady: float = 0.0,
    sinks: Iterable[Sink] = (),
    shards: FootageShards | None = None,
    progress: Callable[[int], None] | None = None,
) -> Footage:
    """Predict consecutive frames of one person to a folder: crops, and the files of :class:`.footage_sinks.PoseFiles`.

    Args:
        frames, boxes, pose2d_pixels, refiner, window, margin, steady: see :func:`.footage.footage_blocks`.
        sinks: what else takes the blocks.
        shards: what keeps the blocks in case the run is killed; ``frames`` begin with those that it lacks.
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
        steady=steady,
        start=0 if shards is None else shards.frames,
        posed_before=shards is not None and shards.posed,
    )
    root, count = Path(save), 0
    make_folder(root)
    crops, checks = Crops(root), Checks(machine)
    with PoseFiles(root, machine, refined=refiner is not None) as files:
        takers: list[Sink] = [crops, files, checks, *sinks]
        if shards is None:
            looked_at: Iterable[Block] = map(Doubter(machine).looked_at, blocks)
        else:
            looked_at = chain(shards.found(), shards.keeping(blocks))
        for block in looked_at:
            for sink in takers:
                sink.take(block)
            count += len(block.coarse)
            if progress is not None:
                progress(count)
    checks.warn()
    crops.end(count)
    return Footage(root, count, refiner is not None)
