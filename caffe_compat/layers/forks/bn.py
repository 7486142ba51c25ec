"""BN: PSPNet's and yjxiong's, with averages among its blobs, and SegNet's, which knows only the batch."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..autograd import Context
from ..precision import widened
from .families import CAMBRICON

__all__ = ["AsInTraining", "BatchStatisticsBN", "MovingAverageBN"]

# Each copied from the first, but for how many axes there may be and what the variance starts with.
_AVERAGES = (
    "yjxiong/caffe",
    "yjxiong/caffe@interp",
    "hszhao/PSPNet",
    "BassyKuo/PSPNET-cudnn5",
    "BannyStone/Caffe",
    "lxx1991/caffe_mpi",
    "torrvision/caffe-tvg",
    "ZhaofanQiu/pseudo-3d-residual-networks",
    *CAMBRICON,
)
_OF_VOLUMES = {"BannyStone/Caffe", "ZhaofanQiu/pseudo-3d-residual-networks"}
_STARTS_WITH_ONE = "torrvision/caffe-tvg"
# Older copies, from the time of cuDNN 4, whose blob holds the inverse of the standard deviation.
_INVERSES = (
    "happynear/caffe-windows",
    "GuohongWu/caffe-windows",
    "wy1iu/LargeMargin_Softmax_Loss",
    "luoyetx/mini-caffe",
)
_SEGNET = (
    "alexgkendall/caffe-segnet",
    "HyeonwooNoh/caffe",
    "TimoSaemann/caffe-enet",
    "TimoSaemann/caffe-segnet-cudnn5",
)
# It has both, and a field that tells which.
_BOTH = ("foss-for-synopsys-dwc-arc-processors/synopsys-caffe",)

# SegNet's own, which no parameter changes.
_SEGNET_EPS = 1e-9


class _Context(Context, Protocol):
    dtype: torch.dtype


class AsInTraining(torch.autograd.Function):
    """(x - mean) inverse per channel, whose gradient is that of a batch normalised by its own statistics."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
        top = (widened(x) - mean) * inverse
        ctx.save_for_backward(top, inverse)
        ctx.dtype = x.dtype
        return top

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None, None]:
        top, inverse = ctx.saved_tensors
        axes = (0, *range(2, top.dim()))
        along = (gradient * top).mean(axes, keepdim=True)
        result = (gradient - gradient.mean(axes, keepdim=True) - top * along) * inverse
        return result.to(ctx.dtype), None, None


class MovingAverageBN(Layer):
    """y = slope (x - mean) / sqrt(variance + eps) + bias: the BN of PSPNet and of yjxiong's forks.

    ``mean`` and ``variance`` (both blobs are averages, not sums as BatchNorm's) are the batch's own in training, where
    the blobs follow as m blob + (1 - m) batch; both use the variance without Bessel's correction. A ``frozen`` layer
    always uses the blobs and learns nothing.

    In the TEST phase the forks' gradient of a layer that is not frozen is that of training, though the statistics are
    the blobs'; ``gradients="true"`` gives the true one.

    Args:
        inverse: the blob ``variance`` holds 1 / sqrt(variance + eps) instead, averaged as such.
        start: what ``variance`` starts with if the layer is not frozen; else with 1.
    """

    slope: nn.Parameter
    bias: nn.Parameter
    mean: Tensor
    variance: Tensor
    single_precision = ("mean", "variance")  # a variance soon exceeds what float16 holds
    any_axes_of_one = True  # (1, C) in some of the forks

    def __init__(
        self, channels: int, params: Params, gradients: str, *, inverse: bool = False, start: float = 0.0
    ) -> None:
        super().__init__()
        self.frozen = params.frozen
        self.momentum = params.momentum
        self.eps = params.eps
        self.gradients = gradients
        self.inverse = inverse
        shape = (1, channels, 1, 1)
        self.blob("slope", shape, params.slope_filler, learned=not self.frozen)
        self.blob("bias", shape, params.bias_filler, learned=not self.frozen)
        self.blob("mean", shape, learned=False)
        first = params.slope_filler.message.__class__(type="constant", value=1.0 if self.frozen or inverse else start)
        self.blob("variance", shape, Params(first, "variance") if first.value else None, learned=False)

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.mean.flatten(), self.variance.flatten()
        # torch takes x in half precision, but all the rest in one.
        slope, bias = self.slope.flatten().to(mean.dtype), self.bias.flatten().to(mean.dtype)
        if self.frozen or not self.training:
            if self.inverse:
                variance = variance.square().reciprocal() - self.eps
            if self.frozen or self.gradients == "true" or not (torch.is_grad_enabled() and x.requires_grad):
                return torch.batch_norm(x, slope, bias, mean, variance, False, 0.0, self.eps, False)
            shape = (1, -1, *(1,) * (x.dim() - 2))
            mean, inverse, slope, bias = (v.view(shape) for v in (mean, (variance + self.eps).rsqrt(), slope, bias))
            normal: Tensor = AsInTraining.apply(x, mean, inverse)
            return (normal * slope + bias).to(x.dtype)
        with torch.no_grad():
            axes = (0, *range(2, x.dim()))
            wide = widened(x)
            own, spread = wide.mean(axes), wide.var(axes, correction=0)
            if self.inverse:
                spread = (spread + self.eps).rsqrt()
            for blob, batch in ((self.mean, own), (self.variance, spread)):
                blob.mul_(self.momentum).add_((batch * (1 - self.momentum)).view_as(blob))
        return torch.batch_norm(x, slope, bias, None, None, True, 0.0, self.eps, False)


class BatchStatisticsBN(Layer):
    """y = scale (x - mean) / sqrt(variance + 1e-9) + shift with the batch's own statistics, in training and testing.

    That is SegNet's BN. Further tops are the mean and the variance, (1, C, 1, 1). In the mode ``INFERENCE`` it is
    scale x + shift: the statistics are in the blobs then; if that is done in place, the forks take the top for the
    bottom in the gradient of ``scale``, where ``gradients="true"`` does not.

    The forks write gradients of the blobs over those of the batch before, which counts where ``iter_size`` exceeds 1.
    """

    scale: nn.Parameter
    shift: nn.Parameter
    any_axes_of_one = True

    def __init__(
        self, channels: int, params: Params, *, inference: bool, tops: int, top_for_bottom: bool = False
    ) -> None:
        super().__init__()
        self.inference = inference
        self.tops = tops
        self.top_for_bottom = top_for_bottom
        self.blob("scale", (1, channels, 1, 1), params.scale_filler)
        self.blob("shift", (1, channels, 1, 1), params.shift_filler)

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = bottoms[0]
        return (x, *(x.new_empty(1, x.shape[1], 1, 1) for _ in range(self.tops - 1))) if self.tops > 1 else x

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        if self.inference:
            y = x * (self.scale.detach() if self.top_for_bottom else self.scale) + self.shift
            # Adds nothing but a gradient.
            return y + (self.scale - self.scale.detach()) * y.detach() if self.top_for_bottom else y
        y = torch.batch_norm(x, self.scale.flatten(), self.shift.flatten(), None, None, True, 0.0, _SEGNET_EPS, False)
        if self.tops == 1:
            return y
        wide = widened(x.detach())
        statistics = (wide.mean((0, 2, 3), keepdim=True), wide.var((0, 2, 3), correction=0, keepdim=True))
        return (y, *(values.to(x.dtype) for values in statistics[: self.tops - 1]))


@layer("BN", bottoms=1, tops=1, dialects=_AVERAGES)
def bn_of_averages(spec: LayerSpec) -> Layer:
    chosen = spec.dialect.split("+")
    channels, params = _channels(spec, volumes=not _OF_VOLUMES.isdisjoint(chosen)), spec.params("bn_param")
    params.ignore("engine")  # it chooses between two ways to the same numbers
    for name in ("rebn", "use_global_stats"):
        # Batch renormalisation of two of these forks; in the TEST phase it changes nothing.
        if params.get(name, False) and spec.phase == "TRAIN":
            spec.fail(f"bn_param.{name}: true is not supported in the TRAIN phase")
    start = 1.0 if _STARTS_WITH_ONE in chosen else 0.0
    return MovingAverageBN(channels, params, spec.gradients, start=start)


@layer("BN", bottoms=1, tops=1, dialects=_INVERSES, verified=False)
def bn_of_inverses(spec: LayerSpec) -> Layer:
    channels, params = _channels(spec), spec.params("bn_param")
    if params.engine != "CAFFE":
        spec.fail(
            "what its fourth blob holds depends on how the fork was built: 1 / sqrt(variance + eps) with Caffe's own "
            "engine and with cuDNN 4, the variance with later ones. For the first, say engine: CAFFE in bn_param; for "
            "the second, pass --dialect yjxiong/caffe"
        )
    if params.frozen and spec.phase == "TRAIN":
        spec.fail("frozen: true is supported in the TEST phase only: these forks go on decaying its slope and bias")
    return MovingAverageBN(channels, params, spec.gradients, inverse=True)


@layer("BN", bottoms=1, tops=(1, 3), dialects=_SEGNET)
def bn_of_segnet(spec: LayerSpec) -> Layer:
    channels, params = _channels(spec), spec.params("bn_param")
    params.ignore("engine")  # as above; some of these forks have it
    inference = params.bn_mode == "INFERENCE"
    if inference and len(spec.tops) != 1:
        spec.fail(f"bn_mode INFERENCE has no statistics to give, but there are {len(spec.tops)} tops")
    in_place = spec.bottoms[0] == spec.tops[0]
    return BatchStatisticsBN(
        channels,
        params,
        inference=inference,
        tops=len(spec.tops),
        top_for_bottom=inference and in_place and spec.gradients != "true",
    )


@layer("BN", bottoms=1, tops=(1, 3), dialects=_BOTH, verified=False)
def bn_of_synopsys(spec: LayerSpec) -> nn.Module:
    return bn_of_averages(spec) if spec.params("bn_param").icnet else bn_of_segnet(spec)


def _channels(spec: LayerSpec, *, volumes: bool = False) -> int:
    return (spec.images_or_volumes() if volumes else spec.images())[1]
