"""LRN: divide by a power of what the neighbours' squares sum up to."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ...network.registry import Layer, LayerSpec, layer
from ..precision import widened

__all__ = ["AcrossChannels", "WithinChannel"]


class AcrossChannels(Layer):
    """x * (k + alpha / size * sum of x^2 over the ``size`` nearest channels)^-beta on (N, C, H, W)."""

    def __init__(self, size: int, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor) -> Tensor:
        channels, wide = x.shape[1], widened(x)
        half = min(self.size // 2, channels)  # there is nothing further away
        # Adding up shifted slices costs a fraction of what torch's own average pooling over channels does.
        square = F.pad(wide * wide, (0, 0, 0, 0, half, half))
        total = square[:, :channels]
        for shift in range(1, 2 * half + 1):
            total = total + square[:, shift : shift + channels]
        return (wide * (total * (self.alpha / self.size) + self.k).pow(-self.beta)).to(x.dtype)


class WithinChannel(Layer):
    """x * (1 + alpha * mean of x^2 over ``size`` x ``size`` pixels)^-beta; pixels outside count as zeros."""

    def __init__(self, size: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor) -> Tensor:
        wide = widened(x)
        mean = F.avg_pool2d(wide * wide, self.size, 1, self.size // 2)
        return (wide * (mean * self.alpha + 1).pow(-self.beta)).to(x.dtype)


@layer("LRN", bottoms=1, tops=1)
def lrn(spec: LayerSpec) -> Layer:
    params = spec.params("lrn_param")
    spec.images()
    if params.local_size % 2 == 0:
        spec.fail(f"local_size is {params.local_size}; it must be odd")
    if params.norm_region == "WITHIN_CHANNEL":
        # Caffe does not use k here.
        params.ignore("k")
        return WithinChannel(params.local_size, params.alpha, params.beta)
    return AcrossChannels(params.local_size, params.alpha, params.beta, params.k)
