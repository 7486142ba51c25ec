"""Lstm against a slow forward and backward pass in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build, give_values, precise

FORK = "junhyukoh/caffe-lstm"


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _reference(
    x: np.ndarray, marks: np.ndarray | None, blobs: list[np.ndarray], state: Any, top_diff: np.ndarray, bound: float
) -> Any:
    """Forward and backward pass step by step: (top, last state, bottom_diff, blob diffs)."""
    w, u, b = blobs
    size = u.shape[1]
    steps = len(x)
    hidden, cell = [state[0]], [state[1]]
    gates, goes = [], []
    for t in range(steps):
        go = bool(marks[t]) if marks is not None else t > 0
        pre = x[t] @ w.T + b + (hidden[-1] @ u.T if go else 0)
        i, f, o, g = (
            _sigmoid(pre[:size]),
            _sigmoid(pre[size : 2 * size]),
            _sigmoid(pre[2 * size : 3 * size]),
            np.tanh(pre[3 * size :]),
        )
        f = f if go else np.zeros_like(f)
        cell.append(f * cell[-1] + i * g)
        hidden.append(o * np.tanh(cell[-1]))
        gates.append((i, f, o, g))
        goes.append(go)
    dx, dw, du, db = np.zeros_like(x), np.zeros_like(w), np.zeros_like(u), np.zeros_like(b)
    dh, dc = np.zeros(size), np.zeros(size)
    for t in reversed(range(steps)):
        i, f, o, g = gates[t]
        dh = dh + top_diff[t]
        tanh = np.tanh(cell[t + 1])
        dc = dc + dh * o * (1 - tanh**2)
        pre = np.concatenate(
            [dc * g * i * (1 - i), dc * cell[t] * f * (1 - f) * goes[t], dh * tanh * o * (1 - o), dc * i * (1 - g**2)]
        )
        if bound:
            pre = np.clip(pre, -bound, bound)
        dc = dc * f if goes[t] else np.zeros(size)
        dh = pre @ u if goes[t] else np.zeros(size)
        dx[t], db = pre @ w, db + pre
        dw, du = dw + np.outer(pre, x[t]), du + np.outer(pre, hidden[t])
    return np.array(hidden[1:]), (hidden[-1], cell[-1]), dx, (dw, du, db)


@pytest.mark.parametrize("bound", [0.0, 0.05])
@pytest.mark.parametrize("marked", [False, True])
def test_lstm(device: torch.device, marked: bool, bound: float) -> None:
    steps, inputs, outputs = 5, 4, 3
    text = f'type: "Lstm" lstm_param {{ num_output: 3 clipping_threshold: {bound} }}'
    shapes = [(steps, inputs), (steps, 1)][: 1 + marked]
    module = give_values(build(text, *shapes, dialect=FORK), device).to(precise(device))
    module.reset_state()
    blobs = [getattr(module, name).detach().cpu().numpy() for name in module.blob_names]
    assert [blob.shape for blob in blobs] == [(12, 4), (12, 3), (12,)]
    random = np.random.RandomState(1)
    state = (np.zeros(outputs), np.zeros(outputs))
    for round in range(2):  # the second goes on where the first ended
        x, top_diff = random.randn(steps, inputs), random.randn(steps, outputs)
        marks = np.array([round, 1, 1, 0, 1])[:, None] if marked else None
        if not marked:
            state = (np.zeros(outputs), np.zeros(outputs))
        top, state, dx, diffs = _reference(x, marks, blobs, state, top_diff, bound)
        given = torch.tensor(x, dtype=precise(device), device=device, requires_grad=True)
        module.zero_grad()
        found = module(given, *([torch.tensor(marks, device=device)] if marked else []))
        found.backward(torch.tensor(top_diff, dtype=precise(device), device=device))
        assert_equals(found, top)
        assert_equals(given.grad, dx)
        for name, diff in zip(module.blob_names, diffs, strict=True):
            assert_equals(getattr(module, name).grad, diff)


def test_streams_are_apart() -> None:
    text = 'type: "Lstm" lstm_param { num_output: 3 batch_size: 2 }'
    module = give_values(build(text, (6, 2, 2), dialect=FORK))
    x = torch.randn(3, 2, 4)
    both = module(x.reshape(6, 2, 2)).reshape(3, 2, 3)
    single = build('type: "Lstm" lstm_param { num_output: 3 }', (3, 4), dialect=FORK)
    give_values(single)
    for stream in range(2):
        assert_equals(single(x[:, stream]), both[:, stream])


def test_sequences_of_the_copies() -> None:
    """(steps, streams, values), whatever batch_size says; the first fork would take the same blob for rows."""
    text = 'type: "Lstm" lstm_param { num_output: 3 batch_size: 9 clipping_threshold: 0.02 }'
    x = torch.randn(5, 2, 4)
    for fork in ("tianzhi0549/CTPN", "senlinuc/caffe_ocr"):
        module = give_values(build(text, (5, 2, 4), dialect=fork))
        rows = give_values(build(text.replace("9", "2"), (10, 4), dialect=FORK))
        given, flat = x.clone().requires_grad_(), x.flatten(0, 1).requires_grad_()
        found, expected = module(given), rows(flat)
        assert found.shape == module.infer(x).shape == (5, 2, 3)
        assert_equals(found, expected.unflatten(0, (5, 2)))
        (10 * found).sum().backward()
        (10 * expected).sum().backward()
        assert_equals(given.grad, flat.grad.unflatten(0, (5, 2)))
        assert_equals(module.weight_hidden.grad, rows.weight_hidden.grad)
        assert module(x[:, :1]).shape == (5, 1, 3)
    assert build(text, (5, 2, 2, 2), dialect="dlunion/CC4.0").weight_input.shape == (12, 4)


def test_marks_of_several_streams() -> None:
    """Each stream begins and goes on by itself, also from pass to pass and when a stream is left out."""
    text = 'type: "Lstm" lstm_param { num_output: 3 }'
    module = give_values(build(text, (4, 2, 4), (4, 2), dialect="tonghe90/textspotter"))
    module.reset_state()
    single = give_values(build(text, (4, 1, 4), (4,), dialect="tonghe90/textspotter"))
    marks = torch.tensor([[1.0, 0], [1, 1], [0, 1], [1, 0]])
    passes = torch.randn(2, 4, 2, 4)
    found = [module(x, marks) for x in passes]
    for stream in range(2):
        single.reset_state()
        for x, both in zip(passes, found, strict=True):
            assert_equals(single(x[:, stream : stream + 1], marks[:, stream])[:, 0], both[:, stream])
    first = module.last_hidden[0].clone()
    module(passes[0, :, 1:], torch.zeros(4, 1))
    assert not torch.equal(module.last_hidden[0], first)
    assert_equals(module.last_hidden[1], found[-1][-1, 1])


def test_lstm_refuses() -> None:
    text = 'type: "Lstm" lstm_param { num_output: 3 batch_size: 2 }'
    with pytest.raises(LayerError, match="divide the rows"):
        build(text, (5, 4), dialect=FORK)
    with pytest.raises(LayerError, match="one stream only, found 2"):
        build(text, (6, 4), (6, 1), dialect=FORK)
    with pytest.raises(LayerError, match="one stream only, found 3"):
        build(text, (6, 3, 4), (6, 3), dialect="tianzhi0549/CTPN")
    with pytest.raises(LayerError, match=r"\(marks = 6,\) was expected"):
        build(text, (6, 1, 4), (6, 2), dialect="tianzhi0549/CTPN")
    with pytest.raises(LayerError, match=r"\(steps = 6, streams = 3\) was expected"):
        build(text, (6, 3, 4), (6, 3, 2), dialect="tonghe90/textspotter")
    with pytest.raises(LayerError, match=r"\(steps, streams, values\) was expected"):
        build(text, (6, 3, 2, 2), dialect="senlinuc/caffe_ocr")
    with pytest.raises(LayerError, match=r"\(steps > 0, streams > 0, values, ...\) was expected"):
        build(text, (6, 4), dialect="senlinuc/caffe_ocr")
    with pytest.raises(LayerError, match="num_output must be at least 1"):
        build('type: "Lstm" lstm_param { }', (6, 1, 4), dialect="senlinuc/caffe_ocr")
