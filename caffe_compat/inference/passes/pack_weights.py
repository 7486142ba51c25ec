"""Pass: weights in the order that the processor's kernels like best."""

from __future__ import annotations

from ..folding import is_kernel
from ..plan import Plan
from .base import Pass

__all__ = ["PACK_WEIGHTS"]


def _pack_weights(plan: Plan) -> int:
    packed = 0
    for group in plan.groups:
        if not group.packed and is_kernel(plan.module(group)) and len(group.bottoms) == 1:
            group.packed = True
            packed += 1
    plan.channels_last |= packed > 0
    return packed


PACK_WEIGHTS = Pass(
    "pack-weights",
    changes=(
        "Convolution and InnerProduct keep their weights as oneDNN's fused kernels want them (on a CPU, in float32) or "
        "with channels last (on a GPU, in half precision); tops of convolutions have channels last in memory then, and "
        "layers that care for the order are given rows of pixels"
    ),
    before="weights are final: what can be folded was folded",
    after="every such layer is packed where it can be",
    run=_pack_weights,
)
