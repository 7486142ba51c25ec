"""What MS-CNN trains with: the loss of maps of fields, and how good these and the boxes made of them are.

Fields are boxes of one size about each cell. A map (N, classes + 4, H, W) scores the classes of the field of each cell,
and says how to adjust it; the labels (N, 6, H, W) are the class of the true box there (0 is background), its centre,
width and height in pixels, and the overlap with it. Sources: zhaoweicai/mscnn, ``detection_loss_layer.cpp``,
``detection_accuracy_layer.cpp`` and ``bbox_accuracy_layer.cpp``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from .proposals import adjustment

__all__ = ["BboxAccuracy", "DetectionAccuracy", "DetectionLoss", "FieldAccuracy", "FieldLoss", "Fields", "Sampling"]

_FORK, _CASCADE = "zhaoweicai/mscnn", "zhaoweicai/cascade-rcnn"
# True boxes are taken for at least so many pixels wide and high.
_SMALLEST = 2.0
# A proposal that overlaps the true box by more is that box.
_TRUE_BOX = 0.975


@dataclass(frozen=True)
class Fields:
    """The fields of a map.

    Attributes:
        classes: with background. sizes: width and height of the field of each cell; of several, the maps of as many
            one after the other are of one image. stride: pixels from cell to cell.
        shift, factor: bounds of how far a box may move, in fields, and of the logarithm of how much it grows.
        mean, std: of the four adjustments. objectness: all classes but background count as one.
        ignored: a label that does not count, or None.
    """

    classes: int
    sizes: tuple[tuple[float, float], ...]
    stride: float
    shift: float
    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    objectness: bool
    ignored: int | None

    def labels(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The class (N, H, W) of every cell, and whether it counts."""
        label = labels[:, 0].long()
        truth = label.clamp_max(1) if self.objectness else label
        counts = torch.ones_like(label, dtype=torch.bool) if self.ignored is None else truth != self.ignored
        return truth, counts

    def objects(self, labels: Tensor) -> Tensor:
        """The cells (N, H, W) whose boxes count."""
        label = labels[:, 0].long()
        return (label != 0) if self.ignored is None else (label != 0) & (label != self.ignored)

    def centres(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """x (W,) and y (H, 1) of the fields of a map (..., H, W)."""
        height, width = like.shape[-2:]
        x, y = ((torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) * self.stride for n in (width, height))
        return x, y[:, None]

    def spans(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Width and height, (N, 1, 1) each, of the fields of maps (N, ...)."""
        sizes = like.new_tensor(self.sizes).repeat(len(like) // len(self.sizes), 1)
        return sizes[:, 0, None, None], sizes[:, 1, None, None]

    def wanted(self, labels: Tensor) -> Tensor:
        """The adjustments (N, 4, H, W) that lead to the true boxes of labels (N, 6, H, W), normalised."""
        x, y = self.centres(labels)
        width, height = self.spans(labels)
        grown = labels[:, 3:5].clamp_min(_SMALLEST)
        moved = [(labels[:, 1] - x) / width, (labels[:, 2] - y) / height]
        adjustments = torch.stack([*moved, (grown[:, 0] / width).log(), (grown[:, 1] / height).log()], 1)
        mean, std = (adjustments.new_tensor(v).reshape(4, 1, 1) for v in (self.mean, self.std))
        return (adjustments - mean) / std

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the largest adjustment (4, 1, 1), normalised by the mean of both places, and of both sizes."""
        bounds = []
        for sign in (-1, 1):
            values = []
            for first, most in ((0, self.shift), (2, self.factor)):
                mean = (self.mean[first] + self.mean[first + 1]) / 2
                values += [(sign * most - mean) / math.sqrt(self.std[first] * self.std[first + 1])] * 2
            bounds.append(like.new_tensor(values).reshape(4, 1, 1))
        return bounds[0], bounds[1]


@dataclass(frozen=True)
class Sampling:
    """Which cells of the background count.

    Attributes:
        mode: ``random``, ``bootstrap`` (the highest scores), ``mixture`` (half of each), else all.
        threshold: cells whose overlap reaches it never count. multiple: how many for each cell of an object.
        by_overlap: objects weigh as much as they overlap. balanced: objects and background weigh 1 to ``multiple``.
    """

    mode: str
    threshold: float
    multiple: float
    by_overlap: bool
    balanced: bool


class FieldLoss(Layer):
    """The mean cross-entropy of the cells that count, plus ``weight`` times the mean (smooth) squared difference of the
    adjustments of objects; behind it, as a second number, the latter alone. The top is (1, 1, 1, 2).

    Only the first number has a gradient, and outside the bounds of adjustments it is as inside, as in the forks;
    ``gradients="true"`` has none there. What is drawn is this library's draw, not the fork's.
    """

    def __init__(self, fields: Fields, weight: float, gradients: str, *, smooth: bool) -> None:
        super().__init__()
        self.fields = fields
        self.weight = weight
        self.gradients = gradients
        self.smooth = smooth

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(1, 1, 1, 2)

    def class_losses(self, scores: Tensor, truth: Tensor) -> Tensor:
        """The cross-entropy of each cell (N, H, W), of scores (N, classes, H, W)."""
        losses = -scores.log_softmax(1).gather(1, truth[:, None])[:, 0]
        # As in the forks, a probability is at least the least positive float; the gradient does not see that.
        bounded = losses.detach().clamp_max(-math.log(torch.finfo(torch.float32).tiny))
        return losses + (bounded - losses.detach())

    def place_loss(self, adjustments: Tensor, labels: Tensor, objects: Tensor) -> Tensor:
        """``weight`` times the mean difference of the four adjustments (N, 4, H, W) at objects."""
        low, high = self.fields.bounds(labels)
        cut = torch.minimum(torch.maximum(adjustments, low), high)
        if self.gradients != "true":
            cut = adjustments + (cut - adjustments).detach()
        difference = torch.where(objects[:, None], cut - self.fields.wanted(labels), 0)
        if self.smooth:
            size = difference.abs()
            losses = torch.where(size < 1, difference.square() / 2, size - 0.5)
        else:
            losses = difference.square() / 2
        return self.weight * losses.sum() / (4 * objects.sum()).clamp_min(1)


class DetectionLoss(FieldLoss):
    """The loss of MS-CNN, of one size of fields: maps (N, classes + 4, H, W) and labels (N, 6, H, W)."""

    def __init__(self, fields: Fields, sampling: Sampling, weight: float, gradients: str, *, smooth: bool) -> None:
        super().__init__(fields, weight, gradients, smooth=smooth)
        self.sampling = sampling

    def forward(self, maps: Tensor, labels: Tensor) -> Tensor:
        labels = labels.detach()
        truth, counts = self.fields.labels(labels)
        background = self._background(maps.detach(), labels)
        sampled = counts & ((truth != 0) | background)
        losses = self.class_losses(maps[:, : self.fields.classes], truth) * self._weights(labels, background)
        classes = (losses * sampled).sum() / sampled.sum().clamp_min(1)
        places = self.place_loss(maps[:, self.fields.classes :], labels, self.fields.objects(labels))
        return torch.stack([classes + places, places.detach()]).reshape(1, 1, 1, 2)

    def _background(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Which cells (N, H, W) of the background are kept."""
        s = self.sampling
        truth = self.fields.labels(labels)[0]
        free = (labels[:, 0].long() == 0) & (labels[:, 5] < s.threshold)
        if s.mode not in ("random", "bootstrap", "mixture"):
            return free
        share = 0.5 if s.mode == "mixture" else 1.0
        kept = torch.zeros_like(free).flatten(1)
        generator = self.randomness.generator(self.layer_name, "cpu")
        for image, row in enumerate(free.flatten(1)):
            if s.mode != "bootstrap":
                objects = int((truth[image] != 0).sum())
                count = max(int(objects * s.multiple * share), 4 * (self.fields.classes - 1))
                drawn = torch.randint(len(row), (count,), generator=generator).to(row.device)
                kept[image, drawn] = row[drawn]
            if s.mode != "random":
                places = row.nonzero().flatten()
                for label in range(1, self.fields.classes):
                    count = max(int(int((truth[image] == label).sum()) * s.multiple * share), 4)
                    scores = maps[image, label].flatten()[places]
                    # Of equal scores, the last comes first.
                    order = scores.flip(0).argsort(dim=0, descending=True, stable=True)[:count]
                    kept[image, places.flip(0)[order]] = True
        return kept.reshape(free.shape)

    def _weights(self, labels: Tensor, background: Tensor) -> Tensor:
        """What each cell (N, H, W) counts for."""
        s = self.sampling
        objects = labels[:, 0].long() != 0
        weights = torch.ones_like(labels[:, 0])
        if s.by_overlap:
            weights = torch.where(objects, labels[:, 5], weights)
        if s.balanced:
            positive, negative = weights[objects].sum(), weights[background & ~objects].sum()
            count, share = int(background.sum()) + int(objects.sum()), 1 / (1 + s.multiple)
            if positive != 0:
                negative = torch.where(negative == 0, 1, negative)  # there is nothing to weigh
                factors = torch.where(objects, share * count / positive, (1 - share) * count / negative)
                weights = weights * factors
        return weights


class FieldAccuracy(Layer):
    """How many cells, and how many of objects, have their class among the ``best`` scores, (1, 1, 1, 2), and as second
    top the mean overlap of the boxes at objects with the true ones; -1 of none.

    Of equal scores the later class is the better one, or with ``first`` the earlier one. ``least``: boxes whose common
    part is narrower or lower, in pixels, do not overlap.
    """

    def __init__(
        self, fields: Fields, threshold: float, best: int, *, tops: int, first: bool = False, least: float = 0
    ) -> None:
        super().__init__()
        self.first = first
        self.least = least
        self.fields = fields
        self.threshold = threshold
        self.best = best
        self.tops = tops

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = bottoms[0]
        rates = x.new_empty(1, 1, 1, 2)
        return rates if self.tops == 1 else (rates, x.new_empty(1, 1, 1, 1))

    @torch.no_grad()
    def rates(self, scores: Tensor, adjustments: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The tops, of scores (N, classes, H, W) and adjustments (N, 4, H, W)."""
        f = self.fields
        truth, counts = f.labels(labels)
        seen = counts & ~((truth == 0) & (labels[:, 5] >= self.threshold))
        own = scores.gather(1, truth[:, None])
        places = torch.arange(f.classes, device=scores.device).reshape(-1, 1, 1)
        before = places < truth[:, None] if self.first else places > truth[:, None]
        right = ((scores > own) | ((scores == own) & before)).sum(1) < self.best
        rates = [_mean(right[cells].to(scores.dtype)) for cells in (seen, seen & (truth != 0))]
        top = torch.stack(rates).reshape(1, 1, 1, 2)
        if self.tops == 1:
            return top
        objects = f.objects(labels)
        return top, _mean(self._overlaps(adjustments, labels)[objects]).reshape(1, 1, 1, 1)

    def _overlaps(self, adjustments: Tensor, labels: Tensor) -> Tensor:
        """(N, H, W): of the box of each cell with the true one."""
        f = self.fields
        x, y = f.centres(labels)
        width, height = f.spans(labels)
        mean, std = (adjustments.new_tensor(v).reshape(4, 1, 1) for v in (f.mean, f.std))
        places = adjustments * std + mean
        moved, grown = places[:, :2].clamp(-f.shift, f.shift), places[:, 2:].clamp(-f.factor, f.factor).exp()
        found = [moved[:, 0] * width + x, moved[:, 1] * height + y, grown[:, 0] * width, grown[:, 1] * height]
        return _overlap(torch.stack(found, -1), labels[:, 1:5].movedim(1, -1), self.least)


class DetectionAccuracy(FieldAccuracy):
    """The accuracy of MS-CNN, of one size of fields: maps (N, classes + 4, H, W) and labels (N, 6, H, W)."""

    def forward(self, maps: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.rates(maps[:, : self.fields.classes], maps[:, self.fields.classes :], labels)


class BboxAccuracy(Layer):
    """Adjustments (R, 4 classes) of proposals (R, 5) and their true boxes (R, 6: class, corners, overlap) -> the mean
    overlap after the adjustment, and as second top before; -1 where there is no object. Proposals that are the true
    box, by an overlap above 0.975, do not count. Corners include the last pixel; boxes whose common part is narrower
    or lower than ``least`` pixels do not overlap."""

    def __init__(
        self, mean: tuple[float, ...], std: tuple[float, ...], *, aware: bool, tops: int, least: float = 0
    ) -> None:
        super().__init__()
        self.least = least
        self.mean = mean
        self.std = std
        self.aware = aware
        self.tops = tops

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        tops = tuple(bottoms[0].new_empty(1, 1, 1, 1) for _ in range(self.tops))
        return tops if self.tops > 1 else tops[0]

    @torch.no_grad()
    def forward(self, adjustments: Tensor, proposals: Tensor, truth: Tensor) -> Tensor | tuple[Tensor, ...]:
        adjustments, proposals, truth = (x.flatten(1) for x in (adjustments, proposals, truth))
        objects = (truth[:, 0].long() > 0) & (truth[:, -1] <= _TRUE_BOX)
        adjustments, proposals, truth = adjustments[objects], proposals[objects], truth[objects]
        label = truth[:, 0].long() if self.aware else torch.ones(len(truth), dtype=torch.long, device=truth.device)
        own = adjustments.unflatten(1, (-1, 4))[torch.arange(len(label), device=label.device), label]
        own = own * own.new_tensor(self.std) + own.new_tensor(self.mean)
        before, wanted = (_centred(boxes[:, 1:5]) for boxes in (proposals, truth))
        after = torch.cat([own[:, :2] * before[:, 2:] + before[:, :2], before[:, 2:] * own[:, 2:].exp()], 1)
        means = [_mean(_overlap(boxes, wanted, self.least)).reshape(1, 1, 1, 1) for boxes in (after, before)]
        return tuple(means) if self.tops > 1 else means[0]


def _centred(corners: Tensor) -> Tensor:
    """Boxes (..., 4) as centre, width and height, of corners that include the last pixel."""
    sizes = corners[..., 2:] - corners[..., :2] + 1
    return torch.cat([corners[..., :2] + sizes / 2, sizes], -1)


def _overlap(a: Tensor, b: Tensor, least: float) -> Tensor:
    """Intersection over union of boxes (..., 4): centre, width, height; 0 if the common part is below ``least``."""
    low = torch.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
    high = torch.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    sides = high - low
    common = torch.where((sides >= least).all(-1), sides.clamp_min(0).prod(-1), 0)
    return torch.where(common > 0, common / (a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - common), 0)


def _mean(values: Tensor) -> Tensor:
    """The mean, -1 of nothing."""
    return values.mean() if len(values) else values.new_tensor(-1.0)


def _fields(spec: LayerSpec, params: Params) -> Fields:
    classes, coordinates = params.cls_num, params.coord_num
    if coordinates != 4 or classes < 2:
        spec.fail(f"cls_num {classes} and coord_num {coordinates}: at least 2, and 4, were expected")
    if params.objectness and classes != 2:
        spec.fail(f"objectness tells objects from background, 2 classes; cls_num is {classes}")
    images, _, height, width = spec.shaped(0, "images", f"channels = {classes + 4}", "height", "width")
    spec.shaped(1, f"images = {images}", 6, f"height = {height}", f"width = {width}")
    loss = spec.params("loss_param")
    mean, std = adjustment(spec)
    return Fields(
        classes,
        ((params.field_w, params.field_h),),
        params.downsample_rate,
        1 / params.field_xyr,
        math.log(params.field_whr),
        mean,
        std,
        params.objectness,
        loss.ignore_label if loss.has("ignore_label") else None,
    )


@layer("DetectionLoss", bottoms=2, tops=1, loss=True, dialects=(_FORK,), verified=False)
def detection_loss(spec: LayerSpec) -> Layer:
    params = spec.params("detection_loss_param")
    sampling = Sampling(
        params.sample_mode, params.bg_threshold, params.bg_multiple, params.iou_weighted, params.pos_neg_weighted
    )
    weight = getattr(params, "lambda")
    return DetectionLoss(_fields(spec, params), sampling, weight, spec.gradients, smooth=params.bb_smooth)


@layer("DetectionAccuracy", bottoms=2, tops=(1, 2), dialects=(_FORK,), verified=False, unforced=(0, 1))
def detection_accuracy(spec: LayerSpec) -> Layer:
    params = spec.params("detection_accuracy_param")
    fields = _fields(spec, params)
    if not 1 <= params.top_k <= fields.classes:
        spec.fail(f"top_k is {params.top_k}; 1 to {fields.classes} was expected")
    return DetectionAccuracy(fields, params.bg_threshold, params.top_k, tops=len(spec.tops))


@layer("BboxAccuracy", bottoms=3, tops=(1, 2), dialects=(_FORK,), verified=False, unforced=(0, 1, 2))
def bbox_accuracy(spec: LayerSpec) -> Layer:
    spec.params("bbox_reg_param").ignore("cls_aware")  # the fork's layer knows no other way
    return _bbox_accuracy(spec, aware=True, least=0)


@layer("BboxAccuracy", bottoms=3, tops=(1, 2), dialects=(_CASCADE,), verified=False, unforced=(0, 1, 2))
def bbox_accuracy_of_cascade(spec: LayerSpec) -> Layer:
    """The same, but without ``cls_aware`` all objects are one class, and boxes have to share a pixel."""
    return _bbox_accuracy(spec, aware=spec.params("bbox_reg_param").cls_aware, least=1)


def _bbox_accuracy(spec: LayerSpec, *, aware: bool, least: float) -> Layer:
    rows, values, *_ = spec.shaped(0, "proposals", "adjustments > 7", ones=True)
    if values % 4:
        spec.misfit(0, "(proposals, four adjustments for each class)")
    spec.shaped(1, f"proposals = {rows}", 5, ones=True)
    spec.shaped(2, f"proposals = {rows}", 6, ones=True)
    mean, std = adjustment(spec)
    return BboxAccuracy(mean, std, aware=aware, tops=len(spec.tops), least=least)
