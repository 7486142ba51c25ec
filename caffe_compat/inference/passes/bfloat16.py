"""Pass: convolutions and inner products in bfloat16, all that needs more digits in single precision."""

from __future__ import annotations

from ..folding import is_kernel
from ..plan import Plan
from .base import Pass

__all__ = ["BFLOAT16"]


def _reduce(plan: Plan) -> int:
    reduced = 0
    for group in plan.groups:
        if not group.reduced and is_kernel(plan.module(group)) and len(group.bottoms) == 1:
            group.reduced = True
            group.winograd = False  # whose rounding errors bfloat16 would make much larger
            reduced += 1
    plan.reduced |= reduced > 0
    return reduced


BFLOAT16 = Pass(
    "bfloat16",
    changes=(
        "Convolution, Deconvolution and InnerProduct keep their weights, and make their tops, in bfloat16; layers that "
        "compute more than a maximum, a sum or a copy are given single precision, and so is whoever reads an output"
    ),
    before="weights are final: what can be folded was folded in full precision",
    after="every such layer with one bottom is of bfloat16",
    run=_reduce,
)
