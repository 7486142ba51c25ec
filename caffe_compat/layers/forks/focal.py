"""FocalLoss: the softmax loss, but little of it for what is sure already (Lin et al., 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ..bvlc.loss import class_axis, ignored_label, normalization_mode, same_batch
from ..bvlc.softmax_loss import SoftmaxWithLoss
from ..precision import widened

__all__ = ["FocalLoss"]

# Each group after the first, whose code the others have; of makefile/frcnn, lzx1413/CAFFE_SSD writes the same slopes
# another way, which is not finite where a probability is 0, and chuanqi305/FocalLoss reads another axis.
_PLAIN = ("makefile/frcnn", "soeaver/py-RFCN-priv", "lzx1413/CAFFE_SSD")
_WITH_AXIS = ("chuanqi305/ssd", "jolibrain/caffe", "imistyrain/ssd")
_WINDOWS = "happynear/caffe-windows"

# C's FLT_MIN: probabilities are raised to it before their logarithm is taken.
_LEAST = torch.finfo(torch.float32).tiny
# What bases are raised to before they are divided by.
_LEAST_BASE = 1e-10


class FocalLoss(SoftmaxWithLoss):
    """Sum of -alpha (1 - p)^gamma log p over all positions, by the normaliser; p is the label's probability by softmax.

    caffe-windows has (alpha - p)^gamma instead, or (alpha + p)^gamma if ``sign`` is 1; its slopes are those of
    alpha = 1, whatever alpha is.

    Args:
        axis: of the classes. softmax_axis: along which probabilities add up to 1.
        alpha: the factor; base: what p is taken from, or added to.
    """

    def __init__(
        self,
        axis: int,
        softmax_axis: int,
        mode: str,
        ignored: int | None,
        gradients: str,
        *,
        tops: int,
        alpha: float,
        gamma: float,
        base: float = 1.0,
        sign: int = -1,
    ) -> None:
        super().__init__(axis, mode, ignored, gradients, tops=tops)
        self.softmax_axis = softmax_axis
        self.alpha = alpha
        self.gamma = gamma
        self.base = base
        self.sign = sign

    def forward(self, x: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        index, valid = self.labels_like(x, labels)
        prob = torch.softmax(widened(x), self.softmax_axis)
        own = prob.gather(self.axis, index)
        power = self.alpha * (self.base + self.sign * own) ** self.gamma
        log = own.clamp_min(_LEAST).log()

        def slopes() -> Tensor:
            bases = (1 + self.sign * own).clamp_min(_LEAST_BASE)
            factor = self.sign * self.gamma * power / bases * log * own + power
            return factor * prob.scatter_add(self.axis, index, -torch.ones_like(own))

        return self.tops(x, prob, -power * log, valid, slopes)


@layer("FocalLoss", bottoms=2, tops=(0, 2), loss=True, dialects=(*_PLAIN, *_WITH_AXIS))
def focal_loss(spec: LayerSpec) -> Layer:
    params, softmax_axis = spec.params("focal_loss_param"), spec.params("softmax_param").axis
    axis = params.axis if params.knows("axis") else softmax_axis
    # The forks read them, or an engine, and use none of them.
    params.ignore("type", "beta", "engine")
    return _focal_loss(spec, axis, softmax_axis, alpha=params.alpha)


@layer("FocalLoss", bottoms=2, tops=(0, 2), loss=True, dialects=(_WINDOWS,))
def focal_loss_of_windows(spec: LayerSpec) -> Layer:
    params, axis = spec.params("focal_loss_param"), spec.params("softmax_param").axis
    params.ignore("beta")  # read by the fork, and not used
    sign = 1 if params.type == "ONEADDP" else -1
    return _focal_loss(spec, axis, axis, alpha=1, base=params.alpha, sign=sign)


def _focal_loss(
    spec: LayerSpec, axis: int, softmax_axis: int, *, alpha: float, base: float = 1.0, sign: int = -1
) -> Layer:
    same_batch(spec)
    params = spec.params("focal_loss_param")
    if params.gamma < 0 or params.alpha <= 0:
        spec.fail(f"gamma {params.gamma:g} must be at least 0, and alpha {params.alpha:g} above it")
    return FocalLoss(
        class_axis(spec, axis, "axis"),
        spec.axis(softmax_axis, len(spec.bottom_shapes[0]), "softmax_param.axis"),
        normalization_mode(spec, "VALID"),
        ignored_label(spec),
        spec.gradients,
        tops=len(spec.tops),
        alpha=alpha,
        gamma=params.gamma,
        base=base,
        sign=sign,
    )
