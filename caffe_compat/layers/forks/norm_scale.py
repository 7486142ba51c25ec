"""BatchNormScale of yuqj1991/caffe_train: a BatchNorm and the Scale after it in one layer."""

from __future__ import annotations

from collections.abc import Sequence

from ...network.registry import Layer, LayerSpec, Shape, layer
from ...schema.params import Params
from ..bvlc.batch_norm import BatchNorm, normalized_channels

__all__ = ["BatchNormScale"]


class BatchNormScale(BatchNorm):
    """scale (x - mean) / sqrt(variance + eps) + shift per channel (axis 1), by the blobs.

    To the three blobs of :class:`BatchNorm` come ``weight`` (C,), which starts with 1, and ``bias`` (C,). The gradient
    is the derivative, as on the fork's GPU; on a CPU the fork leaves out the scale.
    Source: ``src/caffe/layers/batch_norm_scale_layer.cpp``.
    """

    def __init__(self, channels: int, eps: float, one: Params) -> None:
        super().__init__(channels, 1.0, eps, use_global_stats=True)
        self.blob("weight", (channels,), one)
        self.blob("bias", (channels,))

    def stored_order(self, shapes: Sequence[Shape]) -> Sequence[int]:
        return Layer.stored_order(self, shapes)  # five blobs are its own number


@layer("BatchNormScale", bottoms=1, tops=1, dialects=("yuqj1991/caffe_train",), verified=False)
def batch_norm_scale(spec: LayerSpec) -> Layer:
    params = spec.params("batch_norm_param")
    # It weighs passes whose own statistics count; those are refused.
    params.ignore("moving_average_fraction")
    stored = params.use_global_stats if params.has("use_global_stats") else spec.phase == "TEST"
    if not stored:
        spec.fail(
            "normalises by the batch's own statistics here, and the fork hands back one gradient of that on a CPU and "
            "another on a GPU; use_global_stats: true is supported, which is how it is in the TEST phase"
        )
    if spec.bottoms[0] != spec.tops[0]:
        spec.fail("must be in place: with a top of its own, the fork scales its bottom as it was, not normalised")
    if any(p.lr_mult != 0 for p in spec.message.param[:3]):  # the fork aborts in both phases
        spec.fail("a param for its statistics has a lr_mult other than 0, and the fork cannot learn them")
    channels = normalized_channels(spec)
    return BatchNormScale(channels, params.eps, _one(spec))


def _one(spec: LayerSpec) -> Params:
    """A filler of 1; the type's own parameters have none."""
    filler = spec.params("scale_param").filler
    return Params(filler.message.__class__(type="constant", value=1.0), "scale")
