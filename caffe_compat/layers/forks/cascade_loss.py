"""What Cascade R-CNN trains with: MS-CNN's loss and accuracy of fields, of which each cell has several.

The maps of one image's fields lie one after the other: scores (images x fields, classes, H, W), adjustments
(images x fields, 4, H, W) and labels (images x fields, 6, H, W), which are as MS-CNN's (:mod:`.mscnn_loss`). Sources:
zhaoweicai/cascade-rcnn, ``detection_group_loss_layer.cpp`` and ``detection_group_accuracy_layer.cpp``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from .mscnn_loss import FieldAccuracy, FieldLoss, Fields
from .proposals import adjustment

__all__ = ["DetectionGroupAccuracy", "DetectionGroupLoss", "GroupSampling"]

_FORK = "zhaoweicai/cascade-rcnn"


@dataclass(frozen=True)
class GroupSampling:
    """Which cells of an image count.

    Attributes:
        mode: how background is chosen where there is too much of it: ``random``, ``bootstrap`` (the hardest) or
            ``mixture`` (half of each). by_loss: the hardest have the largest loss, else the least score of background.
        threshold: background whose overlap reaches it never counts.
        count: how many cells; None for all objects. multiple: of background, for each cell of an object.
        least: cells of background, where ``count`` is None.
        balanced: objects and background weigh 1 to ``multiple``.
    """

    mode: str
    by_loss: bool
    threshold: float
    count: int | None
    multiple: int
    least: int
    balanced: bool

    def numbers(self, objects: int, background: int) -> tuple[int, int]:
        """How many cells of objects and of background count, of so many that there are."""
        if self.count is None:
            return objects, min(max(objects * self.multiple, self.least), background)
        first = min(math.floor(self.count / (1 + self.multiple) + 0.5), objects)
        return first, min(self.count - first, background)


class DetectionGroupLoss(FieldLoss):
    """:class:`.mscnn_loss.FieldLoss` of the cells that are sampled in each image, among all of its fields."""

    def __init__(self, fields: Fields, sampling: GroupSampling, weight: float, gradients: str, *, smooth: bool) -> None:
        super().__init__(fields, weight, gradients, smooth=smooth)
        self.sampling = sampling

    def forward(self, scores: Tensor, adjustments: Tensor, labels: Tensor) -> Tensor:
        labels = labels.detach()
        truth, counts = self.fields.labels(labels)
        losses = self.class_losses(scores, truth.clamp_min(0))
        sampled = self._sampled(self._hardness(scores.detach(), losses.detach()), labels)
        counted = sampled & counts
        weights = self._weights(sampled, labels)
        classes = (losses * weights * counted).sum() / counted.sum().clamp_min(1)
        places = self.place_loss(adjustments, labels, sampled & self.fields.objects(labels))
        return torch.stack([classes + places, places.detach()]).reshape(1, 1, 1, 2)

    def _hardness(self, scores: Tensor, losses: Tensor) -> Tensor:
        return losses if self.sampling.by_loss else 1 - scores.softmax(1)[:, 0]

    def _sampled(self, hardness: Tensor, labels: Tensor) -> Tensor:
        """Which cells (N, H, W) count."""
        s, fields = self.sampling, len(self.fields.sizes)
        label = labels[:, 0].long()
        objects = (label > 0).reshape(len(label) // fields, -1)
        background = ((label == 0) & (labels[:, 5] < s.threshold)).reshape(objects.shape)
        kept = torch.zeros_like(objects)
        generator = self.randomness.generator(self.layer_name, "cpu")

        def drawn(places: Tensor, count: int) -> Tensor:
            return places[torch.randperm(len(places), generator=generator)[:count].to(places.device)]

        for image, hard in enumerate(hardness.reshape(objects.shape)):
            own, free = objects[image].nonzero().flatten(), background[image].nonzero().flatten()
            first, others = s.numbers(len(own), len(free))
            kept[image, own if len(own) == first else drawn(own, first)] = True
            if len(free) > others:
                hardest = {"random": 0, "bootstrap": others}.get(s.mode, math.floor(others / 2 + 0.5))
                # Of equally hard ones, the last comes first.
                order = free.flip(0)[hard[free.flip(0)].argsort(descending=True, stable=True)]
                rest = order[hardest:].sort().values
                free = torch.cat([order[:hardest], drawn(rest, others - hardest)])
            kept[image, free] = True
        return kept.reshape(label.shape)

    def _weights(self, sampled: Tensor, labels: Tensor) -> Tensor:
        """What each cell (N, H, W) counts for."""
        weights, objects = torch.ones_like(labels[:, 0]), labels[:, 0].long() > 0
        if not self.sampling.balanced:
            return weights
        share, total = 1 / (1 + self.sampling.multiple), sampled.sum()
        for part, cells in ((share, objects), (1 - share, ~objects)):
            found = (sampled & cells).sum()
            weights = torch.where(cells & (found > 0), part * total / found.clamp_min(1), weights)
        return weights


class DetectionGroupAccuracy(FieldAccuracy):
    """:class:`.mscnn_loss.FieldAccuracy` of the highest score; of equal ones the first class counts."""

    def forward(self, scores: Tensor, adjustments: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.rates(scores, adjustments, labels)


def _fields(spec: LayerSpec, params: Params, *, bounded: bool) -> Fields:
    sizes = tuple(zip(params.field_w, params.field_h, strict=False))
    if not sizes or len(params.field_w) != len(params.field_h):
        spec.fail(
            f"has {len(params.field_w)} field_w and {len(params.field_h)} field_h; as many were expected, at least one"
        )
    if min(min(size) for size in sizes) < 1:
        spec.fail("field_w and field_h must be at least 1")
    classes = params.cls_num
    if params.objectness and classes != 2:
        spec.fail(f"objectness tells objects from background, 2 classes; cls_num is {classes}")
    maps, _, height, width = spec.shaped(0, "maps", f"classes = {classes}", "height", "width")
    if maps % len(sizes):
        spec.fail(f"bottom {spec.bottoms[0]!r} has {maps} maps, which is no multiple of {len(sizes)} fields")
    for index, values in ((1, 4), (2, 6)):
        spec.shaped(index, f"maps = {maps}", values, f"height = {height}", f"width = {width}")
    loss = spec.params("loss_param")
    mean, std = adjustment(spec)
    return Fields(
        classes,
        sizes,
        params.stride,
        1 / params.field_xyr if bounded else math.inf,
        math.log(params.field_whr) if bounded else math.inf,
        mean,
        std,
        params.objectness,
        loss.ignore_label if loss.has("ignore_label") else None,
    )


@layer("DetectionGroupLoss", bottoms=3, tops=1, loss=True, dialects=(_FORK,), verified=False, unforced=(2,))
def detection_group_loss(spec: LayerSpec) -> Layer:
    params = spec.params("detection_group_loss_param")
    for name, known in (
        ("neg_mining_type", ("random", "bootstrap", "mixture")),
        ("neg_ranking_type", ("conf_loss", "conf_prob")),
        ("bbox_loss_type", ("Smooth_L1", "Euclidean_L2")),
    ):
        if getattr(params, name) not in known:
            spec.fail(f"{name} {getattr(params, name)!r} is none of {', '.join(known)}")
    if params.batch_size != -1 and params.batch_size < 1:
        spec.fail(f"batch_size is {params.batch_size}; at least 1, or -1 for all objects, was expected")
    # Adjustments are bounded only if the file gives both bounds.
    bounded = params.has("field_xyr") and params.has("field_whr")
    if not bounded:
        params.ignore("field_xyr", "field_whr")
    sampling = GroupSampling(
        params.neg_mining_type,
        params.neg_ranking_type == "conf_loss",
        params.bg_threshold,
        None if params.batch_size == -1 else params.batch_size,
        params.bg_multiple,
        params.min_num_neg,
        params.pos_neg_weighted,
    )
    fields, weight = _fields(spec, params, bounded=bounded), getattr(params, "lambda")
    return DetectionGroupLoss(fields, sampling, weight, spec.gradients, smooth=params.bbox_loss_type == "Smooth_L1")


@layer("DetectionGroupAccuracy", bottoms=3, tops=(1, 2), dialects=(_FORK,), verified=False, unforced=(0, 1, 2))
def detection_group_accuracy(spec: LayerSpec) -> Layer:
    params = spec.params("detection_group_accuracy_param")
    fields = _fields(spec, params, bounded=True)
    return DetectionGroupAccuracy(fields, params.bg_threshold, 1, tops=len(spec.tops), first=True, least=1)
