"""Losses on the softmax of scores: SoftmaxWithLoss and InfogainLoss. The probabilities can be a second top of both."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...errors import LayerError
from ...formats.blob_proto import read_blob
from ...network.registry import Layer, LayerSpec, layer
from ..precision import widened
from .loss import (
    LOG_THRESHOLD,
    Loss,
    class_axis,
    class_labels,
    ignored_label,
    normalization_mode,
    normalizer,
    same_batch,
    with_gradient,
)

__all__ = ["LEAST", "InfogainLoss", "SoftmaxWithLoss"]

# Caffe's FLT_MIN: probabilities are raised to it before their logarithm is taken.
LEAST = torch.finfo(torch.float32).tiny


class _SoftmaxLoss(Loss):
    """What both share. Scores have their classes along ``axis``; labels, one whole number for every other position."""

    def __init__(self, axis: int, mode: str, ignored: int | None, gradients: str, *, tops: int) -> None:
        super().__init__()
        self.axis = axis
        self.mode = mode
        self.ignored = ignored
        self.gradients = gradients
        self.with_prob = tops > 1

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = bottoms[0]
        loss = x.new_empty(())
        return (loss, torch.empty_like(x)) if self.with_prob else loss

    def labels_like(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Class indices and mask in the shape of ``x`` with ``axis`` 1 long."""
        shape = [*x.shape[: self.axis], 1, *x.shape[self.axis + 1 :]]
        return class_labels(labels.reshape(shape), x.shape[self.axis], self.ignored, self.layer_name)

    def divisor(self, outer: int, inner: int, valid: Tensor | None) -> float | Tensor:
        """What the summed losses are divided by; see :func:`.loss.normalizer`."""
        return normalizer(self.mode, outer, inner, valid)

    def tops(
        self, x: Tensor, prob: Tensor, losses: Tensor, valid: Tensor | None, slopes: Callable[[], Tensor]
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The loss, and the probabilities if they are a top.

        Args:
            losses: the loss at each position. valid: mask of those that count, None if all do.
            slopes: makes Caffe's derivative of their sum by ``x``.
        """
        outer, inner = math.prod(x.shape[: self.axis]), math.prod(x.shape[self.axis + 1 :])
        count = self.divisor(outer, inner, valid)
        if valid is not None:
            losses = torch.where(valid, losses, 0)
        loss = (losses.sum() / count).to(x.dtype)
        prob = prob.to(x.dtype)
        if self.gradients != "true":

            def gradient() -> Tensor:
                kept = slopes() if valid is None else torch.where(valid, slopes(), 0)
                return (kept / count).to(x.dtype)

            # Unlike the true gradient: not zero where a probability is at the threshold, and deaf to the second top.
            loss, prob = with_gradient(loss, x, gradient), prob.detach()
        return (loss, prob) if self.with_prob else loss


class SoftmaxWithLoss(_SoftmaxLoss):
    """Sum of -log softmax(x)[label] over all positions, divided by the normaliser."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        index, valid = self.labels_like(x, labels)
        prob = torch.softmax(widened(x), self.axis)
        losses = -prob.gather(self.axis, index).clamp_min(LEAST).log()
        valid = self.counted(losses.detach(), valid)

        def slopes() -> Tensor:
            return prob.scatter_add(self.axis, index, -torch.ones_like(losses))

        return self.tops(x, prob, losses, valid, slopes)

    def counted(self, losses: Tensor, valid: Tensor | None) -> Tensor | None:
        """Mask of the positions that count, None if all do, from that of those without ``ignored``."""
        return valid


@layer("SoftmaxWithLoss", bottoms=2, tops=(0, 2), loss=True)
def softmax_with_loss(spec: LayerSpec) -> Layer:
    same_batch(spec)
    axis = class_axis(spec, spec.params("softmax_param").axis, "softmax_param.axis")
    mode = normalization_mode(spec, "VALID")
    return SoftmaxWithLoss(axis, mode, ignored_label(spec), spec.gradients, tops=len(spec.tops))


class InfogainLoss(_SoftmaxLoss):
    """Sum of -H[label, k] log softmax(x)[k] over all positions and classes k, divided by the normaliser.

    H is the third bottom, or is read from ``source`` (a binaryproto) when the layer first runs.
    """

    def __init__(
        self, axis: int, mode: str, ignored: int | None, gradients: str, *, tops: int, source: str | None
    ) -> None:
        super().__init__(axis, mode, ignored, gradients, tops=tops)
        self.source = source
        self._stored: Tensor | None = None

    def forward(self, x: Tensor, labels: Tensor, *matrix: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        classes = x.shape[self.axis]
        index, valid = self.labels_like(x, labels)
        scores = widened(x)
        weights = (matrix[0].detach() if matrix else self._read(classes)).to(scores).reshape(classes, classes)
        prob = torch.softmax(scores, self.axis)
        # gather, for indexing would take a negative label for one counted from the end.
        rows = weights.gather(0, index.reshape(-1, 1).expand(-1, classes))
        gains = rows.reshape(*index.squeeze(self.axis).shape, classes).movedim(-1, self.axis)
        losses = -(gains * prob.clamp_min(LOG_THRESHOLD).log()).sum(self.axis, keepdim=True)

        def slopes() -> Tensor:
            return prob * gains.sum(self.axis, keepdim=True) - gains

        return self.tops(x, prob, losses, valid, slopes)

    def _read(self, classes: int) -> Tensor:
        if self._stored is None:
            assert self.source is not None
            values = read_blob(self.files.read(self.source, self.layer_name)).data
            if values.size != classes * classes:
                raise LayerError(
                    f"the matrix in {self.source!r} has shape {list(values.shape)}; "
                    f"{classes} x {classes} values, one row per label, are needed",
                    layer=self.layer_name,
                )
            self._stored = torch.tensor(values, dtype=torch.float32)
        return self._stored


@layer("InfogainLoss", bottoms=(2, 3), tops=(0, 2), loss=True)
def infogain_loss(spec: LayerSpec) -> Layer:
    same_batch(spec)
    params = spec.params("infogain_loss_param")
    axis = class_axis(spec, params.axis, "infogain_loss_param.axis")
    if spec.params("loss_param").has("normalize"):
        spec.fail("loss_param.normalize is not for this type (Caffe refuses it); normalization: VALID or BATCH_SIZE is")
    mode = normalization_mode(spec, "VALID")
    classes = spec.bottom_shapes[0][axis]
    source = params.source if params.has("source") else None
    if len(spec.bottoms) == 3:
        spec.as_many(2, (classes, classes), "a row of gains for each class")
    elif source is None:
        spec.fail("needs the infogain matrix: as a third bottom, or a file as infogain_loss_param.source")
    return InfogainLoss(axis, mode, ignored_label(spec), spec.gradients, tops=len(spec.tops), source=source)
