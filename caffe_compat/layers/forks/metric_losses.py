"""Losses on distances, of face recognition: what examples are to be near to, and what far from.

Source: happynear/caffe-windows, ``src/caffe/layers/*_loss_layer.cpp`` of the types' names; the second top is for the
log, and has no gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..bvlc.loss import class_labels, with_gradient
from ..precision import widened

__all__ = ["BatchContrastiveLoss", "GeneralContrastiveLoss", "GeneralTripletLoss", "SoftContrastiveLoss", "TripletLoss"]

_WINDOWS, _WU = "happynear/caffe-windows", "GuohongWu/caffe-windows"


@dataclass(frozen=True)
class Margins:
    """What both sides of a loss have.

    Attributes:
        near: distances of one's own class count from here; far: those of others up to here.
        near_weight, far_weight: factors of their terms. square: whether terms are squared.
        outlier: own distances count as this at most.
    """

    near: float
    far: float
    near_weight: float
    far_weight: float
    square: bool = False
    outlier: float = math.inf


class _DistanceLoss(Layer):
    """A loss on the distances (N, classes) of examples from the centres of classes, with labels (N,).

    Args:
        gradients: ``"caffe"`` for the fork's slopes, which are not always the derivative. tops: how many; the second
            is (distance from one's own class, mean distance from others).
    """

    def __init__(self, gradients: str, *, tops: int) -> None:
        super().__init__()
        self.gradients = gradients
        self.with_distances = tops > 1

    def own(self, distances: Tensor, labels: Tensor) -> Tensor:
        """Which of the distances is that of one's own class."""
        index, _ = class_labels(labels.flatten(), distances.shape[1], None, self.layer_name)
        return torch.arange(distances.shape[1], device=distances.device) == index[:, None]

    def result(
        self, loss: Tensor, x: Tensor, slopes: Tensor, log: list[Tensor] | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The tops; ``slopes`` (N, classes) are the fork's, of the loss times N."""
        if self.gradients != "true":
            loss = with_gradient(loss, x, lambda: (slopes / x.shape[0]).reshape(x.shape).to(x.dtype))
        loss = loss.to(x.dtype)
        return (loss, torch.stack(log or []).detach().to(x.dtype)) if self.with_distances else loss


def _weighted(slopes: Tensor, weights: tuple[Tensor, ...], *, by_mean: bool) -> Tensor:
    """Slopes of examples times their weights, if there are some, and those by their mean if ``by_mean``."""
    if not weights:
        return slopes
    weight = weights[0].detach().flatten()[: len(slopes), None].to(slopes.dtype)
    return slopes * (weight / weight.mean() if by_mean else weight)


class GeneralContrastiveLoss(_DistanceLoss):
    """Own distances beyond a margin and other ones within another, over N.

    Bottoms: distances (N, ...), labels; a third has the distances that count (then nothing but the gradient goes to the
    first), or, with ``weighs``, weights for the slopes of examples.

    Args:
        one_far: of other distances only the nearest counts. one_near: of own ones only the smallest, as in the fork.
        near_first: an example whose own distance is above this learns nothing else.
        exponential: other distances within the margin cost exp(-distance).
        normalized: the slopes of other distances are divided by this, if they are large; None if they are not.
        grows: the margin of others is farther than the mean own distance, which is averaged from pass to pass, by
            ``margins.far``, and at most ``limit``.
    """

    counts = ("mean_own",)

    def __init__(
        self,
        margins: Margins,
        gradients: str,
        *,
        tops: int,
        weighs: bool,
        one_far: bool,
        one_near: bool,
        near_first: float | None,
        exponential: bool,
        normalized: float | None,
        grows: bool,
        limit: float,
    ) -> None:
        super().__init__(gradients, tops=tops)
        self.margins = margins
        self.weighs = weighs
        self.one_far, self.one_near = one_far, one_near
        self.near_first = near_first
        self.exponential = exponential
        self.normalized = normalized
        self.grows, self.limit = grows, limit
        self.mean_own = 0.0

    def reset_state(self) -> None:
        self.mean_own = 0.0

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        loss = bottoms[0].new_empty(())
        return (loss, loss.new_empty(3 if self.grows else 2)) if self.with_distances else loss

    def forward(self, x: Tensor, labels: Tensor, *third: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        counted = third[0] if third and not self.weighs else x
        distances, margins = widened(counted).reshape(x.shape[0], -1), self.margins
        own = self.own(distances, labels)
        bound = margins.far + (self.mean_own if self.grows else 0)
        near = (distances - margins.near).clamp(0, margins.outlier)
        within = ~own & (distances < bound)
        far = (-distances).exp() if self.exponential else bound - distances
        terms = torch.where(own, near * margins.near_weight, torch.where(within, far * margins.far_weight, 0))
        log = [torch.where(own, near, 0).sum() / len(x)]
        log += [torch.where(within, bound - distances, 0).sum() / len(x) / (distances.shape[1] - 1)]
        chosen = self._chosen(terms.detach(), own, within)
        beyond = self._beyond(distances, own)
        loss = torch.where(chosen & ~(beyond & ~own), terms, 0).abs().sum() / len(x)
        if self.grows:
            self.mean_own = min(0.99 * self.mean_own + 0.01 * float(log[0].detach()), self.limit)
            log.append(log[0].new_tensor(self.mean_own))
        slopes = self._slopes(distances.detach(), own, within & chosen, chosen, beyond)
        slopes = _weighted(slopes, third if self.weighs else (), by_mean=True)
        return self.result(loss, counted if self.gradients == "true" else x, slopes, log)

    def _beyond(self, distances: Tensor, own: Tensor) -> Tensor:
        """Examples (N, 1) that are to learn their own class first."""
        if self.near_first is None:
            return torch.zeros_like(own[:, :1])
        return torch.where(own, distances, 0).sum(1, keepdim=True) > self.near_first

    def _chosen(self, terms: Tensor, own: Tensor, within: Tensor) -> Tensor:
        """Which terms count."""
        chosen = torch.ones_like(own)
        if self.one_near:
            # The first of the smallest: where the fork looks for the largest, it takes the wrong sign.
            column = torch.where(own, terms, 0).sum(1)
            chosen = chosen & (~own | (torch.arange(len(own), device=own.device) == column.argmin())[:, None])
        if self.one_far:
            # The fork begins with the first class, whichever it is.
            first = torch.arange(own.shape[1], device=own.device) == 0
            best = torch.where(within | first, terms, -math.inf).argmax(1, keepdim=True)
            chosen = chosen & (own | (torch.arange(own.shape[1], device=own.device) == best))
        return chosen

    def _slopes(self, distances: Tensor, own: Tensor, within: Tensor, chosen: Tensor, beyond: Tensor) -> Tensor:
        margins = self.margins
        near = chosen & (distances > margins.near) & (distances < margins.outlier) & ~beyond
        far = within & ~beyond
        slopes = -margins.far_weight * far.to(distances.dtype)
        if self.exponential:
            slopes = slopes * (-distances).exp()
        if self.normalized is not None:
            total = slopes.sum().abs() / self.normalized / len(distances)
            slopes = torch.where(total > margins.near_weight, slopes / total, slopes)
        return torch.where(own, (near | beyond).to(distances.dtype) * margins.near_weight, slopes)


@layer("GeneralContrastiveLoss", bottoms=(2, 3), tops=(1, 2), loss=True, dialects=(_WINDOWS,))
def general_contrastive_loss(spec: LayerSpec) -> Layer:
    if len(spec.bottoms) == 3:
        spec.alike(0, 2)
    return _general_contrastive_loss(spec, weighs=False)


@layer("GeneralContrastiveLoss", bottoms=(2, 3), tops=(1, 2), loss=True, dialects=(_WU,), verified=False)
def general_contrastive_loss_of_wu(spec: LayerSpec) -> Layer:
    if len(spec.bottoms) == 3:
        spec.vector(2, spec.bottom_shapes[0][0])
    return _general_contrastive_loss(spec, weighs=True)


def _general_contrastive_loss(spec: LayerSpec, *, weighs: bool) -> Layer:
    params = spec.params("general_contrastive_loss_param")
    _check_classes(spec)
    params.ignore("square")  # which the fork does not read for this type
    margins = Margins(
        params.positive_margin,
        params.negative_margin,
        params.positive_weight,
        params.negative_weight,
        outlier=params.positive_outlier_thresh,
    )
    return GeneralContrastiveLoss(
        margins,
        spec.gradients,
        tops=len(spec.tops),
        weighs=weighs,
        one_far=params.max_negative_only,
        one_near=params.max_positive_only,
        near_first=_near_first(params),
        exponential=params.exp_negative_weight,
        normalized=params.normalize_negative if params.has("normalize_negative") else None,
        grows=params.add_intra_mae,
        limit=params.max_negative_margin,
    )


class SoftContrastiveLoss(_DistanceLoss):
    """Own distances beyond a margin, and the logarithm of summed exponentials of other ones within another, over N.

    Bottoms: distances (N, ...), labels, and maybe weights for the slopes of examples. The exponents are how far a
    distance is within its margin, squared if ``square``, times ``far_weight``. The fork never sets its loss back: from
    the second pass on it has what the last one left in it, which this has not.
    """

    def __init__(self, margins: Margins, gradients: str, *, tops: int) -> None:
        super().__init__(gradients, tops=tops)
        self.margins = margins

    def forward(self, x: Tensor, labels: Tensor, *weights: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        distances, margins = widened(x).reshape(x.shape[0], -1), self.margins
        own = self.own(distances, labels)
        near = (distances - margins.near).clamp(0, margins.outlier)
        within = ~own & (distances < margins.far)
        inside = margins.far - distances
        exponents = (inside.square() if margins.square else inside) * margins.far_weight
        # The sum itself, and not relative to the largest: without any distance within, it counts as 1.
        sums = torch.where(within, exponents.exp(), 0).sum(1, keepdim=True)
        some = torch.where(sums > 0, sums, 1)
        terms = torch.where(own, near.square() if margins.square else near, 0) * margins.near_weight
        loss = (terms.sum() + some.log().sum()) / len(x)
        log = [torch.where(own, near, 0).sum() / len(x)]
        log += [torch.where(within, inside, 0).sum() / len(x) / (distances.shape[1] - 1)]
        with torch.no_grad():
            slopes = -margins.far_weight * exponents.exp() / some * (inside if margins.square else 1)
            counts = (distances > margins.near) & (distances < margins.outlier)
            learnt = torch.where(counts, margins.near_weight * (distances if margins.square else 1), 0)
            slopes = torch.where(own, learnt, torch.where(within, slopes, 0))
        return self.result(loss, x, _weighted(slopes, weights, by_mean=True), log)


@layer("SoftContrastiveLoss", bottoms=(2, 3), tops=(1, 2), loss=True, dialects=(_WINDOWS, _WU))
def soft_contrastive_loss(spec: LayerSpec) -> Layer:
    params = spec.params("soft_contrastive_loss_param")
    # The fork takes negative_weight for it.
    params.ignore("exponent_scale")
    _check_classes(spec)
    _check_weights(spec)
    _note_first_pass(spec)
    margins = Margins(
        params.positive_margin,
        params.negative_margin,
        params.positive_weight,
        params.negative_weight,
        square=params.square,
        outlier=spec.params("general_contrastive_loss_param").positive_outlier_thresh,
    )
    return SoftContrastiveLoss(margins, spec.gradients, tops=len(spec.tops))


class BatchContrastiveLoss(_DistanceLoss):
    """Distances of pairs of a batch: of one class beyond a margin, of two classes within another, by how many pairs.

    Bottoms: distances (N, N), of which those above the diagonal count, and labels. With ``one_each``, only the farthest
    pair of one class and the nearest of two count, undivided. The fork's slopes are the derivative's (N - 1) / 2-fold,
    or half of it. It never sets its loss back: from the second pass on it has what the last one left in it, which this
    has not.
    """

    def __init__(self, margins: Margins, gradients: str, *, tops: int, one_each: bool) -> None:
        super().__init__(gradients, tops=tops)
        self.margins = margins
        self.one_each = one_each

    def forward(self, x: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        count, margins = x.shape[0], self.margins
        distances = widened(x).reshape(count, count)
        label = labels.flatten()[:count]
        pairs = torch.ones_like(distances, dtype=torch.bool).triu(1)
        same = pairs & (label == label[:, None])
        other = pairs & ~same
        near, far = same & (distances > margins.near), other & (distances < margins.far)
        if self.one_each:
            near, far = _first_of(near, distances), _first_of(far, -distances)
        terms = torch.where(near, margins.near_weight * (distances - margins.near), 0)
        terms = terms + torch.where(far, margins.far_weight * (margins.far - distances), 0)
        loss = terms.sum() if self.one_each else terms.sum() / (count * (count - 1) // 2)
        log = [torch.where(part, distances, 0).sum() / part.sum() for part in (same, other)]
        slopes = margins.near_weight * near.to(distances.dtype) - margins.far_weight * far.to(distances.dtype)
        # By ``count`` in ``result``.
        return self.result(loss, x, slopes * (count / 2 if self.one_each else 1), log)


def _first_of(among: Tensor, values: Tensor) -> Tensor:
    """The place of the largest value among some places, the first of equal ones, as a mask; none if there are none."""
    chosen = torch.where(among, values, -math.inf).flatten().argmax()
    return among & (torch.arange(among.numel(), device=among.device) == chosen).reshape(among.shape)


@layer("BatchContrastiveLoss", bottoms=2, tops=(1, 2), loss=True, dialects=(_WINDOWS, _WU))
def batch_contrastive_loss(spec: LayerSpec) -> Layer:
    params, count = (
        spec.params("batch_contrastive_loss_param"),
        spec.bottom_shapes[0][0] if spec.bottom_shapes[0] else 0,
    )
    spec.shaped(0, "examples >= 2", count, ones=True)
    spec.vector(1, count)
    if not params.max_only:
        _note_first_pass(spec)
    margins = Margins(params.positive_margin, params.negative_margin, params.positive_weight, params.negative_weight)
    return BatchContrastiveLoss(margins, spec.gradients, tops=len(spec.tops), one_each=params.max_only)


class GeneralTripletLoss(_DistanceLoss):
    """How much less than a margin others are farther than one's own class, over N.

    Bottoms: distances (N, ...), labels, and maybe weights for the slopes of examples.

    Args:
        margin: by how much. near_weight: the slope of one's own distance; far_weight: factor of the terms.
        centred: whether one's own distance has its slope where no other is too near, too.
        one_far: only the nearest other counts.
        near_first: an example whose own distance is above this learns nothing else; its terms are 0.
    """

    def __init__(
        self,
        margin: float,
        near_weight: float,
        far_weight: float,
        gradients: str,
        *,
        tops: int,
        centred: bool,
        one_far: bool,
        near_first: float | None,
    ) -> None:
        super().__init__(gradients, tops=tops)
        self.margin = margin
        self.near_weight, self.far_weight = near_weight, far_weight
        self.centred = centred
        self.one_far = one_far
        self.near_first = near_first

    def forward(self, x: Tensor, labels: Tensor, *weights: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        distances = widened(x).reshape(x.shape[0], -1)
        own = self.own(distances, labels)
        near = torch.where(own, distances, 0).sum(1, keepdim=True)
        close = ~own & (near + self.margin > distances)
        terms = torch.where(close, (near + self.margin - distances) * self.far_weight, 0)
        if self.one_far:
            best = torch.where(terms > 0, terms, -math.inf).argmax(1, keepdim=True)
            any_close = (terms > 0).any(1, keepdim=True)
            close = (terms > 0) & (torch.arange(own.shape[1], device=own.device) == best) & any_close
            terms = torch.where(close, terms, 0)
        log = [near.sum() / len(x)]
        log += [torch.where(own, 0, distances).sum() / len(x) / (distances.shape[1] - 1)]
        beyond = torch.zeros_like(near, dtype=torch.bool) if self.near_first is None else near > self.near_first
        terms = torch.where(beyond, 0, terms)
        slopes = (close & ~beyond).to(distances.dtype) * -self.far_weight
        if self.one_far:
            # A distance of exactly 0 keeps, as its slope, the term that the fork left there.
            slopes = torch.where(close & ~beyond & (distances == 0), terms.detach(), slopes)
            close = close & (distances != 0)
        learns = beyond | close.any(1, keepdim=True) | self.centred
        slopes = torch.where(own, learns.to(distances.dtype) * self.near_weight, slopes)
        return self.result(terms.abs().sum() / len(x), x, _weighted(slopes, weights, by_mean=False), log)


@layer("GeneralTripletLoss", bottoms=(2, 3), tops=(1, 2), loss=True, dialects=(_WINDOWS, _WU))
def general_triplet_loss(spec: LayerSpec) -> Layer:
    params = spec.params("general_triplet_loss_param")
    _check_classes(spec)
    _check_weights(spec)
    return GeneralTripletLoss(
        params.margin,
        params.positive_weight,
        params.negative_weight,
        spec.gradients,
        tops=len(spec.tops),
        centred=params.add_center_loss,
        one_far=params.hardest_only,
        near_first=_near_first(params),
    )


class TripletLoss(Layer):
    """max(0, margin + |a - p|^2 - |a - n|^2) over 2 N: anchors, positives and negatives, (N, C) each."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        rows, near, far = (widened(x).reshape(anchor.shape[0], -1) for x in (anchor, positive, negative))
        terms = (rows - near).square().sum(1) - (rows - far).square().sum(1) + self.margin
        return (terms.relu().sum() / len(rows) / 2).to(anchor.dtype)


@layer(
    "TripletLoss",
    bottoms=3,
    tops=(0, 1),
    loss=True,
    dialects=(_WINDOWS, "happynear/caffe-windows@master", _WU, "AlfredXiangWu/caffe", "ducha-aiki/caffe"),
    unforced=(),
)
def triplet_loss(spec: LayerSpec) -> Layer:
    spec.shaped(0, "examples > 0", "channels", ones=True)
    spec.alike()
    return TripletLoss(spec.params("triplet_loss_param").margin)


def _near_first(params: Params) -> float | None:
    bound: float = params.positive_upper_bound
    return bound if params.positive_first else None


def _check_weights(spec: LayerSpec) -> None:
    if len(spec.bottoms) == 3:
        spec.vector(2, spec.bottom_shapes[0][0])


def _note_first_pass(spec: LayerSpec) -> None:
    spec.note("the fork's loss has in it what earlier passes left; this one's is that of a first pass")


def _check_classes(spec: LayerSpec) -> None:
    examples, *classes = spec.shaped(0, "examples > 0", ...)
    if math.prod(classes) < 1:
        spec.misfit(0, "at least one distance for each example")
    spec.vector(1, examples)
