"""Layers of region-based detectors that sample a feature map at points inside boxes.

Boxes are as in :mod:`.roi`. Source: makefile/frcnn, ``src/caffe/RFCN/psroi_align_layer.cpp``,
``src/caffe/DeformConv/deformable_psroi_pooling_layer.cpp`` and ``src/caffe/FRCNN/roi_align/roi_align_layer.cu``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..precision import widened
from .roi import c_round, check_boxes, pooled_size, take

__all__ = ["DeformablePSROIPooling", "PSROIAlign", "SampledROIAlign"]

_FRCNN = "makefile/frcnn"
# No box is less wide or high than this part of a cell.
_LEAST_SIZE = 0.1


class _PositionSensitive(Layer):
    """Means of samples in ``group`` x ``group`` bins of a box, every bin from channels of its own.

    Channel (o * group + row) * group + column of the map belongs to channel o of the top and the bin (row, column).
    """

    def __init__(self, scale: float, outputs: int, group: int, samples: int) -> None:
        super().__init__()
        self.scale = scale
        self.outputs = outputs
        self.group = group
        self.samples = samples

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(bottoms[1].shape[0], self.outputs, self.group, self.group)

    def sampled(self, features: Tensor, image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Values at ``rows`` and ``columns``, each (boxes, outputs, group, group, samples, samples), between cells
        bilinear.
        """
        _, channels, height, width = features.shape
        group = self.group
        plane = torch.arange(channels, device=features.device).reshape(self.outputs, group, group, 1, 1)
        plane = image.reshape(-1, 1, 1, 1, 1, 1) * channels + plane
        flat = features.reshape(-1)
        value = features.new_zeros(())
        low, left = rows.detach().floor(), columns.detach().floor()
        for row, by_row in ((low, low + 1 - rows), (rows.detach().ceil(), rows - low)):
            for column, by_column in ((left, left + 1 - columns), (columns.detach().ceil(), columns - left)):
                place = (plane * height + row.long()) * width + column.long()
                value = value + flat.gather(0, place.reshape(-1)).reshape(place.shape) * by_row * by_column
        return value


class PSROIAlign(_PositionSensitive):
    """See :class:`_PositionSensitive`; samples lie evenly between the edges of a bin, without them.

    Bins are cut off at the map, and samples beyond their end are left out, but still count in the mean. The gradient
    is the derivative; the fork leaves out cells that a bin reaches with no edge, and takes samples that it has left out
    from where earlier passes had some.
    """

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        x = widened(features)
        boxes = boxes.detach().reshape(-1, 5).to(x.dtype)
        low, high = boxes[:, 1:3] * self.scale, (boxes[:, 3:5] + 1) * self.scale
        step = (high - low).clamp_min(_LEAST_SIZE) / self.group
        number = torch.arange(self.group, device=x.device)[:, None]
        sizes = x.new_tensor([x.shape[3] - 1, x.shape[2] - 1])
        start = torch.minimum((number * step[:, None] + low[:, None]).clamp_min(0), sizes)
        end = torch.minimum(((number + 1) * step[:, None] + low[:, None]).clamp_min(0), sizes)
        offset = torch.arange(1, self.samples + 1, device=x.device) / (self.samples + 1)
        at = start[..., None] + step[:, None, :, None] * offset  # (boxes, bins, 2, samples)
        inside = at < end[..., None]
        shape = (len(boxes), self.outputs, self.group, self.group, self.samples, self.samples)
        rows = at[:, None, :, None, 1, :, None].expand(shape)
        columns = at[:, None, None, :, 0, None, :].expand(shape)
        counts = inside[:, None, :, None, 1, :, None] & inside[:, None, None, :, 0, None, :]
        within = rows.clamp_max(x.shape[2] - 1), columns.clamp_max(x.shape[3] - 1)
        values = torch.where(counts, self.sampled(x, boxes[:, 0].long(), *within), 0)
        empty = (end <= start)[:, None, :, None, 1] | (end <= start)[:, None, None, :, 0]
        return torch.where(empty, 0, values.sum((4, 5)) / self.samples**2).to(features.dtype)


@layer("PSROIAlign", bottoms=2, tops=1, dialects=(_FRCNN,))
def psroi_align(spec: LayerSpec) -> Layer:
    params = spec.params("psroi_align_param")
    if params.sample_num < 1:
        spec.fail(f"sample_num is {params.sample_num}; it must be at least 1")
    return PSROIAlign(params.spatial_scale, *_checked_groups(spec, params), params.sample_num)


class DeformablePSROIPooling(_PositionSensitive):
    """See :class:`_PositionSensitive`; samples lie evenly from the start of a bin, which may be moved.

    A third bottom (boxes, 2 x classes, parts, parts) moves bins by parts of the box's width and height, times
    ``deviation``; channels of the top belong to the classes in equal shares. Samples off the map, by more than half a
    cell, do not count. A bin without any is 0.

    Args:
        parts: how many a side the third bottom has; None without one.
    """

    def __init__(
        self, scale: float, outputs: int, group: int, samples: int, parts: int | None, deviation: float
    ) -> None:
        super().__init__(scale, outputs, group, samples)
        self.parts = parts
        self.deviation = deviation

    def forward(self, features: Tensor, boxes: Tensor, *moves: Tensor) -> Tensor:
        x = widened(features)
        boxes = boxes.detach().reshape(-1, 5).to(x.dtype)
        low = c_round(boxes[:, 1:3]) * self.scale - 0.5
        high = (c_round(boxes[:, 3:5]) + 1) * self.scale - 0.5
        size = (high - low).clamp_min(_LEAST_SIZE)
        step = size / self.group
        number = torch.arange(self.group, device=x.device)
        start = number[:, None] * step[:, None] + low[:, None]  # (boxes, bins, 2)
        within = torch.arange(self.samples, device=x.device) / self.samples
        moved = self._moves(widened(moves[0]), size) if moves else x.new_zeros(len(boxes), 1, 2, 1, 1)
        shape = (len(boxes), self.outputs, self.group, self.group, self.samples, self.samples)
        columns = start[:, None, None, :, 0] + moved[:, :, 0]
        rows = start[:, None, :, None, 1] + moved[:, :, 1]
        columns = (columns[..., None, None] + step[:, 0].reshape(-1, 1, 1, 1, 1, 1) * within).expand(shape)
        rows = (rows[..., None, None] + step[:, 1].reshape(-1, 1, 1, 1, 1, 1) * within[:, None]).expand(shape)
        height, width = x.shape[2:]
        off = (columns < -0.5) | (columns > width - 0.5) | (rows < -0.5) | (rows > height - 0.5)
        values = self.sampled(x, boxes[:, 0].long(), rows.clamp(0, height - 1), columns.clamp(0, width - 1))
        count = (~off).sum((4, 5))
        return (torch.where(off, 0, values).sum((4, 5)) / count.clamp_min(1)).to(features.dtype)

    def _moves(self, moves: Tensor, size: Tensor) -> Tensor:
        """How far each bin is moved, in cells to the right and down, (boxes, outputs, 2, group, group)."""
        assert self.parts is not None
        classes = moves.shape[1] // 2
        part = (torch.arange(self.group, device=moves.device) / self.group * self.parts).floor().long()
        moves = moves.reshape(-1, classes, 2, self.parts, self.parts)[:, :, :, part][..., part] * self.deviation
        share = self.outputs // classes
        return moves.repeat_interleave(share, 1) * size[:, None, :, None, None]


@layer("DeformablePSROIPooling", bottoms=(2, 3), tops=1, dialects=(_FRCNN, "soeaver/py-RFCN-priv"), unforced=(1,))
def deformable_psroi_pooling(spec: LayerSpec) -> Layer:
    params = spec.params("deformable_psroi_pooling_param")
    params.ignore("pooled_size")  # which the forks do not read: there are as many bins as groups
    outputs, group = _checked_groups(spec, params)
    if params.sample_per_part < 1:
        spec.fail(f"sample_per_part is {params.sample_per_part}; it must be at least 1")
    if params.no_trans:
        params.ignore("part_size", "trans_std")
        if len(spec.bottoms) == 3:
            spec.warn(f"bottom {spec.bottoms[2]!r} is not used, as no_trans says")
        return _Unmoved(params.spatial_scale, outputs, group, params.sample_per_part, None, 0.0)
    if len(spec.bottoms) < 3 or params.part_size < 1:
        spec.fail(f"needs a third bottom and part_size, found {len(spec.bottoms)} bottoms and {params.part_size}")
    boxes = spec.bottom_shapes[1][0]
    moves = spec.shaped(2, f"boxes = {boxes}", "moves > 1", params.part_size, params.part_size)
    if moves[1] % 2 or outputs % (moves[1] // 2):
        spec.misfit(2, f"two channels for each of some classes that output_dim {outputs} is a multiple of")
    return DeformablePSROIPooling(
        params.spatial_scale, outputs, group, params.sample_per_part, params.part_size, params.trans_std
    )


class _Unmoved(DeformablePSROIPooling):
    """With ``no_trans``: whatever a third bottom holds."""

    def forward(self, features: Tensor, boxes: Tensor, *moves: Tensor) -> Tensor:
        return super().forward(features, boxes)


def _checked_groups(spec: LayerSpec, params: Params) -> tuple[int, int]:
    check_boxes(spec)
    outputs, group = params.output_dim, params.group_size
    if outputs < 1 or group < 1:
        spec.fail(f"output_dim {outputs} and group_size {group} must be at least 1")
    spec.shaped(0, "images", outputs * group * group, "height > 0", "width > 0")
    return outputs, group


class SampledROIAlign(Layer):
    """The map at the middle of each bin of a box, or the largest of four such points; no gradient flows to boxes.

    Boxes are widened on every side by ``pad_ratio`` of their size, and cut off at the map's start, and at their end at
    as many cells as the input has pixels, as in the fork. Points are cut off at the map; between cells values are
    bilinear, where at the last row or column the fork finds 0, or cubic (a = -1).

    Args:
        pooled: height and width of what a box gives. cubic: how values are found. four: as many points a bin.
    """

    def __init__(self, scale: float, pooled: tuple[int, int], pad_ratio: float, *, cubic: bool, four: bool) -> None:
        super().__init__()
        self.scale = scale
        self.pooled = pooled
        self.pad_ratio = pad_ratio
        self.cubic = cubic
        self.four = four

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(bottoms[1].shape[0], bottoms[0].shape[1], *self.pooled)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        x = widened(features)
        boxes = boxes.detach().reshape(-1, 5).to(x.dtype)
        low, high = boxes[:, 1:3], boxes[:, 3:5]
        pad = (high - low + 1) * self.pad_ratio
        low = ((low - pad) * self.scale).clamp_min(0)
        ends = x.new_tensor([math.floor(n / self.scale + 0.5) - 1 for n in (x.shape[3], x.shape[2])])
        step = (torch.minimum((high + pad) * self.scale, ends) - low + 1).clamp_min(1)
        offsets = (0.25, 0.75) if self.four else (0.5,)
        found = []
        for down in offsets:
            rows = self._points(low[:, 1], step[:, 1], down, self.pooled[0], x.shape[2])
            for right in offsets:
                columns = self._points(low[:, 0], step[:, 0], right, self.pooled[1], x.shape[3])
                found.append(self._values(x, boxes[:, 0].long(), rows, columns))
        if not self.four:
            return found[0].to(features.dtype)
        # The first of equal ones.
        points = torch.stack(found)
        return points.gather(0, points.detach().argmax(0, keepdim=True))[0].to(features.dtype)

    @staticmethod
    def _points(low: Tensor, size: Tensor, offset: float, bins: int, cells: int) -> Tensor:
        at = (torch.arange(bins, device=low.device) + offset) * (size / bins)[:, None]
        return (at + low[:, None]).clamp(0, cells - 1)

    def _values(self, x: Tensor, image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """(boxes, channels, rows, columns)."""
        width = x.shape[3]
        top = x.new_zeros(())
        for row, by_row in self._neighbours(rows, x.shape[2]):
            for column, by_column in self._neighbours(columns, width):
                place = (row[:, :, None] * width + column[:, None, :])[:, None].expand(-1, x.shape[1], -1, -1)
                top = top + take(x, image, place) * (by_row[:, :, None] * by_column[:, None, :])[:, None]
        return top

    def _neighbours(self, at: Tensor, cells: int) -> list[tuple[Tensor, Tensor]]:
        """Cells near places along one axis, and how much each counts."""
        first = at.floor()
        if not self.cubic:
            second = (first + 1).clamp_max(cells - 1)
            return [(first.long(), second - at), (second.long(), at - first)]
        apart = [(at - first + 1 - i).abs() for i in range(4)]
        weights = [
            torch.where(d < 1, 1 - 2 * d**2 + d**3, torch.where(d < 2, 4 - 8 * d + 5 * d**2 - d**3, 0)) for d in apart
        ]
        return [((first - 1 + i).clamp(0, cells - 1).long(), weight) for i, weight in enumerate(weights)]


@layer("ROIAlign", bottoms=2, tops=1, dialects=(_FRCNN,))
def roi_align_of_frcnn(spec: LayerSpec) -> Layer:
    """What the fork computes on a GPU; on a CPU it takes one point, whatever is_multi_interpolate says."""
    check_boxes(spec)
    spec.images(0, pixels=True)
    params = spec.params("roi_pooling_param")
    return SampledROIAlign(
        params.spatial_scale,
        pooled_size(spec, params),
        params.pad_ratio,
        cubic=params.bi_type == 1,
        four=params.is_multi_interpolate,
    )
