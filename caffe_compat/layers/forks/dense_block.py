"""DenseBlock of Tongcheng's and senlinuc's forks: a whole block of DenseNet as one layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ...network.registry import Layer, LayerSpec, Shape, layer
from ...schema.params import Params
from ..precision import widened

__all__ = ["DenseBlock"]

# cuDNN's least.
_EPS = 1e-5
# A bottleneck has so many channels for each that grows.
_WIDE = 4
# What the fork's code never reads, with the only value that its kernels have.
_FIXED = {"pad_h": 1, "pad_w": 1, "conv_verticalStride": 1, "conv_horizentalStride": 1, "filter_H": 3, "filter_W": 3}


class DenseBlock(Layer):
    """Maps (N, C, H, W) -> (N, C + steps * growth, H, W): every step normalises, rectifies and convolves all channels
    so far, 3 x 3, and adds ``growth`` channels behind them; a bottleneck (normalised, rectified, 1 x 1 to 4 * growth
    channels) may come before.

    Blobs are, for all steps one after the other, filters, scales, shifts, means and variances, the same five of the
    bottlenecks, and a number. The fork's GPU code keeps averages, which go a part ``decay`` of the way to the batch's,
    and leaves that number 0; its CPU code keeps sums and counts them there. Files of both are read; what is trained
    here is as on a GPU. Without a count, the CPU code tests with a mean and a variance of 0; here that is as on a GPU.
    Source: senlinuc/caffe_ocr, ``DenseBlock_layer.cpp`` and ``.cu``.
    """

    any_axes_of_one = True
    count: Tensor

    def __init__(self, channels: int, steps: int, growth: int, params: Params, *, bottleneck: bool) -> None:
        super().__init__()
        self.steps = steps
        self.decay = params.moving_average_fraction
        self.bottleneck = bottleneck
        widths = [channels + step * growth for step in range(steps)]
        one = params.BN_Scaler_Filler.message.__class__(type="constant", value=1.0)
        wide = _WIDE * growth
        inner = [wide] * steps if bottleneck else widths
        self._blobs("filter", [(growth, width, 3, 3) for width in inner], params.Filter_Filler)
        self._norms("", widths, params, Params(one, "variance"))
        if bottleneck:
            self._blobs("narrow_filter", [(wide, width, 1, 1) for width in widths], params.Filter_Filler)
            self._norms("narrow_", inner, params, Params(one, "variance"))
        self.blob("count", (1,), learned=False)

    def _blobs(self, name: str, shapes: Sequence[Shape], filler: Params | None, *, learned: bool = True) -> None:
        for step, shape in enumerate(shapes):
            self.blob(f"{name}{step}", shape, filler, learned=learned)

    def _norms(self, name: str, widths: list[int], params: Params, one: Params) -> None:
        shapes = [(1, width, 1, 1) for width in widths]
        self._blobs(f"{name}scale", shapes, params.BN_Scaler_Filler)
        self._blobs(f"{name}shift", shapes, params.BN_Bias_Filler)
        self._blobs(f"{name}mean", shapes, None, learned=False)
        self._blobs(f"{name}variance", shapes, one, learned=False)

    def forward(self, x: Tensor) -> Tensor:
        for step in range(self.steps):
            y = self._normalised(x, "", step)
            if self.bottleneck:
                y = functional.conv2d(y, getattr(self, f"narrow_filter{step}"))
                y = self._normalised(y, "narrow_", step)
            x = torch.cat([x, functional.conv2d(y, getattr(self, f"filter{step}"), padding=1)], 1)
        return x

    def _normalised(self, x: Tensor, name: str, step: int) -> Tensor:
        scale, shift, mean, variance = (
            getattr(self, f"{name}{blob}{step}").flatten() for blob in ("scale", "shift", "mean", "variance")
        )
        if self.training:
            with torch.no_grad():
                wide = widened(x)
                mean.lerp_(wide.mean((0, 2, 3)).to(mean.dtype), self.decay)
                spread = wide.var((0, 2, 3), correction=int(x.numel() > x.shape[1]))
                variance.lerp_(spread.to(variance.dtype), self.decay)
            return torch.batch_norm(x, scale, shift, None, None, True, 0.0, _EPS, False).relu()
        factor = torch.where(self.count == 0, 1, 1 / self.count)
        return torch.batch_norm(x, scale, shift, mean * factor, variance * factor, False, 0.0, _EPS, False).relu()


@layer("DenseBlock", bottoms=1, tops=1, dialects=("senlinuc/caffe_ocr",), verified=False)
def dense_block(spec: LayerSpec) -> Layer:
    _, channels, *_ = spec.images(0, filled=True)
    params = spec.params("denseblock_param")
    steps, growth = params.numTransition, params.growthRate
    if min(steps, growth) < 1:
        spec.fail(f"numTransition {steps} and growthRate {growth} must be at least 1")
    for name, value in _FIXED.items():
        if getattr(params, name) != value:
            spec.fail(f"{name} is {getattr(params, name)}; the fork has {value} whatever it says")
    if params.use_dropout and spec.phase == "TRAIN":
        spec.fail("use_dropout: true is not supported in the TRAIN phase; in the TEST phase nothing is dropped")
    # The bottom tells the channels, and the others are about memory.
    params.ignore("initChannel", "dropout_amount", "gpuIdx", "workspace_MB", "BC_ultra_space_efficient")
    return DenseBlock(channels, steps, growth, params, bottleneck=params.use_BC)
