"""FrcnnAnchorTarget and FrcnnProposalTarget: what Faster R-CNN's two stages learn, as forks have it in C++.

They are what ``rpn.anchor_target_layer`` and ``rpn.proposal_target_layer`` are in Python (:mod:`.targets`), with the
settings of :mod:`.frcnn`; which boxes are drawn is up to this library's draws, not the forks'. Sources: makefile/frcnn
and rickyHong/caffe-rcnn-action-recognition, ``frcnn_anchor_target_layer.cpp`` and ``frcnn_proposal_target_layer.cpp``
in ``src/caffe/FRCNN``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import LayerError
from ...network.python_registry import PythonSettings
from ...network.registry import Layer, LayerSpec, layer
from .anchors import Spread, normalised, offsets_between, overlaps_between
from .frcnn import FRCNN, MAKEFILE, RICKY, anchors_of, note_settings, settings_of
from .proposal import check_image, four
from .targets import AnchorRule, AnchorTargetLayer, check_boxes, check_truth, spread_of

__all__ = ["FrcnnAnchorTarget", "FrcnnProposalTarget", "Sampling"]


def _part(number: float, share: float) -> int:
    """A share of a number, as C++ computes it: in single precision, cut off."""
    return int(np.float32(number) * np.float32(share))


class FrcnnAnchorTarget(AnchorTargetLayer):
    """:class:`.targets.AnchorTargetLayer`, which here refuses objects that do not lie in the image."""

    @torch.no_grad()
    def forward(self, scores: Tensor, truth: Tensor, image: Tensor, *ignored: Tensor) -> tuple[Tensor, ...]:
        height, width = image.detach().flatten()[:2]
        low, high = truth.flatten(1)[:, :2], truth.flatten(1)[:, 2:4]
        if (low < 0).any() or (high > torch.stack([width, height])).any():
            raise LayerError(
                "an object does not lie in the image, and the fork stops there",
                layer=self.layer_name,
                type="FrcnnAnchorTarget",
            )
        return super().forward(scores, truth, image)


@layer("FrcnnAnchorTarget", bottoms=3, tops=4, dialects=(MAKEFILE, RICKY), verified=False, unforced=(0, 1, 2))
def frcnn_anchor_target(spec: LayerSpec) -> Layer:
    spec.shaped(0, 1, "scores", "height > 0", "width > 0")
    check_truth(spec, 1)
    check_image(spec, 2)
    settings = settings_of(spec)
    anchors = anchors_of(spec, settings)
    stride = settings.config(FRCNN, "feat_stride")
    if stride < 1:
        spec.fail(f"feat_stride is {stride}; at least 1 was expected")
    share = settings.config(FRCNN, "rpn_positive_weight")
    if not (share < 0 or 0 < share < 1):
        spec.fail(f"rpn_positive_weight is {share:g}; between 0 and 1, or negative, was expected")
    inside = four(spec, "rpn_bbox_inside_weights", settings.config(FRCNN, "rpn_bbox_inside_weights"))
    count = settings.config(FRCNN, "rpn_batchsize")
    rule = AnchorRule(
        count,
        _part(count, settings.config(FRCNN, "rpn_fg_fraction")),
        settings.config(FRCNN, "rpn_positive_overlap"),
        settings.config(FRCNN, "rpn_negative_overlap"),
        bool(settings.config(FRCNN, "rpn_clobber_positives")),
        inside,
        share,
        near=settings.config(FRCNN, "eps"),
    )
    border = settings.config(FRCNN, "rpn_allowed_border")
    note_settings(spec, settings)
    return FrcnnAnchorTarget(anchors, stride, border, rule)


@dataclass(frozen=True)
class Sampling:
    """Which boxes are taught what.

    Attributes:
        count: how many at most. objects: how many with an object at most.
        above: the overlap with an object from which on a box has one. between: from the first and below the second it
            has none; others do not count.
        classes: how many, the background being the first. inside: the weight of each offset.
        spread: deviations and means that offsets are normalised by; None if they are not.
        fills: whether boxes without an object are repeated until there are ``count``. below: where there are none,
            those with less overlap than this are taken.
        most: proposals with an object from this overlap on are left out; None for none (the cascade's first stage).
    """

    count: int
    objects: int
    above: float
    between: tuple[float, float]
    classes: int
    inside: tuple[float, ...]
    spread: Spread
    fills: bool
    below: float
    most: float | None = None

    @classmethod
    def of(cls, spec: LayerSpec, settings: PythonSettings) -> Sampling:
        """What the configuration has, and the layer's ``stage``."""
        stage, most, fills = 0, None, spec.knows("proposal_target_param")
        if fills:
            params = spec.params("proposal_target_param")
            stage, most = params.stage, params.gt_iou_thr
        count = int(settings.config(FRCNN, "batch_size"))
        classes = settings.config(FRCNN, "n_classes")
        if count < 1 or classes < 2:
            spec.fail(f"batch_size {count} must be at least 1, and n_classes {classes} at least 2")
        spread = spread_of(spec, settings, FRCNN, "bbox_normalize_targets", "bbox_normalize")
        high = settings.config(FRCNN, "bg_thresh_hi")
        return cls(
            count,
            _part(count, settings.config(FRCNN, "fg_fraction")),
            settings.config(FRCNN, "fg_thresh") + 0.1 * stage,
            (settings.config(FRCNN, "bg_thresh_lo"), high + 0.1 * stage),
            classes,
            four(spec, "bbox_inside_weights", settings.config(FRCNN, "bbox_inside_weights")),
            spread,
            fills,
            high,
            most if stage else None,
        )


class FrcnnProposalTarget(Layer):
    """Boxes (B, 5, 1, 1), classes (B, 1, 1, 1), offsets, inner and outer weights (B, 4 classes, 1, 1).

    Bottoms: proposals (N, 5) as 0, x1, y1, x2, y2; objects (M, 5) as x1, y1, x2, y2, class, which are among the boxes
    that are drawn from. Those with an object come first. Of objects that are overlapped equally the last counts. The
    number of boxes depends on the values. No gradient.
    """

    def __init__(self, sampling: Sampling) -> None:
        super().__init__()
        self.sampling = sampling

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        x, s = bottoms[0], self.sampling
        count = s.count if s.fills else min(s.count, len(x) + len(bottoms[1]))
        return tuple(x.new_empty(count, n, 1, 1) for n in (5, 1, *(4 * s.classes,) * 3))

    @torch.no_grad()
    def forward(self, proposals: Tensor, truth: Tensor) -> tuple[Tensor, ...]:
        s = self.sampling
        rows, objects = proposals.flatten(1).double(), truth.flatten(1).double()
        self._check(rows, objects)
        if s.most is not None:
            rows = rows[overlaps_between(rows[:, 1:], objects).amax(1) < s.most]
        boxes = torch.cat([rows[:, 1:], objects[:, :4]])
        overlaps = overlaps_between(boxes, objects)
        most, best = overlaps.amax(1), len(objects) - 1 - overlaps.flip(1).argmax(1)
        chosen, count = self._chosen(most)
        labels = objects[best[chosen], 4].long()
        labels[count:] = 0
        offsets = normalised(offsets_between(boxes[chosen], objects[best[chosen], :4]), s.spread)
        here = (torch.arange(s.classes, device=labels.device) == labels[:, None]) & (labels > 0)[:, None]
        weights = offsets.new_tensor(s.inside).expand_as(offsets)
        values, inner = (torch.where(here[..., None], v[:, None], 0).flatten(1) for v in (offsets, weights))
        rois = torch.cat([torch.zeros_like(boxes[chosen, :1]), boxes[chosen]], 1)
        tops = rois, labels[:, None], values, inner, inner > 0
        return tuple(top.to(proposals.dtype)[..., None, None] for top in tops)

    def _check(self, rows: Tensor, objects: Tensor) -> None:
        problem = ""
        if not len(objects):
            problem = "the image has no object"
        elif (rows[:, 0] != 0).any():
            problem = "takes the boxes of one image, number 0"
        elif (objects[:, 4] < 1).any() or (objects[:, 4] >= self.sampling.classes).any():
            problem = f"an object is of none of the classes 1 to {self.sampling.classes - 1}"
        if problem:
            raise LayerError(problem, layer=self.layer_name, type="FrcnnProposalTarget")

    def _chosen(self, most: Tensor) -> tuple[Tensor, int]:
        """Which boxes, by their largest overlaps (N,); and how many of them, the first, have an object."""
        s = self.sampling
        random = self.randomness.numpy(self.layer_name)
        first = _some(most >= s.above, s.objects, random)
        low, high = s.between
        others = _some((most >= low) & (most < high), s.count - len(first), random)
        chosen = torch.cat([first, others])
        if s.fills and len(chosen) < s.count:
            if not len(chosen):
                others = _some(most < low, s.count, random)
                # As C++'s resize fills a list up, with the first box.
                chosen = torch.cat([others, others.new_zeros(s.count - len(others) if len(others) else 0)])
            else:
                others = others if len(others) else (most < s.below).nonzero()[:, 0]
                if len(others):
                    again = torch.arange(s.count - len(chosen), device=others.device) % len(others)
                    chosen = torch.cat([chosen, others[again]])
        return chosen, len(first)


def _some(fits: Tensor, count: int, random: np.random.RandomState) -> Tensor:
    """Places of at most ``count`` of those that fit, in the order in which they are drawn."""
    places = fits.nonzero()[:, 0]
    return places[torch.from_numpy(random.permutation(len(places))[:count]).to(places.device)]


@layer("FrcnnProposalTarget", bottoms=2, tops=5, dialects=(MAKEFILE, RICKY), verified=False, unforced=(0, 1))
def frcnn_proposal_target(spec: LayerSpec) -> Layer:
    check_boxes(spec, 0)
    check_truth(spec, 1)
    settings = settings_of(spec)
    sampling = Sampling.of(spec, settings)
    note_settings(spec, settings)
    return FrcnnProposalTarget(sampling)
