"""BVH motions for animation programs: y up, the front of a body that faces the camera along z, in centimetres."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from ..scaling import bone_lengths
from ..skeleton import H36M16

__all__ = ["BVH_NAMES", "BvhNames", "to_bvh"]

BvhNames = Literal["bones", "conventional"]
BVH_NAMES: tuple[BvhNames, ...] = ("bones", "conventional")


def to_bvh(pose_mm: np.ndarray, fps: float, names: BvhNames = "bones") -> str:
    """A BVH motion.

    Every bone is a node of its own, which lies where the bone begins, so every bone points exactly where it does in the
    poses. Its length is the mean over the frames: BVH knows no other.

    Args:
        pose_mm: (frames, 16, 3), finite, as :mod:`.exports` describes it.
        names: ``bones``: a node is called after its bone, ``LHip_LKnee``; ``conventional``: as animation programs call
            it, ``LeftUpLeg``. The root is ``Hip`` or ``Hips``.
    """
    pose = pose_mm
    lengths = bone_lengths(pose).mean(0) / 10
    points = pose * [1, -1, -1]
    channels = [np.zeros((len(pose), 3))]  # the hip stays at the origin
    whole = _facing(points)
    channels.append(_angles(whole))
    lines = [
        "HIERARCHY",
        f"ROOT {'Hips' if names == 'conventional' else H36M16.joints[H36M16.root]}",
        "{",
        "OFFSET 0 0 0",
    ]
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
            bone = f"{H36M16.joints[parent]}_{H36M16.joints[child]}"
            yield f"JOINT {_conventional(child) if names == 'conventional' else bone}"
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


# The bone that ends in a joint, as animation programs call it: those of CMU's motions and of Mixamo.
_CONVENTIONAL = {"Spine": "Spine", "Thorax": "Spine1", "Head": "Neck"}
_CONVENTIONAL_SIDES = {
    "Hip": "Hip",
    "Knee": "UpLeg",
    "Foot": "Leg",
    "Shoulder": "Shoulder",
    "Elbow": "Arm",
    "Wrist": "ForeArm",
}


def _conventional(child: int) -> str:
    name = H36M16.joints[child]
    if name in _CONVENTIONAL:
        return _CONVENTIONAL[name]
    return ("Left" if name[0] == "L" else "Right") + _CONVENTIONAL_SIDES[name[1:]]


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
