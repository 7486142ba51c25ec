"""Where a loss that is no finite number began."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import LayerError
from ...network.net import CaffeNet

__all__ = ["diverged"]


def diverged(net: CaffeNet, values: Sequence[Tensor | None], iteration: int) -> LayerError:
    """What to raise: the first layer whose weights or tops are not finite.

    Args:
        values: every value of the graph, of the pass that gave the loss, or of the same pass once more.
    """
    for node in net.graph.nodes:
        what = ""
        if node not in net.graph.sources:
            bad = [n for n, b in net.blobs_of(node.module_name).items() if not bool(torch.isfinite(b).all())]
            what = f"blob {bad[0]}" if bad else ""
        for value in node.tops:
            top = values[value]
            if not what and top is not None and not bool(torch.isfinite(top).all()):
                what = f"top {net.graph.blobs[value]!r}"
        if what:
            return LayerError(
                f"{what} is not finite (NaN or infinity) at iteration "
                f"{iteration}: the data is broken, or the learning rate too high",
                layer=node.name,
                type=node.type,
            )
    return LayerError(
        f"the loss is not finite at iteration {iteration}, though every blob of the same pass is, run again", layer=""
    )
