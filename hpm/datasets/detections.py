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
from ..files.videopose3d import joint_order, mapping, poses_array
from ..skeleton import H36M16, MPII16, Skeleton, convert, left_right_suspect, swap_sides
from .human36m import FAR_PIXELS, SERIALS, read_h5
from .views import View, split_action, view_name

__all__ = ["Detections", "read_detections", "with_detections"]


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
    joints = joint_order(arrays.get("metadata"), order, str(path))
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


def _poses(values: Any, joints: Skeleton, place: str) -> np.ndarray:
    # Some detectors add a score.
    return convert(poses_array(values, joints, place)[..., :2], joints, H36M16)


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
