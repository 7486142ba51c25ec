"""Made-up bodies: joint angles over time for a few kinds of motion, and the poses they give.

The world is right-handed, in millimetres, with z up. A body with yaw 0 faces x; its left is y.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from ..skeleton import H36M16, H36M17, convert

__all__ = ["ACTIONS", "MEAN_LENGTHS", "MEAN_LIMBS", "ground_shift", "motion", "pose"]

Angles = Mapping[str, np.ndarray]

# Hips and spine: what the bounds of the original's refinement reach. The others: the skeleton of Human3.6M that
# motion-prediction code publishes as its offsets; 257.08 agrees with the 255 that the bounds leave for the upper spine.
MEAN_LIMBS: Mapping[str, float] = MappingProxyType(
    {
        "Hip": 134.05,
        "Knee": 442.89,
        "Foot": 454.21,
        "Spine": 238.46,
        "Thorax": 257.08,
        "Nose": 121.13,
        "Head": 115.00,
        "Shoulder": 151.03,
        "Elbow": 278.88,
        "Wrist": 251.73,
    }
)
"""Mean length of the bone that ends in each joint, mm; left and right alike."""

# Degrees of freedom, radians. Of the trunk, then of each side (prefix L or R).
_TRUNK = ("yaw", "pitch", "roll", "bend", "lean", "twist", "nod", "turn")
_SIDE = ("thigh_forward", "thigh_out", "knee", "arm_forward", "arm_out", "elbow", "elbow_in")
_NAMES = (*_TRUNK, *(side + name for side in "LR" for name in _SIDE))


def pose(angles: Angles, limbs: Mapping[str, float] = MEAN_LIMBS) -> np.ndarray:
    """Joints (frames, 17, 3) in the order of H36M17, mm, the hip at the origin.

    Args:
        angles: (frames,) radians by name, all of what :func:`motion` gives.
        limbs: bone lengths by joint, with or without a side ("LKnee" before "Knee").
    """

    def length(joint: str) -> float:
        return limbs[joint] if joint in limbs else limbs[joint[1:]]

    a = angles
    pelvis = _rotation(a["yaw"], a["pitch"], a["roll"])
    back = pelvis @ _rotation(a["twist"] / 2, a["bend"] / 2, a["lean"] / 2)
    chest = pelvis @ _rotation(a["twist"], a["bend"], a["lean"])
    head = chest @ _rotation(a["turn"], a["nod"], np.zeros_like(a["nod"]))
    count = len(a["yaw"])
    joints = np.zeros((count, len(H36M17), 3))

    def put(joint: str, frame: np.ndarray, direction: np.ndarray) -> None:
        k = H36M17.index(joint)
        joints[:, k] = joints[:, H36M17.parents[k]] + length(joint) * (frame @ direction[..., None])[..., 0]

    up = np.broadcast_to([0.0, 0.0, 1.0], (count, 3))
    put("Spine", back, up)
    put("Thorax", chest, up)
    put("Nose", head, np.broadcast_to([np.sin(0.4), 0.0, np.cos(0.4)], (count, 3)))
    put("Head", head, np.broadcast_to([-np.sin(0.1), 0.0, np.cos(0.1)], (count, 3)))
    for side, sign in (("L", 1.0), ("R", -1.0)):
        outward = np.broadcast_to([0.0, sign, 0.0], (count, 3))
        forward, out = a[side + "thigh_forward"], a[side + "thigh_out"]
        put(side + "Hip", pelvis, outward)
        put(side + "Knee", pelvis, _hanging(forward, sign * out))
        put(side + "Foot", pelvis, _hanging(forward - a[side + "knee"], sign * out))
        forward, out = a[side + "arm_forward"], a[side + "arm_out"]
        put(side + "Shoulder", chest, outward)
        put(side + "Elbow", chest, _hanging(forward, sign * out))
        put(side + "Wrist", chest, _hanging(forward + a[side + "elbow"], sign * (out - a[side + "elbow_in"])))
    return joints


def ground_shift(joints: np.ndarray) -> np.ndarray:
    """How far up each frame (frames, 17, 3) must move for its lowest joint to be 80 mm above the ground, (frames,)."""
    return 80.0 - joints[..., 2].min(-1)


def _rotation(yaw: np.ndarray, pitch: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """(frames, 3, 3): roll about x, then pitch about y (positive bends forward), then yaw about z."""
    cz, sz, cy, sy, cx, sx = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    rows = (
        (cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx),
        (sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx),
        (-sy, cy * sx, cy * cx),
    )
    return np.stack([np.stack(row, -1) for row in rows], -2)


def _hanging(forward: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Unit vectors (frames, 3): straight down, swung forward, then out to the left."""
    return np.stack([np.sin(forward) * np.cos(left), np.sin(left), -np.cos(forward) * np.cos(left)], -1)


def _mean_lengths() -> np.ndarray:
    still = {name: np.zeros(1) for name in _NAMES}
    joints = convert(pose(still), H36M17, H36M16)[0]
    return np.asarray(np.linalg.norm(joints - joints[list(H36M16.parents)], axis=-1))


MEAN_LENGTHS = _mean_lengths()
"""Bone lengths (16,) of the mean body in mm, in the order of H36M16, where the head hangs on the thorax."""


# Motions


def motion(action: str, seconds: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Joint angles of one performance of ``action``, (frames,) each, at the times ``seconds`` (frames,).

    Half of the performances are mirrored; all sway a little in every angle.
    """
    angles = {name: np.zeros_like(seconds) for name in _NAMES}
    angles["yaw"] += rng.uniform(-np.pi, np.pi) + _drift(rng, seconds, 0.5)
    for side in "LR":
        angles[side + "thigh_out"] += rng.uniform(0.02, 0.12)
        angles[side + "arm_forward"] += rng.uniform(-0.1, 0.3)
        angles[side + "arm_out"] += rng.uniform(0.05, 0.3)
        angles[side + "elbow"] += rng.uniform(0.1, 0.7)
        angles[side + "knee"] += rng.uniform(0.02, 0.15)
    for name, values in ACTIONS[action](seconds, rng).items():
        angles[name] = angles[name] + values if name == "yaw" else values
    if rng.random() < 0.5:
        angles = _mirrored(angles)
    for name in _NAMES:
        swing = 0.12 if "arm" in name or "elbow" in name else 0.05
        angles[name] = angles[name] + _drift(rng, seconds, swing)
        # Knees and elbows bend one way only.
        if name[1:] in ("knee", "elbow"):
            angles[name] = np.clip(angles[name], 0.0, 2.6)
    return angles


def _drift(rng: np.random.Generator, seconds: np.ndarray, size: float) -> np.ndarray:
    """A smooth curve about zero with a standard deviation of about ``size``."""
    rates, phases = rng.uniform(0.05, 0.6, 3), rng.uniform(0, 2 * np.pi, 3)
    curves = np.sin(2 * np.pi * rates[:, None] * seconds + phases[:, None])
    return size * np.sqrt(2 / 3) * np.asarray(curves.sum(0))


def _mirrored(angles: Angles) -> dict[str, np.ndarray]:
    sides = {"L": "R", "R": "L"}
    result = {name if name in _TRUNK else sides[name[0]] + name[1:]: values for name, values in angles.items()}
    return result | {name: -result[name] for name in ("yaw", "roll", "lean", "twist", "turn")}


def _walking(t: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Round a circle, arms against legs."""
    stride, swing, elbow = rng.uniform(0.35, 0.6), rng.uniform(0.3, 0.7), rng.uniform(0.2, 0.9)
    left = 2 * np.pi * rng.uniform(0.75, 1.15) * t + rng.uniform(0, 2 * np.pi)
    angles = {
        "yaw": rng.uniform(0.3, 0.8) * t,
        "bend": np.full_like(t, rng.uniform(0.0, 0.15)),
        "twist": 0.12 * np.sin(left),
    }
    for side, phase in (("L", left), ("R", left + np.pi)):
        angles[side + "thigh_forward"] = 0.08 + stride * np.sin(phase)
        # The knee bends most while the leg swings forward.
        angles[side + "knee"] = 0.12 + 1.6 * stride * np.clip(np.cos(phase), 0, None) ** 1.5
        angles[side + "arm_forward"] = 0.05 - swing * np.sin(phase)
        angles[side + "elbow"] = elbow * (1 - 0.5 * np.sin(phase))
    return angles


def _greeting(t: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One arm waves, or both."""
    beat = np.sin(2 * np.pi * rng.uniform(0.8, 1.6) * t + rng.uniform(0, 2 * np.pi))
    raise_, out = rng.uniform(1.2, 2.2), rng.uniform(0.1, 0.7)
    angles = {
        "Larm_forward": np.full_like(t, raise_),
        "Larm_out": out + 0.15 * beat,
        "Lelbow": rng.uniform(0.5, 1.3) + 0.45 * beat,
        "Lelbow_in": 0.5 * beat,
        "lean": np.full_like(t, rng.uniform(-0.1, 0.1)),
    }
    if rng.random() < 0.4:
        angles |= {"R" + name[1:]: values for name, values in angles.items() if name[0] == "L"}
    return angles


def _sitting(t: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """On a chair, hands before the belly."""
    angles = {
        "bend": rng.uniform(-0.05, 0.35) + _drift(rng, t, 0.08),
        "nod": rng.uniform(-0.1, 0.3) + _drift(rng, t, 0.1),
    }
    for side in "LR":
        thigh = rng.uniform(1.3, 1.6)
        angles[side + "thigh_forward"] = np.full_like(t, thigh)
        angles[side + "thigh_out"] = np.full_like(t, rng.uniform(0.05, 0.35))
        angles[side + "knee"] = thigh + rng.uniform(-0.3, 0.35) + _drift(rng, t, 0.05)
        angles[side + "arm_forward"] = rng.uniform(0.2, 0.7) + _drift(rng, t, 0.2)
        angles[side + "elbow"] = rng.uniform(0.6, 1.4) + _drift(rng, t, 0.35)
        angles[side + "elbow_in"] = rng.uniform(0.1, 0.6) + _drift(rng, t, 0.1)
    return angles


def _sitting_down(t: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Knees bend until the body squats, and up again; arms forward for balance."""
    depth, lift = rng.uniform(0.8, 1.0), rng.uniform(0.6, 1.5)
    low = depth * (0.5 - 0.5 * np.cos(2 * np.pi * rng.uniform(0.25, 0.5) * t + rng.uniform(0, 2 * np.pi)))
    angles = {"pitch": 0.45 * low, "bend": 0.3 * low}
    for side in "LR":
        # Feet stay below the hips: pelvis and thighs turn against the shins.
        angles[side + "thigh_forward"] = 2.0 * low
        angles[side + "knee"] = 0.05 + 2.2 * low
        angles[side + "thigh_out"] = 0.08 + 0.25 * low
        angles[side + "arm_forward"] = 0.1 + (lift + 0.4) * low
        angles[side + "elbow"] = np.full_like(t, rng.uniform(0.05, 0.3))
    return angles


def _discussing(t: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Arms thrust forward in turn, feet apart."""
    phase = 2 * np.pi * rng.uniform(0.7, 1.3) * t + rng.uniform(0, 2 * np.pi)
    stance = rng.uniform(0.15, 0.4)
    angles = {
        "twist": 0.3 * np.sin(phase),
        "bend": np.full_like(t, rng.uniform(0.1, 0.3)),
        "Lthigh_forward": np.full_like(t, stance),
        "Rthigh_forward": np.full_like(t, -stance),
        "Lknee": np.full_like(t, rng.uniform(0.2, 0.5)),
        "Rknee": np.full_like(t, rng.uniform(0.2, 0.5)),
    }
    for side, sign in (("L", 1), ("R", -1)):
        out = np.clip(sign * np.sin(phase), 0, 1) ** 1.5
        angles[side + "arm_forward"] = 0.5 + 0.95 * out
        angles[side + "elbow"] = 2.0 - 1.9 * out
        angles[side + "elbow_in"] = 0.3 * (1 - out)
        angles[side + "arm_out"] = 0.3 - 0.15 * out
    return angles


def _directing(t: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Arms point here and there, the trunk follows."""
    angles = {
        "turn": _drift(rng, t, 0.4),
        "twist": _drift(rng, t, 0.3),
        "bend": np.clip(_drift(rng, t, 0.35), -0.1, 0.9),
    }
    for side in "LR":
        angles[side + "arm_forward"] = rng.uniform(0.4, 1.8) + _drift(rng, t, 0.6)
        angles[side + "arm_out"] = rng.uniform(0.1, 1.0) + _drift(rng, t, 0.3)
        angles[side + "elbow"] = 0.4 + np.abs(_drift(rng, t, 0.5))
    return angles


ACTIONS: Mapping[str, Callable[[np.ndarray, np.random.Generator], dict[str, np.ndarray]]] = MappingProxyType(
    {
        "Walking": _walking,
        "Greeting": _greeting,
        "Sitting": _sitting,
        "SittingDown": _sitting_down,
        "Discussion": _discussing,
        "Directions": _directing,
    }
)
"""Kinds of motion, named after the actions of Human3.6M that they come nearest to. Each gives the angles in which it
differs from standing (and adds its yaw)."""
