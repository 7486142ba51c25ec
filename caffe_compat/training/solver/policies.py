"""Learning-rate policies: the rate as a function of the settings, the iteration and the step reached.

The formulas are those of BVLC Caffe 1.0.0's ``SGDSolver::GetLearningRate``. Caffe computes in float32, and so does
this: the inputs are float32 numbers already, and each operation that Caffe does in float32 is rounded here too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import UsageError

__all__ = ["POLICIES", "Policy", "rate", "rate_at", "step_after"]

POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid")
_USES_GAMMA = ("step", "exp", "inv", "multistep", "sigmoid")
_USES_STEPSIZE = ("step", "sigmoid")


@dataclass(frozen=True)
class Policy:
    """One policy with its numbers.

    Attributes:
        name: one of :data:`POLICIES`. base_lr, gamma, power, stepsize, stepvalue, max_iter: as in a solver file.

    Raises:
        UsageError: an unknown name, or a number that Caffe refuses.
    """

    name: str
    base_lr: float
    gamma: float = 0.0
    power: float = 0.0
    stepsize: int = 0
    stepvalue: Sequence[int] = ()
    max_iter: int = 0

    def __post_init__(self) -> None:
        if self.name not in POLICIES:
            raise UsageError(f"lr_policy {self.name!r} is unknown; Caffe has {', '.join(POLICIES)}")
        if self.name in _USES_GAMMA and not self.gamma >= 0:
            raise UsageError(f"lr_policy {self.name!r} takes a gamma of at least 0, found {self.gamma:g}")
        if self.name in _USES_STEPSIZE and self.stepsize <= 0:
            raise UsageError(f"lr_policy {self.name!r} takes a stepsize above 0, found {self.stepsize}")
        if self.name == "poly" and self.max_iter <= 0:
            raise UsageError(f"lr_policy 'poly' takes a max_iter above 0, found {self.max_iter}")


def step_after(policy: Policy, iteration: int, step: int) -> int:
    """The step (Caffe's ``current_step``) in force at ``iteration``, where ``step`` was in force at the one before.

    ``multistep`` moves on by at most one step an iteration, as Caffe does.
    """
    if policy.name == "step":
        return iteration // policy.stepsize
    if policy.name == "multistep" and step < len(policy.stepvalue) and iteration >= policy.stepvalue[step]:
        return step + 1
    return step


def rate(policy: Policy, iteration: int, step: int) -> float:
    """The learning rate of ``iteration`` (counted from 0), where ``step`` comes from :func:`step_after`."""
    base, gamma, f = policy.base_lr, policy.gamma, np.float32
    with np.errstate(all="ignore"):
        if policy.name == "fixed":
            value = base
        elif policy.name in ("step", "multistep"):
            value = base * _power(gamma, step)
        elif policy.name == "exp":
            value = base * _power(gamma, iteration)
        elif policy.name == "inv":
            value = base * _power(float(f(1) + f(gamma) * f(iteration)), -policy.power)
        elif policy.name == "poly":
            value = base * _power(float(f(1) - f(iteration) / f(policy.max_iter)), policy.power)
        else:
            decay = float(np.exp(np.float64(f(-gamma) * (f(iteration) - f(policy.stepsize)))))
            value = base * float(f(1) / (f(1) + f(decay)))
    return float(f(value))


def rate_at(policy: Policy, iteration: int) -> float:
    """The learning rate of ``iteration`` in a run that began at 0."""
    step, reached = 0, -1
    for value in policy.stepvalue if policy.name == "multistep" else ():
        reached = max(value, reached + 1)
        step += reached <= iteration
    return rate(policy, iteration, step_after(policy, iteration, 0) if policy.name == "step" else step)


def _power(base: float, exponent: float) -> float:
    """C's pow: no exception where Python raises one, and no complex numbers."""
    try:
        return math.pow(base, exponent)
    except ValueError:
        return math.nan if base < 0 else math.inf
    except OverflowError:
        return math.inf
