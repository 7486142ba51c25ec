"""Lstm: the recurrent layer of junhyukoh's fork, which came before BVLC's LSTM and is another one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params

__all__ = ["Lstm"]


class _BoundedGradient(torch.autograd.Function):
    """The values as they are; their gradient cut off at plus and minus ``bound``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.bound = bound
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.clamp(-ctx.bound, ctx.bound), None


class Lstm(Layer):
    """i, f, o = sigmoid, g = tanh of W x + U h + b, in this order; c' = f c + i g; h' = o tanh(c').

    The bottom is (steps x streams, values), step by step; the top (steps x streams, outputs). Blobs: ``weight_input``
    (4 outputs, values), ``weight_hidden`` (4 outputs, outputs), ``bias`` (4 outputs,). With a second bottom, 0 there
    begins a sequence, and a sequence that goes on at the first step does so from where the last pass ended; without,
    every pass is a sequence. ``bound`` limits the gradient of the gates before their sigmoid and tanh; 0 does not.

    At the begin of a sequence Caffe multiplies into the gradient of ``weight_hidden`` what the step before had left,
    though it has no part in the values; ``gradients="true"`` leaves that out.
    """

    weight_input: nn.Parameter
    weight_hidden: nn.Parameter
    bias: nn.Parameter
    last_hidden: Tensor
    last_cell: Tensor

    def __init__(self, inputs: int, outputs: int, streams: int, bound: float, params: Params, gradients: str) -> None:
        super().__init__()
        self.outputs = outputs
        self.streams = streams
        self.bound = bound
        self.gradients = gradients
        self.blob("weight_input", (4 * outputs, inputs), params.weight_filler)
        self.blob("weight_hidden", (4 * outputs, outputs), params.weight_filler)
        self.blob("bias", (4 * outputs,), params.bias_filler)
        for name in ("last_hidden", "last_cell"):
            self.register_buffer(name, torch.zeros(streams, outputs, device="meta"), persistent=False)

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(bottoms[0].shape[0], self.outputs)

    def reset_state(self) -> None:
        self.last_hidden.zero_()
        self.last_cell.zero_()

    def forward(self, x: Tensor, *going_on: Tensor) -> Tensor:
        inputs = nn.functional.linear(x.flatten(1), self.weight_input, self.bias).unflatten(0, (-1, self.streams))
        goes = going_on[0].detach().reshape(-1, self.streams, 1) != 0 if going_on else None
        hidden, cell = torch.zeros_like(self.last_hidden), torch.zeros_like(self.last_cell)
        if goes is not None:
            hidden, cell = self.last_hidden.clone(), self.last_cell.clone()
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
            with torch.no_grad():
                self.last_hidden.copy_(hidden)
                self.last_cell.copy_(cell)
        return torch.cat(steps)


@layer("Lstm", bottoms=(1, 2), tops=1)
def lstm(spec: LayerSpec) -> Layer:
    shape, params = spec.bottom_shapes[0], spec.params("lstm_param")
    streams, outputs = params.batch_size, params.num_output
    if outputs < 1 or streams < 1 or not shape or shape[0] % streams:
        spec.fail(f"num_output {outputs} must be at least 1, and batch_size {streams} divide the rows of {list(shape)}")
    if len(spec.bottoms) == 2:
        if streams > 1:
            # The fork then reads the marks of step t from place t on, not from place t times streams.
            spec.fail(f"marks of where sequences begin are supported for batch_size 1 only, found {streams}")
        if not spec.bottom_shapes[1] or spec.bottom_shapes[1][0] != shape[0]:
            spec.fail(f"{spec.bottoms[1]!r} has shape {list(spec.bottom_shapes[1])}; {shape[0]} marks were expected")
    inputs = 1
    for size in shape[1:]:
        inputs *= size
    return Lstm(inputs, outputs, streams, params.clipping_threshold, params, spec.gradients)
