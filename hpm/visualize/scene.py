"""What is to be shown: pictures, 2D poses and 3D poses of the same frames, checked once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

import numpy as np

from caffe_compat.errors import UsageError

from ..metrics import mpjpe_per_frame
from ..skeleton import H36M16, Skeleton

__all__ = ["LABELS", "SIDE_COLOURS", "Flat", "Frames", "Scene", "Side", "sides"]

Side = Literal["left", "right", "middle"]

SIDE_COLOURS: Mapping[Side, str] = MappingProxyType({"left": "#0072b2", "right": "#d55e00", "middle": "#4d4d4d"})
"""Blue and vermilion, which people with any colour vision can tell apart."""

LABELS: Mapping[str, str] = MappingProxyType({"truth": "Ground truth", "coarse": "Coarse", "refined": "Refined"})
"""The 3D poses that a scene can have, in the order they are shown, and what they are called."""


class Frames(Protocol):
    """Pictures by number: an array (n, H, W, 3), a list, or something that reads them when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


def sides(joints: Skeleton) -> tuple[Side, ...]:
    """The side of each joint."""
    by_letter: dict[str, Side] = {"L": "left", "R": "right"}
    return tuple(by_letter.get(name[0], "middle") for name in joints.joints)


class Flat(NamedTuple):
    """What of a frame lies in the picture's plane."""

    picture: np.ndarray | None
    """(H, W, 3), uint8, BGR."""
    size: tuple[int, int]
    """Width and height in pixels of the picture, or of a field in its place that holds the 2D poses of all frames."""
    pose: np.ndarray | None
    """(joints, 2), as fractions of ``size``."""


@dataclass(frozen=True, eq=False)
class Scene:
    """Consecutive frames of one performance. Everything but one pose may be missing.

    3D poses are (n, joints, 3) in mm in a camera's axes: x right, y down, z away from it. They are shown as they are:
    two poses that should lie on each other need the same origin (the files of this data set have it at the hip).

    Attributes:
        pictures: n arrays (H, W, 3), uint8, BGR as OpenCV reads them.
        pose2d_pixels: (n, joints, 2), x right and y down from the picture's top left corner. NaN: joint not found.
        pose2d_normalised: the same as fractions of the side of a square crop, which the pictures then have to be.
        truth, coarse, refined: 3D poses. NaN throughout a frame: it has no pose.
        names: what each frame is called; its number if not given.
        joints: the order of the joints.

    Raises:
        UsageError: no pose, both kinds of 2D pose, shapes or lengths that do not fit, 3D values that are not finite.
    """

    pictures: Frames | None = None
    pose2d_pixels: np.ndarray | None = None
    pose2d_normalised: np.ndarray | None = None
    truth: np.ndarray | None = None
    coarse: np.ndarray | None = None
    refined: np.ndarray | None = None
    names: Sequence[str] | None = None
    joints: Skeleton = H36M16

    def __post_init__(self) -> None:
        if self.pose2d_pixels is not None and self.pose2d_normalised is not None:
            raise UsageError("a scene has one 2D pose per frame: in pixels or normalised, not both")
        arrays = {"pose2d_pixels": self.pose2d_pixels, "pose2d_normalised": self.pose2d_normalised, **self.poses}
        for name, array in arrays.items():
            if array is not None:
                _check_pose(name, array, self.joints, 3 if name in LABELS else 2)
        parts = {**arrays, "pictures": self.pictures, "names": self.names}
        lengths = {name: len(part) for name, part in parts.items() if part is not None}
        if not lengths.keys() & arrays.keys():
            raise UsageError("a scene needs a pose: 2D, ground truth, coarse or refined; it has none")
        if len(set(lengths.values())) != 1:
            found = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise UsageError(f"the parts of a scene need as many frames each; found {found}")
        if not len(self):
            raise UsageError("a scene of 0 frames has nothing to show")

    def __len__(self) -> int:
        given = (self.pose2d_pixels, self.pose2d_normalised, *self.poses.values())
        return next(len(pose) for pose in given if pose is not None)

    @property
    def poses(self) -> dict[str, np.ndarray]:
        """The 3D poses that there are, by their names in ``LABELS``."""
        given = {"truth": self.truth, "coarse": self.coarse, "refined": self.refined}
        return {name: pose for name, pose in given.items() if pose is not None}

    @cached_property
    def errors(self) -> dict[str, np.ndarray]:
        """MPJPE of every frame (n,) in mm of each pose but the ground truth; empty without ground truth.

        The mean over all joints, the root included, of the distance to the ground truth; nothing is aligned.
        """
        if self.truth is None:
            return {}
        estimates = {name: pose for name, pose in self.poses.items() if name != "truth"}
        return {name: _errors(pose, self.truth) for name, pose in estimates.items()}

    def name(self, index: int) -> str:
        """What the frame is called."""
        return f"frame {index}" if self.names is None else self.names[index]

    @property
    def has_flat(self) -> bool:
        """Whether there is something to show in the picture's plane."""
        return not (self.pictures is None and self.pose2d_pixels is None and self.pose2d_normalised is None)

    def flat(self, index: int) -> Flat:
        """The frame's picture and 2D pose. Raises UsageError if the picture is none."""
        picture = None if self.pictures is None else self._checked(np.asarray(self.pictures[index]), index)
        size = self._field if picture is None else (picture.shape[1], picture.shape[0])
        if self.pose2d_normalised is not None:
            return Flat(picture, size, np.asarray(self.pose2d_normalised[index], np.float64))
        if self.pose2d_pixels is not None:
            return Flat(picture, size, np.asarray(self.pose2d_pixels[index], np.float64) / size)
        return Flat(picture, size, None)

    def _checked(self, picture: np.ndarray, index: int) -> np.ndarray:
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise UsageError(
                f"a picture of shape (H, W, 3) and type uint8 was expected, found {picture.shape} and {picture.dtype}",
                path=self.name(index),
            )
        if self.pose2d_normalised is not None and picture.shape[0] != picture.shape[1]:
            raise UsageError(
                f"normalised 2D poses are fractions of a square crop's side, and the picture has "
                f"{picture.shape[1]} x {picture.shape[0]} pixels; give the crops as pictures, or the poses in pixels",
                path=self.name(index),
            )
        return picture

    @cached_property
    def _field(self) -> tuple[int, int]:
        """Width and height of what stands in for a picture: it holds the 2D poses of all frames."""
        if self.pose2d_pixels is None or not np.isfinite(self.pose2d_pixels).any():
            return 1, 1
        width, height = np.nanmax(self.pose2d_pixels, axis=(0, 1))
        return max(1, math.ceil(1.05 * width)), max(1, math.ceil(1.05 * height))

    def extent(self) -> tuple[np.ndarray, float]:
        """Centre (3,) and half the side, mm, of a cube that just holds all 3D poses of all frames."""
        points = np.concatenate([pose.reshape(-1, 3) for pose in self.poses.values()])
        there = points[np.isfinite(points).all(1)]
        if not len(there):
            return np.zeros(3), 1.0
        low, high = there.min(0), there.max(0)
        half = float((high - low).max()) / 2
        return (np.asarray(low, np.float64) + high) / 2, 1.05 * half if half > 0 else 1.0

    def bones(self) -> Iterator[tuple[int, int, Side]]:
        """(child, parent, side) of every bone; its side is the child's."""
        for child, parent in self.joints.bones:
            yield child, parent, sides(self.joints)[child]


def _check_pose(name: str, pose: np.ndarray, joints: Skeleton, width: int) -> None:
    if not isinstance(pose, np.ndarray) or not np.issubdtype(pose.dtype, np.floating):
        raise UsageError(f"a numpy array of floating-point numbers was expected, found {_kind(pose)}", path=name)
    if pose.ndim != 3 or pose.shape[1:] != (len(joints), width):
        raise UsageError(
            f"shape (frames, {len(joints)}, {width}) was expected for {joints.name}, found {pose.shape}", path=name
        )
    # A pose is there or it is not: one joint that is no number is neither.
    finite = np.isfinite(pose).all(-1) | np.isnan(pose).all((1, 2))[:, None]
    if width == 3 and not finite.all():
        frame, joint = (int(k) for k in np.argwhere(~finite)[0])
        raise UsageError(f"{joints.joints[joint]} is {pose[frame, joint].tolist()}", path=name, place=f"frame {frame}")
    if width == 2 and np.isinf(pose).any():
        frame, joint = (int(k) for k in np.argwhere(np.isinf(pose).any(-1))[0])
        raise UsageError(f"{joints.joints[joint]} is {pose[frame, joint].tolist()}", path=name, place=f"frame {frame}")


def _errors(pose: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """MPJPE of every frame, mm; NaN where one of the poses is not there."""
    there = np.isfinite(pose).all((1, 2)) & np.isfinite(truth).all((1, 2))
    errors = np.full(len(pose), np.nan)
    if there.any():
        errors[there] = mpjpe_per_frame(pose[there], truth[there])
    return errors


def _kind(value: object) -> str:
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
