"""Pieces of pictures as networks take them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caffe_compat.extras import require

__all__ = ["Patch"]


@dataclass(frozen=True)
class Patch:
    """A rectangle of a picture, which may lie aslant and reach beyond the picture."""

    centre: tuple[float, float]
    """x and y, pixels."""
    size: tuple[float, float]
    """Width and height, pixels, along its own axes."""
    angle: float = 0.0
    """Radians by which its own axes are turned from the picture's, x towards y: clockwise as one sees it."""

    def to_picture(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2), fractions of the patch's sides from its own top left corner, as pixels of the picture.

        >>> Patch((10.0, 20.0), (8.0, 4.0)).to_picture(np.array([[0.0, 0.0], [0.5, 1.0]])).tolist()
        [[6.0, 18.0], [10.0, 22.0]]
        """
        along = (points - 0.5) * self.size
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turned = np.stack([along[..., 0] * cos - along[..., 1] * sin, along[..., 0] * sin + along[..., 1] * cos], -1)
        return np.asarray(turned + self.centre)

    def cut(self, picture: np.ndarray, width: int, height: int, beyond: int | None = None) -> np.ndarray:
        """The patch (height, width, 3), uint8, bilinear.

        Args:
            beyond: the value of what lies beyond the picture; None: that of its nearest pixel.
        """
        cv2 = require("cv2", "images")
        corners = self.to_picture(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])).astype(np.float32)
        ends = np.array([[0, 0], [width, 0], [0, height]], np.float32)
        border = cv2.BORDER_REPLICATE if beyond is None else cv2.BORDER_CONSTANT
        value = (beyond or 0,) * 3
        there = cv2.getAffineTransform(corners, ends)
        cut = cv2.warpAffine(
            picture, there, (width, height), flags=cv2.INTER_LINEAR, borderMode=border, borderValue=value
        )
        return np.asarray(cut)
