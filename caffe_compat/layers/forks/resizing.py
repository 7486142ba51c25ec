"""How SSD's pictures became the network's input, and its boxes back in the pixels of the picture.

Source: ``OutputBBox`` and ``ProjectBBox`` of SSD's ``bbox_util.cpp``, which does so in single precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...network.spec import LayerSpec
from ...schema.params import Params

__all__ = ["Resizing", "read_resizing"]

FIT_SMALL, FIT_LARGE = "FIT_SMALL_SIZE", "FIT_LARGE_SIZE_AND_PAD"


@dataclass(frozen=True)
class Resizing:
    """What was done to pictures.

    Attributes:
        mode: WARP, FIT_SMALL_SIZE or FIT_LARGE_SIZE_AND_PAD. height, width: of the result.
        scales: of FIT_SMALL_SIZE, height and width in which boxes are fractions, if not the picture's.
    """

    mode: str
    height: int
    width: int
    scales: tuple[int, int] | None = None

    def undone(self, corners: np.ndarray, size: tuple[float, float]) -> np.ndarray:
        """Corners (..., 4) from fractions of the network's input to pixels of a picture of ``size``, width and height.

        They are cut off at its sides.
        """
        pixels = np.array([*size, *size], np.float32)
        if self.mode == FIT_SMALL and self.scales is not None:
            height, width = self.scales
            return np.clip(corners * np.array([width, height] * 2, np.float32), 0, pixels)
        if self.mode == FIT_LARGE:
            corners = self._without_borders(corners, size)
        return np.clip(corners, 0, 1) * pixels

    def _without_borders(self, corners: np.ndarray, size: tuple[float, float]) -> np.ndarray:
        """Fractions of the picture without the borders that were put beside it, or above and below.

        As in the fork, a box that lies in the borders alone stays as it is.
        """
        f = np.float32
        aspect, wanted = f(size[0]) / f(size[1]), f(self.width) / f(self.height)
        low, high = np.array([0, 0], f), np.array([1, 1], f)
        if aspect > wanted:
            axis, border = 1, (f(self.height) - f(self.width) / aspect) / f(2) / f(self.height)
        else:
            axis, border = 0, (f(self.width) - f(self.height) * aspect) / f(2) / f(self.width)
        low[axis], high[axis] = border, 1 - float(border)
        inside = ((corners[..., :2] < high) & (corners[..., 2:] > low)).all(-1, keepdims=True)
        moved = (corners - np.tile(low, 2)) / np.tile(high - low, 2)
        return np.where(inside, moved, corners)


def read_resizing(spec: LayerSpec, params: Params) -> Resizing:
    """What a message ResizeParameter says of boxes; how pixels were made has no bearing on them."""
    params.ignore("prob", "pad_mode", "pad_value", "interp_mode")
    if params.height < 1 or params.width < 1:
        spec.fail(f"resize_param has height {params.height} and width {params.width}; both must be at least 1")
    scales = None
    if params.resize_mode == FIT_SMALL and params.height_scale and params.width_scale:
        scales = (params.height_scale, params.width_scale)
    params.ignore("height_scale", "width_scale")
    return Resizing(params.resize_mode, params.height, params.width, scales)
