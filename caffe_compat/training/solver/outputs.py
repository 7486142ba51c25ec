"""The numbers of a net's output blobs, as Caffe's log counts them through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...network.net import CaffeNet
from .events import BlobOutput

__all__ = ["numbered", "output_numbers", "outputs_of"]


def output_numbers(net: CaffeNet, values: Sequence[Tensor | None]) -> tuple[BlobOutput, ...]:
    """Every number of the output blobs among ``values``, in the order of Caffe's log."""
    return numbered(net, {blob: values[v] for blob, v in outputs_of(net)})


def outputs_of(net: CaffeNet) -> list[tuple[str, int]]:
    """Output blobs with their value ids, in the order of Caffe, which keeps them in a sorted set."""
    return sorted((net.graph.blobs[v], v) for v in net.graph.outputs)


def numbered(net: CaffeNet, outputs: Mapping[str, Tensor | None]) -> tuple[BlobOutput, ...]:
    """The numbers of output blobs, counted through."""
    weights = {net.graph.blobs[v]: w for v, w in net.loss_weights.items()}
    found: list[BlobOutput] = []
    for blob, value in outputs.items():
        numbers: list[Any] = [] if value is None else value.detach().flatten().tolist()
        found += [BlobOutput(len(found) + i, blob, number, weights.get(blob, 0.0)) for i, number in enumerate(numbers)]
    return tuple(found)
