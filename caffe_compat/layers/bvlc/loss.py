"""Losses: each compares predictions (first bottom) with labels or targets (second) and gives one number, unweighted.

The weight of a loss belongs to the net; it arrives in the backward pass as the gradient of the top. What the losses
share (class labels, normalisation, gradients that are given instead of derived) stands first.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, layer
from ..autograd import Context
from ..precision import widened

__all__ = [
    "LOG_THRESHOLD",
    "ContrastiveLoss",
    "EuclideanLoss",
    "HingeLoss",
    "Loss",
    "MultinomialLogisticLoss",
    "SigmoidCrossEntropyLoss",
    "class_axis",
    "class_labels",
    "ignored_label",
    "normalization_mode",
    "normalizer",
    "same_batch",
    "with_gradient",
]

# Caffe's kLOG_THRESHOLD: probabilities are raised to it before their logarithm is taken.
LOG_THRESHOLD = 1e-20

_MODES = ("FULL", "VALID", "BATCH_SIZE", "NONE")


class _GivenGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, loss: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, weight: Tensor) -> tuple[None, Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return None, weight * gradient, None


def with_gradient(loss: Tensor, x: Tensor, gradient: Callable[[], Tensor]) -> Tensor:
    """``loss`` whose derivative by ``x`` is ``gradient()``, whatever autograd would find.

    Args:
        loss: a scalar.
        gradient: makes a tensor like ``x``; called only if a backward pass may follow.
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return loss
    with torch.no_grad():
        slope = gradient()
    return _GivenGradient.apply(loss.detach(), x, slope)


def class_labels(labels: Tensor, classes: int, ignored: int | None, name: str) -> tuple[Tensor, Tensor | None]:
    """Labels as class indices, and a mask of those that count (None if all do). Ignored ones have index 0.

    Args:
        labels: whole numbers in any type; fractions are cut off, as a C++ cast does.
        ignored: the label that does not count.
        name: the layer's, for the message.

    Raises:
        LayerError: a label outside 0 ... ``classes`` - 1. Not looked for where that would stall (CUDA) or break the
            graph (torch.compile); ``gather``, which every such layer uses, fails on these labels there.
    """
    index = labels.detach().long()
    valid = None
    if ignored is not None:
        valid = index != ignored
        index = torch.where(valid, index, 0)
    if index.device.type not in ("cuda", "meta") and not torch.compiler.is_compiling():
        bad = (index < 0) | (index >= classes)
        if bad.any():
            place = int(bad.flatten().nonzero()[0, 0])
            hint = "" if ignored is not None else "; give the label of what does not count as ignore_label"
            raise LayerError(
                f"label {float(labels.flatten()[place]):g} at position {place} is none of the "
                f"{classes} classes, which count from 0{hint}",
                layer=name,
            )
    return index, valid


def normalization_mode(spec: LayerSpec, default: str) -> str:
    """``loss_param.normalization``, or what the older ``normalize`` stands for, or ``default``."""
    params = spec.params("loss_param")
    if params.has("normalization"):
        params.ignore("normalize")  # as Caffe does where both are set
        mode: str = params.normalization
    elif params.has("normalize"):
        mode = "VALID" if params.normalize else "BATCH_SIZE"
    else:
        mode = default
    if mode not in _MODES:
        spec.fail(f"loss_param.normalization {mode} is not supported; {', '.join(_MODES)} are")
    return mode


def normalizer(mode: str, outer: int, inner: int, valid: Tensor | None) -> int | Tensor:
    """What a summed loss is divided by: at least 1, so that a batch without labels gives 0.

    Args:
        outer: examples in the batch. inner: predictions per example. valid: mask of those that count, None if all do.
    """
    if mode == "NONE":
        return 1
    if mode == "BATCH_SIZE":
        return max(1, outer)
    if mode == "FULL" or valid is None:
        return max(1, outer * inner)
    return valid.sum().clamp_min(1)


def same_batch(spec: LayerSpec) -> int:
    """How many examples there are: predictions and labels have as many (Caffe's LossLayer)."""
    examples = spec.shaped(0, "examples", ...)[0]
    spec.shaped(1, f"examples = {examples}", ...)
    return examples


def class_axis(spec: LayerSpec, axis: int, what: str) -> int:
    """The axis of the classes. Fails unless the labels number one for each position of the other axes."""
    shape = spec.bottom_shapes[0]
    axis = spec.axis(axis, len(shape), what)
    one_each = f"a label for each vector along axis {axis} of {spec.bottoms[0]!r}"
    spec.as_many(1, (*shape[:axis], *shape[axis + 1 :]), one_each)
    return axis


def ignored_label(spec: LayerSpec) -> int | None:
    """``loss_param.ignore_label`` if the file sets it; 0 and negative ones are labels like any other."""
    params = spec.params("loss_param")
    return params.ignore_label if params.has("ignore_label") else None


class Loss(Layer):
    """What gives one number, of bottoms whose shapes the builder has compared."""

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        return bottoms[0].new_empty(())


def _rows(x: Tensor) -> Tensor:
    """(N, ...) -> (N, everything else)."""
    return x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)


class SigmoidCrossEntropyLoss(Loss):
    """Sum of -t log s(x) - (1 - t) log(1 - s(x)) over all values, divided by the normaliser; s(x) = 1 / (1 + e^-x)."""

    def __init__(self, mode: str, ignored: int | None) -> None:
        super().__init__()
        self.mode = mode
        self.ignored = ignored

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        scores = widened(x)
        target = target.detach().to(scores.dtype).reshape(x.shape)
        valid = None
        if self.ignored is not None:
            valid = target.trunc() != self.ignored
            scores, target = torch.where(valid, scores, 0), torch.where(valid, target, 0)
        losses = functional.binary_cross_entropy_with_logits(scores, target, reduction="none")
        if valid is not None:
            losses = torch.where(valid, losses, 0)
        count = normalizer(self.mode, x.shape[0], math.prod(x.shape[1:]), valid)
        return (losses.sum() / count).to(x.dtype)


@layer("SigmoidCrossEntropyLoss", bottoms=2, tops=(0, 1), loss=True)
def sigmoid_cross_entropy_loss(spec: LayerSpec) -> Layer:
    same_batch(spec)
    _check_same_count(spec)
    # The schema's default is VALID, but this layer's has always been BATCH_SIZE.
    return SigmoidCrossEntropyLoss(normalization_mode(spec, "BATCH_SIZE"), ignored_label(spec))


class EuclideanLoss(Loss):
    """Sum of (a - b)^2 over all values, divided by 2 N. Both bottoms get gradients."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        difference = widened(a) - widened(b).reshape(a.shape)
        return ((difference * difference).sum() / a.shape[0] / 2).to(a.dtype)


@layer("EuclideanLoss", bottoms=2, tops=(0, 1), loss=True, unforced=())
def euclidean_loss(spec: LayerSpec) -> Layer:
    same_batch(spec)
    _check_same_count(spec)
    return EuclideanLoss()


class HingeLoss(Loss):
    """Sum of max(0, 1 - d x) or its square, divided by N; d is 1 for the labelled class and -1 for the others."""

    forward_fills_diff = True  # with the margins

    def __init__(self, squared: bool) -> None:
        super().__init__()
        self.squared = squared

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        scores = _rows(widened(x))
        # Caffe reads one label per example from the front, whatever the shape of the labels.
        index, _ = class_labels(labels.flatten()[: x.shape[0]], scores.shape[1], None, self.layer_name)
        index = index.unsqueeze(1)
        margins = torch.relu(1 + scores.scatter(1, index, -scores.gather(1, index)))
        total = (margins * margins).sum() if self.squared else margins.sum()
        return (total / x.shape[0]).to(x.dtype)


@layer("HingeLoss", bottoms=2, tops=(0, 1), loss=True)
def hinge_loss(spec: LayerSpec) -> Layer:
    same_batch(spec)
    return HingeLoss(squared=spec.params("hinge_loss_param").norm == "L2")


class MultinomialLogisticLoss(Loss):
    """Mean of -log p(label) over the batch; p are probabilities, raised to 1e-20 at least."""

    def __init__(self, gradients: str) -> None:
        super().__init__()
        self.gradients = gradients

    def forward(self, prob: Tensor, labels: Tensor) -> Tensor:
        rows = _rows(widened(prob))
        index, _ = class_labels(labels.flatten(), rows.shape[1], None, self.layer_name)
        picked = rows.gather(1, index.unsqueeze(1)).clamp_min(LOG_THRESHOLD)
        loss = (-picked.log().sum() / prob.shape[0]).to(prob.dtype)
        if self.gradients == "true":
            return loss

        def gradient() -> Tensor:
            # Not zero below the threshold, as the true one would be.
            slopes = -1 / picked / prob.shape[0]
            return torch.zeros_like(rows).scatter(1, index.unsqueeze(1), slopes).reshape(prob.shape).to(prob.dtype)

        return with_gradient(loss, prob, gradient)


@layer("MultinomialLogisticLoss", bottoms=2, tops=(0, 1), loss=True)
def multinomial_logistic_loss(spec: LayerSpec) -> Layer:
    spec.vector(1, f"labels = {same_batch(spec)}")
    return MultinomialLogisticLoss(spec.gradients)


class ContrastiveLoss(Loss):
    """Pairs (a, b): d^2 for similar ones, max(margin - d, 0)^2 for others, over 2 N; d is the Euclidean distance.

    The legacy version takes max(margin - d^2, 0) for dissimilar pairs.
    """

    def __init__(self, margin: float, legacy: bool, gradients: str) -> None:
        super().__init__()
        self.margin = margin
        self.legacy = legacy
        self.gradients = gradients

    def forward(self, a: Tensor, b: Tensor, similar: Tensor) -> Tensor:
        batch = a.shape[0]
        difference = _rows(widened(a)) - _rows(widened(b).reshape(a.shape))
        squared = (difference * difference).sum(1)
        alike = similar.detach().flatten()[:batch].trunc() != 0
        if self.legacy:
            others = torch.relu(self.margin - squared)
            return (torch.where(alike, squared, others).sum() / batch / 2).to(a.dtype)
        distance = torch.linalg.vector_norm(difference, dim=1)
        short = self.margin - distance
        loss = torch.where(alike, squared, torch.relu(short) ** 2).sum() / batch / 2
        if self.gradients != "true":

            def gradient() -> Tensor:
                # Caffe's guard against a zero distance shortens the true gradient a little.
                others = -torch.relu(short) / (distance + 1e-4)
                return torch.where(alike, 1.0, others).unsqueeze(1) * difference / batch

            loss = with_gradient(loss, difference, gradient)
        return loss.to(a.dtype)


@layer("ContrastiveLoss", bottoms=3, tops=(0, 1), loss=True, unforced=(2,))
def contrastive_loss(spec: LayerSpec) -> Layer:
    pairs = same_batch(spec)
    channels = spec.four_axes(0)[1]
    for index in (0, 1):
        if spec.four_axes(index) != (pairs, channels, 1, 1):
            spec.misfit(index, f"({pairs}, {channels})")
    spec.vector(2, f"pairs >= {pairs}")
    params = spec.params("contrastive_loss_param")
    return ContrastiveLoss(params.margin, params.legacy_version, spec.gradients)


def _check_same_count(spec: LayerSpec) -> None:
    spec.as_many(1, spec.bottom_shapes[0], f"a value for each of {spec.bottoms[0]!r}")
