"""Recurrent layers, step by step: the number of steps is that the net was built for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_compat.layers.bvlc.recurrent import LSTM, RNN
from caffe_compat.layers.forks.lstm import Lstm

from .emitters import emits
from .graph import Site
from .sizes import Size

__all__: list[str] = []


def _steps(site: Site, x: str, count: int, axis: int = 0) -> list[str]:
    """``x`` without its first axis, once for each step."""
    if count == 1:
        return [site.op("Squeeze", x, site.ints([axis]))]
    parts = site.ops("Split", x, site.ints([1] * count), outputs=count, axis=axis)
    return [site.op("Squeeze", part, site.ints([axis])) for part in parts]


def _count(site: Site) -> int:
    steps = site.top_sizes[0][0]
    if not isinstance(steps, int):
        site.fail("runs for a number of steps that varies")
    return steps


def _projected(site: Site, weight: str, steps: int, streams: int | Size, width: int) -> list[str]:
    """What the inputs contribute to each step, (streams, values)."""
    module = site.module
    inputs = getattr(module, weight).shape[1]
    rows = site.op("Reshape", site.bottoms[0], site.ints([-1, inputs]))
    y = site.op("Gemm", rows, site.weight(weight), site.weight("bias"), transB=1)
    return _steps(site, site.reshape(y, (), (steps, streams, width)), steps)


def _begin(site: Site, name: str, streams: int | Size, width: int) -> str:
    """The state before the first step: zeros, or an input of the file."""
    if site.state == "inputs":
        full = f"{site.node.module_name}.{name}"
        site.graph.take(full)
        site.state_inputs[full] = (np.float32, ["batch" if isinstance(streams, Size) else streams, width])
        return full if site.kind is np.float32 else site.cast(full, site.kind)
    return site.op("Expand", site.floats(0), site.shape((streams, width)))


def _end(site: Site, name: str, value: str, streams: int | Size, width: int) -> None:
    if site.state == "inputs":
        full = f"{site.node.module_name}.{name}"
        site.state_outputs[full] = (value, ["batch" if isinstance(streams, Size) else streams, width])


def _stacked(site: Site, values: Sequence[str]) -> str:
    first = site.ints([0])
    return site.op("Concat", *[site.op("Unsqueeze", x, first) for x in values], axis=0)


def _transposed(site: Site, name: str) -> str:
    return site.op("Transpose", site.weight(name), perm=[1, 0])


def _caffe_inputs(site: Site, width: int) -> tuple[list[str], list[str], list[str]]:
    """Of BVLC's layers: contributions of the inputs, marks (streams, 1), and the first states, by step."""
    m, steps, streams = site.module, _count(site), site.top_sizes[0][1]
    inputs = _projected(site, "weight_x", steps, streams, width)
    rest = site.bottoms[2:]
    if m.static:
        flat = site.op("Reshape", rest[0], site.ints([-1, m.weight_static.shape[1]]))
        static = site.op("MatMul", flat, _transposed(site, "weight_static"))
        inputs = [site.op("Add", x, static) for x in inputs]
        rest = rest[1:]
    marks = _steps(site, site.op("Unsqueeze", site.bottoms[1], site.ints([2])), steps)
    if m.exposed:
        return inputs, marks, [site.op("Squeeze", x, site.ints([0])) for x in rest]
    return inputs, marks, [_begin(site, name, streams, m.size) for name in m.states]


def _caffe_tops(site: Site, top: str, last: Sequence[str]) -> list[str]:
    m, first = site.module, site.ints([0])
    if m.exposed:
        return [top, *[site.op("Unsqueeze", x, first) for x in last]]
    for name, value in zip(m.states, last, strict=True):
        _end(site, name, value, site.top_sizes[0][1], m.size)
    return [top]


@emits(LSTM)
def lstm(site: Site) -> list[str]:
    size = site.module.size
    inputs, marks, (hidden, cell) = _caffe_inputs(site, 4 * size)
    recurrent, quarters = _transposed(site, "weight_h"), site.ints([size] * 4)
    made = []
    for entering, mark in zip(inputs, marks, strict=True):
        gates = site.op("Add", entering, site.op("MatMul", site.op("Mul", mark, hidden), recurrent))
        enter, forget, leave, candidate = site.ops("Split", gates, quarters, outputs=4, axis=1)
        kept = site.op("Mul", site.op("Mul", mark, site.op("Sigmoid", forget)), cell)
        new = site.op("Mul", site.op("Sigmoid", enter), site.op("Tanh", candidate))
        cell = site.op("Add", kept, new)
        hidden = site.op("Mul", site.op("Sigmoid", leave), site.op("Tanh", cell))
        made.append(hidden)
    return _caffe_tops(site, _stacked(site, made), [hidden, cell])


@emits(RNN)
def rnn(site: Site) -> list[str]:
    size = site.module.size
    inputs, marks, (hidden,) = _caffe_inputs(site, size)
    recurrent, out = _transposed(site, "weight_h"), _transposed(site, "weight_out")
    made = []
    for entering, mark in zip(inputs, marks, strict=True):
        hidden = site.op("Tanh", site.op("Add", entering, site.op("MatMul", site.op("Mul", mark, hidden), recurrent)))
        made.append(hidden)
    projected = site.op("Add", site.op("MatMul", _stacked(site, made), out), site.weight("bias_out"))
    return _caffe_tops(site, site.op("Tanh", projected), [hidden])


@emits(Lstm)
def lstm_of_junhyukoh(site: Site) -> str:
    m, marked = site.module, len(site.bottoms) == 2
    sizes = site.bottom_sizes[0]
    if m.streams:
        rows = _count(site)
        steps, streams = rows // m.streams, m.streams
    else:
        steps, streams = _count(site), sizes[1]
    outputs = m.outputs
    inputs = _projected(site, "weight_input", steps, streams, 4 * outputs)
    if marked:
        hidden, cell = (_begin(site, name, streams, outputs) for name in m.carried)
        goes = site.cast(site.bottoms[1], np.bool_)
        flags = _steps(site, site.reshape(site.cast(goes, site.kind), (), (steps, streams, 1)), steps)
    else:
        hidden = cell = site.op("Expand", site.floats(0), site.shape((streams, outputs)))
        flags = [""] * steps
    recurrent, quarters = _transposed(site, "weight_hidden"), site.ints([outputs] * 4)
    made = []
    for entering, flag in zip(inputs, flags, strict=True):
        if flag:
            hidden, cell = site.op("Mul", hidden, flag), site.op("Mul", cell, flag)
        gates = site.op("Add", entering, site.op("MatMul", hidden, recurrent))
        enter, forget, leave, candidate = site.ops("Split", gates, quarters, outputs=4, axis=1)
        new = site.op("Mul", site.op("Sigmoid", enter), site.op("Tanh", candidate))
        cell = site.op("Add", site.op("Mul", site.op("Sigmoid", forget), cell), new)
        hidden = site.op("Mul", site.op("Sigmoid", leave), site.op("Tanh", cell))
        made.append(hidden)
    if marked:
        for name, value in zip(m.carried, (hidden, cell), strict=True):
            _end(site, name, value, streams, outputs)
    return site.reshape(_stacked(site, made), (steps, streams, outputs), site.top_sizes[0])
