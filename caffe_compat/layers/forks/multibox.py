"""MultiBoxLoss: the loss of the single-shot detector (SSD)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, layer
from ..bvlc.loss import normalization_mode, normalizer, with_gradient
from ..precision import widened
from .boxes import encode, overlap
from .families import SSD, SSD_FIRST
from .ssd import check_predictions

__all__ = ["MultiBoxLoss", "MultiBoxSettings"]

# Caffe's: boxes that overlap less do not meet.
_LEAST_OVERLAP = 1e-6
# Caffe raises probabilities to FLT_MIN before it takes their logarithm.
_MOST_LOSS = -math.log(torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class MultiBoxSettings:
    """Parameters of :class:`MultiBoxLoss`.

    Attributes:
        classes, background: their number, and which one is no object.
        bipartite: only the best prior box of each object is matched; else all that overlap one by ``overlap``, too.
        difficult: whether objects marked as difficult count. inside: prior boxes that leave the image match nothing.
        code: how offsets encode boxes. encoded: they have the variances in them.
        squared, logistic: the kind of loss on offsets, and on scores.
        mined: only the ``ratio`` hardest negatives per match, of those that overlap objects by less than ``negative``,
            count; otherwise all do. by_score: the hardest have the highest score for a class that is no background,
            not the largest loss.
        mode: what the sum is divided by; ``VALID`` is the number of matches.
        use_offsets, use_scores: which of the two parts count.
    """

    classes: int
    background: int
    bipartite: bool
    overlap: float
    difficult: bool
    inside: bool
    code: str
    encoded: bool
    squared: bool
    logistic: bool
    weight: float
    mined: bool
    by_score: bool
    ratio: float
    negative: float
    mode: str
    use_offsets: bool
    use_scores: bool


class MultiBoxLoss(Layer):
    """Loss of offsets (N, 4 x boxes) and scores (N, classes x boxes) of prior boxes against objects.

    Objects are rows (image, class, instance, x1, y1, x2, y2, difficult), an image of -1 standing for none. Each object
    takes the prior box that it overlaps most, the best pair first, and then each prior box the object that it overlaps
    enough. Matched boxes count with their offsets and class, and so do the negatives with the background.

    Of negatives that are equally hard the first counts; Caffe sorts them in an order of its own.
    """

    def __init__(self, settings: MultiBoxSettings, *, true_gradient: bool) -> None:
        super().__init__()
        self.settings = settings
        self.true_gradient = true_gradient

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(())

    def forward(self, offsets: Tensor, scores: Tensor, priors: Tensor, objects: Tensor) -> Tensor:
        s = self.settings
        images, boxes = offsets.shape[0], priors.shape[2] // 4
        prior, variance = widened(priors.detach())[0].reshape(2, boxes, 4)
        if not ((variance > 0).all() and (s.code == "CORNER" or (prior[:, 2:] > prior[:, :2]).all())):
            raise LayerError("a prior box without area or positive variances", layer=self.layer_name)
        offsets = widened(offsets).reshape(images, boxes, 4)
        scores = widened(scores).reshape(images, boxes, s.classes)
        rows = self._objects(objects)
        labels = torch.full((images, boxes), s.background, device=offsets.device)
        goal, matched, negative = torch.zeros_like(offsets), torch.zeros_like(labels, dtype=torch.bool), []
        for image in range(images):
            own = rows[rows[:, 0].long() == image]
            match, best = self._match(prior, own[:, 3:7])
            matched[image] = match >= 0
            if len(own):
                labels[image] = torch.where(match >= 0, own[:, 1].long()[match], labels[image])
                goal[image] = encode(own[:, 3:7][match], prior, variance, s.code).detach()
            negative.append((match == -1) & (best < s.negative) & bool(len(own)))
        with torch.no_grad():
            counted = matched | self._hardest(scores, labels, matched, torch.stack(negative)) if s.mined else None
        total = offsets.new_zeros(())
        if s.use_offsets:
            # Unmatched boxes may have no finite goal.
            total = total + s.weight * self._offset_loss(
                offsets[matched], goal[matched], variance.expand_as(goal)[matched]
            )
        if s.use_scores:
            losses = self._score_losses(scores, labels)
            total = total + (losses if counted is None else losses[counted]).sum()
        return (total / normalizer(s.mode, images, boxes, matched)).to(priors.dtype)

    def _offset_loss(self, offsets: Tensor, goal: Tensor, variance: Tensor) -> Tensor:
        """Of matched boxes, (boxes, 4) each. ``goal`` is divided by the variances already.

        Where the offsets are, too, before they are compared, Caffe's gradient lacks that division.
        """
        found = offsets / variance if self.settings.encoded else offsets
        kind = functional.mse_loss if self.settings.squared else functional.smooth_l1_loss
        loss = kind(found, goal, reduction="sum") * (0.5 if self.settings.squared else 1)
        if not self.settings.encoded or self.true_gradient:
            return loss

        def gradient() -> Tensor:
            difference = found - goal
            return difference if self.settings.squared else difference.clamp(-1, 1)

        return with_gradient(loss, offsets, gradient)

    def _objects(self, objects: Tensor) -> Tensor:
        """The rows that are objects and count."""
        s = self.settings
        rows = widened(objects.detach()).reshape(-1, 8)
        rows = rows[rows[:, 0].trunc() != -1]
        labels = rows[:, 1].long()
        bad = (labels == s.background) | (labels < 0) | (labels >= s.classes)
        if bad.any():
            raise LayerError(
                f"an object has class {int(labels[bad][0])}; 0 to {s.classes - 1} except "
                f"the background's {s.background} were expected",
                layer=self.layer_name,
            )
        rows = rows if s.difficult else rows[rows[:, 7] == 0]
        if s.code == "CENTER_SIZE" and not (rows[:, 5:7] > rows[:, 3:5]).all():
            raise LayerError("the box of an object has no area", layer=self.layer_name)
        return rows

    def _match(self, prior: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
        """For each prior box the object it is matched to, -1 for none, -2 for what never is; and its best overlap."""
        s = self.settings
        match = torch.full((len(prior),), -1, device=prior.device)
        if not len(objects):
            return match, prior.new_zeros(len(prior))
        table = overlap(prior[:, None], objects[None])
        table = torch.where(table > _LEAST_OVERLAP, table, 0)
        if s.inside:
            out = ((prior < 0) | (prior > 1)).any(1)
            match = torch.where(out, -2, match)
            table = torch.where(out[:, None], 0, table)
        best, nearest = table.max(1)
        free = table.clone()
        for _ in range(len(objects)):
            value, place = free.flatten().max(0)
            if value <= 0:
                break
            row, column = place // len(objects), place % len(objects)
            match[row] = column
            best[row] = value
            free[row], free[:, column] = 0, 0
        if not s.bipartite:
            match = torch.where((match == -1) & (best >= max(s.overlap, _LEAST_OVERLAP)) & (best > 0), nearest, match)
        return match, best

    def _hardest(self, scores: Tensor, labels: Tensor, matched: Tensor, eligible: Tensor) -> Tensor:
        """The hardest negatives, so many per match, of each image."""
        s = self.settings
        if s.by_score:
            every = scores.sigmoid() if s.logistic else scores.softmax(2)
            hardness = every[..., [c for c in range(s.classes) if c != s.background]].amax(2)
        else:
            hardness = self._score_losses(scores, labels)
        wanted = (matched.sum(1, keepdim=True) * s.ratio).long()
        order = torch.where(eligible, hardness, -1.0).argsort(dim=1, descending=True, stable=True)
        rank = torch.zeros_like(order).scatter(
            1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
        )
        return eligible & (rank < wanted)

    def _score_losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        if self.settings.logistic:
            goal = functional.one_hot(labels, self.settings.classes).to(scores.dtype)
            return functional.binary_cross_entropy_with_logits(scores, goal, reduction="none").sum(2)
        losses = functional.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
        # Caffe's FLT_MIN bounds the value, not the gradient.
        return losses + (losses.clamp_max(_MOST_LOSS) - losses).detach()


@layer("MultiBoxLoss", bottoms=4, tops=(0, 1), loss=True, dialects=SSD)
def multi_box_loss(spec: LayerSpec) -> Layer:
    return _multi_box_loss(spec, by_score=False)


@layer("MultiBoxLoss", bottoms=4, tops=(0, 1), loss=True, dialects=SSD_FIRST)
def multi_box_loss_first(spec: LayerSpec) -> Layer:
    """For a batch in which no box matches Caffe adds the loss on offsets of the batch before, here 0."""
    return _multi_box_loss(spec, by_score=True)


def _multi_box_loss(spec: LayerSpec, *, by_score: bool) -> Layer:
    params = spec.params("multibox_loss_param")
    mining = params.mining_type if params.knows("mining_type") else "MAX_NEGATIVE"
    mined = mining != "NONE"
    if params.knows("do_neg_mining") and params.has("do_neg_mining"):
        if not params.knows("mining_type"):
            mined = params.do_neg_mining
        elif params.do_neg_mining != mined:
            spec.fail(
                f"do_neg_mining {str(params.do_neg_mining).lower()} and mining_type {mining} contradict each other"
            )
    for name, supported in (
        ("share_location", True),
        ("use_prior_for_matching", True),
        ("bp_inside", False),
        ("map_object_to_agnostic", False),
    ):
        if params.knows(name) and getattr(params, name) != supported:
            spec.fail(f"{name}: {str(not supported).lower()} is not supported")
    if mining == "HARD_EXAMPLE" or params.conf_loss_type not in ("SOFTMAX", "LOGISTIC"):
        spec.fail(f"mining_type {mining} with conf_loss_type {params.conf_loss_type} is not supported")
    params.ignore("sample_size", "use_prior_for_nms")  # of mining_type HARD_EXAMPLE alone, and of nms_param alone
    if not params.has("num_classes"):
        spec.fail("needs num_classes")
    logistic, background = params.conf_loss_type == "LOGISTIC", params.background_label_id
    if logistic and (background != 0 or not mined):
        spec.fail("conf_loss_type LOGISTIC is supported with background_label_id 0 and mining_type MAX_NEGATIVE only")
    if not 0 <= background < params.num_classes:
        spec.fail(f"background_label_id {background} must be one of the {params.num_classes} classes")
    check_predictions(spec, params.num_classes, True)
    spec.shaped(3, 1, 1, "objects", 8)
    # The net sees to it that there are as many as bottoms, or none.
    down = [*spec.message.propagate_down, True, True]
    settings = MultiBoxSettings(
        params.num_classes,
        background,
        params.match_type == "BIPARTITE",
        params.overlap_threshold,
        params.use_difficult_gt,
        params.ignore_cross_boundary_bbox if params.knows("ignore_cross_boundary_bbox") else False,
        params.code_type,
        params.encode_variance_in_target,
        params.loc_loss_type == "L2",
        logistic,
        params.loc_weight,
        mined,
        by_score,
        params.neg_pos_ratio,
        params.neg_overlap,
        normalization_mode(spec, "VALID"),
        bool(down[0]),
        bool(down[1]),
    )
    return MultiBoxLoss(settings, true_gradient=spec.gradients == "true")
