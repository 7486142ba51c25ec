"""Training a network that reads text without knowing where each character is: CTC, and what goes with it.

The losses are Baidu's warp-ctc in two wrappers, xmfbit's and senlinuc's; both take scores before softmax.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ...network.registry import Layer, LayerSpec, layer
from ..autograd import Context

__all__ = ["CTCLoss", "ContinuationIndicator", "LabelsequenceAccuracy"]

_XMFBIT = ("xmfbit/warpctc-caffe", "dlunion/CC4.0", "yuqj1991/caffe_train")


class ContinuationIndicator(Layer):
    """The marks (steps, streams) of sequences that all begin at step 0: 0 there, and 1 at every later step."""

    marks: Tensor

    def __init__(self, steps: int, streams: int) -> None:
        super().__init__()
        self.register_buffer("marks", torch.zeros(steps, streams), persistent=False)

    def infer(self, *bottoms: Tensor) -> Tensor:
        return self.marks

    def forward(self, *bottoms: Tensor) -> Tensor:
        return torch.ones_like(self.marks).index_fill(0, torch.zeros((), dtype=torch.long, device=self.marks.device), 0)


def _marks(spec: LayerSpec, steps: int, streams: int) -> Layer:
    if min(steps, streams) < 1:
        spec.fail(f"would mark {steps} steps of {streams} streams; at least one of each was expected")
    return ContinuationIndicator(steps, streams)


@layer("ContinuationIndicator", bottoms=0, tops=1, dialects=_XMFBIT, verified=False)
def continuation_indicator(spec: LayerSpec) -> Layer:
    params = spec.params("continuation_indicator_param")
    return _marks(spec, params.time_step, params.batch_size)


@layer("ContinuationIndicator", bottoms=1, tops=1, dialects=("jolibrain/caffe",), verified=False)
def continuation_indicator_of_a_bottom(spec: LayerSpec) -> Layer:
    """As many streams as an axis of its bottom has."""
    params, shape = spec.params("continuation_indicator_param"), spec.bottom_shapes[0]
    return _marks(spec, params.time_step, shape[spec.axis(params.axis, len(shape))])


class _Raw(Context, Protocol):
    saved_tensors: tuple[Tensor]


class _UnweighedGradient(torch.autograd.Function):
    """``value`` with a gradient by ``x`` that no weight of the loss changes."""

    @staticmethod
    def forward(ctx: Context, value: Tensor, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: _Raw, gradient: Tensor) -> tuple[None, Tensor, None]:
        return None, ctx.saved_tensors[0], None


class CTCLoss(Layer):
    """-log of how probable the labels are, over all ways to spread them over the steps: the mean over the texts.

    The bottoms are scores (T, N, classes, ...) before softmax and labels (N, L, ...), of which blanks do not count. The
    gradient is the sum's instead of the mean's. With ``finite``, texts that have no way do not count, and the gradient
    disregards the weight of the loss, too. ``gradients="true"`` gives the mean's.
    """

    def __init__(self, blank: int, gradients: str, *, finite: bool) -> None:
        super().__init__()
        self.blank = blank
        self.gradients = gradients
        self.finite = finite

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(())

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        scores = scores.flatten(2)
        steps, texts, _ = scores.shape
        rows = [row[row != self.blank] for row in labels.detach().reshape(texts, -1).long()]
        lengths = torch.tensor([len(row) for row in rows])
        losses = functional.ctc_loss(
            scores.log_softmax(2), torch.cat(rows), torch.full((texts,), steps), lengths, self.blank, reduction="none"
        )
        if self.finite:
            losses = losses[losses.isfinite()]
        mean = losses.mean()
        if self.gradients == "true" or not losses.requires_grad:
            return mean
        if not self.finite:
            return losses.sum() + (mean - losses.sum()).detach()
        (slope,) = torch.autograd.grad(losses.sum(), scores)
        result: Tensor = _UnweighedGradient.apply(mean.detach(), scores, slope)
        return result


def _ctc_loss(spec: LayerSpec, blank: int, *, finite: bool) -> Layer:
    scores = spec.shaped(0, "steps > 0", "texts > 0", "classes > 1", ones=True)
    spec.shaped(1, f"texts = {scores[1]}", "labels", ones=True)
    if not 0 <= blank < scores[2]:
        spec.fail(f"the blank is class {blank}; there are 0 to {scores[2] - 1}")
    return CTCLoss(blank, spec.gradients, finite=finite)


@layer("CtcLoss", bottoms=2, tops=1, loss=True, dialects=("xmfbit/warpctc-caffe",), verified=False)
def ctc_loss(spec: LayerSpec) -> Layer:
    return _ctc_loss_of(spec, "ctc_loss_param")


@layer("CtcLoss", bottoms=2, tops=1, loss=True, dialects=("yuqj1991/caffe_train",), verified=False)
def ctc_loss_of_yuqj(spec: LayerSpec) -> Layer:
    """The same, told in a field of another name."""
    return _ctc_loss_of(spec, "warpctc_loss_param")


def _ctc_loss_of(spec: LayerSpec, field: str) -> Layer:
    params = spec.params(field)
    module, scores = _ctc_loss(spec, params.blank_label, finite=False), spec.bottom_shapes[0]
    if (params.time_step, params.alphabet_size) != (scores[0], scores[2]):
        spec.fail(
            f"time_step {params.time_step} and alphabet_size {params.alphabet_size} were told; the scores have "
            f"{scores[0]} steps and {scores[2]} classes"
        )
    return module


@layer("WarpCTCLoss", bottoms=(2, 4), tops=1, loss=True, dialects=("senlinuc/caffe_ocr",), verified=False)
def warp_ctc_loss(spec: LayerSpec) -> Layer:
    return _warp_ctc_loss(spec, "blank_index")


@layer("WarpCTCLoss", bottoms=(2, 4), tops=1, loss=True, dialects=("dlunion/CC4.0",), verified=False)
def warp_ctc_loss_of_cc(spec: LayerSpec) -> Layer:
    """The same, with another name for the blank."""
    return _warp_ctc_loss(spec, "blank_label")


def _warp_ctc_loss(spec: LayerSpec, blank: str) -> Layer:
    if len(spec.bottoms) != 2:
        spec.fail(
            "takes scores and labels here: lengths of sequences and of labels as further bottoms are not supported"
        )
    params = spec.params("ctc_loss_param")
    # Of the other wrapper of this fork.
    params.ignore(*(name for name in ("alphabet_size", "time_step") if params.knows(name)))
    return _ctc_loss(spec, getattr(params, blank), finite=True)


class LabelsequenceAccuracy(Layer):
    """Which part of the texts is read as the labels say: scores (N, T, classes) and labels (N, L) -> a number.

    Of every step the most probable class counts, without repetitions and blanks; of the labels blanks do not count.
    """

    def __init__(self, blank: int) -> None:
        super().__init__()
        self.blank = blank

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(())

    @torch.no_grad()
    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        best = scores.flatten(2).argmax(2)
        new = torch.cat([torch.ones_like(best[:, :1], dtype=torch.bool), best[:, 1:] != best[:, :-1]], 1)
        right = 0
        for read, kept, wanted in zip(best, new & (best != self.blank), labels.flatten(1).long(), strict=True):
            right += read[kept].tolist() == wanted[wanted != self.blank].tolist()
        return scores.new_tensor(right / len(best))


@layer("LabelsequenceAccuracy", bottoms=2, tops=1, verified=False, unforced=(0, 1))
def labelsequence_accuracy(spec: LayerSpec) -> Layer:
    texts, *_ = spec.shaped(0, "texts > 0", "steps > 0", "classes > 0", ones=True)
    spec.shaped(1, f"texts = {texts}", "labels", ones=True)
    return LabelsequenceAccuracy(spec.params("labelsequence_accuracy_param").blank_label)
