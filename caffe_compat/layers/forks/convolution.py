"""Depthwise convolution and what mobile networks put beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..bvlc.activation import relu
from ..bvlc.convolution import convolution
from .families import DREADLORD

__all__ = ["DepthwiseConvolution", "ReLU6", "SpatialDropout"]


_SIXES = ("chuanqi305/ssd", "imistyrain/ssd", "jolibrain/caffe", "eric612/MobileNet-YOLO", "yuqj1991/caffe_train")
# Each copied from the first. Without stride or pad, some of them read what is not there; here they are 1 and 0.
_DEPTHWISES = (
    *DREADLORD,
    "soeaver/py-RFCN-priv",
    "GuohongWu/caffe-windows",
    "jolibrain/caffe",
    "luoyetx/mini-caffe",
    "makefile/frcnn",
    "openvinotoolkit/training_toolbox_caffe",
)


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


# A sixth, eric612/Caffe-YOLOv3-Windows, makes a plain ReLU of this name.
@layer("ReLU6", bottoms=1, tops=1, dialects=_SIXES)
def relu6(spec: LayerSpec) -> Layer:
    slope = 0.0
    if spec.knows("relu6_param"):
        params = spec.params("relu6_param")
        params.ignore("engine")  # it chooses between two ways to the same numbers
        slope = params.get("negative_slope", 0.0)
    return ReLU6(slope)


@layer("ReLU6", bottoms=1, tops=1, dialects=("eric612/Caffe-YOLOv3-Windows",), verified=False)
def relu_that_is_called_relu6(spec: LayerSpec) -> nn.Module:
    if spec.knows("relu6_param"):
        spec.params("relu6_param").ignore("negative_slope", "engine")  # of a class that the fork never makes
    return relu(spec)


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


@layer("ConvolutionDepthwise", bottoms=1, tops=1, dialects=_DEPTHWISES)
def convolution_depthwise(spec: LayerSpec) -> Layer:
    return _depthwise(spec, kernel=None, pad=0)


@layer("ConvolutionDepthwise", bottoms=1, tops=1, dialects=("dlunion/CC4.0",))
def convolution_depthwise_of_cc(spec: LayerSpec) -> Layer:
    """It has a default for everything, and pads by 1 if the file does not say by how much."""
    return _depthwise(spec, kernel=1, pad=1)


def _depthwise(spec: LayerSpec, *, kernel: int | None, pad: int) -> Layer:
    shape, params = spec.images(), spec.params("convolution_param")
    # The type does not look at them: every channel is a group and makes one channel.
    params.ignore("num_output", "group", "engine")
    size = _two(spec, params, "kernel", "kernel_size", kernel)
    stride = _two(spec, params, "stride", "stride", 1)
    around = _two(spec, params, "pad", "pad", pad)
    dilation = _repeated(spec, params, "dilation", 1)
    for n, k, p, d in zip(shape[2:], size, around, dilation, strict=True):
        if k < 1 or n + 2 * p < d * (k - 1) + 1:
            spec.fail(f"a kernel of {list(size)} with pad {list(around)} does not fit into a bottom of {list(shape)}")
    return DepthwiseConvolution(shape[1], size, stride, around, dilation, params)


def _two(spec: LayerSpec, params: Params, stem: str, both: str, default: int | None) -> tuple[int, int]:
    """Height and width from ``<stem>_h`` and ``<stem>_w``, else from the repeated field ``both``."""
    if params.has(f"{stem}_h") and params.has(f"{stem}_w"):
        params.ignore(both)  # which these win over
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
    params, shape = spec.params("convolution_param"), spec.images()
    if not params.group == shape[1] == params.num_output:
        spec.fail(
            f"group {params.group} and num_output {params.num_output} must be the channels of the bottom {list(shape)}"
        )
    if any(n != 1 for n in params.dilation):
        spec.fail(
            f"dilation {list(params.dilation)} is not supported: the forks honour it on the CPU and not on the GPU"
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
