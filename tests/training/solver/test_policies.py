from __future__ import annotations

import math

import numpy as np
import pytest

from caffe_compat.errors import UsageError
from caffe_compat.training.solver.policies import Policy, rate, rate_at, step_after

F = np.float32


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Policy("fixed", 0.5), lambda i: 0.5),
        (Policy("step", 0.5, gamma=0.25, stepsize=3), lambda i: 0.5 * 0.25 ** (i // 3)),
        (Policy("exp", 0.5, gamma=0.75), lambda i: 0.5 * 0.75**i),
        (Policy("inv", 0.5, gamma=0.125, power=0.75), lambda i: 0.5 * (1 + 0.125 * i) ** -0.75),
        (Policy("multistep", 0.5, gamma=0.25, stepvalue=(2, 5)), lambda i: 0.5 * 0.25 ** ((i >= 2) + (i >= 5))),
        (Policy("poly", 0.5, power=1.5, max_iter=20), lambda i: 0.5 * (1 - i / 20) ** 1.5),
        (Policy("sigmoid", 0.5, gamma=0.5, stepsize=4), lambda i: 0.5 / (1 + math.exp(-0.5 * (i - 4)))),
    ],
    ids=lambda x: x.name if isinstance(x, Policy) else "",
)
def test_formulas(policy: Policy, expected: object) -> None:
    step = 0
    for i in range(21):
        step = step_after(policy, i, step)
        # 1 - i / max_iter cancels in float32, so poly is off by more than a rounding.
        assert rate(policy, i, step) == pytest.approx(expected(i), rel=1e-6)
        assert rate_at(policy, i) == rate(policy, i, step)
        assert rate(policy, i, step) == float(F(rate(policy, i, step)))


def test_multistep_moves_one_step_an_iteration() -> None:
    """Two values at once, and one before its predecessor, are reached one iteration after the other."""
    policy = Policy("multistep", 1.0, gamma=0.5, stepvalue=(3, 3, 1))
    steps, step = [], 0
    for i in range(7):
        step = step_after(policy, i, step)
        steps.append(step)
    assert steps == [0, 0, 0, 1, 2, 3, 3]
    assert [rate_at(policy, i) for i in range(7)] == [0.5**s for s in steps]


def test_numbers_that_c_takes() -> None:
    assert rate_at(Policy("step", 1.0, gamma=0.0, stepsize=2), 1) == 1  # 0 to the power of 0
    assert rate_at(Policy("step", 1.0, gamma=0.0, stepsize=2), 2) == 0
    assert math.isnan(rate_at(Policy("poly", 1.0, power=0.5, max_iter=3), 4))
    assert math.isinf(rate_at(Policy("exp", 1.0, gamma=10.0), 1000))
    assert rate_at(Policy("sigmoid", 1.0, gamma=10.0, stepsize=1000), 0) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "", "base_lr": 1}, "lr_policy '' is unknown"),
        ({"name": "plateau", "base_lr": 1}, "multistep"),
        ({"name": "step", "base_lr": 1, "gamma": 0.1}, "stepsize above 0, found 0"),
        ({"name": "exp", "base_lr": 1, "gamma": -0.1}, "gamma of at least 0, found -0.1"),
        ({"name": "poly", "base_lr": 1, "power": 1}, "max_iter above 0"),
    ],
)
def test_refused(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Policy(**options)
