"""What readers of Human3.6M give: one video at a time, as one camera sees it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from caffe_compat.errors import UsageError

from ..annotations import ACTIONS

__all__ = ["View", "split_action"]

_ALIASES = {"TakingPhoto": "Photo", "WalkingDog": "WalkDog"}

Images = Callable[[Sequence[int]], Iterator[np.ndarray]]


@dataclass(frozen=True, eq=False)
class View:
    """One performance before one camera.

    Attributes:
        subject: such as ``"S1"``. action: one of Human3.6M. take: such as ``"1"``, or empty. camera: serial number.
        numbers: (frames,) which frame of the 50 a second each is, from 1.
        points: (frames, 16, 2), pixels. pose: (frames, 16, 3), mm, camera coordinates.
        images: gives the pictures (height, width, 3) of frames of these numbers, in their order; None without pictures.
    """

    subject: str
    action: str
    take: str
    camera: str
    numbers: np.ndarray
    points: np.ndarray
    pose: np.ndarray
    images: Images | None = None

    def __post_init__(self) -> None:
        frames = {len(self.numbers), len(self.points), len(self.pose)}
        if len(frames) > 1:
            raise UsageError(
                f"{self.name}: {len(self.points)} frames of 2D, {len(self.pose)} of 3D, {len(self.numbers)} numbers"
            )

    @property
    def name(self) -> str:
        """Names the view in paths and messages."""
        return "_".join(part for part in (self.subject, self.action, self.take, self.camera) if part)

    def every(self, step: int) -> View:
        """The frames 1, 1 + step, 1 + 2 * step ..."""
        kept = (self.numbers - 1) % step == 0
        arrays = (self.numbers[kept], self.points[kept], self.pose[kept])
        return View(self.subject, self.action, self.take, self.camera, *arrays, self.images)


def split_action(name: str) -> tuple[str, str]:
    """``"TakingPhoto 1"`` to the action and the take: ``("Photo", "1")``. Raises UsageError for an unknown action."""
    match = re.fullmatch(r"([A-Za-z]+)[ _-]?(\d*)", name)
    action = _ALIASES.get(match[1], match[1]) if match else name
    if match is None or action not in ACTIONS.values():
        raise UsageError(f"{name!r} is no action of Human3.6M; there are {', '.join(ACTIONS.values())}")
    return action, match[2]
