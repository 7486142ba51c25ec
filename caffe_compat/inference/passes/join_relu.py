"""Pass: a ReLU runs as part of the layer before it."""

from __future__ import annotations

from ...layers.bvlc.activation import ReLU
from ..plan import Plan
from .base import Pass
from .join_sum import makes_memory_of_its_own

__all__ = ["JOIN_RELU"]


def _join_relu(plan: Plan) -> int:
    joined = 0
    for group in plan.walk():
        if group.slope is not None or not makes_memory_of_its_own(plan, group):
            continue
        follower = plan.follower(group)
        module = None if follower is None else plan.module(follower)
        if follower is not None and type(module) is ReLU:
            group.slope = module.negative_slope
            plan.take(group, follower)
            joined += 1
    plan.in_place |= joined > 0
    return joined


JOIN_RELU = Pass(
    "join-relu",
    changes="a ReLU, leaky or not, is computed in place, in the memory of the layer or sum before it",
    before="sums were taken along: the ReLU comes behind them",
    after="no group that could take a ReLU along is followed by one",
    run=_join_relu,
)
