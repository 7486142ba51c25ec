"""Signs, frame by frame, that a pose is not to be believed: 2D pose, crop and 3D pose do not fit each other.

The thresholds are set so that on made-up bodies like those that the shipped network learned from, with people, motions
and pictures of another seed, less than one frame in a hundred is doubted; ``tests/hpm/drivers/test_doubts.py`` has the
numbers. A network that sees what it has never learned makes many frames doubtful, and rightly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from ..limbs import asymmetry
from ..model import PoseMachine
from ..scaling import denormalise
from ..skeleton import H36M16, swap_sides
from .footage import Block

__all__ = ["DOUBTS", "Doubt", "Doubter"]

Doubt = Literal["reprojection", "sides", "frozen", "jump", "crop", "limbs", "bounds"]
"""Where the network's pose lies in the crop, the 2D pose does not; or only with left and right exchanged; the 2D pose
stands still while the picture changes; it is somewhere else than in the frame before; the crop is empty, or the person
does not fill it; left and right limbs differ; the pose lies outside the bounds of the training data."""
DOUBTS: tuple[Doubt, ...] = get_args(Doubt)

# Mean distance of a 2D pose from the projected one, as a fraction of the crop's side; half of the clean frames have
# 0.02, one in a hundred more than 0.05.
_FAR = 0.08
# By how much exchanging sides brings it nearer, in the same unit; clean frames get farther away by 0.01 and more.
_NEARER = 0.02
# Frames with the same 2D pose, to a millionth of a pixel, in a row.
_FROZEN = 3
# Of the crop's side, from one frame to the next; at 10 frames a second people move by 0.03.
_JUMP = 0.35
# Share of the crop's side that the 2D pose takes, 0.8 where the square is drawn about it; and how far it may lie out.
_SMALL, _OUT = 0.45, 0.15
# Standard deviation of the crop's values, 0 to 255, of which a picture with anything in it has more.
_FLAT = 4.0
# Left and right limbs, mean over limbs of the difference over the mean.
_UNEVEN = 0.45
# Beyond the bounds, in normalised units; a clean pose may be out by 0.08.
_BEYOND = 0.2


class Doubter:
    """Looks at blocks in their order."""

    def __init__(self, machine: PoseMachine) -> None:
        self._machine = machine
        self._points: np.ndarray | None = None
        self._crop: np.ndarray | None = None
        self._same = 1

    def memory(self) -> dict[str, np.ndarray]:
        """What it remembers of the last frame, by name; for :meth:`recall`."""
        nothing = np.zeros(0)
        points, crop = (nothing if part is None else part for part in (self._points, self._crop))
        return {"same": np.array(self._same), "points": points, "crop": crop}

    def recall(self, memory: Mapping[str, np.ndarray]) -> None:
        """Go on from where :meth:`memory` was asked for."""
        self._same = int(memory["same"])
        self._points, self._crop = (memory[name] if memory[name].size else None for name in ("points", "crop"))

    def looked_at(self, block: Block) -> Block:
        """The same block with its :attr:`.Block.doubts`; frames without a pose have none."""
        if not block.posed:
            self._points = self._crop = None
            return replace(block, doubts=((),) * len(block.coarse))
        signs = self._of_poses(block) | self._of_crops(block) | dict(self._over_time(block))
        rows = [tuple(sign for sign in DOUBTS if sign in signs and signs[sign][k]) for k in range(len(block.coarse))]
        return replace(block, doubts=tuple(rows))

    def _of_poses(self, block: Block) -> dict[Doubt, np.ndarray]:
        """Whether 2D and 3D pose fit each other, and the 3D pose a body."""
        coarse = block.coarse.astype(np.float64)
        beyond = np.maximum(-coarse, coarse - 1).max(1)
        millimetres = denormalise(coarse, self._machine.bounds).reshape(-1, len(H36M16), 3)
        signs: dict[Doubt, np.ndarray] = {"bounds": beyond > _BEYOND, "limbs": asymmetry(millimetres) > _UNEVEN}
        if block.pose2d is not None and block.projected is not None:
            given, seen = (pose.reshape(-1, len(H36M16), 2) for pose in (block.pose2d, block.projected))
            away, exchanged = (
                np.linalg.norm(pose - seen, axis=-1).mean(1) for pose in (given, swap_sides(given, H36M16))
            )
            signs |= {"reprojection": away > _FAR, "sides": away - exchanged > _NEARER}
        return signs

    def _of_crops(self, block: Block) -> dict[Doubt, np.ndarray]:
        """Whether there is something in the crop, and the person fills it."""
        bad = np.array([crop.std() < _FLAT for crop in block.crops])
        if block.pose2d is not None:
            given = block.pose2d.reshape(-1, len(H36M16), 2)
            small = np.ptp(given, axis=1).max(1) < _SMALL
            bad |= small | (given.min((1, 2)) < -_OUT) | (given.max((1, 2)) > 1 + _OUT)
        return {"crop": bad}

    def _over_time(self, block: Block) -> Iterator[tuple[Doubt, np.ndarray]]:
        """Whether the 2D pose goes with the picture from frame to frame."""
        if block.given is None or block.squares is None:
            return
        frozen, jumps = (np.zeros(len(block.coarse), bool) for _ in range(2))
        for k, (points, crop) in enumerate(zip(block.given.pixels, block.crops, strict=True)):
            if self._points is not None and self._crop is not None:
                moved = np.abs(points - self._points)
                there = np.isfinite(moved)
                stands = bool(there.any()) and float(moved[there].max()) < 1e-6
                self._same = self._same + 1 if stands and (crop != self._crop).any() else 1
                frozen[k] = self._same >= _FROZEN
                way = np.nanmean(points, axis=0) - np.nanmean(self._points, axis=0)
                jumps[k] = float(np.hypot(*way)) > _JUMP * float(block.squares.side[k])
            self._points, self._crop = points, crop
        yield "frozen", frozen
        yield "jump", jumps
