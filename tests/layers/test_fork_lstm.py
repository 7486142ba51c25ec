"""Lstm against a slow forward and backward pass in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from building import assert_equals, build, give_values, precise

from caffe_compat.errors import LayerError

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


def test_lstm_refuses() -> None:
    text = 'type: "Lstm" lstm_param { num_output: 3 batch_size: 2 }'
    with pytest.raises(LayerError, match="divide the rows"):
        build(text, (5, 4), dialect=FORK)
    with pytest.raises(LayerError, match="batch_size 1 only"):
        build(text, (6, 4), (6, 1), dialect=FORK)
