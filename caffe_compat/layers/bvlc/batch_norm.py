"""BatchNorm as in BVLC Caffe: three blobs of statistics; scale and shift are left to a Scale layer that follows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, Shape, layer
from ...network.shapes import fits

__all__ = ["BatchNorm", "normalized_channels"]

# Forks that do not compute the variance of a batch in one of the phases, and divide by what earlier passes have left.
_WITHOUT_VARIANCE = {
    "hszhao/PSPNet": "TRAIN",
    "aharley/segaware": "TRAIN",
    "foss-for-synopsys-dwc-arc-processors/synopsys-caffe": "TEST",
}
# Always by its blobs in the TEST phase, whatever the file says.
_STORED_IN_TEST = "BannyStone/Caffe"


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
    # Sums over about a thousand batches: float16 would end at an average of 65.
    single_precision = ("mean", "variance", "scale_factor")
    # What forks multiply and shift the result with.
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, channels: int, fraction: float, eps: float, use_global_stats: bool | None) -> None:
        super().__init__()
        self.fraction = fraction
        self.eps = eps
        self.use_global_stats = use_global_stats
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)
        self.declare(channels)

    def declare(self, channels: int) -> None:
        """Declare the blobs in Caffe's order."""
        self.blob("mean", (channels,), learned=False)
        self.blob("variance", (channels,), learned=False)
        self.blob("scale_factor", (1,), learned=False)

    def stored_order(self, shapes: Sequence[Shape]) -> Sequence[int]:
        if len(shapes) == 5:
            raise LayerError(
                "the file has 5 blobs, a scale and a shift among them, as "
                "NVIDIA's forks (and Intel's) write them; BVLC's has 3. Pass --dialect NVIDIA/caffe@caffe-0.15 if the "
                "scale comes first, or --dialect NVIDIA/caffe with scale_bias: true in the definition",
                layer=self.layer_name,
                type="BatchNorm",
            )
        return super().stored_order(shapes)

    def divisor(self) -> Tensor:
        """(1,): what the blobs of statistics are divided by; 0 makes them 0."""
        return self.scale_factor

    def infer(self, *bottoms: Tensor) -> Tensor:
        # On tensors without memory torch divides by zero where a channel has a single value.
        return bottoms[0]

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 1:  # one number for each example: a single channel
            return self.forward(x[:, None])[:, 0]
        # torch takes x in half precision, but all the rest in one.
        weight, bias = (None if b is None else b.to(self.mean.dtype) for b in (self.weight, self.bias))
        if self.use_global_stats is True or (self.use_global_stats is None and not self.training):
            # 1 / 0 becomes 0; a NaN stays one.
            factor = self.divisor().reciprocal().nan_to_num(math.nan, 0.0, 0.0)
            mean, variance = self.mean * factor, self.variance * factor
            return torch.batch_norm(x, weight, bias, mean, variance, False, 0.0, self.eps, True)
        # With momentum 1, torch's running statistics are the batch's.
        mean, variance = torch.zeros_like(self.mean), torch.zeros_like(self.variance)
        y = torch.batch_norm(x, weight, bias, mean, variance, True, 1.0, self.eps, True)
        if x.numel() == x.shape[1]:
            # One value per channel has no unbiased variance; Caffe leaves it at 0.
            variance = torch.zeros_like(variance)
        with torch.no_grad():
            self.count_batch(mean, variance)
        return y

    def count_batch(self, mean: Tensor, variance: Tensor) -> None:
        """Add a batch's mean and unbiased variance to the blobs."""
        self.scale_factor.mul_(self.fraction).add_(1)
        self.mean.mul_(self.fraction).add_(mean)
        self.variance.mul_(self.fraction).add_(variance)


@layer("BatchNorm", bottoms=1, tops=1)
def batch_norm(spec: LayerSpec) -> Layer:
    params = spec.params("batch_norm_param")
    channels = 1 if fits(spec.bottom_shapes[0], ("values",)) else normalized_channels(spec)
    use_global_stats = params.use_global_stats if params.has("use_global_stats") else None
    for dialect in spec.dialect.split("+"):
        of_the_batch = spec.phase == "TRAIN" if use_global_stats is None else not use_global_stats
        if dialect == _STORED_IN_TEST and spec.phase == "TEST":
            use_global_stats = True
        elif _WITHOUT_VARIANCE.get(dialect) == spec.phase and of_the_batch:
            spec.warn(
                f"{dialect} subtracts the mean of the batch, but divides by what earlier passes have left; here, it "
                "is the deviation of the batch, as in BVLC Caffe"
            )
    if any(p.lr_mult != 0 for p in spec.message.param[:3]):  # Caffe aborts in both phases
        spec.fail("a param for its statistics has a lr_mult other than 0, and Caffe cannot learn them; set lr_mult: 0")
    if params.knows("use_weight_bias"):
        # Some engines of Intel's fork have a scale and a shift that these start; the ordinary one has not.
        params.ignore("filler", "bias_filler")
    return BatchNorm(channels, params.moving_average_fraction, params.eps, use_global_stats)


def normalized_channels(spec: LayerSpec) -> int:
    """How many channels the bottom of a BatchNorm has."""
    return spec.channels()[1]
