"""Anchors of Faster R-CNN's Python layers: boxes around the cells of a map, and how other boxes are told by them.

A box is (x1, y1, x2, y2) with the last pixels in it, so its width is x2 - x1 + 1. Source: rbgirshick/py-faster-rcnn,
``lib/rpn/generate_anchors.py`` and ``lib/fast_rcnn/bbox_transform.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..forks.boxes import pixel_overlap

__all__ = [
    "Spread",
    "base_anchors",
    "cut_off",
    "in_image",
    "moved",
    "normalised",
    "offsets_between",
    "overlaps_between",
    "shifted",
]

Anchors = tuple[tuple[float, ...], ...]
# What offsets are normalised by, deviations and means of the four numbers; None if they are not.
Spread = tuple[tuple[float, ...], tuple[float, ...]] | None


def base_anchors(size: int, ratios: Sequence[float], scales: Sequence[float]) -> Anchors:
    """The boxes around the first cell, the scales of the first ratio (height by width) first.

    Width and height of a square of ``size`` pixels become those of the ratio, are rounded, halves to the even number,
    and then scaled about the centre.

    >>> base_anchors(16, (0.5,), (8, 16))
    ((-84.0, -40.0, 99.0, 55.0), (-176.0, -88.0, 191.0, 103.0))
    """
    centre = 0.5 * (size - 1)
    found = []
    for ratio in ratios:
        width = float(np.round(np.sqrt(size * size / ratio)))
        sides = (width, float(np.round(width * ratio)))
        for scale in scales:
            half = [0.5 * (side * scale - 1) for side in sides]
            found.append((centre - half[0], centre - half[1], centre + half[0], centre + half[1]))
    return tuple(found)


def shifted(anchors: Tensor, height: int, width: int, stride: int) -> Tensor:
    """The anchors (A, 4) around every cell, ``stride`` pixels from cell to cell: (H x W x A, 4), row by row."""
    x = (torch.arange(width, device=anchors.device) * stride).expand(height, width)
    y = (torch.arange(height, device=anchors.device) * stride)[:, None].expand(height, width)
    return (anchors + torch.stack([x, y, x, y], -1)[:, :, None]).reshape(-1, 4)


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and sizes, (..., 2) each; a centre is half a size from the first corner."""
    size = boxes[..., 2:] - boxes[..., :2] + 1
    return boxes[..., :2] + 0.5 * size, size


def moved(boxes: Tensor, offsets: Tensor) -> Tensor:
    """``boxes`` with the centre moved by parts of the size, and the size by factors e^offset, both (..., 4).

    The last corner is a whole size from the first, as in the original: a pixel more than :func:`offsets_between` has.
    """
    centre, size = _centres(boxes)
    centre, half = offsets[..., :2] * size + centre, 0.5 * (offsets[..., 2:].exp() * size)
    return torch.cat([centre - half, centre + half], -1)


def offsets_between(boxes: Tensor, truth: Tensor) -> Tensor:
    """The offsets, (..., 4), that take ``boxes`` to ``truth``: what a network is to learn."""
    (centre, size), (true_centre, true_size) = _centres(boxes), _centres(truth)
    return torch.cat([(true_centre - centre) / size, (true_size / size).log()], -1)


def normalised(offsets: Tensor, spread: Spread) -> Tensor:
    """``offsets`` (..., 4) less their means, by their deviations."""
    if spread is None:
        return offsets
    stds, means = (offsets.new_tensor(values) for values in spread)
    return (offsets - means) / stds


def overlaps_between(boxes: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union, (N, M), of boxes (N, 4) and objects (M, 4 or more), with their last pixels in them."""
    return pixel_overlap(boxes[:, None], truth[:, :4])


def cut_off(boxes: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """``boxes`` with their corners in the image."""
    limit = torch.stack([width, height, width, height]) - 1
    return torch.minimum(boxes, limit.to(boxes)).clamp_min(0)


def in_image(boxes: Tensor, height: Tensor, width: Tensor, border: float) -> Tensor:
    """Which ``boxes`` lie in the image, or over its edge by less than ``border`` pixels."""
    low, high = (boxes[:, :2] >= -border).all(1), boxes[:, 2:] < torch.stack([width, height]).to(boxes) + border
    return low & high.all(1)
