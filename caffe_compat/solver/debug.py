"""The lines of ``debug_info``: mean absolute values of blobs and gradients, in the words of Caffe's log.

Caffe also shows its ``Split`` layers, which do not exist here.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..cxx_format import cxx_number
from ..net import CaffeNet
from .structure import LearnableBlob

__all__ = ["backward_lines", "forward_lines"]


def forward_lines(net: CaffeNet, values: Sequence[Tensor | None]) -> list[str]:
    """After a forward pass: every top and every blob."""
    lines = []
    for node in net.graph.nodes:
        for v in node.tops:
            lines.append(f"    [Forward] Layer {node.name}, top blob {net.graph.blobs[v]} data: {_mean(values[v])}")
        if node in net.graph.sources:
            continue
        for i, tensor in enumerate(net.blobs_of(node.module_name).values()):
            name = (node.message.param[i].name if i < len(node.message.param) else "") or str(i)
            lines.append(f"    [Forward] Layer {node.name}, param blob {name} data: {_mean(tensor)}")
    return lines


def backward_lines(net: CaffeNet, values: Sequence[Tensor | None], learnable: Sequence[LearnableBlob]) -> list[str]:
    """After a backward pass: gradients of every bottom and blob that has one, last layer first, then norms over all."""
    lines = []
    for node in reversed(net.graph.nodes):
        for v in node.bottoms:
            value = values[v]
            if value is not None and value.grad is not None:
                lines.append(
                    f"    [Backward] Layer {node.name}, bottom blob {net.graph.blobs[v]} diff: {_mean(value.grad)}"
                )
        if node in net.graph.sources:
            continue
        for i, tensor in enumerate(net.blobs_of(node.module_name).values()):
            if tensor.grad is not None:
                lines.append(f"    [Backward] Layer {node.name}, param blob {i} diff: {_mean(tensor.grad)}")
    data = [blob.tensor.detach() for blob in learnable]
    diff = [blob.tensor.grad for blob in learnable if blob.tensor.grad is not None]
    lines.append(
        f"    [Backward] All net params (data, diff): L1 norm = ({_norm(data, 1)}, {_norm(diff, 1)}); "
        f"L2 norm = ({_norm(data, 2)}, {_norm(diff, 2)})"
    )
    return lines


def _mean(value: Tensor | None) -> str:
    return cxx_number(float(value.detach().float().abs().mean())) if value is not None else "nan"


def _norm(tensors: Sequence[Tensor], order: int) -> str:
    return cxx_number(sum(float(t.double().abs().pow(order).sum()) for t in tensors) ** (1 / order))
