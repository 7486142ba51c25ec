"""Boxes as (..., 4) tensors of corners (x1, y1, x2, y2): how offsets encode them, overlap, and suppression."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["area", "decode", "encode", "overlap", "suppress"]


def decode(offsets: Tensor, priors: Tensor, variances: Tensor | None, code: str) -> Tensor:
    """SSD's boxes from ``offsets`` to ``priors``.

    Args:
        variances: what each offset is multiplied by; None where the offsets have it in them already.
        code: ``CORNER`` (corners move), ``CORNER_SIZE`` (corners move by parts of the prior's size) or ``CENTER_SIZE``
            (the centre moves by parts of the size, the size changes by a factor e^offset).
    """
    if variances is not None:
        offsets = offsets * variances
    if code == "CORNER":
        return priors + offsets
    size = priors[..., 2:] - priors[..., :2]
    if code == "CORNER_SIZE":
        return priors + offsets * torch.cat([size, size], -1)
    centre = offsets[..., :2] * size + (priors[..., :2] + priors[..., 2:]) / 2
    half = offsets[..., 2:].exp() * size / 2
    return torch.cat([centre - half, centre + half], -1)


def encode(boxes: Tensor, priors: Tensor, variances: Tensor, code: str) -> Tensor:
    """The inverse of :func:`decode`: the offsets that take ``priors`` to ``boxes``."""
    size = priors[..., 2:] - priors[..., :2]
    if code == "CORNER":
        return (boxes - priors) / variances
    if code == "CORNER_SIZE":
        return (boxes - priors) / torch.cat([size, size], -1) / variances
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2 - (priors[..., :2] + priors[..., 2:]) / 2
    return torch.cat([centre / size, ((boxes[..., 2:] - boxes[..., :2]) / size).log()], -1) / variances


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union, 0 for boxes that do not meet. The shapes broadcast."""
    size = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_min(0)
    shared = size[..., 0] * size[..., 1]
    return torch.where(shared > 0, shared / (area(a) + area(b) - shared), 0)


def area(boxes: Tensor, more: float = 0) -> Tensor:
    """Areas, each side longer by ``more``; 0 for a box whose end lies before its start."""
    size = boxes[..., 2:] - boxes[..., :2]
    return torch.where((size < 0).any(-1), 0, (size[..., 0] + more) * (size[..., 1] + more))


def suppress(
    boxes: Tensor,
    candidates: Tensor,
    threshold: float,
    *,
    eta: float = 1.0,
    measure: Callable[[Tensor, Tensor], Tensor] = overlap,
    limit: int | None = None,
) -> Tensor:
    """Greedy non-maximum suppression of many rows at once: which boxes are kept, (rows, boxes).

    Going through a row from its start, a box is kept if it overlaps none kept before it by more than ``threshold``.

    Args:
        boxes: (rows, boxes, 4), the best first. candidates: (rows, boxes), False for those to leave out.
        eta: the threshold of a row is multiplied by it after each box kept, while it is above 0.5.
        measure: how much a kept box (its first argument) and others overlap. limit: how many of a row are kept at most.
    """
    rows, count = candidates.shape
    kept = torch.zeros_like(candidates)
    worst = boxes.new_zeros(rows, count)  # overlap with the kept box that it overlaps most
    limits = boxes.new_full((rows, 1), threshold)
    places = torch.arange(count, device=boxes.device)
    after = torch.full((rows, 1), -1, device=boxes.device)
    taken = 0
    # The number of rounds is the largest number of boxes that a row keeps.
    while limit is None or taken < limit:
        free = candidates & (worst <= limits) & (places > after)
        found = free.any(1, keepdim=True)
        if not found.any():
            break
        after = torch.where(found, free.int().argmax(1, keepdim=True), count)
        at = after.clamp_max(count - 1)
        kept = kept.scatter(1, at, kept.gather(1, at) | found)
        best = boxes.gather(1, at[..., None].expand(-1, -1, 4))
        worst = torch.maximum(worst, measure(best, boxes))
        if eta < 1:
            limits = torch.where(found & (limits > 0.5), limits * eta, limits)
        taken += 1
    return kept
