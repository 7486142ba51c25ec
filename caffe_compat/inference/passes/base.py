"""What a pass is: one rewriting of a plan, with a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..plan import Plan

__all__ = ["Pass", "PassRun", "rewrite"]


@dataclass(frozen=True)
class Pass:
    """One rewriting of a plan.

    Attributes:
        name: for users, who may choose passes by it.
        changes: what becomes of the net. before, after: what holds of the plan then, besides what holds of every plan
            (:meth:`caffe_compat.inference.plan.Plan.check`).
        run: does it, and returns in how many places; there is nothing left for it to do then.
    """

    name: str
    changes: str
    before: str
    after: str
    run: Callable[[Plan], int]


@dataclass(frozen=True)
class PassRun:
    """That a pass ran, and in how many places it found something to change."""

    name: str
    places: int

    def __str__(self) -> str:
        return f"{self.name} ({self.places})"


def rewrite(plan: Plan, passes: Sequence[Pass]) -> tuple[PassRun, ...]:
    """Run ``passes`` one after the other.

    Raises:
        AssertionError: what holds of every plan does not hold behind one of them, which is wrong then.
    """
    plan.check()
    ran = []
    for each in passes:
        ran.append(PassRun(each.name, each.run(plan)))
        plan.check()
    return tuple(ran)
