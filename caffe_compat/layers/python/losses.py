"""Losses that are Python layers: BVLC's example of one, and MTCNN's, of which a part of a batch is another's business.

Sources: BVLC's ``examples/pycaffe/layers/pyloss.py``; CongWeilin/mtcnn-caffe, ``pythonLayer.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...network.python_registry import PythonSettings, python_layer
from ...network.registry import Layer, LayerSpec
from ..precision import widened

__all__ = ["EuclideanLossLayer", "ValidRows"]

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
