"""ProposalLayer: the region proposals of Faster R-CNN.

Sources: ``lib/rpn/proposal_layer.py`` of rbgirshick/py-faster-rcnn; YuwenXiong/py-R-FCN, whose offsets may be
normalised in training; soeaver/py-RFCN-priv, whose ``param_str`` has ratios and a base size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import LayerError
from ...network.python_registry import Project, PythonSettings, python_layer
from ...network.registry import Layer, LayerSpec
from ..forks.boxes import best_apart, pixel_overlap
from ..precision import widened
from .anchors import Anchors, base_anchors, cut_off, moved, shifted
from .projects import FASTER_RCNN

__all__ = ["Choice", "ProposalLayer", "anchors_of", "candidates", "check_image", "check_maps", "check_one", "four"]


@dataclass(frozen=True)
class Choice:
    """How boxes are chosen.

    Attributes:
        before, after: how many are looked at, and kept, at most; all where it is not positive.
        overlap: above it, the lower of two boxes goes.
        least: the least width and height, in pixels of the image before it was scaled.
    """

    before: int
    after: int
    overlap: float
    least: int

    @classmethod
    def of(cls, settings: PythonSettings, project: Project, phase: str) -> Choice:
        """What the configuration has for ``phase``."""
        names = ("PRE_NMS_TOP_N", "POST_NMS_TOP_N", "NMS_THRESH", "MIN_SIZE")
        return cls(*(settings.config(project, f"{phase}.RPN_{name}") for name in names))

    def best(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The boxes (N, 4) and scores (N,) that are kept, the best first.

        The original's sorts leave the order of equal scores open. Here the last of them are looked at, and the first
        come first, as if its sorts, which it turns around twice, were stable.
        """
        if self.before > 0:
            order = scores.flip(0).argsort(descending=True, stable=True)[: self.before]
            order = (scores.shape[0] - 1 - order).sort().values
            boxes, scores = boxes[order], scores[order]
        order = scores.argsort(descending=True, stable=True)
        boxes, scores = boxes[order], scores[order]
        kept = best_apart(boxes, self.overlap, pixel_overlap, self.after if self.after > 0 else None)
        return boxes[kept], scores[kept]


class ProposalLayer(Layer):
    """The best boxes of an image, rows (0, x1, y1, x2, y2), the best first; and, second, their scores (N, 1).

    Bottoms: for A anchors, scores (1, 2 A, H, W), of which the second A count; offsets (1, 4 A, H, W) of the anchors;
    height, width and scale of the image (1, 3 or more). The number of boxes depends on the values. No gradient.

    Args:
        anchors: around the first cell. stride: pixels from cell to cell.
        spread: what offsets were normalised by, deviations and means; None if they were not.
    """

    def __init__(
        self,
        anchors: Anchors,
        stride: int,
        choice: Choice,
        spread: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
        *,
        scored: bool,
    ) -> None:
        super().__init__()
        self.anchors = anchors
        self.stride = stride
        self.choice = choice
        self.spread = spread
        self.scored = scored

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        count = bottoms[0].shape[2] * bottoms[0].shape[3] * len(self.anchors)
        limits = [limit for limit in (self.choice.before, self.choice.after) if limit > 0]
        boxes = bottoms[0].new_empty(min(count, *limits) if limits else count, 5)
        return (boxes, boxes[:, :1]) if self.scored else boxes

    @torch.no_grad()
    def forward(self, scores: Tensor, offsets: Tensor, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        check_one(self, scores)
        change = widened(offsets)[0]
        if self.spread is not None:
            stds, means = (change.new_tensor(values * len(self.anchors))[:, None, None] for values in self.spread)
            change = change * stds + means
        found = candidates(widened(scores)[0], change, image, self.anchors, self.stride, self.choice.least)
        boxes, score = self.choice.best(*found)
        rows = torch.cat([torch.zeros_like(score)[:, None], boxes], 1).to(scores.dtype)
        return (rows, score[:, None].to(scores.dtype)) if self.scored else rows


def candidates(
    scores: Tensor, offsets: Tensor, image: Tensor, anchors: Anchors, stride: int, least: int
) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4) and scores (N,) of a map, in the order of the cells and then of the anchors.

    Args:
        scores: (2 A, H, W), of which the second A count. offsets: (4 A, H, W) of the anchors.
        image: its height, width and scale. least: the least width and height, before the image was scaled.
    """
    height, width, scale = image.to(offsets).flatten()[:3]
    around = shifted(offsets.new_tensor(anchors), scores.shape[1], scores.shape[2], stride)
    boxes = cut_off(moved(around, offsets.permute(1, 2, 0).reshape(-1, 4)), height, width)
    fits = (boxes[:, 2:] - boxes[:, :2] + 1 >= least * scale).all(1)
    places = fits.nonzero()[:, 0]
    return boxes[places], scores[len(anchors) :].permute(1, 2, 0).reshape(-1)[places]


def check_one(module: Layer, x: Tensor) -> None:
    """Refuse a batch of several images, as the original does."""
    if x.shape[0] != 1:
        raise LayerError(f"takes one image, found {x.shape[0]}", layer=module.layer_name, type="Python")


def anchors_of(spec: LayerSpec, settings: PythonSettings) -> Anchors:
    """What ``scales``, ``ratios`` and ``base_size`` say: three scales, three ratios and 16 pixels by default."""
    ratios, scales = settings.numbers("ratios", (0.5, 1, 2)), settings.numbers("scales", (8, 16, 32))
    if min(*ratios, *scales) <= 0:
        spec.fail(f"ratios {ratios} and scales {scales} must be positive")
    return base_anchors(settings.whole("base_size", 16), ratios, scales)


def four(spec: LayerSpec, key: str, values: tuple[float, ...]) -> tuple[float, ...]:
    """``values`` of the configuration's ``key``, one for each of a box's four numbers."""
    if len(values) != 4:
        spec.fail(f"{key} is {values}; four numbers were expected")
    return values


def check_image(spec: LayerSpec, index: int) -> None:
    """Refuse a bottom that is no height, width and scale of one image."""
    spec.shaped(index, 1, "height width scale >= 3", ...)


def check_maps(spec: LayerSpec, scores: int, offsets: int, count: int) -> None:
    """Refuse bottoms that are no scores and offsets of ``count`` anchors around each cell of one map."""
    *_, height, width = spec.shaped(scores, 1, f"scores of {count} anchors = {2 * count}", "height", "width")
    spec.shaped(offsets, 1, f"offsets of {count} anchors = {4 * count}", f"height = {height}", f"width = {width}")


@python_layer("rpn.proposal_layer", "ProposalLayer", bottoms=3, tops=(1, 2), project=FASTER_RCNN)
def proposal_layer(spec: LayerSpec, settings: PythonSettings) -> Layer:
    anchors = anchors_of(spec, settings)
    check_maps(spec, 0, 1, len(anchors))
    check_image(spec, 2)
    spread = None
    if spec.phase == "TRAIN" and settings.config(FASTER_RCNN, "TRAIN.RPN_NORMALIZE_TARGETS"):
        stds, means = (settings.config(FASTER_RCNN, f"TRAIN.RPN_NORMALIZE_{name}") for name in ("STDS", "MEANS"))
        spread = four(spec, "TRAIN.RPN_NORMALIZE_STDS", stds), four(spec, "TRAIN.RPN_NORMALIZE_MEANS", means)
    choice = Choice.of(settings, FASTER_RCNN, spec.phase)
    return ProposalLayer(anchors, settings.whole("feat_stride"), choice, spread, scored=len(spec.tops) == 2)
