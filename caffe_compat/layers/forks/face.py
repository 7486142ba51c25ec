"""CenterLoss of face recognition networks."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..autograd import Context
from ..bvlc.loss import class_labels, same_batch
from ..precision import widened

__all__ = ["CenterLoss"]

# Each after its first, which the others copied. A type of this name in shenyunhang/caffe-wsl is another one.
_FACE = ("ydwen/caffe-face", "AlfredXiangWu/caffe", "dlunion/CC4.0", "yuqj1991/caffe_train")
_WINDOWS = ("happynear/caffe-windows", "GuohongWu/caffe-windows", "imistyrain/ssd")


class _Context(Context, Protocol):
    classes: int
    repeated: bool


class _CenterGradients(torch.autograd.Function):
    """The loss as it is; to the centres goes what a fork moves them by, whatever the weight of the loss.

    That is, for a class, the sum of centre - x over its examples, divided by one more than there are; ``repeated``, as
    many times as there are.
    """

    @staticmethod
    def forward(
        ctx: _Context, loss: Tensor, x: Tensor, centres: Tensor, slopes: Tensor, index: Tensor, repeated: bool
    ) -> Tensor:
        ctx.save_for_backward(slopes, index)
        ctx.classes = centres.shape[0]
        ctx.repeated = repeated
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, weight: Tensor) -> tuple[None, Tensor, Tensor, None, None, None]:
        slopes, index = ctx.saved_tensors
        sums = slopes.new_zeros(ctx.classes, slopes.shape[1]).index_add(0, index, slopes, alpha=-1)
        counts = slopes.new_zeros(ctx.classes).index_add(0, index, slopes.new_ones(len(index)))[:, None]
        moves = sums * counts if ctx.repeated else sums
        return None, weight * slopes / len(index), moves / (counts + 1), None, None, None


class CenterLoss(Layer):
    """Sum of the squared distances of examples (N, ...) from the centres of their classes, over 2 N.

    ``absolute`` takes the sum of the absolute differences over N. The blob ``centres`` is (classes, K).

    Caffe does not learn the centres by the gradient, but moves each towards the mean of its examples: caffe-face by
    n / (n + 1) of the way for n of them, at a learning rate of 1; caffe-windows, which adds this once for each example
    (``repeated``), by n^2 / (n + 1) on a CPU, while on a GPU its threads overtake one another.
    """

    centres: nn.Parameter

    def __init__(
        self, classes: int, size: int, filler: Any, gradients: str, *, absolute: bool = False, repeated: bool = False
    ) -> None:
        super().__init__()
        self.absolute = absolute
        self.repeated = repeated
        self.gradients = gradients
        self.blob("centres", (classes, size), filler)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        rows, centres = widened(x).flatten(1), widened(self.centres)
        index, _ = class_labels(labels.flatten(), centres.shape[0], None, self.layer_name)
        own = centres.gather(0, index[:, None].expand(-1, centres.shape[1]))
        difference = rows - own
        loss = difference.abs().sum() / len(rows) if self.absolute else (difference * difference).sum() / len(rows) / 2
        if self.gradients != "true":
            with torch.no_grad():
                slopes = difference.sign() if self.absolute else difference
            loss = _CenterGradients.apply(loss.detach(), rows, centres, slopes, index, self.repeated)
        return loss.to(x.dtype)


@layer("CenterLoss", bottoms=2, tops=(0, 1), loss=True, dialects=_FACE)
def center_loss(spec: LayerSpec) -> Layer:
    params, size = _checked(spec)
    return CenterLoss(params.num_output, size, params.center_filler, spec.gradients)


@layer("CenterLoss", bottoms=2, tops=(0, 1), loss=True, dialects=_WINDOWS)
def center_loss_of_windows(spec: LayerSpec) -> Layer:
    params, size = _checked(spec)
    kind = params.distance_type
    if kind not in ("L1", "L2"):
        spec.fail(f"distance_type {kind!r} must be L1 or L2")
    return CenterLoss(
        params.num_output, size, params.center_filler, spec.gradients, absolute=kind == "L1", repeated=True
    )


def _checked(spec: LayerSpec) -> tuple[Params, int]:
    """The parameters, and how many values an example has."""
    params = spec.params("center_loss_param")
    shape = spec.bottom_shapes[0]
    spec.vector(1, f"labels = {same_batch(spec)}")
    if spec.axis(params.axis, len(shape)) != 1:
        spec.fail(f"axis {params.axis} is not supported; 1, all values of an example, is")
    if params.num_output < 1:
        spec.fail(f"num_output is {params.num_output}; the number of classes was expected")
    return params, math.prod(shape[1:])
