"""Layers of the segmentation networks: SegNet's and PSPNet's BN, Interp, Upsample."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..precision import widened

__all__ = ["BatchStatisticsBN", "Interp", "MovingAverageBN", "NearestUpsample", "UnpoolingUpsample"]

# SegNet's own, which no parameter changes.
_SEGNET_EPS = 1e-9


class MovingAverageBN(Layer):
    """y = slope (x - mean) / sqrt(variance + eps) + bias: the BN of PSPNet and of yjxiong's forks.

    ``mean`` and ``variance`` (both blobs are averages, not sums as BatchNorm's) are the batch's own in training, where
    the blobs follow as m blob + (1 - m) batch; both use the variance without Bessel's correction. A ``frozen`` layer
    always uses the blobs and learns nothing.
    """

    slope: nn.Parameter
    bias: nn.Parameter
    mean: Tensor
    variance: Tensor
    single_precision = ("mean", "variance")  # a variance soon exceeds what float16 holds

    def __init__(self, channels: int, params: Params) -> None:
        super().__init__()
        self.frozen = params.frozen
        self.momentum = params.momentum
        self.eps = params.eps
        shape = (1, channels, 1, 1)
        self.blob("slope", shape, params.slope_filler, learned=not self.frozen)
        self.blob("bias", shape, params.bias_filler, learned=not self.frozen)
        self.blob("mean", shape, learned=False)
        one = params.slope_filler.message.__class__(type="constant", value=1.0)
        self.blob("variance", shape, Params(one, "variance") if self.frozen else None, learned=False)

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.mean.flatten(), self.variance.flatten()
        # torch takes x in half precision, but all the rest in one.
        slope, bias = self.slope.flatten().to(mean.dtype), self.bias.flatten().to(mean.dtype)
        if self.frozen or not self.training:
            return torch.batch_norm(x, slope, bias, mean, variance, False, 0.0, self.eps, False)
        with torch.no_grad():
            axes = (0, *range(2, x.dim()))
            wide = widened(x)
            own = wide.mean(axes), wide.var(axes, correction=0)
            for blob, batch in zip((self.mean, self.variance), own, strict=True):
                blob.mul_(self.momentum).add_((batch * (1 - self.momentum)).view_as(blob))
        return torch.batch_norm(x, slope, bias, None, None, True, 0.0, self.eps, False)


class BatchStatisticsBN(Layer):
    """y = scale (x - mean) / sqrt(variance + 1e-9) + shift with the batch's own statistics, in training and testing.

    That is SegNet's BN. Further tops are the mean and the variance, (1, C, 1, 1). In the mode ``INFERENCE`` it is
    scale x + shift: the statistics are in the blobs then.
    """

    scale: nn.Parameter
    shift: nn.Parameter

    def __init__(self, channels: int, params: Params, *, inference: bool, tops: int) -> None:
        super().__init__()
        self.inference = inference
        self.tops = tops
        self.blob("scale", (1, channels, 1, 1), params.scale_filler)
        self.blob("shift", (1, channels, 1, 1), params.shift_filler)

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = bottoms[0]
        return (x, *(x.new_empty(1, x.shape[1], 1, 1) for _ in range(self.tops - 1))) if self.tops > 1 else x

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        if self.inference:
            return x * self.scale + self.shift
        y = torch.batch_norm(x, self.scale.flatten(), self.shift.flatten(), None, None, True, 0.0, _SEGNET_EPS, False)
        if self.tops == 1:
            return y
        wide = widened(x.detach())
        statistics = (wide.mean((0, 2, 3), keepdim=True), wide.var((0, 2, 3), correction=0, keepdim=True))
        return (y, *(values.to(x.dtype) for values in statistics[: self.tops - 1]))


@layer("BN", bottoms=1, tops=(1, 3))
def bn(spec: LayerSpec) -> Layer:
    shape = spec.bottom_shapes[0]
    if len(shape) != 4:
        spec.fail(f"bottom {spec.bottoms[0]!r} has shape {list(shape)}; (images, channels, height, width) was expected")
    params = spec.params("bn_param")
    params.ignore("engine")  # it chooses between two ways to the same numbers
    averages = params.knows("slope_filler") and params.knows("frozen")
    batch = params.knows("scale_filler") and params.knows("bn_mode")
    if averages and batch:  # a fork with both types in one
        batch = params.has("bn_mode") or params.has("scale_filler")
        averages = params.has("slope_filler") or params.has("frozen")
    if averages == batch:
        spec.fail(
            f"BN under the dialect {spec.dialect} is neither clearly PSPNet's (slope_filler) nor SegNet's (bn_mode)"
        )
    if averages:
        if len(spec.tops) != 1:
            spec.fail(f"takes exactly 1 tops, found {len(spec.tops)}")
        return MovingAverageBN(shape[1], params)
    inference = params.bn_mode == "INFERENCE"
    if inference and len(spec.tops) != 1:
        spec.fail(f"bn_mode INFERENCE has no statistics to give, but there are {len(spec.tops)} tops")
    return BatchStatisticsBN(shape[1], params, inference=inference, tops=len(spec.tops))


class Interp(Layer):
    """Bilinear interpolation to another size, the corners of the map staying corners; it may be cropped first.

    Args:
        crop: cells cut off at the start and at the end of both spatial axes.
        shrink, zoom: n cells become (n - 1) // shrink + 1, and then n + (n - 1) (zoom - 1).
        size: height and width instead of those.
    """

    def __init__(self, crop: tuple[int, int], shrink: int, zoom: int, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.crop = crop
        self.shrink = shrink
        self.zoom = zoom
        self.size = size

    def top_size(self, height: int, width: int) -> tuple[int, int]:
        """Of a map that was cropped to ``height`` x ``width``."""
        if self.size is not None:
            return self.size
        height, width = ((n - 1) // self.shrink + 1 for n in (height, width))
        return height + (height - 1) * (self.zoom - 1), width + (width - 1) * (self.zoom - 1)

    def forward(self, x: Tensor) -> Tensor:
        begin, end = self.crop
        x = x[:, :, begin : x.shape[2] - end, begin : x.shape[3] - end]
        size = self.top_size(x.shape[2], x.shape[3])
        return functional.interpolate(x, size, mode="bilinear", align_corners=True)


@layer("Interp", bottoms=1, tops=1)
def interp(spec: LayerSpec) -> Layer:
    shape, params = spec.bottom_shapes[0], spec.params("interp_param")
    if len(shape) != 4:
        spec.fail(f"bottom {spec.bottoms[0]!r} has shape {list(shape)}; (images, channels, height, width) was expected")
    if params.pad_beg > 0 or params.pad_end > 0:
        spec.fail(f"pad_beg {params.pad_beg} and pad_end {params.pad_end} must not be positive: this type only crops")
    shrinks, zooms = params.has("shrink_factor"), params.has("zoom_factor")
    sized = params.has("height") and params.has("width")
    if shrinks == zooms and not sized and not shrinks:
        spec.fail("needs shrink_factor, zoom_factor, or height and width")
    # Caffe's order: one factor alone wins over a size, a size over both.
    size = (params.height, params.width) if sized and shrinks == zooms else None
    if min(params.shrink_factor, params.zoom_factor) < 1 or (size is not None and min(size) < 1):
        spec.fail("shrink_factor, zoom_factor, height and width must be at least 1")
    module = Interp((-params.pad_beg, -params.pad_end), params.shrink_factor, params.zoom_factor, size)
    if min(shape[2:]) + params.pad_beg + params.pad_end < 1:
        spec.fail(f"cropping by {-params.pad_beg} and {-params.pad_end} leaves nothing of a bottom of {list(shape)}")
    return module


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


@layer("Upsample", bottoms=(1, 2), tops=1)
def upsample(spec: LayerSpec) -> Layer:
    """SegNet's with two bottoms, YOLO's with one."""
    shape, params = spec.bottom_shapes[0], spec.params("upsample_param")
    if len(spec.bottoms) == 1:
        if len(shape) < 2 or params.scale != int(params.scale) or params.scale < 1:
            spec.fail(
                f"scale {params.scale:g} must be a whole number from 1 on, and the bottom {list(shape)} have two axes"
            )
        return NearestUpsample(int(params.scale))
    if not params.knows("upsample_h"):
        spec.fail(f"has two bottoms as SegNet's type, but under the dialect {spec.dialect} it takes one")
    if len(shape) != 4 or spec.bottom_shapes[1] != shape:
        spec.fail(f"bottoms of {list(shape)} and {list(spec.bottom_shapes[1])}; two alike with four axes were expected")
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
