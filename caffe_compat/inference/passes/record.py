"""Pass: on a GPU, runs of layers are recorded once and played back."""

from __future__ import annotations

from ..plan import Plan
from ..recording import recordable
from .base import Pass

__all__ = ["RECORD"]


def _record(plan: Plan) -> int:
    chosen = 0
    for group in plan.groups:
        if not group.recorded and recordable(plan.module(group)):
            group.recorded = True
            chosen += 1
    return chosen


RECORD = Pass(
    "record",
    changes=(
        "on a GPU, layers whose work depends on nothing but shapes are recorded as CUDA graphs, by the shapes of the "
        "inputs, and later runs play these back"
    ),
    before="the layers are final: what runs together was put together",
    after="every such layer may be recorded when the program runs on a GPU",
    run=_record,
)
