"""3D poses for other programs: arrays, JSON, and BVH motions for Blender, Maya and the like; and smoother ones.

Poses are (frames, 16, 3) in mm, in the order of :data:`.skeleton.H36M16`, hip-centred, in a camera's axes: x right, y
down, z away from it. BVH has y up and the front of a body that faces the camera along z, in centimetres.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from caffe_compat.errors import UsageError
from caffe_compat.formats.files import atomic_write

from ..scaling import bone_lengths
from ..skeleton import H36M16

__all__ = ["ENDINGS", "export_poses", "smoothed", "to_bvh"]

ENDINGS = (".npy", ".json", ".bvh")


def export_poses(pose_mm: np.ndarray, path: str | os.PathLike[str], *, fps: float, stage: str) -> None:
    """Write poses as what the ending of ``path`` says.

    ``.npy`` is a float32 array (frames, 16, 3). ``.json`` has joints, parents, unit, axes, ``fps``, ``stage`` and the
    poses as nested lists. A frame without a pose is NaN in the one, null in the other; in ``.bvh``, which knows no such
    thing, it moves evenly from the pose before to the one after.

    Raises:
        UsageError: another ending, no frames or a speed that is none. FileError: it cannot be written.
    """
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise UsageError(f"a name that ends in {', '.join(ENDINGS)} was expected", path=os.fspath(path))
    pose = _checked(pose_mm, fps)
    with atomic_write(path) as handle:
        if ending == ".npy":
            np.save(handle, pose.astype(np.float32), allow_pickle=False)
        elif ending == ".json":
            content = {
                "stage": stage,
                "unit": "mm",
                "axes": "x right, y down, z away from the camera; the hip is the origin",
                "fps": fps,
                "joints": list(H36M16.joints),
                "parents": list(H36M16.parents),
                # Without negative zeros.
                "poses": [None if np.isnan(each).any() else (each.round(3) + 0.0).tolist() for each in pose],
            }
            handle.write((json.dumps(content, allow_nan=False) + "\n").encode())
        else:
            handle.write(to_bvh(_without_gaps(pose), fps).encode())


def _without_gaps(pose: np.ndarray) -> np.ndarray:
    """Poses (frames, 16, 3) with frames that have none filled evenly, by their neighbours."""
    there = np.flatnonzero(np.isfinite(pose).all((1, 2)))
    if len(there) == len(pose):
        return pose
    if not len(there):
        raise UsageError("no frame has a pose")
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


def to_bvh(pose_mm: np.ndarray, fps: float) -> str:
    """A BVH motion.

    Every bone is a node of its own, which lies where the bone begins, so every bone points exactly where it does in the
    poses. Its length is the mean over the frames: BVH knows no other.

    Raises:
        UsageError: no frames, or a speed that is none.
    """
    pose = _checked(pose_mm, fps)
    lengths = bone_lengths(pose).mean(0) / 10
    points = pose * [1, -1, -1]
    channels = [np.zeros((len(pose), 3))]  # the hip stays at the origin
    whole = _facing(points)
    channels.append(_angles(whole))
    lines = ["HIERARCHY", f"ROOT {H36M16.joints[H36M16.root]}", "{", "OFFSET 0 0 0"]
    lines.append("CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation")

    def walk(joint: int, turned: np.ndarray) -> Iterator[str]:
        """The bones that begin in ``joint``, whose parent node is ``turned``."""
        for child, parent in H36M16.bones:
            if parent != joint:
                continue
            along = points[:, child] - points[:, parent]
            local = _turning(_REST[child], np.einsum("tji,tj->ti", turned, along))
            channels.append(_angles(local))
            begin = np.zeros(3) if joint == H36M16.root else _REST[joint] * lengths[joint]
            yield f"JOINT {H36M16.joints[parent]}_{H36M16.joints[child]}"
            yield "{"
            yield f"OFFSET {_numbers(begin)}"
            yield "CHANNELS 3 Zrotation Xrotation Yrotation"
            below = list(walk(child, turned @ local))
            yield from below or ["End Site", "{", f"OFFSET {_numbers(_REST[child] * lengths[child])}", "}"]
            yield "}"

    lines += [*walk(H36M16.root, whole), "}", "MOTION", f"Frames: {len(pose)}", f"Frame Time: {1 / fps:.8f}"]
    depth, indented = 0, []
    for line in lines:
        depth -= line == "}"
        indented.append("\t" * depth + line)
        depth += line == "{"
    rows = np.concatenate(channels, 1)
    return "\n".join([*indented, *(_numbers(row) for row in rows)]) + "\n"


# Where bones point when nothing is turned: a body that stands with its arms stretched out to the sides.
_DIRECTIONS = {"Spine": (0, 1, 0), "Thorax": (0, 1, 0), "Head": (0, 1, 0), "Knee": (0, -1, 0), "Foot": (0, -1, 0)}


def _rest(name: str) -> np.ndarray:
    side = {"L": 1, "R": -1}.get(name[0], 0)
    return np.array(_DIRECTIONS.get(name) or _DIRECTIONS.get(name[1:]) or (side, 0, 0), np.float64)


_REST = [_rest(name) for name in H36M16.joints]


def _facing(points: np.ndarray) -> np.ndarray:
    """(frames, 3, 3): how the hips and the spine turn the body; no turn where they do not tell."""
    across = points[:, H36M16.index("LHip")] - points[:, H36M16.index("RHip")]
    up = points[:, H36M16.index("Spine")] - points[:, H36M16.root]
    front = np.cross(across, up)
    size = np.linalg.norm(across, axis=-1) * np.linalg.norm(up, axis=-1)
    tells = np.linalg.norm(front, axis=-1) > 1e-6 * np.maximum(size, 1e-9)
    x, z = (vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-12) for vector in (across, front))
    turned = np.stack([x, np.cross(z, x), z], -1)
    return np.where(tells[:, None, None], turned, np.eye(3))


def _turning(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(frames, 3, 3): the least turn of the unit vector ``start`` to the direction of ``end`` (frames, 3)."""
    size = np.linalg.norm(end, axis=-1, keepdims=True)
    end = np.where(size > 1e-9, end / np.maximum(size, 1e-9), start)
    cosine = end @ start
    axis = np.cross(start, end)
    cross = np.zeros((len(end), 3, 3))
    cross[:, [2, 0, 1], [1, 2, 0]] = axis
    cross[:, [1, 2, 0], [2, 0, 1]] = -axis
    turn = np.eye(3) + cross + cross @ cross / np.maximum(1 + cosine, 1e-9)[:, None, None]
    # Half a turn has no least axis: any across will do.
    across = np.cross(start, np.roll(np.abs(start), 1))
    half = 2 * np.outer(across, across) - np.eye(3)
    return np.where((cosine < -1 + 1e-9)[:, None, None], half, turn)


def _angles(turn: np.ndarray) -> np.ndarray:
    """(frames, 3) degrees about z, x and y whose turns, in this order, multiply to ``turn`` (frames, 3, 3)."""
    z = np.arctan2(-turn[:, 0, 1], turn[:, 1, 1])
    x = np.arcsin(np.clip(turn[:, 2, 1], -1, 1))
    y = np.arctan2(-turn[:, 2, 0], turn[:, 2, 2])
    return np.degrees(np.stack([z, x, y], 1))


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value + 0.0:.6f}" for value in values)


def _checked(pose_mm: np.ndarray, fps: float) -> np.ndarray:
    pose = np.asarray(pose_mm, np.float64)
    if pose.ndim != 3 or pose.shape[1:] != (len(H36M16), 3) or not len(pose):
        raise UsageError(f"poses of shape (frames, {len(H36M16)}, 3) were expected, found {pose.shape}")
    if not (math.isfinite(fps) and fps > 0):
        raise UsageError(f"{fps} frames per second; a number above 0 was expected")
    return pose
