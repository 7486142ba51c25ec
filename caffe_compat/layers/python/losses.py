"""Losses that are Python layers: BVLC's example, MTCNN's, of which a part of a batch is another's business, and VNet's.

Sources: BVLC's ``examples/pycaffe/layers/pyloss.py``; CongWeilin/mtcnn-caffe, ``pythonLayer.py``; faustomilletari/VNet,
``pyLayer.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...network.python_registry import PythonSettings, python_layer
from ...network.registry import Layer, LayerSpec
from ..autograd import Context
from ..precision import widened

__all__ = ["DiceLoss", "EuclideanLossLayer", "ValidRows"]

# What stands where a batch has no class, box or points.
_NOTHING = -1


class EuclideanLossLayer(Layer):
    """The sum of squares of two bottoms' difference by twice the length of the first axis, of shape (1,).

    Args:
        partial: 0 where no row of the second bottom begins with anything but -1, as in batches for another loss. (The
            original then leaves the gradient of the batch before in place; here it is 0.)
    """

    def __init__(self, *, partial: bool) -> None:
        super().__init__()
        self.partial = partial

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        difference = widened(x) - widened(y).reshape(x.shape)
        loss = difference.square().sum() / (x.shape[0] if x.dim() else 1) / 2
        if self.partial:
            loss = torch.where((y.flatten(1)[:, 0] != _NOTHING).any(), loss, 0)
        return loss.reshape(1).to(x.dtype)


def _check_counts(spec: LayerSpec) -> None:
    spec.as_many(1, spec.bottom_shapes[0], f"a value for each of {spec.bottoms[0]!r}")


@python_layer("pyloss", "EuclideanLossLayer", bottoms=2, tops=1, verified=False)
def euclidean_loss_layer(spec: LayerSpec, settings: PythonSettings) -> Layer:
    _check_counts(spec)
    return EuclideanLossLayer(partial=False)


@python_layer("pythonLayer", "regression_Layer", bottoms=2, tops=1, verified=False)
def regression_layer(spec: LayerSpec, settings: PythonSettings) -> Layer:
    _check_counts(spec)
    spec.shaped(1, "examples", "values", ...)
    return EuclideanLossLayer(partial=True)


class ValidRows(Layer):
    """The rows of both bottoms, scores (N, 2) and classes (N, 1), that have a class, first; zeros for the others.

    Args:
        axes: how many axes of length 1 the scores have besides.
    """

    def __init__(self, axes: int) -> None:
        super().__init__()
        self.axes = axes

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, Tensor]:
        count = bottoms[0].shape[0]
        return bottoms[0].new_empty(count, 2, *[1] * self.axes), bottoms[0].new_empty(count, 1)

    def forward(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        order = (labels.flatten() == _NOTHING).to(torch.uint8).argsort(stable=True)
        here = (labels.flatten()[order] != _NOTHING)[:, None]
        tops = [torch.where(here, x.flatten(1)[order], 0) for x in (scores, labels)]
        return tops[0].reshape(len(order), 2, *[1] * self.axes), tops[1]


def _valid_rows(spec: LayerSpec, axes: int) -> Layer:
    count, _ = spec.rows(0, "rows", "scores = 2")
    spec.as_many(1, (count,), "a class for each row")
    return ValidRows(axes)


@python_layer("pythonLayer", "cls_Layer", bottoms=2, tops=2, verified=False)
def cls_layer(spec: LayerSpec, settings: PythonSettings) -> Layer:
    return _valid_rows(spec, axes=0)


@python_layer("pythonLayer", "cls_Layer_fc", bottoms=2, tops=2, verified=False)
def cls_layer_fc(spec: LayerSpec, settings: PythonSettings) -> Layer:
    return _valid_rows(spec, axes=2)


class _Overlaps(torch.autograd.Function):
    """The sum of the images' overlaps, with the original's gradient, which no weight of the loss changes."""

    @staticmethod
    def forward(ctx: Context, scores: Tensor, truth: Tensor) -> Tensor:
        found = (scores[:, 1] > scores[:, 0]).to(scores.dtype)
        union, common = found.sum(1) + truth.sum(1), (found * truth).sum(1)
        ctx.save_for_backward(scores, truth, union[:, None], common[:, None])
        return (2 * common / (union + 0.00001)).sum().reshape(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, slope: Tensor) -> tuple[Tensor, None]:
        scores, truth, union, common = ctx.saved_tensors
        towards = 2 * (truth * union - 2 * scores[:, 1] * common) / union.square()
        return torch.stack([towards, -towards], 1), None


class DiceLoss(Layer):
    """The sum over images of 2 |A B| / (|A| + |B| + 1e-5), of shape (1,).

    A is where the second score is the larger one, B where the truth lies above 0.5.

    Bottoms: scores (N, 2, values), truth (N, 1, values). The sum has no slope; the original's gradient is that of one
    minus the overlap with the second score for A, but for constants, and not a number in an image without A and B.
    """

    def forward(self, scores: Tensor, truth: Tensor) -> Tensor:
        inside = (truth.detach().flatten(1) > 0.5).to(widened(scores).dtype)
        return _Overlaps.apply(widened(scores), inside).to(scores.dtype)


@python_layer("pyLayer", "DiceLoss", bottoms=2, tops=1, verified=False)
def dice_loss(spec: LayerSpec, settings: PythonSettings) -> Layer:
    images, _, count = spec.shaped(0, "images", "scores = 2", "values")
    spec.shaped(1, f"images = {images}", 1, f"values = {count}")
    return DiceLoss()
