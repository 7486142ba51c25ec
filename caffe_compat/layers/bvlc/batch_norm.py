"""BatchNorm as in BVLC Caffe: three blobs of statistics; scale and shift are left to a Scale layer that follows."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from .scale import filler_or_constant

__all__ = ["BatchNorm"]


class BatchNorm(Layer):
    """(x - mean) / sqrt(variance + eps) per channel (axis 1).

    The blobs ``mean`` (C,), ``variance`` (C,) and ``scale_factor`` (1,), called s, are running sums: the statistics are
    mean / s and variance / s, or 0 where s is 0. In training the batch's own statistics are used, and every forward
    pass does s = f s + 1, mean = f mean + batch mean, variance = f variance + batch variance (unbiased).

    Args:
        fraction: f, Caffe's moving_average_fraction.
        use_global_stats: always or never use the blobs; None means unless training.
        scale_bias: NVIDIA's form: two more blobs, ``weight`` and ``bias`` (C,), multiply and shift the result.
    """

    mean: Tensor
    variance: Tensor
    scale_factor: Tensor
    # Sums over about a thousand batches: float16 would end at an average of 65.
    single_precision = ("mean", "variance", "scale_factor")
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        fraction: float,
        eps: float,
        use_global_stats: bool | None,
        scale_bias: Params | None = None,
    ) -> None:
        super().__init__()
        self.fraction = fraction
        self.eps = eps
        self.use_global_stats = use_global_stats
        self.blob("mean", (channels,), learned=False)
        self.blob("variance", (channels,), learned=False)
        self.blob("scale_factor", (1,), learned=False)
        if scale_bias is None:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)
        else:
            self.blob("weight", (channels,), filler_or_constant(scale_bias, 1.0, "scale_filler"))
            self.blob("bias", (channels,), scale_bias.bias_filler)

    def infer(self, *bottoms: Tensor) -> Tensor:
        # On tensors without memory torch divides by zero where a channel has a single value.
        return bottoms[0]

    def forward(self, x: Tensor) -> Tensor:
        # torch takes x in half precision, but all the rest in one.
        weight, bias = (None if b is None else b.to(self.mean.dtype) for b in (self.weight, self.bias))
        if self.use_global_stats is True or (self.use_global_stats is None and not self.training):
            # 1 / 0 becomes 0; a NaN stays one.
            factor = self.scale_factor.reciprocal().nan_to_num(math.nan, 0.0, 0.0)
            mean, variance = self.mean * factor, self.variance * factor
            return torch.batch_norm(x, weight, bias, mean, variance, False, 0.0, self.eps, True)
        # With momentum 1, torch's running statistics are the batch's.
        mean, variance = torch.zeros_like(self.mean), torch.zeros_like(self.variance)
        y = torch.batch_norm(x, weight, bias, mean, variance, True, 1.0, self.eps, True)
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
    if spec.phase == "TRAIN" and any(p.lr_mult != 0 for p in spec.message.param[:3]):
        spec.fail("a param for its statistics has a lr_mult other than 0, and Caffe cannot learn them; set lr_mult: 0")
    # NVIDIA's fork; it keeps averages, not sums, but with a scale factor of 1, which makes them the same to read.
    if params.get("scale_bias", False) or params.has("scale_filler"):
        if spec.phase == "TRAIN":
            spec.fail("scale_bias is supported in the TEST phase only; for training, use a BatchNorm and a Scale layer")
        return BatchNorm(shape[1], params.moving_average_fraction, max(params.eps, 1e-5), True, params)
    if params.knows("use_weight_bias"):
        # Some engines of Intel's fork have a scale and a shift that these start; the ordinary one has not.
        params.ignore("filler", "bias_filler")
    return BatchNorm(shape[1], params.moving_average_fraction, params.eps, use_global_stats)
