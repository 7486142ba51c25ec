"""Scale of caffe-windows, whose factors stay between bounds.

Source: happynear/caffe-windows, ``src/caffe/layers/scale_layer.cpp``; GuohongWu/caffe-windows has the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...network.registry import LayerSpec, layer
from ..bvlc.scale import Scale, along, scale, scale_parts
from ..exporting import is_exporting

__all__ = ["BoundedScale"]


_FORKS = ("happynear/caffe-windows", "GuohongWu/caffe-windows")


class BoundedScale(Scale):
    """:class:`..bvlc.scale.Scale` whose blob ``weight`` each pass first brings between ``low`` and ``high``."""

    low: float
    high: float

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        if is_exporting():  # a program's weights stay what they are
            weight = self.weight.clamp(self.low, self.high)
        else:
            with torch.no_grad():
                self.weight.clamp_(self.low, self.high)
            # A copy, for the next pass changes the blob, maybe before the gradient of this one is asked for.
            weight = self.weight.clone()
        y = torch.mul(x, along(weight, self.trailing))
        return y if self.bias is None else y.add_(along(self.bias, self.trailing))


@layer("Scale", bottoms=(1, 2), tops=1, dialects=_FORKS, verified=False)
def bounded_scale(spec: LayerSpec) -> nn.Module:
    params = spec.params("scale_param")
    given = [name for name in ("min_value", "max_value") if params.has(name)]
    if not given:
        return scale(spec)
    if len(spec.bottoms) == 2:
        spec.fail(f"{given[0]} is not supported beside a second bottom, over which the fork would write")
    module = BoundedScale(*scale_parts(spec))
    # Where the lower bound is above the upper one, the upper one has the last word.
    module.high = params.max_value if "max_value" in given else math.inf
    module.low = min(params.min_value, module.high) if "min_value" in given else -math.inf
    return module
