"""Gaussian filters over points in a space of few dimensions, on the permutohedral lattice.

Source: Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010, in
single precision with the roundings of torrvision/caffe's ``modified_permutohedral.cpp`` (its code for SSE).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Permutohedral"]

# The fork's processor takes points in fours; where the last four are not full, points at 0 make up for it. They add
# nothing to any vertex, but the vertices about them are there to be blurred through.
_TOGETHER = 4


class Permutohedral:
    """The lattice about some points; called, it filters values of them.

    Args:
        features: (P, d), where the points lie, in standard deviations of the filter.
    """

    def __init__(self, features: Tensor) -> None:
        count, d = features.shape
        points = features.detach().float()
        if count % _TOGETHER:
            points = torch.cat([points, points.new_zeros(1, d)])
        remainder, rank, weights = _simplex(points)
        keys = remainder[:, None, :d] + _canonical(d, points.device)[:, rank[:, :d]].transpose(0, 1)
        strides = _strides(keys)
        vertices, places = (keys * strides).sum(2).unique(return_inverse=True)
        self.places = places[:count]
        self.weights = weights[:count]
        self.neighbours = _neighbours(vertices, strides)
        self.vertices = len(vertices)

    def __call__(self, values: Tensor) -> Tensor:
        """Values (C, P) of the points, filtered. The sum of the filter's weights is not 1."""
        channels, d = len(values), self.weights.shape[1] - 1
        spread = values.T[:, None, :] * self.weights[:, :, None].to(values.dtype)
        # The last row is that of vertices that are not there.
        x = values.new_zeros(self.vertices + 1, channels).index_add(0, self.places.flatten(), spread.flatten(0, 1))
        beyond = x.new_zeros(1, channels)
        for one, other in self.neighbours:
            x = torch.cat([x[:-1] + 0.5 * (x[one] + x[other]), beyond])
        gathered = x[self.places] * self.weights[:, :, None].to(values.dtype)
        return gathered.sum(1).T / (1 + math.pow(2, -d))


def _simplex(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each of (P, d) points the simplex about it.

    Returns:
        Its corner of remainder 0 and the ranks of the point's coordinates, whole numbers (P, d + 1); the point's
        barycentric coordinates (P, d + 1), which sum to 1.
    """
    count, d = points.shape
    steps = torch.arange(1, d + 1, device=points.device)
    scale = (math.sqrt(2 / 3) * (d + 1) / (steps * (steps + 1)).double().sqrt()).float()
    scaled = points * scale
    # (d + 1) coordinates that sum to 0: those that follow each, less it as often as its place.
    after = scaled.flip(1).cumsum(1).flip(1)
    elevated = torch.cat([after, torch.zeros_like(after[:, :1])], 1)
    elevated[:, 1:] -= steps * scaled
    whole = (elevated * (1 / (d + 1))).round()
    remainder = whole * (d + 1)
    off = elevated - remainder
    below = off[:, :, None] < off[:, None, :]  # (P, i, j): whether coordinate i is less than j
    later = torch.ones(d + 1, d + 1, dtype=torch.bool, device=points.device).triu(1)
    rank = (below & later).sum(2) + (~below & later).sum(1) + whole.sum(1, keepdim=True).long()
    back = (rank < 0).long() - (rank > d).long()
    rank = rank + back * (d + 1)
    remainder = remainder.long() + back * (d + 1)
    part = (elevated - remainder) * (1 / (d + 1))
    weights = torch.zeros(count, d + 2, device=points.device)
    weights.scatter_add_(1, d - rank, part)
    weights.scatter_add_(1, d - rank + 1, -part)
    weights[:, 0] += 1 + weights[:, d + 1]
    return remainder, rank, weights[:, : d + 1]


def _canonical(d: int, device: torch.device) -> Tensor:
    """Corner r of the simplex at 0, less its last coordinate's place: (d + 1, d + 1) by r and by rank."""
    corner = torch.arange(d + 1, device=device)
    return corner[:, None] - (d + 1) * (corner[None, :] > d - corner[:, None]).long()


def _strides(keys: Tensor) -> Tensor:
    """Factors (d,) with which keys (P, d + 1, d), and those that lie beside them, become numbers of their own.

    Raises:
        ValueError: the points are too far apart for that.
    """
    d = keys.shape[2]
    # A neighbour is d away, and what it becomes must not be what a key at the other end does.
    sizes = (keys.amax((0, 1)) - keys.amin((0, 1)) + 2 * d + 1).tolist()
    if math.prod(sizes) >= 2**62:
        raise ValueError("the points are too far apart, in standard deviations, for a lattice")
    strides = [math.prod(sizes[i + 1 :]) for i in range(d)]
    return torch.tensor(strides, device=keys.device)


def _neighbours(vertices: Tensor, strides: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Along each of the d + 1 axes the vertices on both sides of each, or how many there are where there is none.

    Args:
        vertices: their numbers, in order.
    """
    count, d = len(vertices), len(strides)
    found = []
    for axis in range(d + 1):
        step = torch.full((d,), -1, device=vertices.device)
        step[axis : axis + 1] = d  # the last axis is not among the keys
        pair = []
        for sought in (vertices + (step * strides).sum(), vertices - (step * strides).sum()):
            place = torch.searchsorted(vertices, sought).clamp_(max=count - 1)
            pair.append(torch.where(vertices[place] == sought, place, count))
        found.append((pair[0], pair[1]))
    return found
