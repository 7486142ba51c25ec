"""Poses from one joint order to another, explicitly; sides exchanged and mirrored, and how to notice that.

Poses are arrays (..., joints, 2 or 3), numpy or torch; what comes out is of the same kind. The orders themselves, which
this module offers too, are :mod:`.joint_orders`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from caffe_compat.errors import UsageError

from .arrays import as_float64, is_tensor
from .joint_orders import (
    BODY25,
    COCO17,
    COCO133,
    H36M16,
    H36M17,
    H36M32,
    HALPE26,
    KTH14,
    MEDIAPIPE33,
    MPII16,
    SKELETONS,
    Skeleton,
    skeleton,
)

if TYPE_CHECKING:
    import torch

__all__ = [
    "BODY25",
    "COCO17",
    "COCO133",
    "CONVERSIONS",
    "H36M16",
    "H36M17",
    "H36M32",
    "HALPE26",
    "KTH14",
    "MEDIAPIPE33",
    "MPII16",
    "SKELETONS",
    "Conversion",
    "LeftRightEvidence",
    "Skeleton",
    "conversion",
    "convert",
    "flip_image",
    "left_right_suspect",
    "skeleton",
    "swap_sides",
]

Pose = TypeVar("Pose", np.ndarray, "torch.Tensor")


@dataclass(frozen=True)
class Conversion:
    """How a pose of ``source`` becomes one of ``target``.

    ``sources[k]`` are the joints of ``source`` whose mean is joint ``k`` of ``target``; one named twice weighs twice.

    Example:
        >>> to = conversion(COCO17, H36M16)
        >>> to.averaged["Hip"], to.dropped
        (('LHip', 'RHip'), ('Nose', 'LEar', 'REar'))
        >>> to(np.zeros((5, 17, 2))).shape
        (5, 16, 2)
    """

    source: Skeleton
    target: Skeleton
    sources: tuple[tuple[int, ...], ...]
    note: str = ""

    @property
    def dropped(self) -> tuple[str, ...]:
        """Joints of the source that no joint of the target uses."""
        used = {k for group in self.sources for k in group}
        return tuple(name for k, name in enumerate(self.source.joints) if k not in used)

    @property
    def averaged(self) -> dict[str, tuple[str, ...]]:
        """Joints of the target that the source lacks, and the joints whose mean stands in."""
        return {
            name: tuple(self.source.joints[k] for k in group)
            for name, group in zip(self.target.joints, self.sources, strict=True)
            if len(group) > 1
        }

    def __call__(self, pose: Pose) -> Pose:
        """``pose`` (..., source joints, 2 or 3) as (..., target joints, 2 or 3), in the same unit."""
        _check(pose, self.source)
        if not self.averaged:
            return pose[..., [group[0] for group in self.sources], :]
        parts = [sum(pose[..., k, :] for k in group[1:]) + pose[..., group[0], :] for group in self.sources]
        means = [part / len(group) for part, group in zip(parts, self.sources, strict=True)]
        if is_tensor(pose):
            import torch

            return torch.stack(means, -2)
        return np.stack(means, -2)

    def confidence(self, values: np.ndarray) -> np.ndarray:
        """Confidences (..., source joints) as (..., target joints): a mean is as sure as the least sure joint in it.

        Example:
            >>> sure = np.ones(17)
            >>> sure[COCO17.index("LHip")] = 0.1
            >>> dict(zip(H36M16.joints, conversion(COCO17, H36M16).confidence(sure).tolist()))["Hip"]
            0.1
        """
        return np.stack([values[..., list(group)].min(-1) for group in self.sources], -1)


def _by_name(source: Skeleton, target: Skeleton, note: str = "", **others: str) -> Conversion:
    """Joints of the same name, and ``target=source[+source ...]`` for the rest."""
    groups = tuple(tuple(source.index(part) for part in others.get(joint, joint).split("+")) for joint in target.joints)
    return Conversion(source, target, groups, note)


# Of a skeleton with both hips, shoulders and eyes but no joint on the trunk.
_NO_TRUNK = {
    "Hip": "LHip+RHip",
    "Spine": "LHip+RHip+LShoulder+RShoulder",
    "Thorax": "LShoulder+RShoulder",
    "Head": "LEye+REye",
}
_NO_TRUNK_NOTE = "{} has no joint on the trunk or on top of the head; the head is put between the eyes"
_MPII_NOTE = (
    "MPII's thorax takes the place of the spine, and its upper neck that of the thorax, as in the MPII lists that the "
    "original was trained with; the two places differ on the body"
)

CONVERSIONS: dict[tuple[str, str], Conversion] = {
    (c.source.name, c.target.name): c
    for c in (
        _by_name(H36M32, H36M17),
        _by_name(H36M32, H36M16),
        _by_name(H36M17, H36M16),
        _by_name(MPII16, H36M16, _MPII_NOTE, Spine="Thorax", Thorax="UpperNeck", Head="HeadTop"),
        _by_name(H36M16, MPII16, _MPII_NOTE, Thorax="Spine", UpperNeck="Thorax", HeadTop="Head"),
        _by_name(COCO17, H36M16, _NO_TRUNK_NOTE.format("COCO"), **_NO_TRUNK),
        _by_name(COCO133, H36M16, _NO_TRUNK_NOTE.format("COCO-WholeBody"), **_NO_TRUNK),
        _by_name(MEDIAPIPE33, H36M16, _NO_TRUNK_NOTE.format("MediaPipe"), **_NO_TRUNK),
        _by_name(
            BODY25,
            H36M16,
            "the neck takes the place of the thorax, and the spine is half way between it and the hip; BODY_25 has no "
            "joint on top of the head, which is put between the eyes",
            Spine="Hip+Neck",
            Thorax="Neck",
            Head="LEye+REye",
        ),
        _by_name(
            HALPE26,
            H36M16,
            "the neck takes the place of the thorax, and the spine is half way between it and the hip",
            Spine="Hip+Neck",
            Thorax="Neck",
            Head="HeadTop",
        ),
        _by_name(
            KTH14,
            H36M16,
            "the spine is half way between the hips' centre and the bottom of the head",
            Hip="LHip+RHip",
            Spine="LHip+RHip+HeadBottom+HeadBottom",
            Thorax="HeadBottom",
            Head="HeadTop",
        ),
        _by_name(H36M16, KTH14, HeadBottom="Thorax", HeadTop="Head"),
    )
}
"""Every conversion that is defined, by the names of its two skeletons."""


def conversion(source: Skeleton, target: Skeleton) -> Conversion:
    """The conversion between two joint orders; equal ones give no change. Raises UsageError if undefined.

    Example:
        >>> conversion(MPII16, H36M16).averaged
        {}
        >>> conversion(H36M16, COCO17)
        Traceback (most recent call last):
        caffe_compat.errors.UsageError: no conversion from H36M16 to COCO17 is defined; ...
    """
    if source == target:
        return Conversion(source, target, tuple((k,) for k in range(len(source))))
    if (source.name, target.name) not in CONVERSIONS:
        known = ", ".join(f"{a} to {b}" for a, b in CONVERSIONS)
        raise UsageError(f"no conversion from {source.name} to {target.name} is defined; defined are {known}")
    return CONVERSIONS[source.name, target.name]


def convert(pose: Pose, source: Skeleton, target: Skeleton) -> Pose:
    """``pose`` (..., joints of source, 2 or 3) in the order of ``target``. Raises UsageError as ``conversion`` does.

    Example:
        >>> pose = np.arange(32.0).reshape(1, 16, 2)
        >>> convert(pose, MPII16, H36M16)[0, 0].tolist()  # the hip, which MPII has seventh
        [12.0, 13.0]
    """
    return conversion(source, target)(pose)


def swap_sides(pose: Pose, joints: Skeleton) -> Pose:
    """Left and right exchanged, coordinates left alone: what a mistaken joint order does.

    Example:
        >>> pose = np.arange(32.0).reshape(1, 16, 2)
        >>> swap_sides(pose, H36M16)[0, :2].tolist()  # the hip, and what was the left hip
        [[0.0, 1.0], [8.0, 9.0]]
    """
    _check(pose, joints)
    return pose[..., list(joints.swaps), :]


def flip_image(pose: Pose, joints: Skeleton, width: float | None = None) -> Pose:
    """The pose of the mirrored picture: x turned round, left and right exchanged.

    Args:
        pose: (..., joints, 2 or 3).
        width: of the picture in the pose's unit (1 for fractions of a crop's side); x becomes ``width - x``. None for
            hip-centred 3D poses: x becomes ``-x``.

    Example:
        >>> pose = np.zeros((1, 16, 2))
        >>> pose[0, H36M16.index("LWrist")] = 0.2, 0.5
        >>> flip_image(pose, H36M16, width=1)[0, H36M16.index("RWrist")].tolist()
        [0.8, 0.5]
    """
    swapped = swap_sides(pose, joints)
    flipped = swapped.clone() if is_tensor(swapped) else swapped.copy()
    flipped[..., 0] = (0 if width is None else width) - swapped[..., 0]
    return flipped


@dataclass(frozen=True)
class LeftRightEvidence:
    """Signs that left and right are exchanged. Each is (frames that say so, frames that could tell).

    Example:
        >>> evidence = LeftRightEvidence(knees_backwards=(9, 10)) + LeftRightEvidence(knees_backwards=(10, 10))
        >>> evidence.suspect, evidence.reasons
        (True, ('in 19 of 20 frames knees bend backwards',))
    """

    arms_against_legs: tuple[int, int] = (0, 0)
    """The line between the shoulders and that between the hips run opposite ways: one pair is exchanged."""
    knees_backwards: tuple[int, int] = (0, 0)
    """3D only: the knees bend away from where the body faces: all sides are exchanged, or an axis is mirrored."""
    fits_when_swapped: tuple[int, int] = (0, 0)
    """Closer to the reference pose with left and right exchanged."""

    def __add__(self, other: LeftRightEvidence) -> LeftRightEvidence:
        """The evidence of two stretches of frames together."""
        pairs = zip(self._counts().values(), other._counts().values(), strict=True)
        return LeftRightEvidence(*[(a[0] + b[0], a[1] + b[1]) for a, b in pairs])

    def _counts(self) -> dict[str, tuple[int, int]]:
        return {
            "shoulders and hips point opposite ways": self.arms_against_legs,
            "knees bend backwards": self.knees_backwards,
            "the pose fits the reference better with left and right exchanged": self.fits_when_swapped,
        }

    @property
    def reasons(self) -> tuple[str, ...]:
        """What speaks for an exchange, with the numbers; empty if nothing does."""
        return tuple(
            f"in {hits} of {frames} frames {what}"
            for what, (hits, frames) in self._counts().items()
            # Real poses twist, so single frames mean little: three quarters of at least ten frames that could tell.
            if frames >= 10 and hits >= 0.75 * frames
        )

    @property
    def suspect(self) -> bool:
        """True if any sign is strong."""
        return bool(self.reasons)


def left_right_suspect(pose: Pose, joints: Skeleton, reference: Pose | None = None) -> LeftRightEvidence:
    """Evidence that left and right of ``pose`` are exchanged, wholly or for arms or legs only.

    Args:
        pose: (frames, joints, 2) of an image, or (frames, joints, 3) in a right-handed system (a camera's, or the
            world's), in any unit.
        reference: a pose of the same shape and unit to compare with, such as projected 3D poses for a 2D input.

    Example:
        >>> pose = np.zeros((10, 16, 2))
        >>> for joint, x in (("LHip", 1), ("RHip", -1), ("LShoulder", -2), ("RShoulder", 2)):
        ...     pose[:, H36M16.index(joint), 0] = x
        >>> left_right_suspect(pose, H36M16).reasons
        ('in 10 of 10 frames shoulders and hips point opposite ways',)
    """
    _check(pose, joints)
    points = as_float64(pose)
    if points.ndim != 3:
        raise UsageError(f"poses of shape (frames, {len(joints)}, 2 or 3) were expected, found {tuple(pose.shape)}")
    left, right = ({part: points[:, joints.index(s + part)] for part in _PAIRS} for s in "LR")
    hips, shoulders = left["Hip"] - right["Hip"], left["Shoulder"] - right["Shoulder"]
    # Across the picture only: seen from the side both lines are short and their signs are noise.
    agreement = (hips * shoulders).sum(-1)
    clear = np.abs(agreement) > 0.25 * np.linalg.norm(hips, axis=-1) * np.linalg.norm(shoulders, axis=-1)
    evidence = LeftRightEvidence(arms_against_legs=_count(agreement < 0, clear))
    if points.shape[-1] == 3:
        evidence += LeftRightEvidence(knees_backwards=_knees_backwards(left, right))
    if reference is not None:
        other = as_float64(reference)
        if other.shape != points.shape:
            raise UsageError(f"poses {points.shape} and reference poses {other.shape} differ in shape")
        as_is, swapped = (np.linalg.norm(p - other, axis=-1).sum(-1) for p in (points, points[:, list(joints.swaps)]))
        evidence += LeftRightEvidence(fits_when_swapped=_count(swapped < as_is, np.abs(swapped - as_is) > 0))
    return evidence


_PAIRS = ("Hip", "Knee", "Foot", "Shoulder")


def _knees_backwards(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> tuple[int, int]:
    """Frames whose bent knees lie behind the line from hip to foot, of those with a clearly bent knee."""
    up = (left["Shoulder"] + right["Shoulder"] - left["Hip"] - right["Hip"]) / 2
    # In a right-handed system a body faces along (to its left) x (up).
    front = np.cross(left["Hip"] - right["Hip"], up)
    front /= np.maximum(np.linalg.norm(front, axis=-1, keepdims=True), 1e-12)
    offsets, lengths = [], []
    for side in (left, right):
        leg = side["Foot"] - side["Hip"]
        length = np.linalg.norm(leg, axis=-1)
        along = ((side["Knee"] - side["Hip"]) * leg).sum(-1) / np.maximum(length**2, 1e-12)
        nearest = side["Hip"] + along[:, None] * leg
        offsets.append(((side["Knee"] - nearest) * front).sum(-1))
        lengths.append(length)
    offset = sum(offsets)
    return _count(offset < 0, np.abs(offset) > 0.05 * np.maximum(sum(lengths), 1e-12))


def _count(says_so: np.ndarray, could_tell: np.ndarray) -> tuple[int, int]:
    return int((says_so & could_tell).sum()), int(could_tell.sum())


def _check(pose: np.ndarray | torch.Tensor, joints: Skeleton) -> None:
    shape: Sequence[int] = tuple(pose.shape)
    if len(shape) < 2 or shape[-2] != len(joints) or shape[-1] not in (2, 3):
        raise UsageError(f"a pose of shape (..., {len(joints)}, 2 or 3) was expected for {joints.name}, found {shape}")
