"""Types of forks that train on several GPUs by MPI, for one process: what they split and gather is whole there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..bvlc.convolution import convolution
from ..precision import widened
from .bn import AsInTraining, MovingAverageBN

__all__ = ["BNData", "BNDataOfAverages", "Gathered"]

_ACTION = "Lyp100208/Caffe_action"
_MPI = "lxx1991/caffe_mpi"


class Gathered(Layer):
    """What all processes have, one behind the other; with one process, each bottom itself."""

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        return bottoms if len(bottoms) > 1 else bottoms[0]


@layer("Gather", bottoms=(1, None), tops=(1, None), dialects=("yjxiong/caffe",), verified=False)
def gather(spec: LayerSpec) -> Layer:
    if len(spec.bottoms) != len(spec.tops):
        spec.fail(f"makes a top of each bottom, {len(spec.bottoms)}; found {len(spec.tops)}")
    return Gathered()


@layer("ConvolutionData", bottoms=(1, None), tops=(1, None), verified=False)
def convolution_data(spec: LayerSpec) -> nn.Module:
    """Convolution, of which every process has its own images."""
    return convolution(spec)


class BNData(Layer):
    """y = scale (x - mean) / sqrt(variance + eps) + shift with the batch's own statistics.

    In training the blobs ``mean`` and ``variance`` go a part ``decay`` of the way to the batch's, the latter, of n
    images, n / (n - 1) times as far. With ``averages``, testing takes these blobs, with the gradient of training all
    the same; ``gradients="true"`` takes them for constants. Source: Lyp100208/Caffe_action, ``bn_data_layer.cu``.
    """

    any_axes_of_one = True
    scale: nn.Parameter
    shift: nn.Parameter
    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, params: Params, gradients: str) -> None:
        super().__init__()
        self.eps = params.var_eps
        self.decay = params.decay
        self.averages = params.moving_average
        self.gradients = gradients
        self.blob("scale", (1, channels, 1, 1), params.scale_filler)
        self.blob("shift", (1, channels, 1, 1), params.shift_filler)
        for name in ("mean", "variance"):
            self.blob(name, (1, channels, 1, 1), learned=False)

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.scale.flatten(), self.shift.flatten()
        if not self.training and self.averages:
            mean, variance = self.mean, self.variance
            if self.gradients == "true":
                return torch.batch_norm(
                    x, scale, shift, mean.flatten(), variance.flatten(), False, 0.0, self.eps, False
                )
            normal: Tensor = AsInTraining.apply(x, mean, (variance + self.eps).rsqrt())
            return normal * self.scale + self.shift
        if self.training:
            with torch.no_grad():
                wide = widened(x)
                own, spread = wide.mean((0, 2, 3), keepdim=True), wide.var((0, 2, 3), correction=0, keepdim=True)
                self.mean.lerp_(own.to(self.mean.dtype), self.decay)
                self.variance.lerp_(spread.to(self.variance.dtype), self.decay * len(x) / (len(x) - 1))
        return torch.batch_norm(x, scale, shift, None, None, True, 0.0, self.eps, False)


@layer("BNData", bottoms=1, tops=1, dialects=(_ACTION,), verified=False)
def bn_data(spec: LayerSpec) -> Layer:
    images, channels, *_ = spec.images(0)
    if spec.phase == "TRAIN" and images < 2:
        spec.fail("needs at least 2 images in training: the fork divides by one less")
    return BNData(channels, spec.params("bn_param"), spec.gradients)


class BNDataOfAverages(MovingAverageBN):
    """:class:`.bn.MovingAverageBN`, except that in training, of n values of a channel, the blob ``variance`` goes
    n / (n - 1) times as far towards the batch's. Source: lxx1991/caffe_mpi, ``bn_data_layer.cu`` and ``bn_layer.cu``.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        axes = (0, *range(2, x.dim()))
        count = x.numel() // x.shape[1]
        part = 1 - self.momentum
        with torch.no_grad():
            wide = widened(x)
            own, spread = wide.mean(axes), wide.var(axes, correction=0)
            self.mean.lerp_(own.view_as(self.mean).to(self.mean.dtype), part)
            part *= count / (count - 1) if count > 1 else 1
            self.variance.lerp_(spread.view_as(self.variance).to(self.variance.dtype), part)
        slope, bias = self.slope.flatten().to(self.mean.dtype), self.bias.flatten().to(self.mean.dtype)
        return torch.batch_norm(x, slope, bias, None, None, True, 0.0, self.eps, False)


@layer("BNData", bottoms=1, tops=1, dialects=(_MPI,), verified=False)
def bn_data_of_averages(spec: LayerSpec) -> Layer:
    params = spec.params("bn_param")
    params.ignore("engine", "moving_average")  # the latter counts in training, for slopes that do not learn
    for name in ("frozen", "rebn"):
        if getattr(params, name):
            spec.fail(f"{name}: true is not supported")
    if spec.phase == "TRAIN" and any(param.lr_mult == 0 for param in spec.message.param[:1]):
        spec.fail("a slope that does not learn (lr_mult: 0) is not supported in training")
    return BNDataOfAverages(spec.images()[1], params, spec.gradients)
