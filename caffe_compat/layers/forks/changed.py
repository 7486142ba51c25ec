"""Layers of BVLC Caffe to which one fork gave another meaning, under the same name and options."""

from __future__ import annotations

from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ..bvlc.inner_product import Embed, embed
from ..bvlc.mvn import MVN, mvn
from ..bvlc.softmax_loss import SoftmaxWithLoss, softmax_with_loss

__all__ = ["EmbedInPlaceOfAxis", "MVNWithVariance", "SoftmaxWithPositiveLoss"]


class MVNWithVariance(MVN):
    """(x - mean) / sqrt(variance + eps), where BVLC's adds eps to the root."""

    def divisor(self, variance: Tensor) -> Tensor:
        return (variance + self.eps).sqrt()


@layer("MVN", bottoms=1, tops=1, dialects=("weiliu89/caffe@fcn",), verified=False)
def mvn_with_variance(spec: LayerSpec) -> Layer:
    plain = mvn(spec)
    assert isinstance(plain, MVN)
    return MVNWithVariance(plain.axes, plain.eps, plain.divide, plain.true_gradient)


class EmbedInPlaceOfAxis(Embed):
    """A last axis of 1 becomes that of the outputs, where BVLC's has one more axis."""

    def infer(self, *bottoms: Tensor) -> Tensor:
        (x,) = bottoms
        return super().infer(x.squeeze(-1) if x.shape[-1:] == (1,) else x)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.squeeze(-1) if x.shape[-1:] == (1,) else x)


@layer(
    "Embed",
    bottoms=1,
    tops=1,
    dialects=("peteanderson80/bottom-up-attention", "peteanderson80/caffe"),
    verified=False,
)
def embed_in_place_of_axis(spec: LayerSpec) -> Layer:
    embed(spec)  # which checks the parameters
    return EmbedInPlaceOfAxis(spec.params("embed_param"))


class SoftmaxWithPositiveLoss(SoftmaxWithLoss):
    """Positions whose loss is 0, as their probability is 1, do not count: neither for the normaliser nor else."""

    def counted(self, losses: Tensor, valid: Tensor | None) -> Tensor | None:
        positive = losses > 0
        return positive if valid is None else valid & positive


@layer(
    "SoftmaxWithLoss",
    bottoms=2,
    tops=(0, 2),
    loss=True,
    dialects=("openvinotoolkit/training_toolbox_caffe",),
    verified=False,
)
def softmax_with_positive_loss(spec: LayerSpec) -> Layer:
    plain = softmax_with_loss(spec)
    assert isinstance(plain, SoftmaxWithLoss)
    if plain.axis != 1:
        spec.fail("softmax_param.axis must be 1: the fork takes the softmax along axis 1 whatever the file says")
    return SoftmaxWithPositiveLoss(plain.axis, plain.mode, plain.ignored, plain.gradients, tops=len(spec.tops))
