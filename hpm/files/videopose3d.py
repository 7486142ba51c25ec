"""VideoPose3D's npz files of 2D poses: what their metadata tell, and those of one's own videos."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from caffe_compat.errors import FileError

from ..joint_orders import COCO17, H36M16, H36M17, H36M32, MPII16, Skeleton
from .npz import read_npz

__all__ = ["joint_order", "mapping", "poses_array", "read_custom"]

_ORDERS = (H36M17, COCO17, MPII16, H36M16, H36M32)


def mapping(value: Any, what: str) -> Mapping[str, Any]:
    """``value``, a dictionary by names, as npz files hold it. Raises FileError for anything else."""
    if isinstance(value, np.ndarray) and value.shape == () and value.dtype == object:
        value = value.item()
    if not isinstance(value, Mapping):
        raise FileError(f"a dictionary was expected, found {type(value).__name__}", path=what)
    if odd := [key for key in value if not isinstance(key, str)]:
        raise FileError(f"names were expected, found {odd[0]!r}", path=what)
    return value


def joint_order(metadata: Any, given: Skeleton | None, path: str) -> Skeleton:
    """The joint order that the metadata of an npz tell. Raises FileError if they tell none, or not the one given."""
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


def poses_array(values: Any, joints: Skeleton, place: str) -> np.ndarray:
    """(frames, joints, 2 or 3): x, y and, as some detectors add it, a score. Raises FileError."""
    try:
        poses = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise FileError(f"poses were expected: {error}", path=place) from error
    if poses.ndim != 3 or poses.shape[1] != len(joints) or poses.shape[2] not in (2, 3):
        raise FileError(f"poses of shape {poses.shape}; (frames, {len(joints)}, 2) was expected", path=place)
    return poses


def read_custom(
    path: str | os.PathLike[str], joints: Skeleton | None = None, video: str | None = None
) -> tuple[np.ndarray, Skeleton]:
    """The poses (frames, joints, 2) of a video in ``data_2d_custom_*.npz``, pixels, and the order of their joints.

    ``positions_2d`` is a dictionary by the videos' names, of a dictionary with ``custom``, of a list with one array;
    see VideoPose3D's ``data/prepare_data_2d_custom.py``, which has filled the gaps of the detector already.

    Args:
        joints: their order, for a file without metadata. video: which, of several.

    Raises:
        FileError: another file, several videos of which none has that name, or an order that is not known.
    """
    name, arrays = os.fspath(path), read_npz(path)
    if "positions_2d" not in arrays:
        raise FileError(f"has no positions_2d; it has {', '.join(arrays) or 'nothing'}", path=name)
    order = joint_order(arrays.get("metadata"), joints, name)
    videos = mapping(arrays["positions_2d"], f"{name}: positions_2d")
    if len(videos) != 1 and video not in videos:
        raise FileError(f"has the 2D poses of {', '.join(videos) or 'no video'}, and none of {video}", path=name)
    key = video if video is not None and video in videos else next(iter(videos))
    takes = mapping(videos[key], f"{name}: {key}")
    if (
        list(takes) != ["custom"]
        or not isinstance(takes["custom"], (list, tuple, np.ndarray))
        or not len(takes["custom"])
    ):
        raise FileError(
            "a dictionary with a list called custom was expected; that of Human3.6M goes to 'hpm prepare h36m'",
            path=f"{name}: {key}",
        )
    return poses_array(takes["custom"][0], order, f"{name}: {key}")[..., :2], order
