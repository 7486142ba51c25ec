"""Units and sizes: millimetres to normalised values and back, hips to the origin, bones to standard lengths.

Normalised means ``(v - minimum) / (maximum - minimum)`` per coordinate, of hip-centred millimetres. Poses may be
(..., joints, 3) or flat (..., 3 * joints), numpy or torch; what comes out has the kind and shape of what went in.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from caffe_compat.errors import FileError, UsageError
from caffe_compat.formats.files import atomic_write, open_file

from .arrays import is_tensor
from .skeleton import H36M16, Skeleton

if TYPE_CHECKING:
    import torch

__all__ = [
    "REFINEMENT_BOUNDS",
    "Bounds",
    "bone_lengths",
    "bone_variation",
    "bounds_difference",
    "bounds_of",
    "centre_on_root",
    "check_agreement",
    "denormalise",
    "denormalise_as_layers",
    "limbs_difference",
    "normalise",
    "or_built_in",
    "order_suspicion",
    "read_bounds",
    "read_limbs",
    "scale_limbs",
    "write_bounds",
    "write_limbs",
]

Pose = TypeVar("Pose", np.ndarray, "torch.Tensor")

# What Caffe's layers add to the first three maxima: the hip lies at the origin, and a range of zero cannot divide.
_CAFFE_HIP_RANGE = 1e-6


@dataclass(frozen=True, eq=False)
class Bounds:
    """The greatest and least value of each coordinate in millimetres, (3 * joints,) float64, hip first.

    Example:
        >>> bounds = Bounds(np.array([500.0, 900, 300]), np.array([-500.0, -100, -300]), "of one joint")
        >>> normalise(np.array([[0.0, 400, -300]]), bounds).tolist()
        [[0.5, 0.5, 0.0]]
        >>> denormalise(np.array([[0.5, 0.5, 0.0]]), bounds).tolist()
        [[0.0, 400.0, -300.0]]
    """

    maximum: np.ndarray
    minimum: np.ndarray
    source: str

    def __post_init__(self) -> None:
        for values in (self.maximum, self.minimum):
            values.flags.writeable = False
        if self.maximum.ndim != 1 or self.maximum.shape != self.minimum.shape:
            raise UsageError(f"maxima {self.maximum.shape} and minima {self.minimum.shape}", path=self.source)
        if not (np.isfinite(self.maximum).all() and np.isfinite(self.minimum).all()):
            raise UsageError("bounds that are not finite", path=self.source)
        if (bad := np.flatnonzero(self.maximum <= self.minimum)).size:
            k = int(bad[0])
            raise UsageError(
                f"value {k + 1} has maximum {self.maximum[k]} and minimum {self.minimum[k]}", path=self.source
            )

    @property
    def range(self) -> np.ndarray:
        """Maximum minus minimum, mm."""
        return self.maximum - self.minimum


def read_bounds(path: str | os.PathLike[str], joints: Skeleton = H36M16) -> Bounds:
    """Read a max-min file: a line of maxima, a line of minima, commas between; 1e-6 is added to the first three maxima.

    Raises:
        FileError: it is not such a file, has another number of joints, or its first joint is not at the origin (the
            bounds of another skeleton, or of poses that are not hip-centred).

    Example:
        >>> bounds = read_bounds("data/16point_mean_limb_scaled_max_min.csv")
        >>> bounds.maximum.shape, int(bounds.range.max())
        ((48,), 1690)
    """
    name, width = os.fspath(path), 3 * len(joints)
    with open_file(path) as handle:
        data = handle.read(1 << 20)
    rows = []
    for number, line in enumerate(data.decode("utf-8-sig", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            rows.append(np.array([float(value) for value in line.split(",")]))
        except ValueError as error:
            raise FileError(f"numbers parted by commas were expected: {error}", path=name, line=number) from error
        if len(rows[-1]) != width:
            found = f"{len(rows[-1])} values; {joints.name} has {len(joints)} joints, so {width} belong here"
            raise FileError(found, path=name, line=number)
    if len(rows) != 2:
        raise FileError(f"{len(rows)} lines of numbers; one of maxima and one of minima were expected", path=name)
    maximum, minimum = rows
    if np.abs(maximum[:3]).max() > 1e-3 or np.abs(minimum[:3]).max() > 1e-3:
        raise FileError(
            f"the first joint ranges over {minimum[:3].tolist()} to {maximum[:3].tolist()} mm; it should be the hip at "
            "the origin: these are bounds of another skeleton, or of poses that are not hip-centred",
            path=name,
        )
    maximum[:3] += _CAFFE_HIP_RANGE
    try:
        return Bounds(maximum, minimum, name)
    except UsageError as error:
        raise FileError(error.detail, path=name) from error


def order_suspicion(bounds: Bounds) -> str | None:
    """Why bounds seem not to be in the order of :data:`.skeleton.H36M16`; None if nothing speaks against it.

    In any motion knees get farther from the hip than the hips' own joints, and the thorax farther than the spine.
    """
    reach = np.maximum(bounds.maximum, -bounds.minimum).reshape(-1, 3).max(1)
    spans = ("RHip", "RKnee"), ("LHip", "LKnee"), ("RHip", "LKnee"), ("LHip", "RKnee"), ("Spine", "Thorax")
    for inner, outer in spans:
        near, far = (float(reach[H36M16.index(joint)]) for joint in (inner, outer))
        if near >= far:
            return f"{inner} reaches {near:.0f} mm from the hip, {outer} only {far:.0f} mm"
    # Both are half of the pelvis.
    sides = sorted(float(reach[H36M16.index(joint)]) for joint in ("RHip", "LHip"))
    if sides[1] > 1.5 * sides[0]:
        return f"one of RHip and LHip reaches {sides[0]:.0f} mm from the hip, the other {sides[1]:.0f} mm"
    return None


def bounds_difference(one: Bounds, other: Bounds) -> str | None:
    """Where two bounds differ most, in words; None if that is less than a hundredth of a millimetre."""
    apart = np.stack([np.abs(one.maximum - other.maximum), np.abs(one.minimum - other.minimum)])
    row, k = np.unravel_index(int(apart.argmax()), apart.shape)
    if apart[row, k] < 0.01:
        return None
    ours, theirs = ((bounds.maximum, bounds.minimum)[row][k] for bounds in (one, other))
    what = f"{H36M16.joints[k // 3]}'s {'maximum' if row == 0 else 'minimum'} of {'xyz'[k % 3]}"
    return f"{what} is {ours:.2f} mm there, {theirs:.2f} mm here"


def check_agreement(model: str, stored: Bounds | None, given: Bounds | None) -> None:
    """Raise UsageError if a model's own bounds and those given with it differ."""
    if stored is None or given is None or (apart := bounds_difference(stored, given)) is None:
        return
    raise UsageError(
        f"{model} holds the bounds of its poses ({stored.source}); those given ({given.source}) differ: {apart}; leave "
        "them out, or put the right ones into the model with 'hpm convert' and --bounds"
    )


def or_built_in(bounds: Bounds) -> Bounds:
    """The original's built-in values if ``bounds`` are those, to a hundredth of a millimetre; else ``bounds``."""
    return bounds if bounds_difference(bounds, REFINEMENT_BOUNDS) is not None else REFINEMENT_BOUNDS


def write_bounds(path: str | os.PathLike[str], bounds: Bounds) -> None:
    """Write a max-min file that ``read_bounds`` reads back: without what it adds for the hip. Raises FileError."""
    maximum = bounds.maximum.copy()
    maximum[:3] = np.where(np.abs(maximum[:3] - bounds.minimum[:3]) <= 1e-3, bounds.minimum[:3], maximum[:3])
    with atomic_write(path) as handle:
        for row in (maximum, bounds.minimum):
            handle.write((",".join(repr(float(value)) for value in row) + "\n").encode())


def read_limbs(path: str | os.PathLike[str]) -> np.ndarray:
    """Bone lengths (16,), mm, as :func:`write_limbs` writes them. Raises FileError."""
    with open_file(path) as handle:
        text = handle.read(1 << 16).decode("utf-8", errors="replace")
    try:
        limbs = np.array([float(value) for value in text.split(",")])
    except ValueError as error:
        raise FileError(f"numbers parted by commas were expected: {error}", path=os.fspath(path)) from error
    if limbs.shape != (len(H36M16),) or limbs[0] != 0 or not (limbs[1:] > 0).all() or not np.isfinite(limbs).all():
        raise FileError(
            f"{len(limbs)} values; {len(H36M16)} bone lengths in mm were expected: 0 of the hip, then above 0 of "
            f"{', '.join(H36M16.joints[1:])}",
            path=os.fspath(path),
        )
    return limbs


def write_limbs(path: str | os.PathLike[str], limbs: np.ndarray) -> None:
    """Write bone lengths (16,), mm, in one line, in the order of H36M16. Raises FileError."""
    with atomic_write(path) as handle:
        handle.write((",".join(repr(float(value)) for value in limbs) + "\n").encode())


def limbs_difference(one: np.ndarray, other: np.ndarray) -> str | None:
    """Where two sets of bone lengths (16,), mm, differ most, in words; None if by less than a hundredth of a mm."""
    k = int(np.abs(one - other).argmax())
    if abs(one[k] - other[k]) < 0.01:
        return None
    return f"the bone to the {H36M16.joints[k]} is {one[k]:.2f} mm there, {other[k]:.2f} mm here"


def bounds_of(pose_mm: np.ndarray, source: str) -> Bounds:
    """The bounds of hip-centred poses (frames, joints, 3) in mm, ready for ``normalise``."""
    flat = np.asarray(pose_mm, np.float64).reshape(len(pose_mm), -1)
    maximum, minimum = flat.max(0), flat.min(0)
    maximum[:3] += _CAFFE_HIP_RANGE
    return Bounds(maximum, minimum, source)


def normalise(pose_mm: Pose, bounds: Bounds) -> Pose:
    """Hip-centred millimetres to normalised values."""
    minimum, size = _like(pose_mm, bounds)
    return (pose_mm - minimum) / size


def denormalise(pose_normalised: Pose, bounds: Bounds) -> Pose:
    """Normalised values to hip-centred millimetres."""
    minimum, size = _like(pose_normalised, bounds)
    return pose_normalised * size + minimum


def denormalise_as_layers(pose_normalised: np.ndarray, bounds: Bounds) -> np.ndarray:
    """Normalised values (frames, width) to millimetres as the original's MPJPEEvaluation layers compute and write them.

    In single precision, and with their range for a hip at the origin, whatever the range in ``bounds``: with that of
    the refinement, which is a hundred times as wide, the hip's columns would not be the layers'.
    """
    maximum, minimum = (row.astype(np.float32) for row in (bounds.maximum, bounds.minimum))
    if bounds.range[:3].max() <= 1e-3:
        maximum[:3] = bounds.minimum[:3] + _CAFFE_HIP_RANGE
    result: np.ndarray = np.asarray(pose_normalised, np.float32) * (maximum - minimum) + minimum
    return result


def _like(pose: Pose, bounds: Bounds) -> tuple[Pose, Pose]:
    """Minimum and range in the kind and shape of ``pose``."""
    width, shape = len(bounds.maximum), tuple(pose.shape)
    if shape[-1:] == (width,):
        trail: tuple[int, ...] = (width,)
    elif shape[-2:] == (width // 3, 3):
        trail = (width // 3, 3)
    else:
        raise UsageError(f"bounds of {width} values do not fit poses of shape {shape}", path=bounds.source)
    arrays = bounds.minimum.reshape(trail), bounds.range.reshape(trail)
    if is_tensor(pose):
        import torch

        minimum, size = (torch.as_tensor(a.copy(), dtype=pose.dtype, device=pose.device) for a in arrays)
        return minimum, size
    return arrays[0], arrays[1]


def centre_on_root(pose: Pose, joints: Skeleton = H36M16) -> Pose:
    """``pose`` (..., joints, 3) with the root joint (the hip) at the origin."""
    return pose - pose[..., joints.root : joints.root + 1, :]


def bone_lengths(pose: np.ndarray, joints: Skeleton = H36M16) -> np.ndarray:
    """Length of the bone to each joint's parent, (..., joints), in the unit of ``pose`` (..., joints, 3); root 0."""
    points = np.asarray(pose, np.float64)
    return np.linalg.norm(points - points[..., list(joints.parents), :], axis=-1)


def bone_variation(pose: np.ndarray, joints: Skeleton = H36M16) -> np.ndarray:
    """Standard deviation over mean of each bone's length over the frames, (bones,), as ``joints.bones`` orders them.

    About zero says that limbs were scaled to fixed lengths (or belong to one body); several percent, that not.
    """
    lengths = bone_lengths(pose, joints).reshape(-1, len(joints))[:, [child for child, _ in joints.bones]]
    return lengths.std(0) / np.maximum(lengths.mean(0), 1e-12)


def scale_limbs(pose: np.ndarray, lengths: np.ndarray, joints: Skeleton = H36M16) -> np.ndarray:
    """Every bone keeps its direction and gets its length of ``lengths``; the root keeps its place.

    Args:
        pose: (..., joints, 3).
        lengths: (joints,), such as the mean of ``bone_lengths`` over the training frames, in the unit of ``pose``.

    Raises:
        UsageError: a bone of length zero, which has no direction.
    """
    points = np.asarray(pose, np.float64)
    if lengths.shape != (len(joints),):
        raise UsageError(f"lengths of shape {lengths.shape} for the {len(joints)} joints of {joints.name}")
    scaled = np.empty_like(points)
    scaled[..., joints.root, :] = points[..., joints.root, :]
    for child, parent in joints.downward:
        bone = points[..., child, :] - points[..., parent, :]
        size = np.linalg.norm(bone, axis=-1, keepdims=True)
        if not size.all():
            frame = int(np.flatnonzero(size.reshape(-1) == 0)[0])
            names = f"{joints.joints[parent]} and {joints.joints[child]}"
            raise UsageError(
                f"{names} are at the same place, so the bone between them has no direction", place=f"frame {frame}"
            )
        scaled[..., child, :] = scaled[..., parent, :] + bone * (lengths[child] / size)
    return scaled


# The bounds that the original's refinement has built in, mm; its hip has a range of 1e-4. They are the published
# 16point_mean_limb_scaled_max_min.csv to seven digits or more.
REFINEMENT_BOUNDS = Bounds(
    np.array(
        [
            [0.0001, 0.0001, 0.0001],
            [134.0503767, 133.9510159, 134.044191],
            [534.4017914, 510.6674502, 523.831242],
            [943.2597722, 925.5031591, 933.3296256],
            [134.0496983, 134.0196830, 134.0448088],
            [521.2206959, 541.7633501, 532.0327058],
            [899.9904617, 939.3747057, 963.7824145],
            [238.4541163, 170.3368636, 238.4144408],
            [492.9152439, 355.8427075, 491.8987132],
            [662.3160333, 414.4086921, 670.7610016],
            [593.4988721, 374.0012718, 552.8630804],
            [761.2197541, 608.8698558, 716.8246952],
            [858.8554353, 847.4883640, 863.7203645],
            [542.9548956, 371.0627854, 544.6682072],
            [752.6768122, 619.8500041, 708.8038430],
            [902.8836434, 865.8322079, 888.9240887],
        ]
    ).ravel(),
    np.array(
        [
            [0, 0, 0],
            [-134.0504526, -134.0204372, -134.0455632],
            [-531.3019391, -448.2183034, -535.4227581],
            [-932.1445901, -690.7065811, -902.3072893],
            [-134.0496231, -133.9502778, -134.0434364],
            [-533.1179863, -449.1524477, -558.9435462],
            [-899.0346505, -883.1448889, -893.8928409],
            [-238.4502650, -238.4645742, -238.3990053],
            [-491.8760997, -493.7237771, -491.8442302],
            [-664.4183354, -708.7855593, -668.8092973],
            [-598.0813460, -527.8841013, -557.1867664],
            [-777.3882796, -763.3121467, -735.9983803],
            [-835.8338281, -1009.3572440, -944.2783080],
            [-542.5820837, -551.3336477, -531.0337492],
            [-750.0749411, -766.7950288, -719.1052110],
            [-888.7618652, -1015.2799110, -954.9315418],
        ]
    ).ravel(),
    "the bounds of the released model",
)
