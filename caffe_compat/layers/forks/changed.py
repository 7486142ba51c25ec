"""Layers of BVLC Caffe to which one fork gave another meaning, under the same name and options."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ..bvlc.inner_product import Embed, embed
from ..bvlc.loss import class_labels, ignored_label, normalization_mode, same_batch
from ..bvlc.mvn import MVN, mvn
from ..bvlc.softmax_loss import LEAST, SoftmaxWithLoss, softmax_with_loss
from ..precision import widened

__all__ = ["EmbedInPlaceOfAxis", "MVNWithVariance", "SoftmaxOfSeveralLabels", "SoftmaxWithPositiveLoss"]


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


class SoftmaxOfSeveralLabels(SoftmaxWithLoss):
    """Each position may have several labels, and its loss is the mean over those that are not ``ignored``.

    The labels of a position lie side by side. Positions without any do not count. Source:
    peteanderson80/bottom-up-attention, ``caffe/src/caffe/layers/softmax_loss_layer.cpp``.
    """

    def forward(self, x: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        positions = (*x.shape[: self.axis], *x.shape[self.axis + 1 :])
        several = labels.reshape(*positions, -1).movedim(-1, self.axis)
        index, valid = class_labels(several, x.shape[self.axis], self.ignored, self.layer_name)
        prob = torch.softmax(widened(x), self.axis)
        counted = torch.ones_like(index, dtype=torch.bool) if valid is None else valid
        share = counted / counted.sum(self.axis, keepdim=True).clamp_min(1).to(prob.dtype)
        losses = -(prob.gather(self.axis, index).clamp_min(LEAST).log() * share).sum(self.axis, keepdim=True)
        some = None if valid is None else valid.any(self.axis, keepdim=True)

        def slopes() -> Tensor:
            return prob.scatter_add(self.axis, index, -share)

        return self.tops(x, prob, losses, some, slopes)


@layer(
    "SoftmaxWithLoss",
    bottoms=2,
    tops=(0, 2),
    loss=True,
    dialects=("peteanderson80/bottom-up-attention",),
    verified=False,
)
def softmax_of_several_labels(spec: LayerSpec) -> Layer:
    same_batch(spec)
    x, labels = spec.bottom_shapes
    axis = spec.axis(spec.params("softmax_param").axis, len(x), "softmax_param.axis")
    positions = math.prod(x[:axis]) * math.prod(x[axis + 1 :])
    if not positions or not math.prod(labels) or math.prod(labels) % positions:
        spec.misfit(1, f"one or more labels for each of {positions} positions")
    mode = normalization_mode(spec, "VALID")
    return SoftmaxOfSeveralLabels(axis, mode, ignored_label(spec), spec.gradients, tops=len(spec.tops))
