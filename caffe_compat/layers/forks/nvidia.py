"""BatchNorm of NVIDIA's forks, which scales and shifts, too, and stores its blobs in two orders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, Shape, layer
from ...schema.params import Params
from ..bvlc.batch_norm import BatchNorm, normalized_channels
from ..bvlc.scale import filler_or_constant

__all__ = ["NvidiaBatchNorm"]

# Branches up to 0.15 have one order of blobs, later ones the other. Of those, 0.16 and its descendants do not look at
# the factor of BVLC's files, which 0.17 divides by.
_OLD = ("NVIDIA/caffe@caffe-0.15",)
_NEW = ("NVIDIA/caffe",)
_UNDIVIDED = ("tidsp/caffe-jacinto@caffe-0.17", "tidsp/caffe-jacinto@caffe-0.16", "Caffe-MPI/Caffe-MPI.github.io")

_LEAST_EPS = 1e-5
_OLD_NAMES = ("weight", "bias", "mean", "variance", "scale_factor")
_NEW_NAMES = ("mean", "variance", "scale_factor", "weight", "bias")


class NvidiaBatchNorm(BatchNorm):
    """weight (x - mean) / sqrt(variance + eps) + bias per channel (axis 1), eps being 1e-5 at least.

    The blobs ``mean`` and ``variance`` (C,) are averages, and always used in the TEST phase. ``scale_factor`` (1,) is
    without meaning, but for a file of three blobs, which may be BVLC's: 0.17 divides by it. In training the batch's own
    statistics are used, and mean = f mean + (1 - f) batch mean, variance = f variance + (1 - f) batch variance
    (unbiased, as cuDNN has it), except that the first batch's are taken as they are.

    In the TEST phase, the forks' gradient reads what the last training pass left; here it is the true one.

    Args:
        scale_bias: the fillers of ``weight`` and ``bias`` (C,); None if there are none.
        old_order: weight, bias, mean, variance, scale_factor, instead of mean, variance, scale_factor, weight, bias.
        divides: whether the factor of three blobs counts.
    """

    any_axes_of_one = True
    counts = ("passes",)

    def __init__(
        self,
        channels: int,
        fraction: float,
        eps: float,
        phase: str,
        scale_bias: tuple[Params, Params] | None,
        *,
        old_order: bool = False,
        divides: bool = False,
    ) -> None:
        self.old_order = old_order
        self.divides = divides
        self.scale_bias = scale_bias
        self.is_scaled = scale_bias is not None
        self.passes = 0
        super().__init__(channels, fraction, max(eps, _LEAST_EPS), True if phase == "TEST" else None)

    def declare(self, channels: int) -> None:
        learned = {} if self.scale_bias is None else dict(zip(("weight", "bias"), self.scale_bias, strict=True))
        for name in _OLD_NAMES if self.old_order else _NEW_NAMES:
            if name in ("mean", "variance", "scale_factor"):
                self.blob(name, (1 if name == "scale_factor" else channels,), learned=False)
            elif name in learned:
                self.blob(name, (channels,), learned[name])

    def stored_order(self, shapes: Sequence[Shape]) -> Sequence[int]:
        """As the branches tell: the order is the old one if the last of five blobs holds a single value."""
        if len(shapes) != 5:
            return range(len(shapes))
        if self.scale_bias is None:
            raise LayerError(
                "the file has 5 blobs, a scale and a shift among them, which "
                "the network does not ask for: set scale_bias: true in batch_norm_param",
                layer=self.layer_name,
                type="BatchNorm",
            )
        stored = _OLD_NAMES if all(n == 1 for n in shapes[4]) else _NEW_NAMES
        return [stored.index(name) for name in self.blob_names]

    def divisor(self) -> Tensor:
        if self.divides and not self.is_scaled:
            return self.scale_factor
        return torch.ones_like(self.scale_factor)

    def count_batch(self, mean: Tensor, variance: Tensor) -> None:
        fraction = self.fraction if self.passes else 0.0
        self.scale_factor.fill_(1)
        self.mean.mul_(fraction).add_(mean, alpha=1 - fraction)
        self.variance.mul_(fraction).add_(variance, alpha=1 - fraction)
        self.passes += 1


@layer("BatchNorm", bottoms=1, tops=1, dialects=(*_NEW, *_UNDIVIDED, *_OLD), verified=False)
def batch_norm(spec: LayerSpec) -> Layer:
    params, channels = spec.params("batch_norm_param"), normalized_channels(spec)
    # Read and not used, or, by the old branches, looked at by another engine than cuDNN's, which is the ordinary one.
    params.ignore("use_global_stats")
    chosen = spec.dialect.split("+")
    if any(dialect in _OLD for dialect in chosen):
        if spec.phase == "TRAIN":
            # Weight decay also reaches the statistics there.
            spec.fail("BatchNorm of NVIDIA's branches up to 0.15 is supported in the TEST phase only")
        fillers = params.scale_filler, params.bias_filler
        return NvidiaBatchNorm(
            channels, params.moving_average_fraction, params.eps, spec.phase, fillers, old_order=True
        )
    return NvidiaBatchNorm(
        channels,
        params.moving_average_fraction,
        params.eps,
        spec.phase,
        _scale_and_bias(spec, params),
        divides=any(dialect in _NEW for dialect in chosen),
    )


def _scale_and_bias(spec: LayerSpec, params: Params) -> tuple[Params, Params] | None:
    """The fillers of both blobs, which either filler alone asks for."""
    if not any([params.scale_bias, params.has("scale_filler"), params.has("bias_filler")]):
        return None
    if spec.phase == "TRAIN" and any(p.lr_mult != 1 or p.decay_mult != 1 for p in spec.message.param[3:5]):
        spec.fail(
            "a param for its scale or shift has a lr_mult or decay_mult other than 1, which NVIDIA's forks overwrite "
            "with 1; say 1 or leave it out"
        )
    return filler_or_constant(params, 1.0, "scale_filler"), filler_or_constant(params, 0.0, "bias_filler")
