"""3D poses for other programs: arrays, tables, JSON, BVH and glTF motions; and smoother ones.

Poses are (frames, 16, 3) in mm, in the order of :data:`.skeleton.H36M16`, hip-centred, in a camera's axes: x right, y
down, z away from it; NaN throughout a frame that has none. What is written has all their digits.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caffe_compat.errors import UsageError
from caffe_compat.formats.files import atomic_write

from ..skeleton import H36M16
from .gltf import to_glb
from .motions import BvhNames, to_bvh

__all__ = ["ENDINGS", "Motion", "export_poses", "smoothed"]

ENDINGS = (".npy", ".npz", ".csv", ".json", ".bvh", ".glb")

_AXES = "x right, y down, z away from the camera; the hip is the origin"


@dataclass(frozen=True)
class Motion:
    """What is to be told of poses beside the poses."""

    fps: float
    stage: str
    """``coarse`` or ``refined``."""
    name: str = "poses"
    """Of the footage."""
    rests_on: Sequence[str] | None = None
    """What each frame rests on: see :mod:`hpm.bridging`; None if nobody knows."""
    bvh_names: BvhNames = "bones"


def export_poses(pose_mm: np.ndarray, path: str | os.PathLike[str], motion: Motion) -> None:
    """Write poses as what the ending of ``path`` says.

    ``.npy``: float64 (frames, 16, 3), mm, NaN where there is no pose. ``.npz``: VideoPose3D's layout: ``positions_3d``,
    a dictionary with ``name`` of a dictionary with ``custom`` of an array in metres, and ``metadata``. ``.csv``: a line
    a frame, its number, what it rests on and 48 values in mm, empty where there is no pose. ``.json``: joints, parents,
    unit, axes, ``fps``, ``stage``, ``rests_on`` and the poses as nested lists, null where there is none.

    ``.bvh`` (see :mod:`.motions`) and ``.glb`` (:mod:`.gltf`) are motions: where there is no pose they move evenly from
    the one before to the one after.

    Raises:
        UsageError: another ending, no frames, no pose in any, joints a kilometre away, or a speed that is none.
        FileError: it cannot be written.
    """
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise UsageError(f"a name that ends in {', '.join(ENDINGS)} was expected", path=os.fspath(path))
    pose = _checked(pose_mm, motion)
    with atomic_write(path) as handle:
        if ending == ".npy":
            np.save(handle, pose, allow_pickle=False)
        elif ending == ".npz":
            positions, metadata = _videopose3d(pose, motion)
            np.savez_compressed(handle, positions_3d=np.array(positions), metadata=np.array(metadata))
        elif ending == ".glb":
            there = np.isfinite(pose).all((1, 2))
            handle.write(to_glb(pose[there], np.flatnonzero(there) / motion.fps))
        else:
            text = {".csv": _csv, ".json": _json, ".bvh": _bvh}[ending]
            handle.write(text(pose, motion).encode())


def _videopose3d(pose: np.ndarray, motion: Motion) -> tuple[dict[str, object], dict[str, object]]:
    swaps = H36M16.swaps
    sides = [[k for k, name in enumerate(H36M16.joints) if swaps[k] != k and name[0] == side] for side in "LR"]
    metadata: dict[str, object] = {
        "layout_name": "h36m16",
        "num_joints": len(H36M16),
        "keypoints_symmetry": sides,
        "joints": list(H36M16.joints),
        "parents": list(H36M16.parents),
        "fps": motion.fps,
        "stage": motion.stage,
        "rests_on": None if motion.rests_on is None else list(map(str, motion.rests_on)),
    }
    return {motion.name: {"custom": pose / 1000}}, metadata


def _csv(pose: np.ndarray, motion: Motion) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["frame", "rests_on", *(f"{joint}_{axis}" for joint in H36M16.joints for axis in "xyz")])
    for number, each in enumerate(pose):
        values = [""] * each.size if np.isnan(each).any() else [repr(value) for value in each.ravel().tolist()]
        table.writerow([number, "" if motion.rests_on is None else motion.rests_on[number], *values])
    return text.getvalue()


def _json(pose: np.ndarray, motion: Motion) -> str:
    content = {
        "stage": motion.stage,
        "unit": "mm",
        "axes": _AXES,
        "fps": motion.fps,
        "joints": list(H36M16.joints),
        "parents": list(H36M16.parents),
        "rests_on": None if motion.rests_on is None else list(map(str, motion.rests_on)),
        # Without negative zeros.
        "poses": [None if np.isnan(each).any() else (each + 0.0).tolist() for each in pose],
    }
    return json.dumps(content, allow_nan=False) + "\n"


def _bvh(pose: np.ndarray, motion: Motion) -> str:
    return to_bvh(_without_gaps(pose), motion.fps, motion.bvh_names)


def _without_gaps(pose: np.ndarray) -> np.ndarray:
    """Poses (frames, 16, 3) with frames that have none filled evenly, by their neighbours."""
    there = np.flatnonzero(np.isfinite(pose).all((1, 2)))
    if len(there) == len(pose):
        return pose
    flat, frames = pose.reshape(len(pose), -1), np.arange(len(pose))
    return np.stack([np.interp(frames, there, flat[there, k]) for k in range(flat.shape[1])], 1).reshape(pose.shape)


def smoothed(pose: np.ndarray, frames: float) -> np.ndarray:
    """Poses (n, ...) averaged over time with Gaussian weights of standard deviation ``frames``; 0 changes nothing.

    Frames without a pose, which are NaN, stay so, and weigh nothing in the others.

    Raises:
        UsageError: a negative number of frames.
    """
    if not (math.isfinite(frames) and frames >= 0):
        raise UsageError(f"smoothing over {frames} frames; 0 or more was expected")
    given = np.asarray(pose, np.float64)
    there = np.asarray(np.isfinite(given).reshape(len(given), -1).all(1))
    points = np.where(there.reshape(-1, *[1] * (given.ndim - 1)), given, 0.0)
    reach = min(math.ceil(3 * frames), len(points) - 1)
    total, weights = np.zeros_like(points), np.zeros(len(points))
    for offset in range(-reach, reach + 1):
        weight = 1.0 if offset == 0 else math.exp(-0.5 * (offset / frames) ** 2)
        # At the ends the weights of the frames that are there count.
        to = slice(max(0, -offset), len(points) - max(0, offset))
        of = slice(max(0, offset), len(points) + min(0, offset))
        total[to] += weight * points[of]
        weights[to] += weight * there[of]
    result = total / np.maximum(weights, 1e-12).reshape(-1, *[1] * (points.ndim - 1))
    result[~there] = np.nan
    return result


def _checked(pose_mm: np.ndarray, motion: Motion) -> np.ndarray:
    pose = np.asarray(pose_mm, np.float64)
    if pose.ndim != 3 or pose.shape[1:] != (len(H36M16), 3) or not len(pose):
        raise UsageError(f"poses of shape (frames, {len(H36M16)}, 3) were expected, found {pose.shape}")
    if not np.isfinite(pose).all((1, 2)).any():
        raise UsageError("no frame has a pose")
    # A kilometre: what lies farther out is no pose, and motions are written in single precision.
    if (farthest := float(np.nanmax(np.abs(pose)))) > 1e6:
        raise UsageError(f"a joint {farthest:g} mm from the hip; are these millimetres?")
    if motion.rests_on is not None and len(motion.rests_on) != len(pose):
        raise UsageError(f"{len(motion.rests_on)} frames rest on something; there are {len(pose)}")
    if not (math.isfinite(motion.fps) and motion.fps > 0):
        raise UsageError(f"{motion.fps} frames per second; a number above 0 was expected")
    return pose
