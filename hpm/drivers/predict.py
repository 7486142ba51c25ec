"""Poses of one's own footage: square crops, coarse poses, refinement by a detector's 2D poses, block by block.

Files written: ``crops/<number>.jpg``; ``coarse_norm.csv`` (normalised); ``coarse_unnorm.csv`` and, of a network with a
correction module, ``change_unnorm.csv`` (mm); ``refined_mm.txt`` if there are 2D poses; ``pose2d.csv`` (fractions of
the crop's side): those 2D poses, else the projected ones.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from caffe_compat.errors import CaffeCompatWarning, FileError, UsageError
from caffe_compat.extras import require
from caffe_compat.formats.files import atomic_write

from ..datasets.cameras import Crop, square_crops
from ..datasets.crops import crop_picture
from ..datasets.layout import make_folder
from ..files.lists import ResultWriter, read_refined, read_results, refined_line
from ..limbs import PREDICTIONS, LimbEvidence, limb_evidence
from ..model import PoseMachine
from ..projector import POSE_2D, POSE_3D
from ..refine import Refiner
from ..skeleton import H36M16, LeftRightEvidence, left_right_suspect

__all__ = ["Footage", "predict_footage"]

_BLOCK = 60


@dataclass(frozen=True)
class Footage:
    """What was written: the folder, how many frames, and whether they were refined."""

    root: Path
    frames: int
    refined: bool

    def pose_mm(self, stage: str) -> np.ndarray:
        """(frames, 16, 3) of stage ``coarse`` or ``refined``. Raises FileError if it is missing or damaged."""
        if stage == "refined":
            flat = read_refined(self.root / "refined_mm.txt")
        else:
            flat = read_results(self.root / "coarse_unnorm.csv", POSE_3D)
        return flat.reshape(-1, len(H36M16), 3)

    def crop(self, number: int) -> Path:
        """The crop of frame ``number``, from 0."""
        return self.root / "crops" / f"{number:06d}.jpg"


def predict_footage(
    machine: PoseMachine,
    frames: Iterable[np.ndarray],
    save: str | os.PathLike[str],
    *,
    boxes: np.ndarray | None = None,
    pose2d_pixels: np.ndarray | None = None,
    refiner: Refiner | None = None,
    window: int = 5,
    margin: float = 0.125,
    progress: Callable[[int], None] | None = None,
) -> Footage:
    """Predict consecutive frames of one person.

    Args:
        frames: pictures (height, width, 3), uint8, blue first.
        boxes: (frames, 4) or (4,) for all: x, y, width, height in pixels. None: the square about the 2D poses with
            ``margin`` all round, else the whole picture; squares reach beyond the picture where they must.
        pose2d_pixels: (frames, 16, 2) in the order of :data:`.skeleton.H36M16`, with ``refiner``.
        refiner: of :meth:`.model.PoseMachine.refiner`, which has the parity gate.
        window: see :meth:`.model.PoseMachine.predict`.
        progress: told how many frames are done.

    Warns:
        CaffeCompatWarning: left and right of the 2D poses seem exchanged, they lie outside the pictures, or the limbs
            of the 3D poses are of lengths that no body has; with the evidence.

    Raises:
        UsageError: a 2D network, boxes or 2D poses of another form or number than the frames, or far larger than the
            pictures, no frames.
        FileError: something cannot be written.
    """
    if machine.values != POSE_3D:
        raise UsageError("3D poses of footage need a 3D network; this one gives 2D poses")
    if (pose2d_pixels is None) != (refiner is None):
        raise UsageError("2D poses and a refiner go together: without one the other has no use")
    _check(boxes, pose2d_pixels)
    root = Path(save)
    make_folder(root / "crops")
    for name in ("coarse_norm.csv", "coarse_unnorm.csv", "change_unnorm.csv", "pose2d.csv", "refined_mm.txt"):
        (root / name).unlink(missing_ok=True)  # what this run does not write must not stay beside what it writes
    names = {"coarse_norm.csv": False, "coarse_unnorm.csv": True}
    if machine.has_correction:
        names |= {"change_unnorm.csv": True, "pose2d.csv": False}
    machine.reset_state()
    if refiner is not None:
        refiner.reset()
    count, outside, evidence, limbs = 0, 0, LeftRightEvidence(), LimbEvidence()
    block = max(1, _BLOCK // window) * window
    with ExitStack() as stack:
        writers = {n: stack.enter_context(ResultWriter(root / n, indexed=indexed)) for n, indexed in names.items()}
        refined_file = None if refiner is None else stack.enter_context(atomic_write(root / "refined_mm.txt"))
        for pictures in _blocks(frames, block):
            part = slice(count, count + len(pictures))
            points = None if pose2d_pixels is None else _rows(pose2d_pixels, part, "2D poses")
            crops = _squares(pictures, None if boxes is None else _boxes(boxes, part), points, margin).whole()
            squares = _crops(pictures, crops, machine.image_size[0], count)
            _write(root, count, squares)
            found = machine.predict(squares, None, window)
            writers["coarse_norm.csv"].write(found.pose)
            writers["coarse_unnorm.csv"].write(machine.millimetres(found.pose))
            if points is not None:
                outside += _outside(points, pictures)
            limbs += limb_evidence(found.pose, machine.bounds)
            flat = None if points is None else crops.fractions(points).reshape(-1, POSE_2D)
            if found.change is not None:
                writers["change_unnorm.csv"].write(machine.millimetres(found.change))
                projected = machine.project(found.change).reshape(-1, POSE_2D)
                writers["pose2d.csv"].write(projected if flat is None else flat)
                if flat is not None:
                    evidence += left_right_suspect(_joints(flat), H36M16, _joints(projected))
            if refiner is not None and refined_file is not None and flat is not None:
                refined = machine.millimetres(refiner.refine(found.pose, flat).pose)
                refined_file.write("".join(map(refined_line, refined)).encode())
            count += len(pictures)
            if progress is not None:
                progress(count)
        if not count:
            raise UsageError("no frames")
        for what, given in (("boxes", boxes), ("2D poses", pose2d_pixels)):
            if given is not None and not (what == "boxes" and given.ndim == 1) and len(given) != count:
                raise UsageError(f"{len(given)} {what} for {count} frames")
    for reason in evidence.reasons:
        warnings.warn(f"2D poses: left and right may be exchanged: {reason}", CaffeCompatWarning, stacklevel=2)
    if outside > count / 2:
        warnings.warn(
            f"2D poses: in {outside} of {count} frames most joints lie outside the picture; are they of pictures of "
            "another size?",
            CaffeCompatWarning,
            stacklevel=2,
        )
    if (implausible := limbs.reason(PREDICTIONS)) is not None:
        warnings.warn(
            f"{machine.bounds.source} may not be right for this model, or the footage is nothing that it knows: "
            f"{implausible}",
            CaffeCompatWarning,
            stacklevel=2,
        )
    footage = Footage(root, count, refiner is not None)
    stale = count
    while footage.crop(stale).exists():
        footage.crop(stale).unlink()  # a longer run's; frames may come from that very folder, so not before
        stale += 1
    return footage


def _joints(flat: np.ndarray) -> np.ndarray:
    return flat.reshape(-1, len(H36M16), 2)


def _check(boxes: np.ndarray | None, points: np.ndarray | None) -> None:
    if boxes is not None:
        if boxes.shape[-1:] != (4,) or boxes.ndim not in (1, 2) or not np.isfinite(boxes).all():
            raise UsageError(f"boxes of shape (frames, 4) or (4,), finite, were expected, found {boxes.shape}")
        if boxes[..., 2:].min() <= 0:
            raise UsageError("a box without width or height; x, y, width, height were expected")
    if points is not None and (points.ndim != 3 or points.shape[1:] != (len(H36M16), 2)):
        raise UsageError(f"2D poses of shape (frames, {len(H36M16)}, 2) were expected, found {points.shape}")
    if points is not None and not np.isfinite(points).all():
        frame = int(np.flatnonzero(~np.isfinite(points).all((1, 2)))[0])
        raise UsageError(f"2D poses that are not finite, the first in frame {frame}")
    if points is not None and len(points) and float(np.ptp(points, axis=1).max()) < 2:
        raise UsageError("no 2D pose is two pixels large; are they fractions of the picture? Pixels were expected")


def _outside(points: np.ndarray, pictures: list[np.ndarray]) -> int:
    """Frames whose joints (frames, 16, 2) lie mostly outside their pictures."""
    sizes = np.array([[picture.shape[1], picture.shape[0]] for picture in pictures])[:, None]
    inside = ((points >= 0) & (points <= sizes)).all(-1)
    return int((inside.mean(1) < 0.5).sum())


def _blocks(frames: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    rest = iter(frames)
    while block := list(islice(rest, size)):
        yield block


def _rows(values: np.ndarray, part: slice, what: str) -> np.ndarray:
    if len(values) < part.stop:
        raise UsageError(f"{len(values)} {what} for {part.stop} frames or more")
    return np.asarray(values[part], np.float64)


def _boxes(boxes: np.ndarray, part: slice) -> np.ndarray:
    if boxes.ndim == 1:
        return np.broadcast_to(boxes.astype(np.float64), (part.stop - part.start, 4))
    return _rows(boxes, part, "boxes")


def _squares(pictures: list[np.ndarray], boxes: np.ndarray | None, points: np.ndarray | None, margin: float) -> Crop:
    if boxes is None and points is not None:
        return square_crops(points, margin)
    if boxes is None:
        boxes = np.array([[0, 0, picture.shape[1], picture.shape[0]] for picture in pictures], np.float64)
    side = boxes[:, 2:].max(1)
    return Crop(boxes[:, :2] + boxes[:, 2:] / 2 - side[:, None] / 2, side)


def _crops(pictures: list[np.ndarray], crops: Crop, size: int, first: int) -> list[np.ndarray]:
    squares = []
    for number, (picture, corner, side) in enumerate(zip(pictures, crops.corner, crops.side, strict=True), first):
        try:
            squares.append(crop_picture(picture, corner, int(side), size))
        except UsageError as error:
            raise UsageError(f"frame {number}: {error}") from error
    return squares


def _write(root: Path, first: int, squares: list[np.ndarray]) -> None:
    cv2 = require("cv2", "images")
    for number, square in enumerate(squares, first):
        path = Footage(root, 0, False).crop(number)
        if not cv2.imwrite(str(path), square):
            raise FileError("the picture cannot be written", path=str(path))
