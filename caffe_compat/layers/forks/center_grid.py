"""Detectors of yuqj1991/caffe_train, whose every cell says where the edges of a face about it lie."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ..exporting import rows_or
from .boxes import suppress

__all__ = ["CenterGridOutput", "GridSettings"]

# Numbers of a row: image, class, score, the box, and with landmarks five points.
_PLAIN, _MARKED = 7, 17
_POINTS = 5


@dataclass(frozen=True)
class GridSettings:
    """How boxes are read.

    Attributes:
        scales: of each bottom: what an offset of 1 is in pixels. softmax: scores are of background and face, else one.
        landmarks: cells tell five points, too. size: height and width of the net's pictures.
        least_score: below it a cell counts for nothing. overlap: above it the lower of two boxes goes.
        most: how many boxes the top is made for; 0 for all.
    """

    scales: tuple[int, ...]
    softmax: bool
    landmarks: bool
    size: tuple[int, int]
    least_score: float
    overlap: float
    most: int


class CenterGridOutput(Layer):
    """Maps (N, 4 + classes, S, S) of offsets and scores -> (1, 1, boxes, 7): image, 1, score, and a box's corners as
    fractions of the picture; with landmarks 10 numbers more, x and y of five points.

    A cell's edge is at (cell + 1/2) ratio - offset scale (half of that where scores are not softmaxed), cut off at the
    picture; for the y of a point the fork takes the column, too. Of an image, boxes come in the order of their scores;
    the best ``most`` are all that others are compared with. Without any box, a row of -1 with the image stands for each
    image. Source: the fork's ``CenterGridDetectionLayer.cpp`` and ``center_bbox_util.cpp``.
    """

    def __init__(self, settings: GridSettings) -> None:
        super().__init__()
        self.settings = settings

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(1, 1, 1, _MARKED if self.settings.landmarks else _PLAIN)

    @torch.no_grad()
    def forward(self, *maps: Tensor) -> Tensor:
        s = self.settings
        boxes, scores, points = (torch.cat(parts, 1) for parts in zip(*map(self._cells, maps, s.scales), strict=True))
        x1, y1, x2, y2 = boxes.unbind(2)
        valid = (x2 > x1) & (y2 > y1) & (scores >= s.least_score)
        height, width = s.size
        rows = []
        for image in range(len(boxes)):
            own = valid[image].nonzero().flatten()
            order = own[scores[image, own].argsort(descending=True, stable=True)]
            kept = self._kept(boxes[image, order])
            order = order[kept][: s.most or None]
            parts = boxes[image, order] / boxes.new_tensor([width, height, width, height])
            marks = points[image, order] / boxes.new_tensor([width, height] * (points.shape[2] // 2))
            head = boxes.new_tensor([[image, 1]]).expand(order.shape[0], 2)
            rows.append(torch.cat([head, scores[image, order, None], parts, marks], 1))
        found = torch.cat(rows)
        nothing = found.new_full((len(boxes), found.shape[1]), -1)
        nothing[:, 0] = torch.arange(len(boxes))
        return rows_or(found, nothing)[None, None]

    def _kept(self, boxes: Tensor) -> Tensor:
        """Which boxes, best first, stay. Intersections count a pixel more, areas do not."""

        def measure(box: Tensor, others: Tensor) -> Tensor:
            low, high = torch.maximum(box[..., :2], others[..., :2]), torch.minimum(box[..., 2:], others[..., 2:])
            common = (high - low + 1).clamp_min(0).prod(-1)
            areas = ((one[..., 2:] - one[..., :2]).prod(-1) for one in (box, others))
            return common / (sum(areas, common.new_zeros(())) - common)

        kept: Tensor = suppress(
            boxes[None], torch.ones_like(boxes[None, :, 0], dtype=torch.bool), self.settings.overlap, measure=measure
        )[0]
        return kept

    def _cells(self, maps: Tensor, scale: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of every cell of maps (N, ..., S, S), row by row: its box (N, cells, 4), score and points (N, cells, 10)."""
        s = self.settings
        ratio = s.size[1] / maps.shape[3]
        rows, columns = (torch.arange(n, device=maps.device, dtype=maps.dtype) + 0.5 for n in maps.shape[2:])
        across, down = columns.expand(maps.shape[2:]), rows[:, None].expand(maps.shape[2:])
        height, width = ratio * maps.shape[2], ratio * maps.shape[3]
        share = 1 if s.softmax else 0.5

        def places(offsets: Tensor, along: Tensor, most: float) -> Tensor:
            return (along * ratio - offsets * scale * share).clamp(0, most).flatten(1)

        corners = [(across, width), (down, height)] * 2
        boxes = [places(maps[:, i], along, most) for i, (along, most) in enumerate(corners)]
        told = 2 * _POINTS if s.landmarks else 0
        points = [places(maps[:, 4 + i], across, height if i % 2 else width) for i in range(told)]
        scores = maps[:, 4 + told :]
        score = scores.softmax(1)[:, 1] if s.softmax else scores[:, 0].sigmoid()
        empty = maps.new_empty(len(maps), score[0].numel(), 0)
        return torch.stack(boxes, 2), score.flatten(1), torch.stack(points, 2) if points else empty


@layer("CenterGridOutput", bottoms=(3, None), tops=1, verified=False)
def center_grid_output(spec: LayerSpec) -> Layer:
    params = spec.params("detection_output_param")
    softmax = params.class_type == "SOFTMAX"
    if params.num_classes != 1 + softmax:
        spec.fail(
            f"num_classes is {params.num_classes}; with class_type {params.class_type}, {1 + softmax} was expected"
        )
    if params.class_type not in ("SIGMOID", "SOFTMAX"):
        spec.fail(f"class_type {params.class_type} is not supported; SIGMOID and SOFTMAX are")
    if params.has_lm and not softmax:
        spec.fail("has_lm needs class_type SOFTMAX")
    if len(params.bias_scale) != len(spec.bottoms):
        spec.fail(
            f"bias_scale has {len(params.bias_scale)} values; one for each of {len(spec.bottoms)} bottoms was expected"
        )
    channels = 4 + 2 * _POINTS * params.has_lm + params.num_classes
    for place in range(len(spec.bottoms)):
        shape = spec.shaped(place, "images > 0", f"channels = {channels}", "height > 0", "width > 0")
        if shape[2] != shape[3]:
            spec.misfit(place, "a square map")
    return CenterGridOutput(
        GridSettings(
            tuple(int(scale) for scale in params.bias_scale),
            softmax,
            params.has_lm,
            (params.net_height, params.net_width),
            params.confidence_threshold if params.has("confidence_threshold") else -torch.finfo(torch.float32).max,
            params.nms_thresh,
            max(params.keep_top_k, 0),
        )
    )
