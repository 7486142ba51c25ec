"""SeLu and SeLuDropout, which keep mean and variance of what passes through, and RandomNoise.

Sources: soeaver/py-RFCN-priv and jolibrain/caffe, ``selu_layer.cpp`` and ``selu_dropout_layer.cpp``; pulkitag/caffe,
``random_noise_layer.cpp``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ..precision import widened

__all__ = ["RandomNoise", "SeLu", "SeLuDropout"]

_FORKS = ("soeaver/py-RFCN-priv", "jolibrain/caffe")


class SeLu(Layer):
    """``scale`` x above 0, and below ``scale`` ``alpha`` (e^x - 1)."""

    def __init__(self, scale: float, alpha: float) -> None:
        super().__init__()
        self.scale = scale
        self.alpha = alpha

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor) -> Tensor:
        values = widened(x)
        low = self.alpha * values.clamp_max(0).expm1()
        return (self.scale * torch.where(values > 0, values, low)).to(x.dtype)


@layer("SeLu", bottoms=1, tops=1, dialects=_FORKS, verified=False)
def selu(spec: LayerSpec) -> Layer:
    params = spec.params("selu_param")
    return SeLu(getattr(params, "lambda"), params.alpha)


class SeLuDropout(Layer):
    """In training a share of the values becomes ``alpha``, and all are scaled and moved so that mean 0 and variance 1
    stay; else the values as they are. What goes is drawn by this library, not as the fork does."""

    def __init__(self, share: float, alpha: float) -> None:
        super().__init__()
        self.kept = 1 - share
        self.alpha = alpha
        self.scale = (self.kept * (1 + alpha * alpha * share)) ** -0.5
        self.shift = -self.scale * share * alpha

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        generator = self.randomness.generator(self.layer_name, "cpu")
        stay = (torch.rand(x.shape, generator=generator) < self.kept).to(x.device)
        return self.scale * torch.where(stay, x, self.alpha) + self.shift


@layer("SeLuDropout", bottoms=1, tops=1, dialects=_FORKS, verified=False)
def selu_dropout(spec: LayerSpec) -> Layer:
    params = spec.params("selu_dropout_param")
    if not 0 < params.dropout_ratio < 1:
        spec.fail(f"dropout_ratio {params.dropout_ratio:g} must lie between 0 and 1")
    return SeLuDropout(params.dropout_ratio, params.alpha)


class RandomNoise(Layer):
    """x plus normal noise of mean ``mean`` and deviation ``deviation``, in training and in use.

    With a ``factor`` the mean is 0, and the deviation that times |x|, or times the mean of all |x| where x is 0. Its
    gradient is that of x alone. The noise is drawn by this library, not as the fork does.
    """

    def __init__(self, mean: float, deviation: float, factor: float | None) -> None:
        super().__init__()
        self.mean = mean
        self.deviation = deviation
        self.factor = factor

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor) -> Tensor:
        generator = self.randomness.generator(self.layer_name, "cpu")
        drawn = torch.randn(x.shape, generator=generator).to(x)
        if self.factor is None:
            return x + (self.mean + self.deviation * drawn)
        sizes = x.detach().abs()
        sizes = self.factor * torch.where(sizes == 0, widened(sizes).mean().to(x.dtype), sizes)
        return x + sizes * drawn


@layer("RandomNoise", bottoms=1, tops=1, dialects=("pulkitag/caffe",), verified=False)
def random_noise(spec: LayerSpec) -> Layer:
    if spec.bottoms[0] == spec.tops[0]:
        spec.fail("cannot run in place: the fork refuses it")
    params = spec.params("random_noise_param")
    if params.adaptive_sigma:
        params.ignore("mu", "sigma")  # of a noise that is the same everywhere
        return RandomNoise(0, 0, params.adaptive_factor)
    params.ignore("adaptive_factor")
    if params.sigma < 0:
        spec.fail(f"sigma {params.sigma:g} must be at least 0")
    return RandomNoise(params.mu, params.sigma, None)
