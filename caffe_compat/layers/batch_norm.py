"""BatchNorm as in BVLC Caffe: three blobs of statistics, and no scale or shift (a Scale layer follows for that)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..registry import Layer, LayerSpec, layer

__all__ = ["BatchNorm"]


class BatchNorm(Layer):
    """(x - mean) / sqrt(variance + eps) per channel (axis 1).

    The blobs ``mean`` (C,), ``variance`` (C,) and ``scale_factor`` (1,), called s, are running sums: the statistics are
    mean / s and variance / s, or 0 where s is 0. In training the batch's own statistics are used, and every forward
    pass does s = f s + 1, mean = f mean + batch mean, variance = f variance + batch variance (unbiased).

    Args:
        fraction: f, Caffe's moving_average_fraction.
        use_global_stats: always or never use the blobs; None means unless training.
    """

    mean: Tensor
    variance: Tensor
    scale_factor: Tensor

    def __init__(self, channels: int, fraction: float, eps: float, use_global_stats: bool | None) -> None:
        super().__init__()
        self.fraction = fraction
        self.eps = eps
        self.use_global_stats = use_global_stats
        self.blob("mean", (channels,), learned=False)
        self.blob("variance", (channels,), learned=False)
        self.blob("scale_factor", (1,), learned=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.use_global_stats is True or (self.use_global_stats is None and not self.training):
            s = self.scale_factor
            factor = torch.where(s == 0, 0, 1 / s)
            return torch.batch_norm(
                x, None, None, self.mean * factor, self.variance * factor, False, 0.0, self.eps, True
            )
        # With momentum 1, torch's running statistics are the batch's.
        mean, variance = torch.zeros_like(self.mean), torch.zeros_like(self.variance)
        y = torch.batch_norm(x, None, None, mean, variance, True, 1.0, self.eps, True)
        if x.numel() == x.shape[1]:
            # One value per channel has no unbiased variance; Caffe leaves it at 0.
            variance = torch.zeros_like(variance)
        with torch.no_grad():
            self.scale_factor.mul_(self.fraction).add_(1)
            self.mean.mul_(self.fraction).add_(mean)
            self.variance.mul_(self.fraction).add_(variance)
        return y


@layer("BatchNorm", bottoms=1, tops=1)
def batch_norm(spec: LayerSpec) -> Layer:
    params = spec.params("batch_norm_param")
    shape = spec.bottom_shapes[0]
    if len(shape) < 2:
        spec.fail(f"the bottom has shape {shape}; channels are axis 1, so it needs at least 2 axes")
    use_global_stats = params.use_global_stats if params.has("use_global_stats") else None
    return BatchNorm(shape[1], params.moving_average_fraction, params.eps, use_global_stats)
