"""ProposalTarget of MS-CNN and Cascade R-CNN: the proposals that a stage trains on, and what it is to say of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from .proposals import adjustment

__all__ = ["Choice", "ProposalTarget"]

# The least width and height of a box that is drawn where there are too few proposals.
_SMALLEST = 32


@dataclass(frozen=True)
class Choice:
    """Which proposals are taken.

    Attributes:
        count: how many; None for all that are object or background. share: of objects, at most.
        images: in a batch; size: height and width of each. objects: the least overlap of one.
        background: overlaps of background, from the first on and below the second.
        truth_too: whether true boxes are proposals as well. neither_too: whether what is neither object nor background
            makes up for what is missing. drawn: whether boxes at random do, too; else there is one where there is
            no other.
        padded: whether true boxes of image -1 are none.
        least: boxes whose common part is narrower or lower, in pixels, do not overlap.
    """

    count: int | None
    share: float
    images: int
    size: tuple[int, int]
    objects: float
    background: tuple[float, float]
    truth_too: bool = True
    neither_too: bool = True
    drawn: bool = True
    padded: bool = False
    least: float = 0.0


class ProposalTarget(Layer):
    """Proposals (R, 5: image, corners) and true boxes (G, 7: image, corners, class, to be ignored) -> proposals taken
    (K, 5), their classes (K, 1), adjustments to learn (K, 4 classes), what each of these counts for, twice, the true
    boxes (K, 6: class, corners, overlap), and what each proposal counts for (K, 1), all with two axes of 1 behind.

    True boxes are proposals, too. First come objects, then background; where there are too few, what is neither, and
    then boxes at random. Adjustments count where the overlap is within ``counted``. Draws are of this library, not the
    fork's. No gradient. Sources: zhaoweicai/mscnn and zhaoweicai/cascade-rcnn,
    ``proposal_target_layer.cpp``.
    """

    def __init__(
        self,
        choice: Choice,
        classes: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        aware: bool,
        by_overlap: bool,
        tops: int,
        counted: tuple[float, float] = (-math.inf, math.inf),
    ) -> None:
        super().__init__()
        self.counted = counted
        self.choice = choice
        self.classes = classes
        self.mean = mean
        self.std = std
        self.aware = aware
        self.by_overlap = by_overlap
        self.tops = tops

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        rows = self.choice.count or max(len(bottoms[0]), 1)
        values = 4 * self.classes if self.aware else 8
        sizes = (5, 1, values, values, values, 6, 1)[: self.tops]
        return tuple(bottoms[0].new_empty(rows, size, 1, 1) for size in sizes)

    @torch.no_grad()
    def forward(self, proposals: Tensor, truth: Tensor) -> tuple[Tensor, ...]:
        device = proposals.device
        proposals, truth = proposals.flatten(1).cpu(), truth.flatten(1).cpu()
        generator = self.randomness.generator(self.layer_name, "cpu")
        if self.choice.padded:
            truth = truth[truth[:, 0].trunc() != -1]
        boxes = torch.cat([proposals, truth[:, :5]]) if self.choice.truth_too else proposals
        match, overlap = _matches(boxes, truth, self.choice.least)
        objects, others = self._sampled(match, overlap, truth, generator)
        found = len(objects) + len(others)
        count = (self.choice.count or found) if self.choice.drawn else max(found, 1)
        drawn = self._drawn(count - found, truth, generator)
        rows = torch.cat([objects, others, torch.arange(len(boxes), len(boxes) + len(drawn))])
        boxes = torch.cat([boxes, drawn])
        own = truth[match[objects]]
        labels = torch.zeros(len(rows), dtype=torch.long)
        labels[: len(objects)] = own[:, 5].long()
        values = 4 * self.classes if self.aware else 8
        targets, weights = boxes.new_zeros(2, len(rows), values).unbind(0)
        matched = boxes.new_zeros(len(rows), 6)
        first = (labels if self.aware else labels.clamp_max(1))[: len(objects)] * 4
        places = (torch.arange(len(objects))[:, None], first[:, None] + torch.arange(4))
        targets[places] = self._adjustments(boxes[objects], own)
        best = overlap[objects, None]
        weights[places] = ((best >= self.counted[0]) & (best <= self.counted[1])).to(weights.dtype)
        matched[: len(objects)] = torch.cat([own[:, 5:6], own[:, 1:5], best], 1)
        counts = self._weights(len(objects), matched[:, 5])[:, None]
        tops = (boxes[rows], labels[:, None].to(boxes.dtype), targets, weights, weights, matched, counts)
        return tuple(top[..., None, None].to(device) for top in tops[: self.tops])

    def _sampled(
        self, match: Tensor, overlap: Tensor, truth: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """The rows of objects, and of background."""
        c = self.choice
        objects = overlap >= c.objects
        background = ~objects & (overlap >= c.background[0]) & (overlap < c.background[1])
        neither = (~objects & ~background).nonzero().flatten()
        ignored = truth[match.clamp_min(0), 6] != 0 if len(truth) else torch.zeros_like(objects)
        chosen, rest = ((mask).nonzero().flatten() for mask in (objects & ~ignored, background))
        if c.count is None:
            return chosen, rest
        most = math.floor(c.share * c.count + 0.5)
        if len(chosen) > most:
            chosen = chosen[torch.randperm(len(chosen), generator=generator)[:most]]
        free = c.count - len(chosen)
        if len(rest) > free:
            return chosen, rest[torch.randperm(len(rest), generator=generator)[:free]]
        return chosen, torch.cat([rest, neither[: free - len(rest)]]) if c.neither_too else rest

    def _drawn(self, count: int, truth: Tensor, generator: torch.Generator | None) -> Tensor:
        """So many boxes at random that are no objects, (count, 5)."""
        height, width = self.choice.size
        found: list[Tensor] = []
        while len(found) < count:

            def below(most: int) -> int:
                return int(torch.randint(most, (), generator=generator))

            image, x, y = below(self.choice.images), below(width - _SMALLEST), below(height - _SMALLEST)
            right, low = max(below(width - x), _SMALLEST), max(below(height - y), _SMALLEST)
            box = truth.new_tensor([[image, x, y, x + right - 1, y + low - 1]])
            if len(truth) == 0 or float(_matches(box, truth, self.choice.least)[1]) < self.choice.objects:
                found.append(box)
        return torch.cat([truth.new_zeros(0, 5), *found])

    def _adjustments(self, boxes: Tensor, truth: Tensor) -> Tensor:
        """From boxes (K, 5) to true boxes (K, 7), normalised: (K, 4)."""
        (place, size), (wanted, scale) = _centres(boxes), _centres(truth)
        moved = torch.cat([(wanted - place) / size, (scale / size).log()], 1)
        return (moved - moved.new_tensor(self.mean)) / moved.new_tensor(self.std)

    def _weights(self, objects: int, overlap: Tensor) -> Tensor:
        """What each proposal counts for: objects together ``share`` of all, background the rest."""
        weights = torch.ones_like(overlap)
        if self.by_overlap:
            weights[:objects] = overlap[:objects]
        total, share = weights[:objects].sum(), self.choice.share
        if total != 0:
            weights[:objects] *= share * len(weights) / total
            weights[objects:] *= (1 - share) * len(weights) / max(len(weights) - objects, 1)
        return weights


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and sizes of boxes (K, 5 or more: image, corners with the last pixel)."""
    sizes = boxes[:, 3:5] - boxes[:, 1:3] + 1
    return boxes[:, 1:3] + sizes / 2, sizes


def _matches(boxes: Tensor, truth: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Of each box, the true box of its image with the largest overlap (-1 if there is none), and that overlap."""
    if len(truth) == 0:
        return torch.full((len(boxes),), -1), boxes.new_zeros(len(boxes))
    low = torch.maximum(boxes[:, None, 1:3], truth[None, :, 1:3])
    high = torch.minimum(boxes[:, None, 3:5], truth[None, :, 3:5]) + 1
    sides = high - low
    common = torch.where((sides >= least).all(-1), sides.clamp_min(0).prod(-1), 0)
    areas = [_centres(x)[1].prod(1) for x in (boxes, truth)]
    overlap = common / (areas[0][:, None] + areas[1] - common)
    same = boxes[:, None, 0] == truth[None, :, 0]
    best, match = torch.where(same, overlap, -1).max(1)
    return torch.where(same.any(1), match, -1), best.clamp_min(0)


@layer("ProposalTarget", bottoms=2, tops=(6, 7), dialects=("zhaoweicai/mscnn",), verified=False, unforced=(0, 1))
def proposal_target(spec: LayerSpec) -> Layer:
    spec.shaped(1, "boxes", 7, ones=True)
    return _proposal_target(spec, Choice(*_choice(spec)))


@layer("ProposalTarget", bottoms=2, tops=(6, 7), dialects=("zhaoweicai/cascade-rcnn",), verified=False, unforced=(0, 1))
def proposal_target_of_cascade(spec: LayerSpec) -> Layer:
    spec.shaped(1, "boxes", "values >= 7", ones=True)
    params = spec.params("proposal_target_param")
    choice = Choice(
        *_choice(spec),
        truth_too=params.append_gtbox,
        neither_too=params.pickup_discard,
        drawn=False,
        padded=True,
        least=1,
    )
    return _proposal_target(spec, choice, (params.bbox_thr_lw, params.bbox_thr_hg))


def _choice(
    spec: LayerSpec,
) -> tuple[int | None, float, int, tuple[int, int], float, tuple[float, float]]:
    """What both forks have of :class:`Choice`."""
    params = spec.params("proposal_target_param")
    if params.batch_size != -1 and params.batch_size < 1:
        spec.fail(f"batch_size is {params.batch_size}; at least 1, or -1 for all, was expected")
    if params.fg_thr < params.bg_thr_hg:
        spec.fail(f"fg_thr {params.fg_thr:g} is below bg_thr_hg {params.bg_thr_hg:g}")
    if params.batch_size != -1 and min(params.img_width, params.img_height) <= _SMALLEST:
        spec.fail(
            f"img_width and img_height must be above {_SMALLEST}: boxes are drawn there where proposals are too few"
        )
    return (
        None if params.batch_size == -1 else params.batch_size,
        params.fg_fraction,
        params.num_img_per_batch,
        (params.img_height, params.img_width),
        params.fg_thr,
        (params.bg_thr_lw, params.bg_thr_hg),
    )


def _proposal_target(spec: LayerSpec, choice: Choice, counted: tuple[float, float] = (-math.inf, math.inf)) -> Layer:
    spec.shaped(0, "proposals", 5, ones=True)
    params, regression = spec.params("proposal_target_param"), spec.params("bbox_reg_param")
    mean, std = adjustment(spec)
    return ProposalTarget(
        choice,
        params.cls_num,
        mean,
        std,
        aware=regression.cls_aware,
        by_overlap=params.iou_weighted,
        tops=len(spec.tops),
        counted=counted,
    )
