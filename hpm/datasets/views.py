"""What readers of Human3.6M give: one video at a time, as one camera sees it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from caffe_compat.errors import UsageError

from ..files.folders import ACTIONS
from ..skeleton import H36M16, H36M17, convert

__all__ = ["Images", "LeaveOut", "View", "official_names", "split_action", "view_name"]

# The official files call some performances by one name and some by the other.
_ALIASES = {"TakingPhoto": "Photo", "WalkingDog": "WalkDog"}


@dataclass(frozen=True, eq=False)
class Images:
    """The pictures of a view.

    Attributes:
        source: the video, or the folder of pictures. read: gives the pictures (height, width, 3), BGR, of frames of
            these numbers, in their order.
    """

    source: Path
    read: Callable[[Sequence[int]], Iterator[np.ndarray]]


@dataclass(frozen=True, eq=False)
class View:
    """One performance before one camera.

    Attributes:
        subject: such as ``"S1"``. action: one of Human3.6M. take: such as ``"1"``, or empty. camera: serial number.
        numbers: (frames,) which frame of the 50 a second each is, from 1, ascending.
        points: (frames, 17, 2), pixels from 0, in the order of H36M17.
        pose: (frames, 16, 3), mm, camera coordinates, in the order of H36M16.
        images: the pictures; None without pictures.
        detected: (frames, 16, 2), pixels from 0, in the order of H36M16: what a detector found; None without.
    """

    subject: str
    action: str
    take: str
    camera: str
    numbers: np.ndarray
    points: np.ndarray
    pose: np.ndarray
    images: Images | None = None
    detected: np.ndarray | None = None

    def __post_init__(self) -> None:
        frames = {len(self.numbers), len(self.points), len(self.pose)}
        if len(frames) > 1:
            raise UsageError(
                f"{len(self.points)} frames of 2D, {len(self.pose)} of 3D, {len(self.numbers)} numbers", path=self.name
            )

    @property
    def name(self) -> str:
        """Names the view in paths and messages."""
        return view_name(self.subject, self.action, self.take, self.camera)

    @property
    def points16(self) -> np.ndarray:
        """(frames, 16, 2): ``points`` in the order of H36M16."""
        return convert(self.points, H36M17, H36M16)

    def sampled_by(self, step: int) -> bool:
        """Whether the frames are a choice already from which one in ``step`` frames of the video cannot be taken."""
        gaps = np.unique(np.diff(self.numbers))
        return len(gaps) > 1 or (len(gaps) == 1 and step % int(gaps[0]) != 0)

    def every(self, step: int) -> View:
        """The frames 1, 1 + step, 1 + 2 * step ... of the video; all frames if :meth:`sampled_by` says so."""
        if self.sampled_by(step):
            return self
        kept = (self.numbers - 1) % step == 0
        return replace(
            self,
            numbers=self.numbers[kept],
            points=self.points[kept],
            pose=self.pose[kept],
            detected=None if self.detected is None else self.detected[kept],
        )


class LeaveOut:
    """Views to leave out, by name: ``S11_Directions_1_54138969``, or its first parts, such as ``S11_Directions_1``.

    ``unused`` tells which names have met no view so far.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names = tuple(names)
        self._used: set[str] = set()

    def drops(self, name: str) -> bool:
        """Whether the view, or all views of a performance, of this name are to be left out."""
        hits = [each for each in self.names if f"{name}_".startswith(f"{each}_")]
        self._used.update(hits)
        return bool(hits)

    @property
    def unused(self) -> tuple[str, ...]:
        """Names that no view had."""
        return tuple(name for name in self.names if name not in self._used)


def view_name(*parts: str) -> str:
    """Subject, action, take and camera as one name, empty ones left out."""
    return "_".join(part for part in parts if part)


def split_action(name: str) -> tuple[str, str]:
    """``"TakingPhoto 1"`` to the action and the take: ``("Photo", "1")``. Raises UsageError for an unknown action."""
    match = re.fullmatch(r"([A-Za-z]+)[ _-]?(\d*)", name)
    action = _ALIASES.get(match[1], match[1]) if match else name
    if match is None or action not in ACTIONS.values():
        raise UsageError(f"{name!r} is no action of Human3.6M; there are {', '.join(ACTIONS.values())}")
    return action, match[2]


def official_names(action: str, take: str) -> list[str]:
    """What the official files may call a performance: ``["Photo 1", "TakingPhoto 1"]``."""
    names = [action, *(official for official, plain in _ALIASES.items() if plain == action)]
    return [f"{name} {take}" if take else name for name in names]
