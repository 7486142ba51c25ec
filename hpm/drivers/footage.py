"""One's own footage of one person: frames -> square crops -> blocks of poses.

A frame whose 2D pose has too few joints gets no pose, and the network does not see it: what it remembers of the frames
before stays as it was seen, and the sequence starts anew after such frames, as the refinement does. What becomes of the
blocks is not told here: see :mod:`.footage_sinks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from caffe_compat.errors import UsageError, located

from ..bridging import NONE, SEEN, Bridged, bridge
from ..datasets.cameras import Crop
from ..datasets.crops import crop_picture
from ..model import PoseMachine
from ..projector import POSE_2D, POSE_3D
from ..refine import Refiner
from ..skeleton import H36M16
from .footage_squares import squares_about

__all__ = ["Block", "footage_blocks"]

_BLOCK = 60


@dataclass(frozen=True, eq=False)
class Block:
    """n consecutive frames, and what was found in them: a pose in each, or in none of them, where all values are NaN.

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
    """(n, 32): the 2D poses that were given, if any; joints that lack lie where the projector sees them."""
    refined: np.ndarray | None
    """(n, 48): refined by those; None without."""
    outside: int
    """Frames of which most joints of the given 2D poses lie outside the picture."""
    given: Bridged | None = None
    """Those 2D poses in pixels of the picture, and what they rest on; None without."""
    squares: Crop | None = None
    """Where the crops lie in their pictures."""
    doubts: tuple[tuple[str, ...], ...] = ()
    """Of each frame, what speaks against its pose; see :mod:`.doubts`. Empty: nobody has looked."""

    @property
    def rests_on(self) -> np.ndarray:
        """(n,) texts: what each frame's pose rests on; without 2D poses the picture alone, which was seen."""
        return np.full(len(self.coarse), SEEN) if self.given is None else self.given.rests_on

    @property
    def posed(self) -> bool:
        """Whether the frames have poses."""
        return bool((self.rests_on != NONE).all())


def footage_blocks(
    machine: PoseMachine,
    frames: Iterable[np.ndarray],
    *,
    boxes: np.ndarray | None = None,
    pose2d_pixels: np.ndarray | Bridged | None = None,
    refiner: Refiner | None = None,
    window: int = 5,
    margin: float = 0.125,
    steady: float = 0.0,
    start: int = 0,
    posed_before: bool = False,
) -> Iterator[Block]:
    """Predict consecutive frames of one person, block by block; frames are asked for when their block's turn comes.

    Args:
        frames: pictures (height, width, 3), uint8, blue first.
        boxes: (frames, 4) or (4,) for all: x, y, width, height in pixels. None: the square about the 2D poses with
            ``margin`` all round, else the whole picture; squares reach beyond the picture where they must. Where joints
            were not seen for a few frames, they lie between the squares before and after.
        pose2d_pixels: (frames, 16, 2) in the order of :data:`hpm.skeleton.H36M16`, finite, or as
            :func:`hpm.bridging.bridge` gives them; with ``refiner``.
        refiner: of :meth:`PoseMachine.refiner`, which has the parity gate.
        window: see :meth:`PoseMachine.predict`.
        steady: frames (a standard deviation) that squares about 2D poses are averaged over.
        start: the number of the first of ``frames``, where a run goes on whose machine and refiner remember what was
            before; ``posed_before``: whether the frame before it has a pose.

    Raises:
        UsageError: a 2D network, boxes or 2D poses of another form or number than the frames, or far larger than the
            pictures, too few joints in all frames, no frames.
    """
    if machine.values != POSE_3D:
        raise UsageError("3D poses of footage need a 3D network; this one gives 2D poses")
    if (pose2d_pixels is None) != (refiner is None):
        raise UsageError("2D poses and a refiner go together: without one the other has no use")
    _check_boxes(boxes)
    poses = _checked(pose2d_pixels)
    return _Footage(machine, boxes, poses, refiner, window, margin, steady).blocks(frames, start, posed_before)


class _Footage:
    """How frames become blocks."""

    def __init__(
        self,
        machine: PoseMachine,
        boxes: np.ndarray | None,
        poses: Bridged | None,
        refiner: Refiner | None,
        window: int,
        margin: float,
        steady: float,
    ) -> None:
        self._machine, self._boxes, self._poses, self._refiner = machine, boxes, poses, refiner
        self._window = window
        about_poses = boxes is None and poses is not None
        self._squares = squares_about(poses, margin, steady) if about_poses and poses is not None else None

    def blocks(self, frames: Iterable[np.ndarray], count: int, posed_before: bool) -> Iterator[Block]:
        """One block after the other, after ``count`` frames."""
        # Whole windows, so that a block's end cuts none.
        size = max(1, _BLOCK // self._window) * self._window
        for pictures, posed in _pieces(frames, count, self._posed, size):
            part = slice(count, count + len(pictures))
            given = None if self._poses is None else self._poses.rows(part)
            squares = self._crop(pictures, part)
            crops = _crops(pictures, squares, self._machine.image_size[0], count)
            if not posed:
                yield self._without_poses(count, crops, given, squares)
            else:
                if not posed_before:
                    self._machine.reset_state()
                    if self._refiner is not None:
                        self._refiner.reset()
                yield self._with_poses(count, crops, given, squares, pictures)
            posed_before = posed
            count += len(pictures)
        if not count:
            raise UsageError("no frames")
        for what, there in (("boxes", self._boxes), ("2D poses", self._poses)):
            one_for_all = isinstance(there, np.ndarray) and there.ndim == 1
            if there is not None and not one_for_all and len(there) > count:
                raise UsageError(f"{len(there)} {what} for {count} frames")

    def _posed(self, number: int) -> bool:
        # Beyond the last 2D pose of a file that tells of all frames, rows() has the error.
        poses = self._poses
        return poses is None or poses.posed(number) or (poses.whole and number >= len(poses))

    def _crop(self, pictures: list[np.ndarray], part: slice) -> Crop:
        if self._squares is not None:
            last = len(self._squares.side) - 1
            rows = np.minimum(np.arange(part.start, part.stop), last)
            return Crop(self._squares.corner[rows], self._squares.side[rows]).whole()
        if self._boxes is not None:
            boxes = _boxes(self._boxes, part)
        else:
            boxes = np.array([[0, 0, picture.shape[1], picture.shape[0]] for picture in pictures], np.float64)
        side = boxes[:, 2:].max(1)
        return Crop(boxes[:, :2] + boxes[:, 2:] / 2 - side[:, None] / 2, side).whole()

    def _with_poses(
        self, first: int, crops: list[np.ndarray], given: Bridged | None, squares: Crop, pictures: list[np.ndarray]
    ) -> Block:
        found = self._machine.predict(crops, None, self._window)
        projected = None if found.change is None else self._machine.project(found.change).reshape(-1, POSE_2D)
        if given is None or self._refiner is None:
            return Block(first, crops, found.pose, found.change, projected, None, None, 0, squares=squares)
        flat = squares.fractions(given.pixels).reshape(-1, POSE_2D)
        if projected is not None:
            # Where a joint lacks, nothing pulls at the projected one.
            flat = np.where(np.isfinite(flat), flat, projected)
        refined = self._refiner.refine(found.pose, flat).pose
        outside = _outside(given.pixels, pictures)
        return Block(first, crops, found.pose, found.change, projected, flat, refined, outside, given, squares)

    def _without_poses(self, first: int, crops: list[np.ndarray], given: Bridged | None, squares: Crop) -> Block:
        nothing_3d, nothing_2d = (np.full((len(crops), width), np.nan, np.float32) for width in (POSE_3D, POSE_2D))
        correction = self._machine.has_correction
        return Block(
            first,
            crops,
            nothing_3d,
            nothing_3d if correction else None,
            nothing_2d if correction else None,
            nothing_2d,
            nothing_3d,
            0,
            given,
            squares,
        )


def _check_boxes(boxes: np.ndarray | None) -> None:
    if boxes is None:
        return
    if boxes.shape[-1:] != (4,) or boxes.ndim not in (1, 2) or not np.isfinite(boxes).all():
        raise UsageError(f"boxes of shape (frames, 4) or (4,), finite, were expected, found {boxes.shape}")
    if boxes[..., 2:].min() <= 0:
        raise UsageError("a box without width or height; x, y, width, height were expected")


def _checked(points: np.ndarray | Bridged | None) -> Bridged | None:
    """2D poses that can be worked with."""
    if points is None:
        return None
    if isinstance(points, Bridged):
        poses = points
    else:
        if points.ndim != 3 or points.shape[1:] != (len(H36M16), 2):
            raise UsageError(f"2D poses of shape (frames, {len(H36M16)}, 2) were expected, found {points.shape}")
        if not np.isfinite(points).all():
            frame = int(np.flatnonzero(~np.isfinite(points).all((1, 2)))[0])
            raise UsageError(f"2D poses that are not finite, the first in frame {frame}")
        poses = bridge(points)
    posed = poses.pixels[poses.rests_on != NONE]
    if len(poses) and not len(posed):
        most = int(poses.known.sum(1).max())
        raise UsageError(
            f"no frame of the 2D poses has enough joints: at most {most} of {len(H36M16)} are seen or bridged"
        )
    if len(posed) and float((np.nanmax(posed, axis=1) - np.nanmin(posed, axis=1)).max()) < 2:
        raise UsageError("no 2D pose is two pixels large; are they fractions of the picture? Pixels were expected")
    return poses


def _outside(points: np.ndarray, pictures: list[np.ndarray]) -> int:
    """Frames whose joints (frames, 16, 2) lie mostly outside their pictures."""
    sizes = np.array([[picture.shape[1], picture.shape[0]] for picture in pictures])[:, None]
    outside = ((points < 0) | (points > sizes)).any(-1)
    return int((outside.mean(1) > 0.5).sum())


def _pieces(
    frames: Iterable[np.ndarray], first: int, posed: Callable[[int], bool], size: int
) -> Iterator[tuple[list[np.ndarray], bool]]:
    """At most ``size`` consecutive frames that all get a pose, or of which none does; and whether they do.

    ``first`` is the number of the first one.
    """
    piece: list[np.ndarray] = []
    kind = False
    for number, picture in enumerate(frames, first):
        this = posed(number)
        if piece and (this != kind or len(piece) == size):
            yield piece, kind
            piece = []
        kind = this
        piece.append(picture)
    if piece:
        yield piece, kind


def _boxes(boxes: np.ndarray, part: slice) -> np.ndarray:
    if boxes.ndim == 1:
        return np.broadcast_to(boxes.astype(np.float64), (part.stop - part.start, 4))
    if len(boxes) < part.stop:
        raise UsageError(f"{len(boxes)} boxes for {part.stop} frames or more")
    return np.asarray(boxes[part], np.float64)


def _crops(pictures: list[np.ndarray], crops: Crop, size: int, first: int) -> list[np.ndarray]:
    squares = []
    for number, (picture, corner, side) in enumerate(zip(pictures, crops.corner, crops.side, strict=True), first):
        with located(place=f"frame {number}"):
            squares.append(crop_picture(picture, corner, int(side), size))
    return squares
