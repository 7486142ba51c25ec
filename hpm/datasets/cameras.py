"""Cameras and square crops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Camera", "Crop", "look_at", "square_crops"]


@dataclass(frozen=True, eq=False)
class Camera:
    """A camera as Human3.6M describes it: x right, y down, z forward.

    Attributes:
        rotation: (3, 3), world to camera. position: (3,), in the world, mm.
        focal, centre: (2,), pixels. radial: (3,), tangential: (2,), distortion as Human3.6M defines it.
    """

    rotation: np.ndarray
    position: np.ndarray
    focal: np.ndarray
    centre: np.ndarray
    radial: np.ndarray
    tangential: np.ndarray

    def to_camera(self, world: np.ndarray) -> np.ndarray:
        """World coordinates (..., 3) in mm, in the camera's coordinates."""
        return (world - self.position) @ self.rotation.T

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) in the camera's coordinates to pixels (..., 2)."""
        flat = points[..., :2] / points[..., 2:]
        r2 = (flat**2).sum(-1, keepdims=True)
        gain = 1 + self.radial[0] * r2 + self.radial[1] * r2**2 + self.radial[2] * r2**3
        skew = (flat * self.tangential[::-1]).sum(-1, keepdims=True)
        # Human3.6M's own formula; OpenCV's has twice the skew.
        bent = flat * (gain + skew) + r2 * self.tangential[::-1]
        return bent * self.focal + self.centre


def look_at(position: np.ndarray, target: np.ndarray, focal: float, side: float) -> Camera:
    """A camera without distortion at ``position`` that sees ``target`` (world, mm), amid a square picture."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return Camera(rotation, position, np.full(2, focal), np.full(2, side / 2), np.zeros(3), np.zeros(2))


@dataclass(frozen=True, eq=False)
class Crop:
    """Square crops, one a frame: top left ``corner`` (frames, 2) and ``side`` (frames,), pixels."""

    corner: np.ndarray
    side: np.ndarray

    def whole(self) -> Crop:
        """The same crops on whole pixels, at least two wide."""
        side = np.maximum(np.rint(self.side), 2)
        return Crop(np.rint(self.corner + (self.side - side)[:, None] / 2), side)

    def fractions(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels (frames, joints, 2) as fractions of the crop's side."""
        return (pixels - self.corner[:, None]) / self.side[:, None, None]

    def pixels(self, fractions: np.ndarray) -> np.ndarray:
        """Fractions of the crop's side (frames, joints, 2) as pixels of the picture."""
        return np.asarray(self.corner[:, None] + fractions * self.side[:, None, None])


def square_crops(pixels: np.ndarray, margin: float = 0.125) -> Crop:
    """The square about each frame's joints (frames, joints, 2): their bounding box's centre, its longer side, and
    ``margin`` of that side added all round."""
    low, high = pixels.min(1), pixels.max(1)
    side = (high - low).max(-1) * (1 + 2 * margin)
    return Crop((low + high) / 2 - side[:, None] / 2, side)
