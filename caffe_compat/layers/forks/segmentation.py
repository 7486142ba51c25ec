"""Layers of segmentation networks that change the size of maps: Interp and Upsample."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..gradients import without_gradient
from ..precision import widened
from .families import CAMBRICON
from .sized_map import Size, SizedMap

__all__ = ["Interp", "NearestUpsample", "UnpoolingUpsample", "UpsampleByMode"]

# Each copied from the first; some have further fields, which are refused where they are set.
_INTERPS = (
    "yjxiong/caffe@interp",
    "hszhao/PSPNet",
    "BassyKuo/PSPNET-cudnn5",
    "xmyqsh/deeplab-v2",
    "aharley/segaware",
    "Andrew-Qibin/caffe_dss",
    "BannyStone/Caffe",
    *CAMBRICON,
    "foss-for-synopsys-dwc-arc-processors/synopsys-caffe",
    "imistyrain/ssd",
    "jolibrain/caffe",
    "lxx1991/caffe_mpi",
    "lzx1413/CAFFE_SSD",
    "senlinuc/caffe_ocr",
    "soeaver/py-RFCN-priv",
    "torrvision/caffe-tvg",
    "yuqj1991/caffe_train",
)
# These demand one way to say the size.
_ONE_SIZE = ("BannyStone/Caffe", "lxx1991/caffe_mpi")
_UNPOOLING = (
    "alexgkendall/caffe-segnet",
    "TimoSaemann/caffe-enet",
    "TimoSaemann/caffe-segnet-cudnn5",
    "AlfredXiangWu/caffe",
    "foss-for-synopsys-dwc-arc-processors/synopsys-caffe",
    "jolibrain/caffe",
)
# The second has SegNet's fields with this code.
_NEAREST = ("eric612/MobileNet-YOLO", "imistyrain/ssd", "yuqj1991/caffe_train")


class Interp(Layer):
    """Bilinear interpolation to another size, the corners of the map staying corners; it may be cropped first.

    Args:
        crop: cells cut off at the start and at the end of both spatial axes.
        size: height and width of the top, where no second bottom gives them.
    """

    def __init__(self, crop: tuple[int, int], size: tuple[int, int]) -> None:
        super().__init__()
        self.crop = crop
        self.size = size

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        begin, end = self.crop
        x = x[:, :, begin : x.shape[2] - end, begin : x.shape[3] - end]
        size = self.size if like is None else (like.shape[2], like.shape[3])
        return functional.interpolate(x, size, mode="bilinear", align_corners=True)


@layer("Interp", bottoms=(1, 2), tops=1, dialects=_INTERPS)
def interp(spec: LayerSpec) -> Layer:
    """n cells become (n - 1) / shrink_factor + 1, and then n + (n - 1) (zoom_factor - 1)."""
    params, cropped = spec.params("interp_param"), _cropped(spec)
    by_blob = bool(params.get("use_blob_size", False))
    if by_blob != (len(spec.bottoms) == 2):
        spec.fail(f"use_blob_size is {by_blob} with {len(spec.bottoms)} bottoms; a second one gives the size, if it is")
    if by_blob:
        return Interp((-params.pad_beg, -params.pad_end), _two([*spec.images(1)[2:]]))
    ways = [params.has("shrink_factor"), params.has("zoom_factor"), params.has("height") and params.has("width")]
    if sum(ways) != 1 and any(dialect in _ONE_SIZE for dialect in spec.dialect.split("+")):
        spec.fail("needs shrink_factor, zoom_factor, or height and width, and only one of them, under this dialect")
    size = _given_size(spec, params)
    if size is None:
        shrunk = [(n - 1) // params.shrink_factor + 1 for n in cropped]
        size = _two([n + (n - 1) * (params.zoom_factor - 1) for n in shrunk])
    return Interp((-params.pad_beg, -params.pad_end), size)


@layer("Interp", bottoms=1, tops=1, dialects=("dlunion/CC4.0",), verified=False)
def interp_of_cc(spec: LayerSpec) -> Layer:
    """n cells become n / shrink_factor, and then n zoom_factor.

    Where the cropped height is odd, a last row and column are cut off before, and the top has a row and a column more.
    """
    params, cropped = spec.params("interp_param"), _cropped(spec)
    odd = cropped[0] % 2
    size = _given_size(spec, params)
    if size is None:
        size = _two([(n - odd) // params.shrink_factor * params.zoom_factor for n in cropped])
    size = (size[0] + odd, size[1] + odd)
    if min(size) < 1 or min(cropped) - odd < 1:
        spec.fail(f"the top would be {size[0]} x {size[1]}, from {cropped[0] - odd} x {cropped[1] - odd} cells")
    return Interp((-params.pad_beg, -params.pad_end + odd), size)


def _two(numbers: list[int]) -> tuple[int, int]:
    height, width = numbers
    return height, width


def _cropped(spec: LayerSpec) -> tuple[int, int]:
    """Height and width of the bottom without what is cut off."""
    shape, params = spec.images(), spec.params("interp_param")
    if params.pad_beg > 0 or params.pad_end > 0:
        spec.fail(f"pad_beg {params.pad_beg} and pad_end {params.pad_end} must not be positive: this type only crops")
    height, width = (n + params.pad_beg + params.pad_end for n in shape[2:])
    if min(height, width) < 1:
        spec.fail(f"cropping by {-params.pad_beg} and {-params.pad_end} leaves nothing of a bottom of {list(shape)}")
    return height, width


def _given_size(spec: LayerSpec, params: Params) -> tuple[int, int] | None:
    """The size that the file gives, None if factors give it."""
    shrinks, zooms = params.has("shrink_factor"), params.has("zoom_factor")
    sized = params.has("height") and params.has("width")
    if not (shrinks or zooms or sized):
        spec.fail("needs shrink_factor, zoom_factor, or height and width")
    # Caffe's order: one factor alone wins over a size, a size over both.
    size = (params.height, params.width) if sized and shrinks == zooms else None
    if min(params.shrink_factor, params.zoom_factor) < 1 or (size is not None and min(size) < 1):
        spec.fail("shrink_factor, zoom_factor, height and width must be at least 1")
    return size


class UnpoolingUpsample(Layer):
    """The values at the places that max pooling took them from (its mask, the second bottom), zeros elsewhere."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(*bottoms[0].shape[:2], *self.size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        height, width = self.size
        # scatter refuses what lies outside, as Caffe does.
        flat = x.new_zeros(*x.shape[:2], height * width).scatter(2, mask.detach().long().flatten(2), x.flatten(2))
        return flat.view(*x.shape[:2], height, width)


class NearestUpsample(Layer):
    """Every cell ``scale`` times along both spatial axes."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.scale, -2).repeat_interleave(self.scale, -1)


@layer("Upsample", bottoms=1, tops=1, dialects=_NEAREST)
def nearest_upsample(spec: LayerSpec) -> Layer:
    """YOLO's."""
    params = spec.params("upsample_param")
    spec.images()
    if params.scale < 1:
        spec.fail(f"scale {params.scale} must be at least 1")
    return NearestUpsample(params.scale)


@layer("Upsample", bottoms=2, tops=1, dialects=_UNPOOLING)
def unpooling_upsample(spec: LayerSpec) -> Layer:
    """SegNet's."""
    shape, params = spec.images(), spec.params("upsample_param")
    spec.alike()
    if params.has("upsample_h") and params.has("upsample_w"):
        # Caffe does not look at the others then.
        params.ignore("scale", "scale_h", "scale_w", "pad_out_h", "pad_out_w")
        size = (params.upsample_h, params.upsample_w)
    else:
        if params.has("scale_h") != params.has("scale_w"):
            spec.fail("needs scale_h and scale_w, or scale alone")
        if params.has("scale_h") and params.has("scale"):
            spec.fail("scale excludes scale_h and scale_w")
        scales = (params.scale_h, params.scale_w) if params.has("scale_h") else (params.scale, params.scale)
        pads = (params.pad_out_h, params.pad_out_w)
        if min(scales) < 2 or any(pad and scale != 2 for pad, scale in zip(pads, scales, strict=True)):
            spec.fail(f"scales {list(scales)} must be at least 2, and exactly 2 where the top is padded")
        size = (shape[2] * scales[0] - pads[0], shape[3] * scales[1] - pads[1])
    if min(size) < 2:
        spec.fail(f"the top would be {size[0]} x {size[1]}; at least 2 x 2 was expected")
    return UnpoolingUpsample(size)


class UpsampleByMode(SizedMap):
    """Maps (N, C, H, W) in another size: the cell that a place lies in, or bilinear with the corners kept.

    ``derived`` is False for no gradient: the backward pass of the fork is empty.
    """

    def __init__(self, size: Size | None, *, nearest: bool, derived: bool) -> None:
        super().__init__(size)
        self.nearest = nearest
        self.derived = derived

    def forward(self, x: Tensor, *like: Tensor) -> Tensor:
        values = widened(x)
        for axis, after in zip((2, 3), self.top_size(x, *like), strict=True):
            values = self._resized(values, axis, after)
        values = values.to(x.dtype)
        return values if self.derived else without_gradient(values, x)

    def _resized(self, x: Tensor, axis: int, after: int) -> Tensor:
        before, places = x.shape[axis], torch.arange(after, device=x.device)
        if self.nearest:
            return x.index_select(axis, places * before // after)
        place = places * ((before - 1) / (after - 1) if after > 1 else 0.0)
        low = place.long()
        share = (place - low).to(x.dtype).reshape(-1, *[1] * (3 - axis))
        high = (low + 1).clamp_max(before - 1)
        return x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share


@layer("Upsample", bottoms=(1, 2), tops=1, dialects=("Wulingtian/yolov5_caffe",), verified=False)
def upsample_by_mode(spec: LayerSpec) -> Layer:
    """YOLO v5's."""
    shape, params = spec.images(filled=True), spec.params("upsample_param")
    given, scaled = (
        all(params.has(name) for name in pair) for pair in (("height", "width"), ("height_scale", "width_scale"))
    )
    size: Size | None
    if len(spec.bottoms) == 2:
        spec.images(1, filled=True)
        params.ignore("height", "width", "height_scale", "width_scale")  # the second bottom counts for more
        size = None
    elif given:
        params.ignore("height_scale", "width_scale")
        size = (params.height, params.width)
        if min(size) < 2:
            spec.fail(f"height {size[0]} and width {size[1]} must be at least 2")
    elif scaled:
        params.ignore("height", "width")
        if min(params.height_scale, params.width_scale) < 2:
            spec.fail(f"height_scale {params.height_scale} and width_scale {params.width_scale} must be at least 2")
        size = (shape[2] * params.height_scale, shape[3] * params.width_scale)
    else:
        spec.fail("needs height and width, or height_scale and width_scale, or a second bottom")
    return UpsampleByMode(size, nearest=params.mode == "NEAREST", derived=spec.gradients == "true")
