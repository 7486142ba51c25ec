"""Pass: the sum of two blobs runs as part of the layer that makes one of them."""

from __future__ import annotations

from torch import nn

from ...layers.bvlc.elementwise import EltwiseSum
from ..folding import is_kernel
from ..plan import Group, Plan
from .base import Pass

__all__ = ["JOIN_SUM", "makes_memory_of_its_own"]


def makes_memory_of_its_own(plan: Plan, group: Group) -> bool:
    """Whether the top of ``group`` is in memory that it alone has, so that the rest can be done in place."""
    return group.affine is not None or (is_kernel(plan.module(group)) and len(group.bottoms) == 1)


def _join_sum(plan: Plan) -> int:
    joined = 0
    for group in plan.walk():
        if not group.folds or not makes_memory_of_its_own(plan, group):
            continue
        follower = plan.follower(group)
        if follower is not None and _is_plain_sum(plan.module(follower)):
            group.other = next(value for value in follower.bottoms if value != group.tops[0])
            plan.take(group, follower)
            joined += 1
    plan.in_place |= joined > 0
    return joined


def _is_plain_sum(module: nn.Module) -> bool:
    return type(module) is EltwiseSum and module.coefficients == (1, 1)


JOIN_SUM = Pass(
    "join-sum",
    changes="a plain Eltwise sum of two blobs is computed in place, in the memory of the layer that makes one of them",
    before="what can be folded was folded: behind a sum nothing can",
    after="no group that could take such a sum along is followed by one",
    run=_join_sum,
)
