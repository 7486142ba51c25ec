"""The square of each frame about the 2D pose of the person in it."""

from __future__ import annotations

import numpy as np

from ..bridging import NONE, Bridged
from ..datasets.cameras import Crop, square_crops

__all__ = ["squares_about"]

# Frames over which a square may lie between those of the frames around.
_SHORT = 10


def squares_about(poses: Bridged, margin: float, steady: float = 0.0) -> Crop:
    """The square of each frame: about its joints if all were seen, or in a long stretch in which some were not; else
    between the squares of the frames before and after, which a joint that was bridged past its turn does not shift.

    Args:
        margin: see :func:`hpm.datasets.cameras.square_crops`.
        steady: frames (the standard deviation of a Gaussian) that middles and sides are averaged over, so that the
            crop does not tremble as a detector's joints do; 0 for as they are.
    """
    posed = poses.rests_on != NONE
    own = np.asarray(poses.seen.all(1))
    for first, last in _stretches(~own):
        if last - first > _SHORT or first == 0 or last == len(poses):
            own[first:last] = posed[first:last]
    frames = np.flatnonzero(own & posed)
    if not len(frames):
        return Crop(np.zeros((0, 2)), np.zeros(0))
    points = poses.pixels[frames]
    # A joint that lacks lies amid the others.
    points = np.where(np.isfinite(points), points, np.nanmean(points, axis=1, keepdims=True))
    squares, every = square_crops(points, margin), np.arange(len(poses))
    centre = squares.corner + squares.side[:, None] / 2
    side = np.interp(every, frames, squares.side)
    middle = np.stack([np.interp(every, frames, centre[:, axis]) for axis in (0, 1)], 1)
    if steady > 0:
        middle, side = _averaged(middle, steady), _averaged(side[:, None], steady)[:, 0]
        return Crop(middle - side[:, None] / 2, side)
    corner = middle - side[:, None] / 2
    corner[frames], side[frames] = squares.corner, squares.side
    return Crop(corner, side)


def _stretches(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and one past the last of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _averaged(values: np.ndarray, steady: float) -> np.ndarray:
    """(n, k): rows averaged by a Gaussian of so many rows; at the ends, over those that there are."""
    reach = int(np.ceil(3 * steady))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / steady) ** 2)
    total = np.convolve(np.ones(len(values)), weights, "full")[reach : reach + len(values)]
    columns = [np.convolve(column, weights, "full")[reach : reach + len(values)] / total for column in values.T]
    return np.stack(columns, 1)
