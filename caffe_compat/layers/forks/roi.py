"""Layers of the region-based detectors that pool a feature map inside boxes.

Boxes ("RoIs") are rows (image, x1, y1, x2, y2) in pixels of the network's input; ``spatial_scale`` takes them to the
feature map. Every layer gives one row of the top per box.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..precision import widened
from .families import CAMBRICON, DREADLORD

__all__ = ["PSROIPooling", "ROIAlign", "ROIPooling", "c_round", "check_boxes", "pooled_size", "take"]

# Values of the range-maximum tables that are held at a time.
_TABLE_VALUES = 2**24


# ROIPooling: most forks have it as Girshick's Fast R-CNN left it.
_GIRSHICK = (
    "rbgirshick/caffe-fast-rcnn@fast-rcnn",
    "rbgirshick/caffe-fast-rcnn@fast-rcnn-cleanup",
    "rbgirshick/caffe-fast-rcnn@faster-rcnn-upstream-33f2445",
    *CAMBRICON,
    *DREADLORD,
    "AlphaNext/CaffePlus",
    "AndreiBarsan/caffe-mnc",
    "BOBrown/caffe-ssd-microsoft",
    "BannyStone/Caffe",
    "CV-IP/3DObject-detection",
    "MhLiao/TextBoxes_plusplus",
    "Microsoft/caffe",
    "ShaoqingRen/caffe",
    "bharatsingh430/py-R-FCN-multiGPU",
    "daijifeng001/caffe-mnc",
    "daijifeng001/caffe-rfcn",
    "dlunion/CC4.0",
    "foss-for-synopsys-dwc-arc-processors/synopsys-caffe",
    "leon-liangwu/MaskYolo_Caffe",
    "luoyetx/mini-caffe",
    "lxx1991/caffe_mpi",
    "makefile/frcnn",
    "peteanderson80/bottom-up-attention",
    "peteanderson80/caffe",
    "pulkitag/caffe",
    "rickyHong/caffe-rcnn-action-recognition",
    "sanghoon/caffe@dev_pvanet",
    "shenyunhang/caffe-wsl",
    "soeaver/py-RFCN-priv",
    "tianzhi0549/CTPN",
    "tonghe90/textspotter",
    "torrvision/caffe-tvg",
    "unsky/FPN",
    "walkoncross/caffe",
    "yjxiong/caffe",
    "yjxiong/caffe@interp",
    "zimenglan-sysu-512/pose_action_caffe",
)
_WINDOWS = (
    "happynear/caffe-windows",
    "happynear/caffe-windows@master",
    "GuohongWu/caffe-windows",
    "bnkang/caffe-windows-for-fr",
    "ducha-aiki/caffe",
)
_MSCNN = ("zhaoweicai/mscnn", "BoLiu-SVCL/video-caffe")
_CASCADE = ("zhaoweicai/cascade-rcnn",)
# PSROIPooling: that of soeaver/py-RFCN-priv takes samples instead of means.
_DAI = (
    "daijifeng001/caffe-rfcn",
    *CAMBRICON,
    *DREADLORD,
    "GuohongWu/caffe-windows",
    "Microsoft/caffe",
    "bharatsingh430/py-R-FCN-multiGPU",
    "happynear/caffe-windows",
    "intel/caffe",
    "luoyetx/mini-caffe",
    "makefile/frcnn",
    "peteanderson80/bottom-up-attention",
    "superxuang/caffe_3d_faster_rcnn",
    "torrvision/caffe-tvg",
    "zhaoweicai/cascade-rcnn",
)


def c_round(x: Tensor) -> Tensor:
    """C's round: halves away from zero."""
    return torch.where(x < 0, -torch.floor(0.5 - x), torch.floor(x + 0.5))


def _round_up(x: Tensor) -> Tensor:
    """Halves up, added in double precision and rounded to single before they are cut off."""
    return (x.double() + 0.5).to(x.dtype).floor()


def check_boxes(spec: LayerSpec) -> None:
    """Refuse other bottoms than a map and boxes."""
    spec.images()
    spec.rows(1, "boxes", "image x1 y1 x2 y2 = 5")


class _BoxLayer(Layer):
    """``pooled`` is the height and width of what one box gives."""

    def __init__(self, pooled: tuple[int, int]) -> None:
        super().__init__()
        self.pooled = pooled

    def infer(self, *bottoms: Tensor) -> Tensor:
        features, boxes = bottoms[:2]
        return features.new_empty(boxes.shape[0], features.shape[1], *self.pooled)


class Reach(enum.Enum):
    """Which largest values of the bins of a box the backward pass of ROIPooling reaches.

    BOX: those in the box. The forward pass makes a box whose end lies before its start one cell large; the backward
    pass finds no cell in it. CUT_BOX: those in the box cut off at the image, whose bins then are smaller ones; the end
    is compared in pixels of the input. ALL: every one, which is the derivative.
    """

    BOX = enum.auto()
    CUT_BOX = enum.auto()
    ALL = enum.auto()


class ROIPooling(_BoxLayer):
    """The largest value in each of ``pooled_h`` x ``pooled_w`` bins of a box; 0 where a bin lies outside the map.

    Corners are rounded to cells of the map, both ends included. No gradient flows to the boxes.

    Args:
        scale: takes heights and widths of boxes to the map.
        pad_ratio: widens a box on every side by that part of its size first.
        reach: how far the backward pass goes.
        rounded: how corners become whole.
    """

    def __init__(
        self,
        scale: tuple[float, float],
        pooled: tuple[int, int],
        pad_ratio: float,
        reach: Reach,
        rounded: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(pooled)
        self.scale = scale
        self.pad_ratio = pad_ratio
        self.reach = reach
        self.rounded = rounded

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        boxes = boxes.detach().reshape(-1, 5).to(torch.float64 if features.dtype == torch.float64 else torch.float32)
        image = boxes[:, 0].long()
        low, high = boxes[:, 1:3].flip(1), boxes[:, 3:5].flip(1)  # vertical, horizontal
        if self.pad_ratio:
            pad = (high - low + 1) * self.pad_ratio
            low, high = low - pad, high + pad
        scale = boxes.new_tensor(self.scale)
        low, high = self.rounded(low * scale).long(), self.rounded(high * scale).long()
        height, width = features.shape[2:]
        top, bottom = self._bins(low[:, 0], high[:, 0], self.pooled[0], height)
        left, right = self._bins(low[:, 1], high[:, 1], self.pooled[1], width)
        index = _first_maximum(features.detach(), image, (top, bottom), (left, right))
        empty = ((bottom <= top)[:, :, None] | (right <= left)[:, None, :])[:, None]
        pooled = torch.where(empty, 0, take(features, image, index))
        if self.reach is Reach.ALL:
            return pooled
        return torch.where(self._reached(index, low, high, (height, width)), pooled, pooled.detach())

    def _bins(self, low: Tensor, high: Tensor, bins: int, size: int) -> tuple[Tensor, Tensor]:
        """First cell and end of every bin along one axis, (boxes, bins), cut off at the map."""
        step = _step(low, high, bins)
        numbers = torch.arange(bins, device=low.device)
        start = (numbers * step[:, None]).floor().long() + low[:, None]
        end = ((numbers + 1) * step[:, None]).ceil().long() + low[:, None]
        return start.clamp(0, size), end.clamp(0, size)

    def _reached(self, index: Tensor, low: Tensor, high: Tensor, size: tuple[int, int]) -> Tensor:
        """Whether the gradient of each bin flows, like ``index``, (boxes, channels, bins, bins).

        The fork goes through the cells and asks which bins a cell may be in, in single precision.
        """
        if self.reach is Reach.CUT_BOX:
            image = c_round(torch.tensor(size, device=low.device) / torch.tensor(self.scale, device=low.device))
            low, high = low.clamp_min(0), torch.minimum(high, image.long() - 1)
        reached = torch.ones_like(index, dtype=torch.bool)
        for axis, place in enumerate((index // size[1], index % size[1])):
            start, end = (corner[:, axis, None, None, None] for corner in (low, high))
            step = _step(start, end, self.pooled[axis])
            shape = (-1, 1) if axis == 0 else (1, -1)
            number = torch.arange(self.pooled[axis], device=low.device).view(shape)
            first, behind = ((place - start) / step).floor(), ((place - start + 1) / step).ceil()
            reached = reached & (place >= start) & (place <= end) & (first <= number) & (number < behind)
        return reached


def _step(low: Tensor, high: Tensor, bins: int) -> Tensor:
    """Length of a bin in cells, in single precision."""
    return (high - low + 1).clamp_min(1).float() / bins


def _roi_pooling(
    spec: LayerSpec,
    reach: Reach,
    *,
    padded: bool = False,
    rounded: Callable[[Tensor], Tensor] = c_round,
    scale: tuple[float, float] | None = None,
) -> Layer:
    check_boxes(spec)
    params = spec.params("roi_pooling_param")
    if spec.gradients == "true":
        reach = Reach.ALL
    scale = scale or (params.spatial_scale, params.spatial_scale)
    return ROIPooling(scale, pooled_size(spec, params), params.pad_ratio if padded else 0.0, reach, rounded)


@layer("ROIPooling", bottoms=2, tops=1, dialects=_GIRSHICK)
def roi_pooling(spec: LayerSpec) -> Layer:
    """The backward pass is that of the CUDA code; on a CPU some of the forks have none, others the derivative."""
    return _roi_pooling(spec, Reach.BOX)


@layer("ROIPooling", bottoms=2, tops=1, dialects=_WINDOWS)
def roi_pooling_windows(spec: LayerSpec) -> Layer:
    return _roi_pooling(spec, Reach.BOX, rounded=_round_up)


@layer("ROIPooling", bottoms=2, tops=1, dialects=("intel/caffe",))
def roi_pooling_intel(spec: LayerSpec) -> Layer:
    """The backward pass is that of the CPU code."""
    return _roi_pooling(spec, Reach.ALL)


@layer("ROIPooling", bottoms=2, tops=1, dialects=_MSCNN)
def roi_pooling_mscnn(spec: LayerSpec) -> Layer:
    return _roi_pooling(spec, Reach.CUT_BOX, padded=True)


@layer("ROIPooling", bottoms=2, tops=1, dialects=_CASCADE)
def roi_pooling_cascade(spec: LayerSpec) -> Layer:
    return _roi_pooling(spec, Reach.ALL, padded=True)


@layer("ROIPooling", bottoms=2, tops=1, dialects=("jolibrain/caffe",))
def roi_pooling_jolibrain(spec: LayerSpec) -> Layer:
    """A negative spatial_scale stands for the map's height and width: boxes are given as parts of the image."""
    check_boxes(spec)
    height, width = spec.bottom_shapes[0][2:]
    negative = spec.params("roi_pooling_param").spatial_scale < 0
    return _roi_pooling(spec, Reach.BOX, scale=(float(height), float(width)) if negative else None)


class PSROIPooling(_BoxLayer):
    """The mean of each of ``group`` x ``group`` bins of a box, every bin from channels of its own; 0 for an empty bin.

    Channel (o * group + row) * group + column of the map belongs to channel o of the top and the bin (row, column).
    Corners are rounded to pixels of the input, the end exclusive. No gradient flows to the boxes.
    """

    def __init__(self, scale: float, outputs: int, group: int) -> None:
        super().__init__((group, group))
        self.scale = scale
        self.outputs = outputs

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(bottoms[1].shape[0], self.outputs, *self.pooled)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        x = widened(features)
        boxes = boxes.detach().reshape(-1, 5).to(x.dtype)
        low = c_round(boxes[:, 1:3]) * self.scale
        extent = ((c_round(boxes[:, 3:5]) + 1) * self.scale - low).clamp_min(0.1)
        rows = self._weights(low[:, 1], extent[:, 1], x.shape[2])
        columns = self._weights(low[:, 0], extent[:, 0], x.shape[3])
        group = self.pooled[0]
        maps = x.unflatten(1, (self.outputs, group, group))
        top = x.new_zeros(boxes.shape[0], self.outputs, group, group)
        for image in range(x.shape[0]):
            here = (boxes[:, 0].long() == image)[:, None, None]
            strips = torch.einsum("opqhw,rqw->ropqh", maps[image], columns * here)
            top = top + torch.einsum("ropqh,rph->ropq", strips, rows)
        return top.to(features.dtype)

    def _weights(self, low: Tensor, extent: Tensor, size: int) -> Tensor:
        """(boxes, bins, cells): 1 / length on the cells of a bin, 0 elsewhere."""
        step = (extent / self.pooled[0])[:, None]
        bins = torch.arange(self.pooled[0], device=low.device)
        start = (bins * step + low[:, None]).floor().clamp(0, size)
        end = ((bins + 1) * step + low[:, None]).ceil().clamp(0, size)
        cells = torch.arange(size, device=low.device)
        inside = (cells >= start[..., None]) & (cells < end[..., None])
        return inside / (end - start).clamp_min(1)[..., None]


@layer("PSROIPooling", bottoms=2, tops=1, dialects=_DAI)
def psroi_pooling(spec: LayerSpec) -> Layer:
    check_boxes(spec)
    params = spec.params("psroi_pooling_param")
    outputs, group, channels = params.output_dim, params.group_size, spec.bottom_shapes[0][1]
    if outputs < 1 or group < 1:
        spec.fail(f"output_dim {outputs} and group_size {group} must be at least 1")
    if channels != outputs * group * group:
        spec.fail(
            f"bottom {spec.bottoms[0]!r} has {channels} channels; output_dim {outputs} x group_size {group} squared = "
            f"{outputs * group * group} were expected"
        )
    return PSROIPooling(params.spatial_scale, outputs, group)


class ROIAlign(_BoxLayer):
    """The map at the corners of the bins of a box, (bins + 1) of them a side, interpolated linearly; 0 off the map.

    A point is off the map if it is more than half a cell away from it; a box without area gives zeros. Cells have their
    centres at whole numbers, pixels of the input at halves. No gradient flows to the boxes.
    """

    def __init__(self, scale: float, bins: tuple[int, int], pad_ratio: float) -> None:
        super().__init__((bins[0] + 1, bins[1] + 1))
        self.scale = scale
        self.pad_ratio = pad_ratio

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        boxes = boxes.detach().reshape(-1, 5).to(torch.float64 if features.dtype == torch.float64 else torch.float32)
        image = boxes[:, 0].long()
        low, high = boxes[:, 1:3], boxes[:, 3:5]
        pad = (high - low + 1) * self.pad_ratio
        low, high = (low - pad) * self.scale - 0.5, (high + pad) * self.scale - 0.5
        flat = ((high - low) <= 0).any(1)
        height, width = features.shape[2:]
        upper, lower, down, off_rows = self._points(low[:, 1], high[:, 1], self.pooled[0], height)
        left, right, across, off_columns = self._points(low[:, 0], high[:, 0], self.pooled[1], width)
        top = features.new_zeros(())
        for rows, row_weight in ((upper, 1 - down), (lower, down)):
            for columns, column_weight in ((left, 1 - across), (right, across)):
                index = (rows[:, :, None] * width + columns[:, None, :])[:, None]
                weight = (row_weight[:, :, None] * column_weight[:, None, :])[:, None]
                values = take(features, image, index.expand(-1, features.shape[1], -1, -1))
                top = top + values * weight.to(features.dtype)
        off = (off_rows[:, :, None] | off_columns[:, None, :] | flat[:, None, None])[:, None]
        return torch.where(off, 0, top)

    @staticmethod
    def _points(low: Tensor, high: Tensor, points: int, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Along one axis, each (boxes, points): the cells before and after a point, how far it is from the first, and
        whether it is off the map."""
        step = ((high - low) / (points - 1))[:, None]
        place = low[:, None] + torch.arange(points, device=low.device) * step
        off = (place < -0.5) | (place > size - 0.5)
        first = place.floor().clamp(0, size - 1)
        second = (place.floor() + 1).clamp(0, size - 1)
        return first.long(), second.long(), place.clamp(0, size - 1) - first, off


@layer("ROIAlign", bottoms=2, tops=1, dialects=("zhaoweicai/mscnn", "zhaoweicai/cascade-rcnn"))
def roi_align(spec: LayerSpec) -> Layer:
    check_boxes(spec)
    params = spec.params("roi_pooling_param")
    return ROIAlign(params.spatial_scale, pooled_size(spec, params), params.pad_ratio)


def pooled_size(spec: LayerSpec, params: Params) -> tuple[int, int]:
    """``pooled_h`` and ``pooled_w``, which must be positive."""
    if params.pooled_h < 1 or params.pooled_w < 1:
        spec.fail(f"pooled_h {params.pooled_h} and pooled_w {params.pooled_w} must be at least 1")
    return params.pooled_h, params.pooled_w


def take(features: Tensor, image: Tensor, index: Tensor) -> Tensor:
    """Values of ``features`` (N, C, H, W) at ``index`` (boxes, C, ...), counted within the map of ``image``."""
    _, channels, height, width = features.shape
    ones = [1] * (index.dim() - 2)
    plane = image.view(-1, 1, *ones) * channels + torch.arange(channels, device=index.device).view(1, -1, *ones)
    flat = plane * (height * width) + index
    # gather, for indexing would take a negative image for one counted from the end.
    return features.reshape(-1).gather(0, flat.reshape(-1)).view(flat.shape)


# Range maximum: tables of the maxima of all windows of 2^i x 2^j cells; any other window is covered by four of them.


def _first_maximum(
    features: Tensor, image: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]
) -> Tensor:
    """Where in the H x W map the largest value of each window lies, the first of equal ones: (boxes, C, bins, bins).

    Args:
        rows, columns: first cell and end of every bin, (boxes, bins). Empty windows give any place.
    """
    count, _, height, width = features.shape
    levels = (_levels(rows, height), _levels(columns, width))
    chunk = max(1, _TABLE_VALUES // (levels[0] * levels[1] * max(count * height * width, 1)))
    parts = [_search(some, image, rows, columns, levels) for some in features.split(chunk, 1)]
    return torch.cat(parts, 1)


def _levels(bins: tuple[Tensor, Tensor], size: int) -> int:
    start, end = bins
    if torch.compiler.is_compiling() or start.device.type == "meta" or not start.numel():
        return size.bit_length()
    return max(1, int((end - start).max()).bit_length())


def _search(
    features: Tensor,
    image: Tensor,
    rows: tuple[Tensor, Tensor],
    columns: tuple[Tensor, Tensor],
    levels: tuple[int, int],
) -> Tensor:
    count, channels, height, width = features.shape
    index = torch.arange(height * width, device=features.device, dtype=torch.int32).view(1, 1, height, width)
    tall = features, index.expand(features.shape)
    tables = []
    for i in range(levels[0]):
        tall = _doubled(*tall, 2, 1 << i >> 1)
        wide = tall
        for j in range(levels[1]):
            wide = _doubled(*wide, 3, 1 << j >> 1)
            tables.append(wide[1])
    table = torch.stack(tables).flatten(0, 1).flatten(2).reshape(-1)
    row_level, row_pair = _cover(*rows, levels[0], height)
    column_level, column_pair = _cover(*columns, levels[1], width)
    level = row_level[:, :, None] * levels[1] + column_level[:, None, :]
    planes = level * count + image[:, None, None]
    planes = planes[:, None] * channels + torch.arange(channels, device=features.device)[:, None, None]
    best: tuple[Tensor, Tensor] | None = None
    for row in row_pair:
        for column in column_pair:
            place = (row[:, :, None] * width + column[:, None, :])[:, None]
            found = table.gather(0, (planes * (height * width) + place).reshape(-1)).view(planes.shape).long()
            value = take(features, image, found)
            best = (value, found) if best is None else _better(best, (value, found))
    assert best is not None
    return best[1]


def _better(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The larger of two (value, index), the one of lower index where they are equal."""
    first = (a[0] > b[0]) | ((a[0] == b[0]) & (a[1] <= b[1]))
    return torch.where(first, a[0], b[0]), torch.where(first, a[1], b[1])


def _doubled(value: Tensor, index: Tensor, axis: int, step: int) -> tuple[Tensor, Tensor]:
    """Maxima of windows twice ``step`` long. Those that would reach over the edge hold nothing of use."""
    size = value.shape[axis]
    if step == 0 or step >= size:
        return value, index
    other = tuple(
        torch.cat([t.narrow(axis, step, size - step), t.narrow(axis, size - step, step)], axis) for t in (value, index)
    )
    return _better((value, index), (other[0], other[1]))


def _cover(start: Tensor, end: Tensor, levels: int, size: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The level whose two windows cover each bin, and where these begin."""
    length = end - start
    level = torch.zeros_like(length)
    for i in range(1, levels):
        level = level + (length >= 1 << i)
    second = end - (torch.ones_like(level) << level)
    return level, (start.clamp(0, size - 1), second.clamp(0, size - 1))
