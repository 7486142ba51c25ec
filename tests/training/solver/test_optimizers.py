from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from caffe_compat.errors import UsageError, WeightsError
from caffe_compat.training.solver import (
    CaffeAdaDelta,
    CaffeAdaGrad,
    CaffeAdam,
    CaffeNesterov,
    CaffeOptimizer,
    CaffeRMSProp,
    CaffeSGD,
)

Rule = Callable[[np.ndarray, np.ndarray, list[np.ndarray], float, int], np.ndarray]
ALL = (CaffeSGD, CaffeNesterov, CaffeAdaGrad, CaffeRMSProp, CaffeAdaDelta, CaffeAdam)


# The rules as the sources of Caffe spell them out, in float64: each changes the history and returns the update.


def sgd(g: np.ndarray, w: np.ndarray, h: list[np.ndarray], r: float, t: int) -> np.ndarray:
    h[0] = 0.9 * h[0] + r * g
    return h[0]


def nesterov(g: np.ndarray, w: np.ndarray, h: list[np.ndarray], r: float, t: int) -> np.ndarray:
    old, h[0] = h[0], 0.9 * h[0] + r * g
    return 1.9 * h[0] - 0.9 * old


def adagrad(g: np.ndarray, w: np.ndarray, h: list[np.ndarray], r: float, t: int) -> np.ndarray:
    h[0] = h[0] + g**2
    return r * g / (np.sqrt(h[0]) + 0.01)


def rmsprop(g: np.ndarray, w: np.ndarray, h: list[np.ndarray], r: float, t: int) -> np.ndarray:
    h[0] = 0.8 * h[0] + (1 - 0.8) * g**2
    return r * g / (np.sqrt(h[0]) + 0.01)


def adadelta(g: np.ndarray, w: np.ndarray, h: list[np.ndarray], r: float, t: int) -> np.ndarray:
    h[0] = 0.9 * h[0] + (1 - 0.9) * g**2
    u = g * np.sqrt((h[1] + 0.01) / (h[0] + 0.01))
    h[1] = 0.9 * h[1] + (1 - 0.9) * u**2
    return r * u


def adam(g: np.ndarray, w: np.ndarray, h: list[np.ndarray], r: float, t: int) -> np.ndarray:
    h[0] = 0.9 * h[0] + (1 - 0.9) * g
    h[1] = 0.99 * h[1] + (1 - 0.99) * g**2
    return r * math.sqrt(1 - 0.99**t) / (1 - 0.9**t) * h[0] / (np.sqrt(h[1]) + 0.01)


RULES: list[tuple[type[CaffeOptimizer], dict[str, float], Rule]] = [
    (CaffeSGD, {"momentum": 0.9}, sgd),
    (CaffeNesterov, {"momentum": 0.9}, nesterov),
    (CaffeAdaGrad, {"delta": 0.01}, adagrad),
    (CaffeRMSProp, {"rms_decay": 0.8, "delta": 0.01}, rmsprop),
    (CaffeAdaDelta, {"momentum": 0.9, "delta": 0.01}, adadelta),
    (CaffeAdam, {"momentum": 0.9, "momentum2": 0.99, "delta": 0.01}, adam),
]
SHAPES = [(3, 4), (5,), (2, 3, 2)]
MULTIPLIERS = [(1.0, 1.0), (2.0, 0.0), (0.5, 3.0)]


@pytest.mark.parametrize("regularization", ["L1", "L2"])
@pytest.mark.parametrize(("kind", "options", "rule"), RULES, ids=[kind.__name__ for kind, _, _ in RULES])
def test_rules(
    kind: type[CaffeOptimizer], options: dict[str, float], rule: Rule, regularization: str, device: torch.device
) -> None:
    rng = np.random.RandomState(0)
    params = [nn.Parameter(torch.tensor(rng.randn(*s), dtype=torch.float32, device=device)) for s in SHAPES]
    weights = [p.detach().cpu().double().numpy() for p in params]
    histories = [[np.zeros(s), np.zeros(s)] for s in SHAPES]
    optimizer = kind(
        [{"params": [p], "lr_mult": a, "decay_mult": b} for p, (a, b) in zip(params, MULTIPLIERS, strict=True)],
        lr=0.1,
        weight_decay=0.02,
        regularization_type=regularization,
        clip_gradients=3.0,
        iter_size=2,
        **options,
    )
    clipped = []
    for t in range(1, 6):
        rate = 0.1 / t
        size = 0.1 if t == 3 else 4.0
        grads = [size * rng.randn(*s) for s in SHAPES]
        norm = math.sqrt(sum((g**2).sum() for g in grads))
        clipped.append(norm > 3.0)
        for p, g in zip(params, grads, strict=True):
            p.grad = torch.tensor(g, dtype=torch.float32, device=device)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        assert optimizer.norm is not None
        assert float(optimizer.norm) == pytest.approx(norm, rel=1e-5)
        for i, (g, (lr_mult, decay_mult)) in enumerate(zip(grads, MULTIPLIERS, strict=True)):
            g = g * min(1.0, 3.0 / norm) / 2
            g = g + 0.02 * decay_mult * (weights[i] if regularization == "L2" else np.sign(weights[i]))
            weights[i] = weights[i] - rule(g, weights[i], histories[i], rate * lr_mult, t)
            np.testing.assert_allclose(params[i].detach().cpu().numpy(), weights[i], rtol=2e-5, atol=2e-6)
    assert clipped == [True, True, False, True, True]
    expected = [h[k] for k in range(optimizer.histories) for h in histories]
    for ours, theirs in zip(optimizer.history(), expected, strict=True):
        np.testing.assert_allclose(ours.cpu().numpy(), theirs, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("kind", ALL)
def test_history_and_state_dict_carry_everything(kind: type[CaffeOptimizer], device: torch.device) -> None:
    torch.manual_seed(0)
    first = [torch.randn(3, 2, device=device), torch.randn(4, device=device)]
    grads = [[torch.randn_like(p) for p in first] for _ in range(4)]

    def steps(optimizer: CaffeOptimizer, params: list[nn.Parameter], of: range) -> None:
        for k in of:
            for p, g in zip(params, grads[k], strict=True):
                p.grad = g.clone()
            optimizer.step()

    straight = [nn.Parameter(p.clone()) for p in first]
    one = kind(straight, lr=0.1)
    steps(one, straight, range(4))
    for way in ("history", "state_dict"):
        params = [nn.Parameter(p.clone()) for p in first]
        before = kind(params, lr=0.1)
        steps(before, params, range(2))
        after = kind(params, lr=0.1)
        if way == "history":
            after.load_history([h.clone() for h in before.history()], 2)
        else:
            after.load_state_dict(before.state_dict())
        steps(after, params, range(2, 4))
        assert all(torch.equal(a, b) for a, b in zip(straight, params, strict=True))


def test_a_parameter_without_gradient_has_the_gradient_zero() -> None:
    w, frozen, idle = (nn.Parameter(torch.ones(2)) for _ in range(3))
    groups: list[dict[str, Any]] = [
        {"params": [w]},
        {"params": [frozen], "lr_mult": 0.0},
        {"params": [idle], "decay_mult": 0.0},
    ]
    optimizer = CaffeSGD(groups, lr=0.1, momentum=0.5, weight_decay=0.2)
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.full((2,), 1 - 0.1 * 0.2))
    assert torch.equal(frozen, torch.ones(2))
    assert torch.equal(idle, torch.ones(2))
    # The history that a snapshot brought moves on without a gradient.
    optimizer.load_history([torch.zeros(2), torch.full((2,), 0.4), torch.full((2,), 0.8)], 7)
    optimizer.step()
    torch.testing.assert_close(frozen.detach(), torch.full((2,), 1 - 0.2))
    torch.testing.assert_close(idle.detach(), torch.full((2,), 1 - 0.4))
    assert optimizer.param_groups[0]["iteration"] == 8


def test_a_norm_that_is_no_number_scales_nothing() -> None:
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([math.nan]), torch.tensor([10.0])
    CaffeSGD([a, b], lr=1.0, clip_gradients=1.0).step()
    assert math.isnan(a.item())
    assert b.item() == -10


def test_clipping_to_zero_is_not_no_clipping() -> None:
    w = nn.Parameter(torch.ones(2))
    w.grad = torch.ones(2)
    CaffeSGD([w], lr=1.0, clip_gradients=0.0).step()
    assert torch.equal(w, torch.ones(2))


def test_closure_and_options() -> None:
    w = nn.Parameter(torch.tensor([2.0]))
    optimizer = CaffeSGD([w], lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4
    assert w.item() == pytest.approx(1.6)
    with pytest.raises(UsageError, match="regularization_type 'L3'"):
        CaffeSGD([w], lr=0.1, regularization_type="L3")
    with pytest.raises(UsageError, match="iter_size 0"):
        CaffeSGD([w], lr=0.1, iter_size=0)
    with pytest.raises(UsageError, match="rms_decay 1"):
        CaffeRMSProp([w], lr=0.1, rms_decay=1.0)
    with pytest.raises(UsageError, match="momentum2 1"):
        CaffeAdam([w], lr=0.1, momentum2=1.0)
    with pytest.raises(WeightsError, match="2 history blobs were given; CaffeSGD needs 1 for each of 1"):
        optimizer.load_history([torch.zeros(1)] * 2, 0)
    with pytest.raises(WeightsError, match=r"history blob 0 has shape \[2\]"):
        optimizer.load_history([torch.zeros(2)], 0)
