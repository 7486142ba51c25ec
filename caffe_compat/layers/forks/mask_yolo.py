"""MaskYolo: regions that YOLO proposes, samples of maps in them, and maps made larger.

Source: leon-liangwu/MaskYolo_Caffe, ``roi_gen_layer.cpp``, ``util/box.cpp``, ``roi_alignment_layer.cpp`` and ``.cu``,
and ``resize_layer.cu``; the last has no code for a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ..precision import widened
from .boxes import best_apart
from .roi import check_boxes, pooled_size, take

__all__ = ["ResizeOfMaskYolo", "RoiAlignment", "RoiGen"]

_FORK = "leon-liangwu/MaskYolo_Caffe"
# Of two boxes that overlap more, the one that is less sure goes.
_OVERLAP = 0.4


class RoiGen(Layer):
    """The boxes of cells and anchors that are surer than ``threshold``: rows (image, x1, y1, x2, y2), and 1 for each.

    (N, 5 anchors, H, W) gives (boxes, 5) and (boxes,), with zeros behind the boxes that are found: image by image,
    anchor by anchor, as many as there is room for. An anchor has x, y, width, height and how sure it is. Boxes are
    cut off at the input, of which ``size`` is the width and height. No gradient.
    """

    def __init__(self, anchors: tuple[tuple[float, float], ...], threshold: float, boxes: int, size: tuple[int, int]):
        super().__init__()
        self.anchors = anchors
        self.threshold = threshold
        self.boxes = boxes
        self.size = size

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, Tensor]:
        return bottoms[0].new_empty(self.boxes, 5), bottoms[0].new_empty(self.boxes)

    @torch.no_grad()
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        wide = widened(x)
        height, width = x.shape[2:]
        cells = wide.new_tensor([width, height])
        own = wide.unflatten(1, (-1, 5)).permute(0, 1, 3, 4, 2)
        y, x_ = torch.meshgrid(*(torch.arange(n, device=x.device) for n in (height, width)), indexing="ij")
        middle = (torch.stack([x_, y], -1) + own[..., :2].sigmoid()) / cells
        half = own[..., 2:4].exp() * wide.new_tensor(self.anchors)[:, None, None] / cells / 2
        corners = torch.cat([middle - half, middle + half], -1).flatten(1, 3)
        sure = own[..., 4].sigmoid().flatten(1)
        rows = []
        for i in range(len(x)):
            chosen = (sure[i] > self.threshold).nonzero()[:, 0]
            order = chosen[sure[i, chosen].argsort(descending=True, stable=True)]
            kept = order[best_apart(corners[i, order], _OVERLAP)].sort().values
            boxes = corners[i, kept].clamp(0, 1) * wide.new_tensor([*self.size, *self.size])
            rows.append(torch.cat([boxes.new_full((len(kept), 1), i), boxes], 1))
        found = torch.cat(rows)[: self.boxes].to(x.dtype)
        empty = self.boxes - len(found)
        there = torch.cat([found.new_ones(len(found)), found.new_zeros(empty)])
        return torch.cat([found, found.new_zeros(empty, 5)]), there


@layer("RoiGen", bottoms=1, tops=2, dialects=(_FORK,), verified=False)
def roi_gen(spec: LayerSpec) -> Layer:
    params = spec.params("roi_gen_param")
    params.ignore("softmax")  # read by nobody
    if params.num_class != 0 or params.num_coord != 4:
        spec.fail(
            f"num_class is {params.num_class} and num_coord {params.num_coord}; the fork reads its bottom as if they "
            "were 0 and 4, and nothing else is supported"
        )
    counts = len(params.anchor_x), len(params.anchor_y)
    if counts != (params.num_object, params.num_object) or params.num_object < 1:
        spec.fail(f"num_object {params.num_object} needs as many anchor_x and anchor_y; there are {counts}")
    for name in ("prop_num", "net_w", "net_h"):
        if getattr(params, name) < 1:
            spec.fail(f"{name} is {getattr(params, name)}; it must be at least 1")
    spec.shaped(0, "images", 5 * params.num_object, "height > 0", "width > 0")
    anchors = tuple(zip(params.anchor_x, params.anchor_y, strict=True))
    return RoiGen(anchors, params.thresh, params.prop_num, (params.net_w, params.net_h))


class RoiAlignment(Layer):
    """The map at the middle of each of ``pooled`` bins of a box, bilinear between its cells.

    Maps (N, C, H, W) and boxes (R, 5) (image, x1, y1, x2, y2), which ``scale`` brings to cells, give (R, C, ...). A box
    is a cell wider and higher than its corners are apart, at least one cell; bins are cut off at the map's last cells
    before their middle is taken. The fork's gradient misses cells that lie more than one beyond the corners;
    ``as_caffe=False`` gives all of it. None flows to the boxes.
    """

    def __init__(self, scale: float, pooled: tuple[int, int], *, as_caffe: bool) -> None:
        super().__init__()
        self.scale = scale
        self.pooled = pooled
        self.as_caffe = as_caffe

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(bottoms[1].shape[0], bottoms[0].shape[1], *self.pooled)

    def forward(self, maps: Tensor, boxes: Tensor) -> Tensor:
        wide = widened(maps)
        rows = boxes.detach().reshape(-1, 5).to(wide.dtype)
        image, corners = rows[:, 0].long(), rows[:, 1:] * self.scale
        width = maps.shape[3]
        down = self._between(corners[:, 1], corners[:, 3], self.pooled[0], maps.shape[2])
        right = self._between(corners[:, 0], corners[:, 2], self.pooled[1], width)
        value = wide.new_zeros(())
        for y, by_y, near_y in down:
            for x, by_x, near_x in right:
                place = (y[:, :, None] * width + x[:, None, :])[:, None].expand(-1, maps.shape[1], -1, -1)
                there = take(wide, image, place)
                if self.as_caffe:
                    near = (near_y[:, :, None] & near_x[:, None, :])[:, None]
                    there = torch.where(near, there, there.detach())
                value = value + there * (by_y[:, :, None] * by_x[:, None, :])[:, None]
        return value.to(maps.dtype)

    @staticmethod
    def _between(
        first: Tensor, last: Tensor, bins: int, cells: int
    ) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
        """The cells before and behind the middle of each bin, each one's part in it, and whether the box knows it."""
        step = (last - first + 1).clamp_min(1) / bins
        edges = (torch.arange(bins + 1, device=first.device) * step[:, None] + first[:, None]).clamp(0, cells - 1)
        middle = (edges[:, :-1] + edges[:, 1:]) / 2
        low, high = middle.floor(), middle.ceil()
        after = middle - low
        near = [(cell >= first[:, None] - 1) & (cell <= last[:, None] + 1) for cell in (low, high)]
        return (low.long(), 1 - after, near[0]), (high.long(), after, near[1])


@layer("ROIAlignment", bottoms=2, tops=1, unforced=(1,), dialects=(_FORK,), verified=False)
def roi_alignment(spec: LayerSpec) -> Layer:
    check_boxes(spec)
    params = spec.params("roi_alignment_param")
    return RoiAlignment(params.spatial_scale, pooled_size(spec, params), as_caffe=spec.gradients == "caffe")


class ResizeOfMaskYolo(Layer):
    """Each cell of the top is that of the bottom whose start lies before its own: (N, C, H, W) gives (N, C, *size).

    ``size`` is a height and width; as ``scales`` of the bottom's, they are cut off to whole numbers. The fork's
    gradient of a cell counts for as much as bilinear sampling would give it; ``as_caffe=False`` gives the true one.
    """

    def __init__(self, size: tuple[int, int] | None, scales: tuple[float, float] | None, *, as_caffe: bool) -> None:
        super().__init__()
        self.size = size
        self.scales = scales
        self.as_caffe = as_caffe

    def forward(self, x: Tensor) -> Tensor:
        size = self.size or tuple(int(s * n) for s, n in zip(self.scales or (), x.shape[2:], strict=True))
        rows, columns = (self._source(n, m, x.device) for n, m in zip(x.shape[2:], size, strict=True))
        y = x[:, :, rows[0]][:, :, :, columns[0]]
        if not self.as_caffe:
            return y
        part = (rows[1][:, None] * columns[1]).to(x.dtype)
        return y * part + (y * (1 - part)).detach()

    @staticmethod
    def _source(before: int, after: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """For each of ``after`` cells, which of those ``before`` it is, and its part in the gradient."""
        at = torch.arange(after, device=device, dtype=torch.float32) * (before / after)
        cell = at.floor()
        return cell.long().clamp_max(before - 1), 1 - (at - cell)


@layer("Resize", bottoms=1, tops=1, dialects=(_FORK,), verified=False)
def resize_of_mask_yolo(spec: LayerSpec) -> Layer:
    shape, params = spec.images(), spec.params("resize_param")
    names = ("out_height_scale", "out_width_scale") if params.is_pyramid_test else ("height", "width")
    for name in names:
        if not params.has(name) or getattr(params, name) <= 0:
            spec.fail(f"needs {names[0]} and {names[1]} above 0, with is_pyramid_test {params.is_pyramid_test}")
    as_caffe = spec.gradients == "caffe"
    if not params.is_pyramid_test:
        return ResizeOfMaskYolo((params.height, params.width), None, as_caffe=as_caffe)
    scales = (params.out_height_scale, params.out_width_scale)
    if min(int(s * n) for s, n in zip(scales, shape[2:], strict=True)) < 1:
        spec.fail(f"leaves nothing of the bottom {list(shape)} with scales {scales}")
    return ResizeOfMaskYolo(None, scales, as_caffe=as_caffe)
