"""A small scene to show: a body that turns and lifts its left arm, seen by a camera."""

from __future__ import annotations

import numpy as np

from hpm.skeleton import H36M16
from hpm.visualize import Scene

FRAMES = 7

# Millimetres from the hip of a body that faces the camera: its left is on the picture's right.
_STANDING = {
    "Hip": (0, 0),
    "RHip": (-134, 0),
    "RKnee": (-140, 440),
    "RFoot": (-150, 890),
    "LHip": (134, 0),
    "LKnee": (150, 440),
    "LFoot": (160, 890),
    "Spine": (0, -238),
    "Thorax": (0, -490),
    "Head": (0, -720),
    "LShoulder": (150, -470),
    "LElbow": (300, -250),
    "LWrist": (420, -40),
    "RShoulder": (-150, -470),
    "RElbow": (-260, -220),
    "RWrist": (-300, 20),
}


def truth() -> np.ndarray:
    """(FRAMES, 16, 3), mm, the hip at the origin."""
    standing = np.array([(*_STANDING[name], 20.0 * k) for k, name in enumerate(H36M16.joints)])
    poses = np.repeat(standing[None] - standing[0], FRAMES, 0)
    for frame, pose in enumerate(poses):
        pose[H36M16.index("LWrist")] += (0, -90 * frame, 0)
        angle = 0.08 * frame
        pose[:, [0, 2]] = pose[:, [0, 2]] @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return poses


def estimate(size: float, seed: int) -> np.ndarray:
    """The truth, off by ``size`` mm per coordinate."""
    return truth() + np.random.default_rng(seed).normal(0, size, truth().shape)


def reaching() -> np.ndarray:
    """(1, 16, 3), mm: every joint at the hip but the left wrist, which is a metre nearer to the camera."""
    pose = np.zeros((1, 16, 3))
    pose[0, H36M16.index("LWrist"), 2] = -1000
    return pose


def pose2d(width: int, height: int) -> np.ndarray:
    """(FRAMES, 16, 2), pixels of a picture of that size."""
    return truth()[..., :2] * 0.45 * min(width, height) / 1000 + (width / 2, height / 2)


def pictures(width: int, height: int) -> np.ndarray:
    """(FRAMES, height, width, 3): BGR, pure blue but for a green band that moves down."""
    result = np.zeros((FRAMES, height, width, 3), np.uint8)
    result[..., 0] = 255
    for frame, picture in enumerate(result):
        picture[10 * frame : 10 * frame + 10] = (0, 255, 0)
    return result


def scene(width: int = 160, height: int = 120) -> Scene:
    """Everything that a scene can have."""
    return Scene(
        pictures=pictures(width, height),
        pose2d_pixels=pose2d(width, height),
        truth=truth(),
        coarse=estimate(40, 1),
        refined=estimate(20, 2),
        names=[f"walk/{k:04d}.jpg" for k in range(FRAMES)],
    )
