"""Joint orders: frozen, named, converted explicitly.

Poses are arrays (..., joints, 2 or 3), numpy or torch; what comes out is of the same kind. A skeleton's root is its own
parent. Nothing guesses an order from the number of joints: two orders of 16 joints are in use here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from caffe_compat.errors import UsageError

from .arrays import as_float64, is_tensor

if TYPE_CHECKING:
    import torch

__all__ = [
    "COCO17",
    "CONVERSIONS",
    "H36M16",
    "H36M17",
    "H36M32",
    "KTH14",
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
class Skeleton:
    """One joint order. ``parents[k]`` is the joint that joint ``k`` hangs from; the root's parent is itself.

    Example:
        >>> len(H36M16), H36M16.joints[H36M16.root], H36M16.index("Thorax")
        (16, 'Hip', 8)
        >>> [H36M16.joints[k] for k in H36M16.swaps][:4]
        ['Hip', 'LHip', 'LKnee', 'LFoot']
    """

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(set(self.joints)) != len(self.joints) or len(self.parents) != len(self.joints):
            raise UsageError(f"skeleton {self.name}: {len(self.joints)} joint names, {len(self.parents)} parents")

    def __len__(self) -> int:
        return len(self.joints)

    @property
    def root(self) -> int:
        """The joint that is its own parent."""
        return next(k for k, parent in enumerate(self.parents) if parent == k)

    @property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """(child, parent) of every joint but the root."""
        return tuple((k, parent) for k, parent in enumerate(self.parents) if parent != k)

    @property
    def downward(self) -> tuple[tuple[int, int], ...]:
        """The bones with every parent before its children, as a walk from the root needs them."""
        done, order, left = {self.root}, [], list(self.bones)
        while left:
            ready = [bone for bone in left if bone[1] in done]
            order += ready
            done.update(child for child, _ in ready)
            left = [bone for bone in left if bone[0] not in done]
        return tuple(order)

    @property
    def swaps(self) -> tuple[int, ...]:
        """For each joint, the joint of the other side; a joint in the middle is its own."""
        return tuple(self.joints.index(_OTHER_SIDE.get(name[0], name[0]) + name[1:]) for name in self.joints)

    def index(self, joint: str) -> int:
        """Where ``joint`` stands. Raises UsageError for a name that this skeleton does not have."""
        if joint not in self.joints:
            raise UsageError(f"skeleton {self.name} has no joint {joint!r}; it has {', '.join(self.joints)}")
        return self.joints.index(joint)


# The first letter of a joint says its side; joints in the middle begin with neither letter.
_OTHER_SIDE = {"L": "R", "R": "L"}


def _skeleton(name: str, joints: str, parents: str) -> Skeleton:
    return Skeleton(name, tuple(joints.split()), tuple(int(k) for k in parents.split()))


H36M16 = _skeleton(
    "H36M16",
    "Hip RHip RKnee RFoot LHip LKnee LFoot Spine Thorax Head LShoulder LElbow LWrist RShoulder RElbow RWrist",
    "0 0 1 2 0 4 5 0 7 8 8 10 11 8 13 14",
)
"""The order of every file of this data set: lists, CSV files, networks. From the original's own code."""

H36M17 = _skeleton(
    "H36M17",
    "Hip RHip RKnee RFoot LHip LKnee LFoot Spine Thorax Nose Head LShoulder LElbow LWrist RShoulder RElbow RWrist",
    "0 0 1 2 0 4 5 0 7 8 9 8 11 12 8 14 15",
)
"""The 17 joints of Human3.6M that most papers use: 0 1 2 3 6 7 8 12 13 14 15 17 18 19 25 26 27 of the 32.

As 3d-pose-baseline (``data_utils.py``) names them, and VideoPose3D (``h36m_dataset.py``) keeps them.
"""

H36M32 = _skeleton(
    "H36M32",
    "Hip RHip RKnee RFoot RToe RToeTip LHip LKnee LFoot LToe LToeTip SpineBase Spine Thorax Nose Head "
    "LCollar LShoulder LElbow LWrist LThumbBase LThumb LHand LHandTip "
    "RCollar RShoulder RElbow RWrist RThumbBase RThumb RHand RHandTip",
    "0 0 1 2 3 4 0 6 7 8 9 0 11 12 13 14 12 16 17 18 19 20 19 22 12 24 25 26 27 28 27 30",
)
"""All joints of Human3.6M's motion capture: parents and sides as in VideoPose3D (``h36m_dataset.py``).

3d-pose-baseline (``data_utils.py``) has names for the 17 that move; the other names are ours.
"""

MPII16 = _skeleton(
    "MPII16",
    "RFoot RKnee RHip LHip LKnee LFoot Hip Thorax UpperNeck HeadTop RWrist RElbow RShoulder LShoulder LElbow LWrist",
    "1 2 6 6 3 4 6 6 7 8 11 12 8 8 13 14",
)
"""MPII Human Pose: joint ids 0 to 15 of its annotation, as its README lists them; it calls the feet ankles.

Stacked Hourglass gives joints in this order, too (3d-pose-baseline's ``SH_NAMES``).
"""

COCO17 = _skeleton(
    "COCO17",
    "Nose LEye REye LEar REar LShoulder RShoulder LElbow RElbow LWrist RWrist LHip RHip LKnee RKnee LFoot RFoot",
    "0 0 0 1 2 0 0 5 6 7 8 5 6 11 12 13 14",
)
"""COCO keypoints: ``categories[0].keypoints`` of its person_keypoints json; COCO calls the feet ankles."""

KTH14 = _skeleton(
    "KTH14",
    "RFoot RKnee RHip LHip LKnee LFoot RWrist RElbow RShoulder LShoulder LElbow LWrist HeadBottom HeadTop",
    "1 2 12 12 3 4 7 8 12 12 9 10 12 12",
)
"""KTH Multiview Football II: landmarks 1 to 14 of ``readme.txt`` in its ``code3d.zip``; it calls the feet ankles.

A body without a pelvis joint, so the bottom of the head is the root.
"""

SKELETONS: dict[str, Skeleton] = {s.name: s for s in (H36M16, H36M17, H36M32, MPII16, COCO17, KTH14)}


def skeleton(name: str) -> Skeleton:
    """The skeleton called ``name``. Raises UsageError for a name that is not known.

    Example:
        >>> skeleton("COCO17").joints[:3]
        ('Nose', 'LEye', 'REye')
    """
    if name not in SKELETONS:
        raise UsageError(f"unknown joint order {name!r}; known: {', '.join(SKELETONS)}")
    return SKELETONS[name]


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


def _by_name(source: Skeleton, target: Skeleton, note: str = "", **others: str) -> Conversion:
    """Joints of the same name, and ``target=source[+source ...]`` for the rest."""
    groups = tuple(tuple(source.index(part) for part in others.get(joint, joint).split("+")) for joint in target.joints)
    return Conversion(source, target, groups, note)


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
        _by_name(
            COCO17,
            H36M16,
            "COCO has no joint on the trunk or on top of the head; the head is put between the eyes",
            Hip="LHip+RHip",
            Spine="LHip+RHip+LShoulder+RShoulder",
            Thorax="LShoulder+RShoulder",
            Head="LEye+REye",
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
