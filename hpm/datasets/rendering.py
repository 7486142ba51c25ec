"""Pictures of made-up bodies: coloured capsules before a blurred background, with noise."""

from __future__ import annotations

import colorsys
from types import ModuleType

import numpy as np

from caffe_compat.extras import require

from ..skeleton import H36M17

__all__ = ["background", "palette", "render"]

# Drawn capsules: the joint at the far end of each bone, its radius in mm, and its hue. Left limbs are warm, right cold.
_LIMBS: tuple[tuple[str, float, float], ...] = (
    ("Spine", 110, 0.33),
    ("Thorax", 120, 0.36),
    ("Nose", 55, 0.30),
    ("Head", 85, 0.28),
    ("LHip", 80, 0.12),
    ("LKnee", 75, 0.09),
    ("LFoot", 55, 0.03),
    ("LShoulder", 60, 0.13),
    ("LElbow", 48, 0.97),
    ("LWrist", 40, 0.90),
    ("RHip", 80, 0.48),
    ("RKnee", 75, 0.53),
    ("RFoot", 55, 0.60),
    ("RShoulder", 60, 0.50),
    ("RElbow", 48, 0.67),
    ("RWrist", 40, 0.75),
)
# Drawn at twice the size and shrunk, which smooths edges; OpenCV places points in fractions of 1/16 pixel.
_OVERSAMPLING, _SHIFT = 2, 4


def _opencv() -> ModuleType:
    return require("cv2", "images")


def palette(rng: np.random.Generator) -> np.ndarray:
    """A subject's colours, (limbs, 3) BGR: hues within a narrow band of each limb's own."""
    colours = []
    for _, _, hue in _LIMBS:
        r, g, b = colorsys.hsv_to_rgb(
            (hue + rng.uniform(-0.015, 0.015)) % 1.0, rng.uniform(0.75, 1.0), rng.uniform(0.75, 1.0)
        )
        colours.append((255 * b, 255 * g, 255 * r))
    return np.array(colours)


def background(size: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size, 3) uint8: a few dull blots."""
    cv2 = _opencv()
    grey = rng.uniform(40, 200, (4, 4, 1)) + rng.uniform(-25, 25, (4, 4, 3))
    smooth = cv2.resize(grey.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth, 0, 255).astype(np.uint8)


def render(
    points: np.ndarray,
    depth: np.ndarray,
    per_mm: float,
    colours: np.ndarray,
    behind: np.ndarray,
    rng: np.random.Generator,
    noise: float = 6.0,
) -> np.ndarray:
    """One picture, (size, size, 3) uint8 BGR.

    Args:
        points: (17, 2), fractions of the picture's side. depth: (17,) mm, greater is further away.
        per_mm: fractions of the side in a millimetre.
        colours: of :func:`palette`. behind: of :func:`background`.
        noise: standard deviation of what is added to every value.
    """
    cv2 = _opencv()
    size = behind.shape[0]
    big = size * _OVERSAMPLING
    canvas = cv2.resize(behind, (big, big), interpolation=cv2.INTER_LINEAR)
    places = np.rint((points * big - 0.5) * 2**_SHIFT).astype(int)
    bones = [(k, H36M17.parents[k]) for k in (H36M17.index(name) for name, _, _ in _LIMBS)]
    middle = np.array([(depth[child] + depth[parent]) / 2 for child, parent in bones])
    # What is nearer is lighter, by an eighth for half a metre.
    light = np.clip(1 - (middle - middle.mean()) / 4000, 0.75, 1.25)
    for i in np.argsort(-middle, kind="stable"):
        child, parent = bones[i]
        colour = tuple(float(c) for c in np.clip(colours[i] * light[i], 0, 255))
        width = max(1, round(2 * _LIMBS[i][1] * per_mm * big))
        ends = (places[child].tolist(), places[parent].tolist())
        cv2.line(canvas, ends[0], ends[1], colour, width, cv2.LINE_8, _SHIFT)
    small = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    noisy = small + rng.normal(0.0, noise, small.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
