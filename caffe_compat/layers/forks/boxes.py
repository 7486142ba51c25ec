"""Boxes as (..., 4) tensors of corners (x1, y1, x2, y2): how offsets encode them, overlap, and suppression."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..exporting import is_exporting, repeated

__all__ = ["area", "best_apart", "decode", "encode", "overlap", "pixel_overlap", "suppress"]


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


def pixel_overlap(kept: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes that have their last pixels in them. The shapes broadcast."""
    sides = torch.minimum(kept[..., 2:], others[..., 2:]) - torch.maximum(kept[..., :2], others[..., :2]) + 1
    shared = sides.clamp_min(0).prod(-1)
    first, second = ((box[..., 2:] - box[..., :2] + 1).prod(-1) for box in (kept, others))
    return shared / (first + second - shared)


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
        measure: how much a kept box (its first argument) and others overlap; their shapes broadcast.
        limit: how many of a row are kept at most.
    """
    if eta < 1 or is_exporting():
        return _suppress_one_by_one(boxes, candidates, threshold, eta, measure, limit)
    kept = torch.zeros_like(candidates)
    for row, own in enumerate(candidates):
        places = own.nonzero()[:, 0]
        kept[row, places[best_apart(boxes[row, places], threshold, measure, limit)]] = True
    return kept


# So many boxes at a time are compared with each other and with those kept: their table fits into a core's cache.
_BLOCK = 128
# Of those behind, so many.
_AHEAD = 1024


def best_apart(
    boxes: Tensor,
    threshold: float,
    measure: Callable[[Tensor, Tensor], Tensor] = overlap,
    limit: int | None = None,
) -> Tensor:
    """Greedy non-maximum suppression of one row of ``boxes`` (N, 4), the best first: places of those kept, in order.

    >>> best_apart(torch.tensor([[0.0, 0, 4, 4], [1, 0, 5, 4], [2, 0, 6, 4]]), 0.5)
    tensor([0, 2])

    Args:
        threshold, measure, limit: as :func:`suppress` takes them.
    """
    if is_exporting():
        all_of_them = torch.ones_like(boxes[None, :, 0], dtype=torch.bool)
        stay = _suppress_one_by_one(boxes[None], all_of_them, threshold, 1.0, measure, limit)
        return stay[0].nonzero()[:, 0]
    boxes = boxes.T.contiguous().T  # coordinates apart: the tables below are computed along rows of boxes
    most = boxes.new_tensor(threshold)

    def apart(places: Tensor, better: Tensor) -> Tensor:
        for block in boxes[better].split(_BLOCK):
            places = torch.cat(
                [part[(measure(block[:, None], boxes[part]) <= most).all(0)] for part in places.split(_AHEAD)]
            )
        return places

    left = torch.arange(len(boxes), device=boxes.device)
    kept, crowded = left[:0], False
    while len(left) and (limit is None or len(kept) < limit):
        own, left = left[:_BLOCK], left[_BLOCK:]
        own = apart(own, kept[: 0 if crowded else None])
        # What is no number lies apart from nothing.
        close = ~(measure(boxes[own][:, None], boxes[own]) <= most)
        best = own[_undisturbed(close.triu(1))]
        kept = torch.cat([kept, best])
        # At this rate, how many boxes it takes until the limit is reached.
        wanted = len(left) if limit is None else (limit - len(kept)) * _BLOCK // max(len(best), 1)
        if not crowded and 4 * len(best) < 3 * _BLOCK and 2 * wanted > len(left):
            # Boxes put each other out: those of all blocks behind are compared with the kept ones at once.
            crowded, best = True, kept
        left = apart(left, best) if crowded and len(left) else left
    return kept[:limit]


def _undisturbed(disturbs: Tensor) -> Tensor:
    """Which of N stay if, from the first on, each that stays puts out those behind it that it ``disturbs`` (N, N)."""
    table = disturbs.T.float()
    stay = torch.ones(len(table), device=disturbs.device)
    # A round settles at least one more; mostly few are needed, as chains of boxes that put each other out are short.
    while True:
        after = (torch.mv(table, stay) == 0).float()
        if torch.equal(after, stay):
            return stay.bool()
        stay = after


def _suppress_one_by_one(
    boxes: Tensor,
    candidates: Tensor,
    threshold: float,
    eta: float,
    measure: Callable[[Tensor, Tensor], Tensor],
    limit: int | None,
) -> Tensor:
    """:func:`suppress` box by box: with a threshold that sinks, and where only a loop of torch's own can be followed.

    The number of rounds is the largest number of boxes that a row keeps.
    """
    count = candidates.shape[1]
    # One more box, which is never kept: there is always one to look at.
    boxes = torch.cat([boxes, boxes.new_zeros(boxes.shape[0], 1, 4)], 1)
    candidates = torch.cat([candidates, candidates.new_zeros(candidates.shape[0], 1)], 1)
    places = torch.arange(count + 1, device=boxes.device)

    def free(worst: Tensor, limits: Tensor, after: Tensor) -> Tensor:
        return candidates & (worst <= limits) & (places > after)

    def goes_on(kept: Tensor, worst: Tensor, limits: Tensor, after: Tensor, taken: Tensor) -> Tensor:
        some = free(worst, limits, after).any()
        return some if limit is None else some & (taken < limit)

    def round_(kept: Tensor, worst: Tensor, limits: Tensor, after: Tensor, taken: Tensor) -> tuple[Tensor, ...]:
        own = free(worst, limits, after)
        found = own.any(1, keepdim=True)
        at = torch.where(found, own.int().argmax(1, keepdim=True), places[-1])
        best = boxes.gather(1, at[..., None].expand(-1, -1, 4))
        worst = torch.maximum(worst, measure(best, boxes))
        limits = torch.where(found & (limits > 0.5), limits * eta, limits) if eta < 1 else limits.clone()
        return kept.scatter(1, at, True), worst, limits, at, taken + 1

    state = (
        torch.zeros_like(candidates),
        torch.full_like(boxes[..., 0], -torch.inf),  # overlap with the kept box that it overlaps most
        torch.full_like(boxes[:, :1, 0], threshold),
        torch.full_like(candidates[:, :1], -1, dtype=torch.long),
        torch.zeros((), dtype=torch.long, device=boxes.device),
    )
    return repeated(goes_on, round_, state)[0][:, :count]
