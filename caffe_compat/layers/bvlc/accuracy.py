"""Accuracy: how often the labelled class is among the best scores."""

from __future__ import annotations

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ..precision import widened
from .loss import class_axis, class_labels

__all__ = ["Accuracy"]


class Accuracy(Layer):
    """Share of labels with fewer than ``top_k`` other classes scored as high or higher: a tie counts against the label.

    The second top is the same for each class by itself. Where nothing counts, the result is 0; that of a class by
    itself, ``absent``.
    """

    def __init__(self, top_k: int, axis: int, ignored: int | None, absent: float, *, tops: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.axis = axis
        self.ignored = ignored
        self.absent = absent
        self.per_class = tops > 1

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = bottoms[0]
        overall = x.new_empty(())
        return (overall, x.new_empty(x.shape[self.axis])) if self.per_class else overall

    @torch.no_grad()
    def forward(self, x: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        classes = x.shape[self.axis]
        shape = [*x.shape[: self.axis], 1, *x.shape[self.axis + 1 :]]
        index, valid = class_labels(labels.reshape(shape), classes, self.ignored, self.layer_name)
        rivals = (x >= x.gather(self.axis, index)).sum(self.axis, keepdim=True) - 1
        # Counted in single precision: half precision is not exact beyond 2048.
        counted = (torch.ones_like(index) if valid is None else valid).to(widened(x).dtype)
        right = (rivals < self.top_k) * counted
        overall = (right.sum() / counted.sum().clamp_min(1)).to(x.dtype)
        if not self.per_class:
            return overall
        zeros = torch.zeros(classes, dtype=counted.dtype, device=x.device)
        rights = zeros.index_add(0, index.flatten(), right.flatten())
        counts = zeros.index_add(0, index.flatten(), counted.flatten())
        return overall, torch.where(counts > 0, rights / counts.clamp_min(1), self.absent).to(x.dtype)


@layer("Accuracy", bottoms=2, tops=(1, 2))
def accuracy(spec: LayerSpec) -> Layer:
    params = spec.params("accuracy_param")
    axis = class_axis(spec, params.axis, "accuracy_param.axis")
    classes = spec.bottom_shapes[0][axis]
    if params.top_k > classes:
        spec.fail(f"accuracy_param.top_k {params.top_k} exceeds the {classes} classes")
    ignored = params.ignore_label if params.has("ignore_label") else None
    # SegNet's fork counts a class that does not occur as always right.
    absent = 1.0 if "alexgkendall/caffe-segnet" in spec.dialect.split("+") else 0.0
    return Accuracy(params.top_k, axis, ignored, absent, tops=len(spec.tops))
