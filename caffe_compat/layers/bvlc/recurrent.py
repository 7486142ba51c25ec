"""LSTM and RNN over (time, streams, ...) blobs, and the LSTM's unit by itself.

The second bottom, ``cont`` (T, N), says where sequences go on: 0 forgets what stream n remembered *before* step t. The
state after the last step carries over to the next forward pass of the same net; it is kept in non-persistent buffers.
Gradients flow within one forward pass, never into the state carried from an earlier one. ``torch.export`` supports this
for the number of steps it was exported with: the program starts with the state at the time of export, so reset it
before, and shares its memory with the net until it is saved and loaded.

If the number of streams changes between passes, memory behaves as Caffe's: with fewer streams the first ones go on;
with more than there ever were, all start at zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..autograd import Context

__all__ = ["LSTM", "RNN", "LSTMUnit", "remember", "remembered"]


class _ForgetGate(torch.autograd.Function):
    """f = cont * s(x), with Caffe's derivative f (1 - f), which is the true one where cont is 0 or 1."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, cont: Tensor) -> Tensor:
        gate = cont * torch.sigmoid(x)
        ctx.save_for_backward(gate)
        return gate

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, slope: Tensor) -> tuple[Tensor, None]:
        (gate,) = ctx.saved_tensors
        return slope * gate * (1 - gate), None


def lstm_unit(c: Tensor, gates: Tensor, cont: Tensor, gradients: str) -> tuple[Tensor, Tensor]:
    """One step: the new cell state and the new hidden state, both like ``c`` (..., D).

    Args:
        gates: (..., 4 D), before their nonlinearities, in the order input, forget, output, candidate.
        cont: like ``c`` with a last axis of 1.
    """
    enter, forget, leave, candidate = gates.chunk(4, dim=-1)
    if gradients == "true" or not (torch.is_grad_enabled() and gates.requires_grad):
        kept = cont * torch.sigmoid(forget)
    else:
        kept = _ForgetGate.apply(forget, cont)
    c = kept * c + torch.sigmoid(enter) * torch.tanh(candidate)
    return c, torch.sigmoid(leave) * torch.tanh(c)


class LSTMUnit(Layer):
    """Bottoms c (1, N, D), gates (1, N, 4 D), cont (1, N); tops: the next c and h, both (1, N, D)."""

    def __init__(self, gradients: str) -> None:
        super().__init__()
        self.gradients = gradients

    def forward(self, c: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
        return lstm_unit(c, gates, cont.detach().unsqueeze(-1), self.gradients)


@layer("LSTMUnit", bottoms=3, tops=2, unforced=(2,))
def lstm_unit_layer(spec: LayerSpec) -> Layer:
    _, streams, cells = spec.shaped(0, 1, "streams", "cells")
    spec.shaped(1, 1, f"streams = {streams}", f"gates = {4 * cells}")
    spec.shaped(2, 1, f"streams = {streams}")
    return LSTMUnit(spec.gradients)


def remembered(module: Layer, name: str, streams: int, dtype: torch.dtype) -> Tensor:
    """The buffer ``name`` (streams, values) of ``module`` as it is for so many streams; see the top of this file."""
    state: Tensor = getattr(module, name)
    if streams > state.shape[0]:
        with torch.inference_mode(False):
            state = state.new_zeros(streams, state.shape[1])
        setattr(module, name, state)
    # A copy, for the buffer is overwritten before the backward pass reads this.
    return state[:streams].to(dtype, copy=True)


def remember(module: Layer, name: str, value: Tensor) -> None:
    """Put ``value`` where ``remembered`` finds it, without its past."""
    state: Tensor = getattr(module, name)
    (state if len(state) == len(value) else state[: len(value)]).copy_(value.detach())


class _Recurrent(Layer):
    """What LSTM and RNN share: bottoms, state from pass to pass, projection of the inputs of all steps at once.

    Args:
        states: names of what is remembered from step to step, (N, D) each.
        streams: N to make room for. static: whether there is a bottom that stays the same for all steps.
        exposed: whether the first states are bottoms, and the last ones tops, instead of being carried over.
    """

    weight_x: Tensor
    bias: Tensor
    weight_static: Tensor
    weight_h: Tensor

    def __init__(
        self, states: tuple[str, ...], size: int, streams: int, *, static: bool, exposed: bool, gradients: str
    ) -> None:
        super().__init__()
        self.states = states
        self.size = size
        self.static = static
        self.exposed = exposed
        self.gradients = gradients
        if not exposed:
            self.carried = states
            for name in states:
                self.register_buffer(name, torch.zeros(streams, size, device="meta"), persistent=False)

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = bottoms[0]
        top = x.new_empty((*x.shape[:2], self.size))
        last = [x.new_empty((1, x.shape[1], self.size)) for _ in self.states if self.exposed]
        return (top, *last) if last else top

    def reset_state(self) -> None:
        if not self.exposed:
            for name in self.states:
                getattr(self, name).zero_()

    def inputs(self, x: Tensor, cont: Tensor, rest: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What the inputs contribute to each of the T steps: (N, rows of ``weight_x``)."""
        # Only an input of another size than the net was built for can be at fault.
        if cont.shape != x.shape[:2]:
            raise LayerError(
                f"x has shape {list(x.shape)} and cont {list(cont.shape)}; "
                f"(steps, streams), {list(x.shape[:2])}, was expected of cont",
                layer=self.layer_name,
            )
        projected = functional.linear(x.flatten(2), self.weight_x, self.bias)
        if self.static:
            projected = projected + functional.linear(rest[0].flatten(1), self.weight_static)
        return projected.unbind(0)

    def first_states(self, x: Tensor, rest: tuple[Tensor, ...]) -> list[Tensor]:
        """The states before the first step: bottoms, or what the last pass left."""
        if self.exposed:
            given = [state.squeeze(0) for state in rest[int(self.static) :]]
            # Caffe sends no gradient back through these bottoms.
            return given if self.gradients == "true" else [state.detach() for state in given]
        return [remembered(self, name, x.shape[1], x.dtype) for name in self.states]

    def last_states(self, values: list[Tensor]) -> list[Tensor]:
        """The tops for the states after the last step; remembers them where there are none."""
        if self.exposed:
            # Nor does Caffe listen to the gradients of these tops.
            return [(v if self.gradients == "true" else v.detach()).unsqueeze(0) for v in values]
        for name, value in zip(self.states, values, strict=True):
            remember(self, name, value)
        return []


class LSTM(_Recurrent):
    """Gates i, f, o, g = W x_t + b + W_static s + W_h (cont_t h); c = cont_t s(f) c + s(i) tanh(g); h = s(o) tanh(c).

    Bottoms x (T, N, ...), cont (T, N), optionally s (N, ...), and, if exposed, h and c (1, N, D) before the first step.
    Tops h (T, N, D) and, if exposed, the last h and c (1, N, D).
    """

    def forward(self, x: Tensor, cont: Tensor, *rest: Tensor) -> Tensor | tuple[Tensor, ...]:
        h, c = self.first_states(x, rest)
        recurrent = self.weight_h.t()
        outputs = []
        for inputs, go_on in zip(self.inputs(x, cont, rest), cont.detach().unsqueeze(-1).unbind(0), strict=True):
            c, h = lstm_unit(c, torch.addmm(inputs, go_on * h, recurrent), go_on, self.gradients)
            outputs.append(h)
        top = torch.stack(outputs)
        last = self.last_states([h, c])
        return (top, *last) if last else top


@layer("LSTM", bottoms=(2, 5), tops=(1, 3), unforced=(1,))
def lstm(spec: LayerSpec) -> Layer:
    params = spec.params("recurrent_param")
    size, streams, static = _check_recurrent(spec, params, ("h", "c"))
    module = LSTM(
        ("hidden", "cell"), size, streams, static=static, exposed=params.expose_hidden, gradients=spec.gradients
    )
    _declare_inputs(module, spec, params, 4 * size)
    module.blob("weight_h", (4 * size, size), params.weight_filler)
    return module


class RNN(_Recurrent):
    """h = tanh(W x_t + b + W_static s + W_h (cont_t h)); the top is tanh(W_out h + b_out) of every step.

    Bottoms x (T, N, ...), cont (T, N), optionally s (N, ...), and, if exposed, h (1, N, D) before the first step. Tops
    (T, N, D) and, if exposed, the last h (1, N, D).
    """

    weight_out: Tensor
    bias_out: Tensor

    def forward(self, x: Tensor, cont: Tensor, *rest: Tensor) -> Tensor | tuple[Tensor, ...]:
        (h,) = self.first_states(x, rest)
        recurrent = self.weight_h.t()
        hidden = []
        for inputs, go_on in zip(self.inputs(x, cont, rest), cont.detach().unsqueeze(-1).unbind(0), strict=True):
            h = torch.tanh(torch.addmm(inputs, go_on * h, recurrent))
            hidden.append(h)
        top = torch.tanh(functional.linear(torch.stack(hidden), self.weight_out, self.bias_out))
        last = self.last_states([h])
        return (top, *last) if last else top


@layer("RNN", bottoms=(2, 4), tops=(1, 2), unforced=(1,))
def rnn(spec: LayerSpec) -> Layer:
    params = spec.params("recurrent_param")
    size, streams, static = _check_recurrent(spec, params, ("h",))
    module = RNN(("hidden",), size, streams, static=static, exposed=params.expose_hidden, gradients=spec.gradients)
    _declare_inputs(module, spec, params, size)
    module.blob("weight_h", (size, size), params.weight_filler)
    module.blob("weight_out", (size, size), params.weight_filler)
    module.blob("bias_out", (size,), params.bias_filler)
    return module


def _check_recurrent(spec: LayerSpec, params: Params, states: tuple[str, ...]) -> tuple[int, int, bool]:
    """(num_output, streams, whether there is a static bottom); fails where Caffe does."""
    params.ignore("debug_info")  # only prints
    size: int = params.num_output
    if size < 1:
        spec.fail("recurrent_param.num_output must be positive")
    exposed = states if params.expose_hidden else ()
    least = 2 + len(exposed)
    if len(spec.bottoms) not in (least, least + 1):
        order = ", ".join(["x", "cont", "[static]", *(f"first {s}" for s in exposed)])
        spec.fail(f"takes {order} as bottoms (expose_hidden is {params.expose_hidden}), found {len(spec.bottoms)}")
    if len(spec.tops) != 1 + len(exposed):
        spec.fail(f"has {1 + len(exposed)} tops (expose_hidden is {params.expose_hidden}), found {len(spec.tops)}")
    steps, count, *_ = spec.shaped(0, "steps > 0", "streams", "values", ...)
    streams = f"streams = {count}"
    spec.shaped(1, f"steps = {steps}", streams)
    static = len(spec.bottoms) > least
    if static:
        spec.shaped(2, streams, "values", ...)
    for first_state in range(2 + static, len(spec.bottoms)):
        spec.shaped(first_state, 1, streams, f"outputs = {size}")
    return size, count, static


def _declare_inputs(module: _Recurrent, spec: LayerSpec, params: Params, rows: int) -> None:
    """The blobs that act on the inputs; they come first."""
    shapes = spec.bottom_shapes
    module.blob("weight_x", (rows, math.prod(shapes[0][2:])), params.weight_filler)
    module.blob("bias", (rows,), params.bias_filler)
    if module.static:
        module.blob("weight_static", (rows, math.prod(shapes[2][1:])), params.weight_filler)
