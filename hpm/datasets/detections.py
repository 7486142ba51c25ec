"""What 2D detectors found in Human3.6M's videos, as people have it, for views of :mod:`.human36m`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from caffe_compat.errors import CaffeCompatWarning, FileError, UsageError

from ..files.npz import read_npz
from ..skeleton import COCO17, H36M16, H36M17, H36M32, MPII16, Skeleton, convert, left_right_suspect, swap_sides
from .human36m import FAR_PIXELS, SERIALS, mapping, read_h5
from .views import View, split_action, view_name

__all__ = ["Detections", "read_detections", "with_detections"]

_ORDERS = (H36M17, COCO17, MPII16, H36M16, H36M32)


@dataclass(frozen=True, eq=False)
class Detections:
    """2D poses by the name of their view: functions that give them, (frames, 16, 2), pixels, in the order of H36M16."""

    path: str
    of: Mapping[str, Callable[[], np.ndarray]]


def read_detections(path: str | os.PathLike[str], order: Skeleton | None = None) -> Detections:
    """Read VideoPose3D's ``data_2d_h36m_*.npz``, or a folder with 3d-pose-baseline's ``S1/StackedHourglass/*.h5``.

    The npz holds ``positions_2d``, a dictionary of subjects, of performances such as ``Directions 1``, of a list with
    an array (frames, joints, 2) for each camera, and ``metadata`` with ``num_joints`` and the joints of both sides,
    ``keypoints_symmetry``. Those tell the order: gt, cpn_ft_h36m_dbb and detectron_ft_h36m are Human3.6M's 17 joints,
    sh_pt_mpii and sh_ft_h36m MPII's 16, detectron_pt_coco COCO's 17. The h5 files, ``Directions_1.54138969.h5``, hold
    ``poses``, (frames, 16 joints of MPII, 2).

    Args:
        order: of the joints in an npz without such metadata.

    Raises:
        FileError: none of these, or joints in an order that is not known or not the one given.
    """
    root = Path(path)
    if root.suffix == ".npz":
        return Detections(str(root), dict(_in_npz(root, order)))
    if order not in (None, MPII16):
        raise UsageError(
            f"the joints of 3d-pose-baseline's files are in the order of {MPII16.name}", path=os.fspath(root)
        )
    found = {}
    for file in sorted(root.glob("S*/StackedHourglass*/*.h5")):
        performance, _, serial = file.stem.replace("_", " ").rpartition(".")
        found[view_name(file.parent.parent.name, *split_action(performance), serial)] = _reader_of(file)
    if not found:
        raise FileError(
            "no 2D poses were recognised; expected are data_2d_h36m_*.npz (VideoPose3D) or a folder with "
            "S1/StackedHourglass/*.h5 (3d-pose-baseline)",
            path=str(root),
        )
    return Detections(str(root), found)


def _reader_of(file: Path) -> Callable[[], np.ndarray]:
    return lambda: _poses(read_h5(file, "poses")[0], MPII16, str(file))


def _in_npz(path: Path, order: Skeleton | None) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    arrays = read_npz(path)
    if "positions_2d" not in arrays:
        raise FileError(f"has no positions_2d; it has {', '.join(arrays) or 'nothing'}", path=str(path))
    joints = _order(arrays.get("metadata"), order, str(path))
    for subject, actions in mapping(arrays["positions_2d"], f"{path}: positions_2d").items():
        for performance, cameras in mapping(actions, f"{path}: {subject}").items():
            place = f"{path}: {subject} {performance}"
            if not isinstance(cameras, (list, tuple, np.ndarray)) or len(cameras) != len(SERIALS):
                raise FileError(f"2D poses of {len(SERIALS)} cameras were expected", path=place)
            for serial, poses in zip(SERIALS, cameras, strict=True):
                # VideoPose3D's programs leave None where a video has no detections.
                if poses is not None:
                    yield view_name(subject, *split_action(performance), serial), _array_of(poses, joints, place)


def _array_of(poses: Any, joints: Skeleton, place: str) -> Callable[[], np.ndarray]:
    return lambda: _poses(poses, joints, place)


def _order(metadata: Any, given: Skeleton | None, path: str) -> Skeleton:
    """The joint order that the metadata of an npz tell."""
    if metadata is None:
        if given is None:
            names = ", ".join(joints.name for joints in _ORDERS)
            raise FileError(f"has no metadata that tell the order of its joints; name it: {names}", path=path)
        return given
    try:
        found = mapping(metadata, f"{path}: metadata")
        left, right = (sorted(int(k) for k in side) for side in found["keypoints_symmetry"])
        count = int(found["num_joints"])
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"metadata: {type(error).__name__} {error}", path=path) from error
    for joints in (given,) if given is not None else _ORDERS:
        if count == len(joints) and (left, right) == (_side(joints, "L"), _side(joints, "R")):
            return joints
    wanted = f" is not the order of {given.name}" if given is not None else ", an order that is not known"
    raise FileError(f"metadata: {count} joints, {left} on the left and {right} on the right{wanted}", path=path)


def _side(joints: Skeleton, letter: str) -> list[int]:
    return [k for k, name in enumerate(joints.joints) if name.startswith(letter)]


def _poses(values: Any, joints: Skeleton, place: str) -> np.ndarray:
    try:
        poses = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise FileError(f"poses were expected: {error}", path=place) from error
    # Some detectors add a score.
    if poses.ndim != 3 or poses.shape[1] != len(joints) or poses.shape[2] not in (2, 3):
        raise FileError(f"poses of shape {poses.shape}; (frames, {len(joints)}, 2) was expected", path=place)
    return convert(poses[..., :2], joints, H36M16)


def with_detections(views: Iterable[View], detections: Detections, subjects: Iterable[str]) -> Iterator[View]:
    """The views, those of ``subjects`` with what was detected in their frames.

    Detections may run on beyond the motion capture, as VideoPose3D's do.

    Raises:
        FileError: nothing was detected in a view, or in too few frames, or far from where the joints are.

    Warns:
        CaffeCompatWarning: left and right seem exchanged, with the evidence.
    """
    wanted = set(subjects)
    for view in views:
        if view.subject not in wanted or not len(view.numbers):
            yield view
            continue
        if view.name not in detections.of:
            raise FileError(f"has no 2D poses of {view.name}; leave that view out", path=detections.path)
        found = detections.of[view.name]()
        if len(found) < view.numbers[-1]:
            says = f"{view.name}: {len(found)} frames of 2D poses; frame {view.numbers[-1]} has a 3D pose"
            raise FileError(says, path=detections.path)
        points = found[view.numbers - 1]
        if not np.isfinite(points).all():
            raise FileError("2D poses that are not finite", path=detections.path, place=view.name)
        # Left and right exchanged are a warning, below.
        sides = points, swap_sides(points, H36M16)
        off = min(float(np.median(np.linalg.norm(each - view.points16, axis=-1))) for each in sides)
        if off > FAR_PIXELS:
            raise FileError(
                f"2D poses lie {off:.0f} pixels from the projected 3D poses; another camera, unit or joint order?",
                path=detections.path,
                place=view.name,
            )
        for reason in left_right_suspect(points, H36M16, view.points16).reasons:
            warnings.warn(
                f"{detections.path}: {view.name}: left and right may be exchanged: {reason}",
                CaffeCompatWarning,
                stacklevel=2,
            )
        yield replace(view, detected=points)
