"""Pass: layers that do nothing in testing are left out."""

from __future__ import annotations

from torch import nn

from ...layers.bvlc.dropout import Dropout
from ...layers.bvlc.shape import Split
from ..plan import Plan
from .base import Pass

__all__ = ["DROP_IDLE"]


def _drop_idle(plan: Plan) -> int:
    idle = [group for group in plan.groups if len(group.nodes) == 1 and _does_nothing(plan.module(group))]
    for group in idle:
        plan.drop(group)
    return len(idle)


def _does_nothing(module: nn.Module) -> bool:
    # A Dropout of a fork that scales in testing instead of in training is no such layer; it is folded.
    return type(module) is Split or (type(module) is Dropout and module.scale_train)


DROP_IDLE = Pass(
    "drop-idle",
    changes="Split, and Dropout that scales in training, are left out: their tops are their bottom",
    before="no layer has taken another along",
    after="no such layer is left",
    run=_drop_idle,
)
