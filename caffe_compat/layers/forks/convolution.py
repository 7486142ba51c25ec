"""Depthwise convolution and what mobile networks put beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..bvlc.convolution import convolution

__all__ = ["DepthwiseConvolution", "ReLU6", "SpatialDropout"]


class ReLU6(Layer):
    """min(max(x, 0) + negative_slope * min(x, 0), 6)."""

    def __init__(self, negative_slope: float) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor) -> Tensor:
        if self.negative_slope == 0:
            return functional.relu6(x)
        y = functional.leaky_relu(x, self.negative_slope)
        return torch.where(y < 6, y, 6.0)


@layer("ReLU6", bottoms=1, tops=1)
def relu6(spec: LayerSpec) -> Layer:
    slope = 0.0
    if spec.knows("relu6_param"):
        params = spec.params("relu6_param")
        params.ignore("engine")  # it chooses between two ways to the same numbers
        slope = params.get("negative_slope", 0.0)
    return ReLU6(slope)


class DepthwiseConvolution(Layer):
    """Each channel convolved with a kernel of its own. ``weight`` is (C, 1, height, width), ``bias`` (C,)."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        pad: tuple[int, int],
        dilation: tuple[int, int],
        params: Params,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.pad = pad
        self.dilation = dilation
        self.blob("weight", (channels, 1, *kernel), params.weight_filler)
        self.bias_blob((channels,), params)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight, self.bias, self.stride, self.pad, self.dilation, x.shape[1])


@layer("ConvolutionDepthwise", bottoms=1, tops=1)
def convolution_depthwise(spec: LayerSpec) -> Layer:
    shape, params = spec.bottom_shapes[0], spec.params("convolution_param")
    # The type does not look at them: every channel is a group and makes one channel.
    params.ignore("num_output", "group", "engine")
    if len(shape) != 4:
        spec.fail(f"bottom {spec.bottoms[0]!r} has shape {list(shape)}; (images, channels, height, width) was expected")
    kernel = _two(spec, params, "kernel", "kernel_size", None)
    stride = _two(spec, params, "stride", "stride", 1)
    pad = _two(spec, params, "pad", "pad", 0)
    dilation = _repeated(spec, params, "dilation", 1)
    for size, k, p, d in zip(shape[2:], kernel, pad, dilation, strict=True):
        if k < 1 or size + 2 * p < d * (k - 1) + 1:
            spec.fail(f"a kernel of {list(kernel)} with pad {list(pad)} does not fit into a bottom of {list(shape)}")
    return DepthwiseConvolution(shape[1], kernel, stride, pad, dilation, params)


def _two(spec: LayerSpec, params: Params, stem: str, both: str, default: int | None) -> tuple[int, int]:
    """Height and width from ``<stem>_h`` and ``<stem>_w``, else from the repeated field ``both``."""
    if params.has(f"{stem}_h") and params.has(f"{stem}_w"):
        if params.has(both):
            spec.fail(f"{both} excludes {stem}_h and {stem}_w")
        return getattr(params, f"{stem}_h"), getattr(params, f"{stem}_w")
    return _repeated(spec, params, both, default)


def _repeated(spec: LayerSpec, params: Params, name: str, default: int | None) -> tuple[int, int]:
    values = getattr(params, name)
    if not values and default is not None:
        return default, default
    if len(values) not in (1, 2):
        spec.fail(f"{name} {list(values)} must be one or two numbers")
    return values[0], values[-1]


@layer("DepthwiseConvolution", bottoms=(1, None), tops=(1, None))
def depthwise_convolution(spec: LayerSpec) -> nn.Module:
    """Convolution, whose group must be the channels: on the GPU, the forks take that for granted."""
    params, shape = spec.params("convolution_param"), spec.bottom_shapes[0]
    if len(shape) != 4 or not params.group == shape[1] == params.num_output:
        spec.fail(
            f"group {params.group} and num_output {params.num_output} must be the channels of the bottom {list(shape)}"
        )
    return convolution(spec)


class SpatialDropout(Layer):
    """In training, whole channels are zeroed with probability ``ratio`` and the others divided by 1 - ``ratio``."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        shape = (*x.shape[:2], *[1] * (x.dim() - 2))
        generator = self.randomness.generator(self.layer_name, x.device)
        kept = x.new_empty(shape).bernoulli_(1 - self.ratio, generator=generator)
        return x * (kept / (1 - self.ratio))


@layer("SpatialDropout", bottoms=1, tops=1)
def spatial_dropout(spec: LayerSpec) -> Layer:
    params = spec.params("spatial_dropout_param" if spec.knows("spatial_dropout_param") else "dropout_param")
    if params.get("dropout_scale", 1.0) != 1 or not params.get("scale_train", True):
        spec.fail("dropout_scale and scale_train are not supported")
    if not 0 < params.dropout_ratio < 1:
        spec.fail(f"dropout_ratio {params.dropout_ratio:g} must lie between 0 and 1")
    return SpatialDropout(params.dropout_ratio)
