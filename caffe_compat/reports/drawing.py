"""Where the layers of a network stand in a picture: in ranks from the top down, with edges that bend around boxes.

The way of Sugiyama, Tagawa and Toda (1981): every layer stands below those that it reads, an edge over several ranks
gets a place in each of them, places within a rank are ordered by the mean of their neighbours, then moved towards it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Box", "Drawing", "draw"]

WIDTH, LINE, GAP_X, GAP_Y = 190.0, 16.0, 24.0, 26.0
_PADDING = 6.0
# How wide the place is through which an edge passes a rank.
_LANE = 18.0
_SWEEPS = 6


@dataclass(frozen=True)
class Box:
    """What is drawn as one box.

    Attributes:
        lines: how many lines of text it holds. above: the boxes that it reads, by their numbers, below its own.
    """

    lines: int
    above: tuple[int, ...]


@dataclass(frozen=True)
class Drawing:
    """Places in a picture of ``width`` x ``height``.

    Attributes:
        boxes: (x, y, width, height) of each. edges: the points of each edge, from the bottom of a box to the top of
            another, as (x, y, x, y ...).
    """

    width: float
    height: float
    boxes: tuple[tuple[float, float, float, float], ...]
    edges: tuple[tuple[float, ...], ...]


def draw(boxes: Sequence[Box]) -> Drawing:
    """A picture of ``boxes``, which are in an order in which each reads earlier ones alone."""
    if not boxes:
        return Drawing(0, 0, (), ())
    places = _Places(boxes)
    for sweep in range(_SWEEPS):
        places.order(downwards=sweep % 2 == 0)
    places.settle()
    return places.drawing(boxes)


class _Places:
    """A place for every box, and for every edge in every rank that it passes.

    Attributes:
        ranks: the places of each rank, from left to right. near: (places above, places below) of a place.
    """

    def __init__(self, boxes: Sequence[Box]) -> None:
        self.rank: list[int] = []
        for box in boxes:
            self.rank.append(max((self.rank[i] + 1 for i in box.above), default=0))
        self.ranks: list[list[int]] = [[] for _ in range(max(self.rank) + 1)]
        self.near: list[tuple[list[int], list[int]]] = [([], []) for _ in boxes]
        self.widths = [WIDTH] * len(boxes)
        self.paths: list[list[int]] = []
        for i, rank in enumerate(self.rank):
            self.ranks[rank].append(i)
        for i, box in enumerate(boxes):
            for above in dict.fromkeys(box.above):
                self.paths.append(self._path(above, i))
        self.x = [0.0] * len(self.near)

    def _path(self, above: int, below: int) -> list[int]:
        path = [above]
        for rank in range(self.rank[above] + 1, self.rank[below]):
            path.append(len(self.near))
            self.near.append(([], []))
            self.widths.append(_LANE)
            self.ranks[rank].append(path[-1])
        path.append(below)
        for a, b in pairwise(path):
            self.near[a][1].append(b)
            self.near[b][0].append(a)
        return path

    def order(self, *, downwards: bool) -> None:
        """Order the places of each rank by the mean place of their neighbours in the rank before."""
        side = 0 if downwards else 1
        at = {place: i / max(len(rank) - 1, 1) for rank in self.ranks for i, place in enumerate(rank)}
        for rank in self.ranks if downwards else self.ranks[::-1]:
            means = {
                place: sum(at[n] for n in near) / len(near) if (near := self.near[place][side]) else at[place]
                for place in rank
            }
            rank.sort(key=lambda place: means[place])
            at.update({place: i / max(len(rank) - 1, 1) for i, place in enumerate(rank)})

    def settle(self) -> None:
        """Coordinates: as close to the mean of the neighbours as the order within the rank allows."""
        for rank in self.ranks:
            self._spread(rank, [0.0] * len(rank))
        for sweep in range(2 * _SWEEPS):
            side = sweep % 2
            for rank in self.ranks if side == 0 else self.ranks[::-1]:
                wanted = [
                    sum(self.x[n] for n in near) / len(near) if (near := self.near[place][side]) else self.x[place]
                    for place in rank
                ]
                self._spread(rank, wanted)

    def _spread(self, rank: Sequence[int], wanted: Sequence[float]) -> None:
        """Place a rank with its gaps, so that the squares of the distances from ``wanted`` are least.

        Places that would touch become a block, which stands at the mean of what its places want (pool adjacent
        violators).
        """
        offsets, offset = [], 0.0
        for i, place in enumerate(rank):
            if i:
                offset += (self.widths[rank[i - 1]] + self.widths[place]) / 2 + GAP_X
            offsets.append(offset)
        blocks: list[tuple[float, int]] = []  # (mean of wanted minus offset, how many)
        for want, off in zip(wanted, offsets, strict=True):
            mean, count = want - off, 1
            while blocks and blocks[-1][0] >= mean:
                before, many = blocks.pop()
                mean, count = (before * many + mean * count) / (many + count), many + count
            blocks.append((mean, count))
        starts = [mean for mean, count in blocks for _ in range(count)]
        for place, start, off in zip(rank, starts, offsets, strict=True):
            self.x[place] = start + off

    def drawing(self, boxes: Sequence[Box]) -> Drawing:
        heights = [LINE * box.lines + 2 * _PADDING for box in boxes]
        tops, top = [], GAP_Y
        for rank in self.ranks:
            tops.append(top)
            top += max((heights[i] for i in rank if i < len(boxes)), default=0) + GAP_Y
        left = min(x - w / 2 for x, w in zip(self.x, self.widths, strict=True)) - GAP_X
        right = max(x + w / 2 for x, w in zip(self.x, self.widths, strict=True)) + GAP_X
        rank_of = {place: r for r, rank in enumerate(self.ranks) for place in rank}
        found = tuple((self.x[i] - WIDTH / 2 - left, tops[self.rank[i]], WIDTH, heights[i]) for i in range(len(boxes)))
        edges = []
        for path in self.paths:
            first, *between, last = path
            points = [self.x[first] - left, tops[rank_of[first]] + heights[first]]
            for place in between:
                x, y = self.x[place] - left, tops[rank_of[place]]
                tall = max((heights[i] for i in self.ranks[rank_of[place]] if i < len(boxes)), default=0.0)
                points += [x, y, x, y + tall]
            points += [self.x[last] - left, tops[rank_of[last]]]
            edges.append(tuple(round(p, 1) for p in points))
        boxes_ = tuple(tuple(round(p, 1) for p in box) for box in found)
        return Drawing(round(right - left, 1), round(top, 1), boxes_, tuple(edges))  # type: ignore[arg-type]
