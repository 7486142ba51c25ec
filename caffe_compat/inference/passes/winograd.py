"""Pass: large 3x3 convolutions with a quarter of the multiplications."""

from __future__ import annotations

from ...layers.bvlc.convolution import Convolution
from ..plan import Plan
from ..winograd import pays
from .base import Pass

__all__ = ["WINOGRAD"]


def _use_winograd(plan: Plan) -> int:
    chosen = 0
    for group in plan.groups:
        module = plan.module(group)
        if group.winograd or type(module) is not Convolution or len(group.bottoms) != 1 or not _is_plain_3x3(module):
            continue
        if pays(module.weight, plan.net.shapes[group.bottoms[0]], module.pad):
            group.winograd = True
            chosen += 1
    plan.channels_last |= chosen > 0
    return chosen


def _is_plain_3x3(layer: Convolution) -> bool:
    geometry = (layer.geometry.kernel, layer.stride, layer.dilation, layer.group)
    return layer.direct and geometry == ((3, 3), (1, 1), (1, 1), 1)


WINOGRAD = Pass(
    "winograd",
    changes=(
        "3x3 convolutions with stride 1 and many channels, on a CPU in float32 with oneDNN, go by Winograd's minimal "
        "filtering, which changes results by a few millionths of the largest"
    ),
    before="weights are final: what can be folded was folded",
    after="every convolution for which it pays is computed so",
    run=_use_winograd,
)
