"""MultiBoxLoss: the loss of the single-shot detector (SSD)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..bvlc.loss import normalization_mode, normalizer, with_gradient
from ..precision import widened
from .boxes import area, best_apart, decode, encode, overlap
from .families import SSD, SSD_FIRST
from .ssd import check_predictions

__all__ = ["MultiBoxLoss", "MultiBoxSettings"]

# Caffe's: boxes that overlap less do not meet.
_LEAST_OVERLAP = 1e-6
# Smaller boxes are none to its suppression.
_LEAST_AREA = 1e-5
# Caffe raises probabilities to FLT_MIN before it takes their logarithm.
_MOST_LOSS = -math.log(torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class MultiBoxSettings:
    """Parameters of :class:`MultiBoxLoss`.

    Attributes:
        classes, background: their number, and which one is no object.
        bipartite: only the best prior box of each object is matched; else all that overlap one by ``overlap``, too.
        difficult: whether objects marked as difficult count. inside: boxes that leave the image match nothing.
        cut: where a side of a box leaves the image, its offset is not learnt. by_prior: objects are matched to the
            prior boxes, not to those that the network finds. each_class: every class has offsets of its own.
        agnostic: all objects are one class, the one behind the background, in the loss on scores.
        code: how offsets encode boxes. encoded: they have the variances in them.
        squared, logistic: the kind of loss on offsets, and on scores.
        mining: ``MAX_NEGATIVE``: of negatives only the ``ratio`` hardest per match count, of those that overlap objects
            by less than ``negative``; ``HARD_EXAMPLE``: of all boxes the ``sample`` hardest of an image; ``NONE``: all.
        by_score: the hardest have the highest score for a class that is no background, not the largest loss.
        apart: of boxes that overlap by more only the hardest may count, and of these so many; None for all.
        apart_by_prior: whether prior boxes say that, not those that the network finds.
        mode: what the sum is divided by; ``VALID`` is the number of matches.
        use_offsets, use_scores: which of the two parts count.
    """

    classes: int
    background: int
    bipartite: bool
    overlap: float
    difficult: bool
    inside: bool
    cut: bool
    by_prior: bool
    each_class: bool
    agnostic: bool
    code: str
    encoded: bool
    squared: bool
    logistic: bool
    weight: float
    mining: str
    by_score: bool
    ratio: float
    negative: float
    sample: int
    apart: tuple[float, int] | None
    apart_by_prior: bool
    mode: str
    use_offsets: bool
    use_scores: bool

    @property
    def mined(self) -> bool:
        """Whether some boxes count, and others do not."""
        return self.mining != "NONE"


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
        offsets = widened(offsets).reshape(images, boxes, -1, 4)
        scores = widened(scores).reshape(images, boxes, s.classes)
        rows = self._objects(objects)
        # Boxes as the network has them, where it has one for each: what they match, or crowd out, has no gradient.
        found = prior.expand(images, -1, -1)
        if not s.each_class:
            found = decode(offsets[:, :, 0].detach(), prior, None if s.encoded else variance, s.code)
        labels = torch.full((images, boxes), s.background, device=offsets.device)
        goal = offsets.new_zeros(images, boxes, 4)
        matches, negative = torch.full_like(labels, -1), torch.zeros_like(labels, dtype=torch.bool)
        for image in range(images):
            own = rows[rows[:, 0].long() == image]
            if not len(own):
                continue
            match, best = self._match(prior if s.by_prior else found[image], own[:, 3:7])
            labels[image] = torch.where(match >= 0, own[:, 1].long()[match], labels[image])
            goal[image] = encode(own[:, 3:7][match], prior, variance, s.code).detach()
            matches[image] = match
            negative[image] = (best < s.negative) if s.mining == "MAX_NEGATIVE" else True
        own_offsets = self._own_offsets(offsets, labels, goal, prior if s.by_prior else found, variance)
        matched = matches >= 0
        if s.mined:
            with torch.no_grad():
                everywhere = prior.expand(images, -1, -1)
                hardness = self._hardness(scores, labels, own_offsets, goal, variance, matched)
                chosen = self._hardest(hardness, matched, matches, negative, everywhere if s.apart_by_prior else found)
            if s.mining == "HARD_EXAMPLE":
                matched, labels = matched & chosen, torch.where(matched & ~chosen, s.background, labels)
            counted = matched | (chosen & (matches == -1))
        total = offsets.new_zeros(())
        if s.use_offsets:
            # Unmatched boxes may have no finite goal.
            total = total + s.weight * self._offset_loss(
                own_offsets[matched], goal[matched], variance.expand_as(goal)[matched]
            )
        if s.use_scores:
            labels = torch.where(matched, s.background + 1, labels) if s.agnostic else labels
            losses = self._score_losses(scores, labels, self._logistic_goal(labels, matched) if s.logistic else None)
            total = total + (losses[counted] if s.mined else losses).sum()
        return (total / normalizer(s.mode, images, boxes, matched)).to(priors.dtype)

    def _own_offsets(self, offsets: Tensor, labels: Tensor, goal: Tensor, boxes: Tensor, variance: Tensor) -> Tensor:
        """The offsets (N, boxes, 4) of each box's class; the goal itself where a side is not learnt."""
        s = self.settings
        own = offsets[:, :, 0]
        if s.each_class:
            own = offsets.gather(2, labels[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]
        if s.cut:
            own = torch.where((boxes < 0) | (boxes > 1), goal * variance if s.encoded else goal, own)
        return own

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
        # Of which class an object is has no bearing where all are one.
        classes = s.classes if s.mined or not s.agnostic else int(labels.max()) + 1 if len(labels) else 0
        bad = (labels == s.background) | (labels < 0) | (labels >= classes)
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

    def _hardness(
        self, scores: Tensor, labels: Tensor, offsets: Tensor, goal: Tensor, variance: Tensor, matched: Tensor
    ) -> Tensor:
        """How hard each box is, (N, boxes)."""
        s = self.settings
        if s.by_score:
            every = scores.sigmoid() if s.logistic else scores.softmax(2)
            return every[..., [c for c in range(s.classes) if c != s.background]].amax(2)
        one_hot = functional.one_hot(labels, s.classes).to(scores.dtype) if s.logistic else None
        hardness = self._score_losses(scores, labels, one_hot)
        if s.mining != "HARD_EXAMPLE":
            return hardness
        found = offsets / variance if s.encoded else offsets
        kind = functional.mse_loss if s.squared else functional.smooth_l1_loss
        losses = kind(found, goal, reduction="none").sum(2) * (0.5 if s.squared else 1)
        return hardness + torch.where(matched, losses, 0)

    def _hardest(self, hardness: Tensor, matched: Tensor, matches: Tensor, eligible: Tensor, boxes: Tensor) -> Tensor:
        """The hardest boxes of each image, (N, boxes): so many per match, or so many."""
        s = self.settings
        if s.mining == "HARD_EXAMPLE":
            wanted = torch.full_like(matches[:, :1], s.sample)
        else:
            eligible = eligible & (matches == -1)
            wanted = (matched.sum(1, keepdim=True) * s.ratio).long()
        if s.apart is not None:
            threshold, most = s.apart
            chosen = torch.zeros_like(matched)
            for image, places in enumerate(map(torch.nonzero, eligible)):
                own = places[:, 0]
                own = own[hardness[image, own].argsort(descending=True, stable=True)][: most if most > -1 else None]
                own = own[area(boxes[image, own]) >= _LEAST_AREA]
                kept = own[best_apart(boxes[image, own], threshold)]
                chosen[image, kept[: int(wanted[image])]] = True
            return chosen
        order = torch.where(eligible, hardness, -1.0).argsort(dim=1, descending=True, stable=True)
        rank = torch.zeros_like(order).scatter(
            1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
        )
        return eligible & (rank < wanted)

    def _logistic_goal(self, labels: Tensor, matched: Tensor) -> Tensor:
        """What sigmoids are compared with, (N, boxes, classes), as the forks have it.

        Where nothing says 1 they have the number of the background. Without mining it never says 1, and what an image's
        objects say lies as many places behind that of the image before as there are boxes, not values.
        """
        s = self.settings
        shape = (*labels.shape, s.classes)
        goal = torch.full(shape, float(s.background), device=labels.device)
        if s.mined:
            return goal.scatter(2, labels[..., None], 1)
        image, box = matched.nonzero().unbind(1)
        places = image * shape[1] + box * s.classes + labels[matched]
        return goal.flatten().index_fill(0, places, 1).reshape(shape)

    def _score_losses(self, scores: Tensor, labels: Tensor, goal: Tensor | None) -> Tensor:
        """The loss of each box, (N, boxes), of sigmoids if there is a ``goal`` for them."""
        if goal is not None:
            goal = goal.to(scores.dtype)
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
    mining = _mining(spec, params)
    each_class, agnostic = (
        not params.share_location,
        params.knows("map_object_to_agnostic") and bool(params.map_object_to_agnostic),
    )
    if each_class and (mining != "NONE" or not params.use_prior_for_matching or agnostic):
        spec.fail("share_location: false is supported with mining_type NONE, by prior boxes, and of classes alone")
    if params.conf_loss_type not in ("SOFTMAX", "LOGISTIC"):
        spec.fail(f"conf_loss_type {params.conf_loss_type} is not supported")
    if not params.has("num_classes"):
        spec.fail("needs num_classes")
    logistic, background = params.conf_loss_type == "LOGISTIC", params.background_label_id
    if not 0 <= background < params.num_classes:
        spec.fail(f"background_label_id {background} must be one of the {params.num_classes} classes")
    if agnostic and params.num_classes != 2:
        spec.fail(f"map_object_to_agnostic: true needs num_classes 2, not {params.num_classes}")
    check_predictions(spec, params.num_classes, not each_class)
    spec.shaped(3, 1, 1, "objects", 8)
    # The net sees to it that there are as many as bottoms, or none.
    down = [*spec.message.propagate_down, True, True]
    apart, apart_by_prior = _apart(spec, params, mining)
    settings = MultiBoxSettings(
        params.num_classes,
        background,
        params.match_type == "BIPARTITE",
        params.overlap_threshold,
        params.use_difficult_gt,
        params.ignore_cross_boundary_bbox if params.knows("ignore_cross_boundary_bbox") else False,
        params.bp_inside if params.knows("bp_inside") else False,
        params.use_prior_for_matching,
        each_class,
        agnostic,
        params.code_type,
        params.encode_variance_in_target,
        params.loc_loss_type == "L2",
        logistic,
        params.loc_weight,
        mining,
        by_score,
        params.neg_pos_ratio,
        params.neg_overlap,
        params.sample_size if mining == "HARD_EXAMPLE" else 0,
        apart,
        apart_by_prior,
        normalization_mode(spec, "VALID"),
        bool(down[0]),
        bool(down[1]),
    )
    return MultiBoxLoss(settings, true_gradient=spec.gradients == "true")


def _mining(spec: LayerSpec, params: Params) -> str:
    """``mining_type``, or what the older ``do_neg_mining`` stands for."""
    mining: str = params.mining_type if params.knows("mining_type") else "MAX_NEGATIVE"
    if params.knows("do_neg_mining") and params.has("do_neg_mining"):
        if not params.knows("mining_type"):
            mining = "MAX_NEGATIVE" if params.do_neg_mining else "NONE"
        elif params.do_neg_mining != (mining != "NONE"):
            spec.fail(
                f"do_neg_mining {str(params.do_neg_mining).lower()} and mining_type {mining} contradict each other"
            )
    if mining != "HARD_EXAMPLE":
        params.ignore("sample_size")
    elif params.sample_size < 1:
        spec.fail(f"sample_size is {params.sample_size}; at least 1 was expected")
    if mining != "MAX_NEGATIVE":
        params.ignore("neg_pos_ratio", "neg_overlap")
    return mining


def _apart(spec: LayerSpec, params: Params, mining: str) -> tuple[tuple[float, int] | None, bool]:
    """How far apart hard boxes have to be, and whether by their prior boxes."""
    if mining == "NONE" or not params.knows("nms_param") or not params.has("nms_param"):
        params.ignore("nms_param", "use_prior_for_nms")
        return None, False
    nms = params.nms_param
    nms.ignore("eta")  # the forks' suppression here knows no threshold that sinks
    if nms.nms_threshold <= 0:
        nms.ignore("top_k")
        params.ignore("use_prior_for_nms")
        return None, False
    return (nms.nms_threshold, nms.top_k), params.use_prior_for_nms
