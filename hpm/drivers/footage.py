"""One's own footage of one person: frames -> square crops -> blocks of poses.

What becomes of the blocks is not told here: see :mod:`.footage_sinks`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from caffe_compat.errors import UsageError, located

from ..datasets.cameras import Crop, square_crops
from ..datasets.crops import crop_picture
from ..model import PoseMachine
from ..projector import POSE_2D, POSE_3D
from ..refine import Refiner
from ..skeleton import H36M16

__all__ = ["Block", "footage_blocks"]

_BLOCK = 60


@dataclass(frozen=True, eq=False)
class Block:
    """n consecutive frames, and what was found in them.

    3D poses are normalised, by the bounds of the machine; 2D poses are fractions of the crop's side.
    """

    first: int
    """The number of the first frame, from 0."""
    crops: list[np.ndarray]
    """n squares (side, side, 3), uint8, blue first, of the size that the network takes."""
    coarse: np.ndarray
    """(n, 48): the network's poses."""
    change: np.ndarray | None
    """(n, 48): the correction module's; None of a network without one."""
    projected: np.ndarray | None
    """(n, 32): where the projector sees ``change``; None of a network without one."""
    pose2d: np.ndarray | None
    """(n, 32): the 2D poses that were given, if any."""
    refined: np.ndarray | None
    """(n, 48): refined by those; None without."""
    outside: int
    """Frames of which most joints of the given 2D poses lie outside the picture."""


def footage_blocks(
    machine: PoseMachine,
    frames: Iterable[np.ndarray],
    *,
    boxes: np.ndarray | None = None,
    pose2d_pixels: np.ndarray | None = None,
    refiner: Refiner | None = None,
    window: int = 5,
    margin: float = 0.125,
) -> Iterator[Block]:
    """Predict consecutive frames of one person, block by block; frames are asked for when their block's turn comes.

    Args:
        frames: pictures (height, width, 3), uint8, blue first.
        boxes: (frames, 4) or (4,) for all: x, y, width, height in pixels. None: the square about the 2D poses with
            ``margin`` all round, else the whole picture; squares reach beyond the picture where they must.
        pose2d_pixels: (frames, 16, 2) in the order of :data:`hpm.skeleton.H36M16`, with ``refiner``.
        refiner: of :meth:`PoseMachine.refiner`, which has the parity gate.
        window: see :meth:`PoseMachine.predict`.

    Raises:
        UsageError: a 2D network, boxes or 2D poses of another form or number than the frames, or far larger than the
            pictures, no frames.
    """
    if machine.values != POSE_3D:
        raise UsageError("3D poses of footage need a 3D network; this one gives 2D poses")
    if (pose2d_pixels is None) != (refiner is None):
        raise UsageError("2D poses and a refiner go together: without one the other has no use")
    _check(boxes, pose2d_pixels)
    return _found(machine, frames, boxes, pose2d_pixels, refiner, window, margin)


def _found(
    machine: PoseMachine,
    frames: Iterable[np.ndarray],
    boxes: np.ndarray | None,
    pose2d_pixels: np.ndarray | None,
    refiner: Refiner | None,
    window: int,
    margin: float,
) -> Iterator[Block]:
    machine.reset_state()
    if refiner is not None:
        refiner.reset()
    count = 0
    # Whole windows, so that a block's end cuts none.
    for pictures in _blocks(frames, max(1, _BLOCK // window) * window):
        part = slice(count, count + len(pictures))
        points = None if pose2d_pixels is None else _rows(pose2d_pixels, part, "2D poses")
        squares = _squares(pictures, None if boxes is None else _boxes(boxes, part), points, margin).whole()
        crops = _crops(pictures, squares, machine.image_size[0], count)
        found = machine.predict(crops, None, window)
        flat = None if points is None else squares.fractions(points).reshape(-1, POSE_2D)
        refined = None if refiner is None or flat is None else refiner.refine(found.pose, flat).pose
        projected = None if found.change is None else machine.project(found.change).reshape(-1, POSE_2D)
        outside = 0 if points is None else _outside(points, pictures)
        yield Block(count, crops, found.pose, found.change, projected, flat, refined, outside)
        count += len(pictures)
    if not count:
        raise UsageError("no frames")
    for what, given in (("boxes", boxes), ("2D poses", pose2d_pixels)):
        if given is not None and not (what == "boxes" and given.ndim == 1) and len(given) != count:
            raise UsageError(f"{len(given)} {what} for {count} frames")


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
        with located(place=f"frame {number}"):
            squares.append(crop_picture(picture, corner, int(side), size))
    return squares
