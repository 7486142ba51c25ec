"""How much boxes of YOLO overlap, as numbers to match by and as slopes to learn from. Boxes are (..., x, y, w, h).

Source: eric612/MobileNet-YOLO, ``src/caffe/util/bbox_util.cpp`` and ``src/caffe/layers/yolov3_layer.cpp``; the formulas
are those of darknet, of "Generalized Intersection over Union" (Rezatofighi et al., 2019) and of "Distance-IoU Loss"
(Zheng et al., 2020).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["best_overlap", "objects_before", "overlap", "overlap_slopes", "rounds"]


def overlap(a: Tensor, b: Tensor, kind: str = "IOU") -> Tensor:
    """Intersection over union; the shapes broadcast.

    Args:
        kind: ``GIOU`` takes away the part of the box around both that neither fills; ``DIOU``, the 0.6th power of the
            centres' distance (squared, by the diagonal's square of that box); ``CIOU``, that distance itself and how
            much the ratios of width and height differ. Where that box has no extent, nothing is taken away.
    """
    (a_low, a_high), (b_low, b_high) = _edges(a), _edges(b)
    width, height = (torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)).unbind(-1)
    shared = torch.where((width < 0) | (height < 0), 0, width * height)
    union = a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3] - shared
    found = shared / union
    if kind in ("IOU", "MSE"):
        return found
    around = torch.maximum(a_high, b_high) - torch.minimum(a_low, b_low)
    if kind == "GIOU":
        area = around.prod(-1)
        return torch.where(area == 0, found, found - (area - union) / _nonzero(area))
    diagonal = around.square().sum(-1)
    distance = (a[..., :2] - b[..., :2]).square().sum(-1) / _nonzero(diagonal)
    taken = distance.pow(0.6) if kind == "DIOU" else distance + _shape_term(a, b, found)
    return torch.where(diagonal == 0, found, found - taken)


def _shape_term(a: Tensor, b: Tensor, found: Tensor) -> Tensor:
    """What the ratios of boxes ``a`` and true boxes ``b``, which overlap by ``found``, cost."""
    cost = 4 / math.pi**2 * ((b[..., 2] / b[..., 3]).atan() - (a[..., 2] / a[..., 3]).atan()).square()
    return cost / (1 - found + cost + 1e-6) * cost


def _edges(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Left and top, right and bottom, (..., 2)."""
    return boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2


def _nonzero(x: Tensor) -> Tensor:
    return torch.where(x == 0, 1, x)


def objects_before(truth: Tensor, number: int) -> Tensor:
    """Which objects (N, many, 5) count (N, many): those before the first whose number ``number`` is 0."""
    return (truth[..., number] != 0).cumprod(1).bool()


def best_overlap(boxes: Tensor, truth: Tensor, kind: str = "IOU", there: Tensor | None = None) -> Tensor:
    """How much each box (N, ..., 4) overlaps the object (class, box) that it overlaps most, at least 0.

    ``truth`` is (N, many, 5). Objects count as ``there`` (N, many) says; without it, up to one without an x.
    """
    there = objects_before(truth, 1) if there is None else there
    best = boxes.new_zeros(boxes.shape[:-1])
    for number in range(int(there.sum(1).max()) if len(there) else 0):
        own = truth[:, number].reshape(-1, *[1] * (boxes.dim() - 2), 5)
        found = torch.where(there[:, number].reshape(own.shape[:-1]), overlap(boxes, own[..., 1:], kind), 0)
        best = torch.where(found > best, found, best)
    return best


def rounds(places: Tensor) -> list[Tensor]:
    """Takes items (K,) that want ``places`` apart into rounds of indices, so that none wants a place twice in a round.

    >>> [indices.tolist() for indices in rounds(torch.tensor([7, 3, 7, 7, 3]))]
    [[1, 0], [4, 2], [3]]
    """
    _, order = places.sort(stable=True)
    _, counts = torch.unique_consecutive(places[order], return_counts=True)
    firsts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    turn = torch.arange(len(places), device=places.device) - firsts
    return [order[turn == i] for i in range(int(counts.max()) if len(places) else 0)]


def overlap_slopes(boxes: Tensor, truth: Tensor, kind: str) -> Tensor:
    """By how much the overlap of boxes (K, 4) with true ones grows with each of their numbers, as darknet has it.

    For ``IOU`` and ``GIOU`` a width's slope is the right edge's less the left one's, without the half. For ``DIOU`` the
    distance counts to the power 1, and ``CIOU`` has slopes of its own for the ratio. Boxes that do not meet have the
    slope of what is taken away alone. Not finite where a division by zero is.
    """
    (low, high), (true_low, true_high) = _edges(boxes), _edges(truth)
    meet = torch.minimum(high, true_high) - torch.maximum(low, true_low)
    around = torch.maximum(high, true_high) - torch.minimum(low, true_low)
    size, shared = high - low, meet.prod(1, keepdim=True)
    union = size.prod(1, keepdim=True) + (true_high - true_low).prod(1, keepdim=True) - shared
    # An area grows by the other side's length with an edge; the edge's own axis is where it stands.
    of_shared = torch.stack([-meet.flip(1) * (low > true_low), meet.flip(1) * (high < true_high)])
    of_union = torch.stack([-size.flip(1), size.flip(1)]) - of_shared
    edges = torch.where(union > 0, (union * of_shared - shared * of_union) / union.square(), 0)
    edges = torch.stack([torch.where(low < high, edges[0], edges[1]), edges[1]])
    apart = (meet <= 0).any(1, keepdim=True)
    outside = torch.stack([(low < true_low), (high > true_high)]).to(boxes.dtype)
    if kind == "GIOU":
        area = around.prod(1, keepdim=True)
        of_area = torch.stack([-around.flip(1), around.flip(1)]) * outside
        taken = (area * of_union - union * of_area) / area.square()
        edges = torch.where(apart, taken, torch.where(area > 0, edges + taken, edges))
    slopes = torch.cat([edges[0] + edges[1], edges[1] - edges[0]], 1)
    if kind not in ("DIOU", "CIOU"):
        return slopes
    diagonal = around.square().sum(1, keepdim=True)
    gap = truth[:, :2] - boxes[:, :2]
    distance = gap.square().sum(1, keepdim=True)
    centre = (2 * gap * diagonal - 2 * around * (outside[1] - outside[0]) * distance) / diagonal.square()
    extent = around * (outside[1] + outside[0]) * distance / diagonal.square()
    if kind == "CIOU":
        lean = (truth[:, 2:3] / truth[:, 3:]).atan() - (boxes[:, 2:3] / boxes[:, 3:]).atan()
        cost = 4 / math.pi**2 * lean.square()
        share = cost / (1 - shared / union + cost + 1e-6)
        extent = extent + share * 8 / math.pi**2 * lean * torch.cat([boxes[:, 3:], -boxes[:, 2:3]], 1)
    taken = torch.cat([centre, extent], 1)
    return torch.where(apart, taken, torch.where(diagonal > 0, slopes + taken, slopes))
