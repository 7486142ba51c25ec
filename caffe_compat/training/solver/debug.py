"""The lines of ``debug_info``: mean absolute values of blobs and gradients, in the words of Caffe's log.

They are those of ``Net::ForwardDebugInfo`` and ``BackwardDebugInfo``. Caffe adds a ``Split`` layer wherever a blob is
read more than once. There is none here, so a value's readers are watched: the gradient that one of them sends back is
that of its own top of the split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from ...formats.cxx_numbers import cxx_number
from ...network.graph import Node
from ...network.net import CaffeNet
from ...schema.messages import LayerParameter
from .structure import LearnableBlob, layers_of_snapshot

__all__ = ["Watched", "backward_lines", "forward_lines", "watch"]

# A reading node's module name -> its bottoms as it read them in the last pass.
Watched = Mapping[str, tuple[Tensor | None, ...]]


@contextmanager
def watch(net: CaffeNet) -> Iterator[Watched]:
    """Every layer that runs within the block reads tensors of its own, which keep their gradients."""
    read: dict[str, tuple[Tensor | None, ...]] = {}
    handles = []
    for node in net.graph.computed:

        def own_bottoms(
            module: nn.Module, bottoms: tuple[Tensor | None, ...], name: str = node.module_name
        ) -> tuple[Tensor | None, ...]:
            read[name] = tuple(x.view_as(x) if x is not None and x.requires_grad else x for x in bottoms)
            for x in read[name]:
                if x is not None and x.requires_grad:
                    x.retain_grad()
            return read[name]

        handles.append(net.get_submodule(node.module_name).register_forward_pre_hook(own_bottoms))
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()


def forward_lines(net: CaffeNet, values: Sequence[Tensor | None]) -> list[str]:
    """After a forward pass: every top and every blob."""
    lines = []
    for name, layer, node, maker in _layers(net):
        # All tops of a split hold what it splits.
        made = maker.tops if node is not None else [_split_value(layer, maker)] * len(layer.top)
        blobs = [net.graph.blobs[v] for v in made] if node is not None else layer.top
        for blob, v in zip(blobs, made, strict=True):
            lines.append(f"    [Forward] Layer {name}, top blob {blob} data: {_mean(values[v])}")
        if node is None or node in net.graph.sources:
            continue
        for i, tensor in enumerate(net.blobs_of(node.module_name).values()):
            blob = (node.message.param[i].name if i < len(node.message.param) else "") or str(i)
            lines.append(f"    [Forward] Layer {name}, param blob {blob} data: {_mean(tensor)}")
    return lines


def backward_lines(
    net: CaffeNet, values: Sequence[Tensor | None], read: Watched, learnable: Sequence[LearnableBlob]
) -> list[str]:
    """After a backward pass: gradients of every bottom and blob that has one, last layer first, then norms over all.

    Args:
        values: of the pass, with their gradients. read: what :func:`watch` gave.
    """
    lines = []
    for name, layer, node, maker in reversed(_layers(net)):
        if node is None:
            bottoms: Sequence[Tensor | None] = [values[_split_value(layer, maker)]]
        else:
            bottoms = read.get(node.module_name, ())
        # A source has bottoms in no definition.
        for blob, tensor in zip(layer.bottom, bottoms, strict=False):
            if tensor is not None and tensor.grad is not None:
                lines.append(f"    [Backward] Layer {name}, bottom blob {blob} diff: {_mean(tensor.grad)}")
        if node is None or node in net.graph.sources:
            continue
        for i, tensor in enumerate(net.blobs_of(node.module_name).values()):
            if tensor.grad is not None:
                lines.append(f"    [Backward] Layer {name}, param blob {i} diff: {_mean(tensor.grad)}")
    data = [blob.tensor.detach() for blob in learnable]
    diff = [blob.tensor.grad for blob in learnable if blob.tensor.grad is not None]
    lines.append(
        f"    [Backward] All net params (data, diff): L1 norm = ({_norm(data, 1)}, {_norm(diff, 1)}); "
        f"L2 norm = ({_norm(data, 2)}, {_norm(diff, 2)})"
    )
    return lines


def _layers(net: CaffeNet) -> list[tuple[str, LayerParameter, Node | None, Node]]:
    """Caffe's layers: name, ``LayerParameter``, node (None for a split), and the last node up to here."""
    message, nodes = layers_of_snapshot(net)
    found = []
    maker = net.graph.nodes[0]
    for layer, node in zip(message.layer, nodes, strict=True):
        maker = node or maker
        found.append((layer.name, layer, node, maker))
    return found


def _split_value(split: LayerParameter, maker: Node) -> int:
    """The value that ``split``, right behind its maker, splits."""
    return maker.tops[list(maker.message.top).index(split.bottom[0])]


def _mean(value: Tensor | None) -> str:
    return cxx_number(float(value.detach().float().abs().mean())) if value is not None else "nan"


def _norm(tensors: Sequence[Tensor], order: int) -> str:
    return cxx_number(sum(float(t.double().abs().pow(order).sum()) for t in tensors) ** (1 / order))
