"""Lstm: the recurrent layer of junhyukoh's fork, which came before BVLC's LSTM and is another one."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..autograd import Context
from ..bvlc.recurrent import lstm as lstm_of_bvlc
from ..bvlc.recurrent import remember, remembered

__all__ = ["Lstm"]

# The forks that took the layer over and read (steps, streams, values) where the first reads rows.
_COPIES = ("tianzhi0549/CTPN", "dlunion/CC4.0", "makefile/frcnn")
_OCR = ("senlinuc/caffe_ocr", "yuqj1991/caffe_train")


class _Context(Context, Protocol):
    bound: float


class _BoundedGradient(torch.autograd.Function):
    """The values as they are; their gradient cut off at plus and minus ``bound``."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, bound: float) -> Tensor:
        ctx.bound = bound
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.clamp(-ctx.bound, ctx.bound), None


class Lstm(Layer):
    """i, f, o = sigmoid, g = tanh of W x + U h + b, in this order; c' = f c + i g; h' = o tanh(c').

    The bottom is (steps, streams, values), the top (steps, streams, outputs). With ``streams``, the first two axes of
    both are one, step by step. Blobs: ``weight_input`` (4 outputs, values), ``weight_hidden`` (4 outputs, outputs),
    ``bias`` (4 outputs,). With a second bottom, 0 there begins a sequence, and a sequence that goes on at the first
    step does so from where the last pass ended; without, every pass is a sequence. ``bound`` limits the gradient of the
    gates before their sigmoid and tanh; 0 does not.

    At the begin of a sequence Caffe multiplies into the gradient of ``weight_hidden`` what the step before had left,
    though it has no part in the values; ``gradients="true"`` leaves that out.
    """

    weight_input: nn.Parameter
    weight_hidden: nn.Parameter
    bias: nn.Parameter
    last_hidden: Tensor
    last_cell: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        outputs: int,
        bound: float,
        params: Params,
        gradients: str,
        streams: int = 0,
        *,
        marked: bool,
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.streams = streams
        self.bound = bound
        self.gradients = gradients
        self.blob("weight_input", (4 * outputs, math.prod(shape[1 if streams else 2 :])), params.weight_filler)
        self.blob("weight_hidden", (4 * outputs, outputs), params.weight_filler)
        self.blob("bias", (4 * outputs,), params.bias_filler)
        names = ("last_hidden", "last_cell")
        self.carried = names if marked else ()
        for name in names:
            self.register_buffer(name, torch.zeros(streams or shape[1], outputs, device="meta"), persistent=False)

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty((*bottoms[0].shape[: 1 if self.streams else 2], self.outputs))

    def reset_state(self) -> None:
        self.last_hidden.zero_()
        self.last_cell.zero_()

    def forward(self, x: Tensor, *going_on: Tensor) -> Tensor:
        if self.streams:
            return self.run(x.unflatten(0, (-1, self.streams)), *going_on).flatten(0, 1)
        return self.run(x, *going_on)

    def run(self, x: Tensor, *going_on: Tensor) -> Tensor:
        """Of (steps, streams, values)."""
        inputs = nn.functional.linear(x.flatten(2), self.weight_input, self.bias)
        streams = inputs.shape[1]
        goes = going_on[0].detach().reshape(-1, streams, 1) != 0 if going_on else None
        if goes is None:
            hidden = cell = inputs.new_zeros(streams, self.outputs)
        else:
            hidden = remembered(self, "last_hidden", streams, inputs.dtype)
            cell = remembered(self, "last_cell", streams, inputs.dtype)
        steps = []
        for t, entering in enumerate(inputs):
            if goes is None:
                gates = entering + hidden @ self.weight_hidden.T
            else:
                before = hidden.detach()
                hidden, cell = torch.where(goes[t], hidden, 0), torch.where(goes[t], cell, 0)
                gates = entering + hidden @ self.weight_hidden.T
                if self.gradients != "true":
                    left = torch.where(goes[t], 0, before) @ self.weight_hidden.T
                    gates = gates + (left - left.detach())
            if self.bound > 0:
                gates = _BoundedGradient.apply(gates, self.bound)
            i, f, o = gates[:, : 3 * self.outputs].sigmoid().chunk(3, 1)
            cell = f * cell + i * gates[:, 3 * self.outputs :].tanh()
            hidden = o * cell.tanh()
            steps.append(hidden)
        if goes is not None:
            remember(self, "last_hidden", hidden)
            remember(self, "last_cell", cell)
        return torch.stack(steps)


@layer("Lstm", bottoms=(1, 2), tops=1, dialects=("junhyukoh/caffe-lstm",))
def lstm(spec: LayerSpec) -> Layer:
    shape, params = spec.shaped(0, "rows > 0", ...), spec.params("lstm_param")
    streams, outputs = params.batch_size, params.num_output
    if outputs < 1 or streams < 1 or shape[0] % streams:
        spec.fail(f"num_output {outputs} must be at least 1, and batch_size {streams} divide the rows of {list(shape)}")
    _check_marks(spec, shape[0] // streams, streams)
    return Lstm(
        shape, outputs, params.clipping_threshold, params, spec.gradients, streams, marked=len(spec.bottoms) == 2
    )


@layer("Lstm", bottoms=(1, 2), tops=1, dialects=_COPIES)
def lstm_of_sequences(spec: LayerSpec) -> Layer:
    _check_marks(spec, *_steps_and_streams(spec))
    return _of_sequences(spec)


@layer("Lstm", bottoms=(1, 2), tops=1, dialects=_OCR)
def lstm_of_three_axes(spec: LayerSpec) -> Layer:
    _check_marks(spec, *_steps_and_streams(spec))
    # Of more axes, the fork takes the third for all of the values, and the next step's from the middle of this one's.
    spec.shaped(0, "steps", "streams", "values", ones=True)
    return _of_sequences(spec)


@layer("Lstm", bottoms=(1, 2), tops=1, dialects=("tonghe90/textspotter",))
def lstm_of_marked_sequences(spec: LayerSpec) -> Layer:
    """Its marks may be (steps, streams), where the others take one stream's only."""
    steps, streams = _steps_and_streams(spec)
    if len(spec.bottoms) == 2 and spec.bottom_shapes[1][:2] == (steps, streams):
        spec.shaped(1, f"steps = {steps}", f"streams = {streams}", ones=True)
    else:
        _check_marks(spec, steps, streams)
    return _of_sequences(spec)


def _steps_and_streams(spec: LayerSpec) -> tuple[int, int]:
    steps, streams, *_ = spec.shaped(0, "steps > 0", "streams > 0", "values", ...)
    return steps, streams


def _check_marks(spec: LayerSpec, steps: int, streams: int) -> None:
    if len(spec.bottoms) == 2:
        if streams > 1:
            # The fork then reads the marks of step t from place t on, not from place t times streams.
            spec.fail(f"marks of where sequences begin are supported for one stream only, found {streams}")
        spec.vector(1, f"marks = {steps}")


def _of_sequences(spec: LayerSpec) -> Layer:
    params = spec.params("lstm_param")
    params.ignore("batch_size")  # the bottom's second axis tells
    if params.num_output < 1:
        spec.fail(f"num_output must be at least 1, found {params.num_output}")
    return Lstm(
        spec.bottom_shapes[0],
        params.num_output,
        params.clipping_threshold,
        params,
        spec.gradients,
        marked=len(spec.bottoms) == 2,
    )


@layer("LSTMNew", bottoms=(2, 5), tops=(1, 3), unforced=(1,), dialects=("tonghe90/textspotter",), verified=False)
def lstm_new(spec: LayerSpec) -> nn.Module:
    """BVLC's LSTM under another name: the fork unrolls the same net for it (``lstm_new_layer.cpp``)."""
    return lstm_of_bvlc(spec)
