"""The network as Caffe holds it while it trains: what a snapshot contains besides weights, and what a solver moves.

Caffe writes the layers of the phase with what building added to them: the phase, ``Split`` layers where a blob is read
more than once, the loss weight of losses, and rates of zero for the statistics of BatchNorm.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ...network.graph import Node
from ...network.net import CaffeNet
from ...network.registry import find_layer
from ...schema.enums import enum_number
from ...schema.messages import LayerParameter, NetParameter

__all__ = ["LearnableBlob", "layers_of_snapshot", "learnable_blobs"]


@dataclass(frozen=True)
class LearnableBlob:
    """A blob that a solver moves, owned by the first layer that holds it.

    Attributes:
        name: its full name in the net. layer: of the owner. display: Caffe's name for it, its own or its index.
        tensor: a parameter, or the buffer of statistics.
    """

    name: str
    layer: str
    display: str
    tensor: Tensor
    lr_mult: float
    decay_mult: float


def learnable_blobs(net: CaffeNet) -> list[LearnableBlob]:
    """The blobs of ``net`` in the order of Caffe's ``learnable_params``, which is that of a solverstate's history.

    Statistics (buffers) are among them, with a rate of 0.
    """
    found: list[LearnableBlob] = []
    seen: set[int] = set()
    for node in net.nodes_with_blobs():
        for i, (name, tensor) in enumerate(net.blobs_of(node.module_name).items()):
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            full = f"{node.module_name}.{name}"
            spec = net.param_specs[full]
            own = node.message.param[i].name if i < len(node.message.param) else ""
            lr_mult = spec.lr_mult if isinstance(tensor, nn.Parameter) else 0.0
            found.append(LearnableBlob(full, node.name, own or str(i), tensor, lr_mult, spec.decay_mult))
    return found


def layers_of_snapshot(net: CaffeNet) -> tuple[NetParameter, list[Node | None]]:
    """A ``NetParameter`` with the layers that Caffe would write for ``net``, without blobs, and each layer's node.

    Layers that Caffe adds (``Split``) have None for a node. The rules are those of ``InsertSplits`` and ``Net::Init``.
    """
    graph = net.graph
    readers = [0] * len(graph.blobs)  # uses of each value: bottoms, and the loss if the definition gives a weight
    weights: dict[int, float] = {}
    for node in graph.nodes:
        for value in node.bottoms:
            readers[value] += 1
        for value, weight in zip(node.tops, node.message.loss_weight, strict=False):
            weights[value] = weight
            readers[value] += weight != 0
    origin = {value: (node.name, i) for node in graph.nodes for i, value in enumerate(node.tops)}

    out = type(net.message)()
    out.name = net.message.name
    nodes: list[Node | None] = []
    used = [0] * len(graph.blobs)

    def split_name(value: int) -> str:
        layer, top = origin[value]
        return f"{graph.blobs[value]}_{layer}_{top}_split"

    for node in graph.nodes:
        layer = out.layer.add()
        nodes.append(node)
        layer.CopyFrom(node.message)
        layer.DiscardUnknownFields()  # fields that no schema knows, kept from the text for error messages
        layer.ClearField("blobs")
        if not layer.HasField("phase"):
            layer.phase = enum_number(layer, "phase", graph.state.phase)
        for i, value in enumerate(node.bottoms):
            if readers[value] > 1:
                layer.bottom[i] = f"{split_name(value)}_{used[value]}"
                used[value] += 1
        for value in node.tops:
            if readers[value] <= 1:
                continue
            split = out.layer.add(name=split_name(value), type="Split", bottom=[graph.blobs[value]], phase=layer.phase)
            nodes.append(None)
            split.top.extend(f"{split_name(value)}_{k}" for k in range(readers[value]))
            if weights.get(value, 0) != 0:
                split.loss_weight.extend([weights[value], *[0.0] * (readers[value] - 1)])
                layer.ClearField("loss_weight")
                used[value] = 1
        _complete(layer, net, node)
    return out, nodes


def _complete(layer: LayerParameter, net: CaffeNet, node: Node) -> None:
    """What Caffe's layers add to their own message when they are built."""
    if node in net.graph.sources:
        return
    if find_layer(node.type, net.dialect).is_loss and not layer.loss_weight:
        layer.loss_weight.append(1.0)
    if node.type == "BatchNorm":
        # A scale and a shift, where a fork has them among its blobs, are learned.
        for blob in list(net.blobs_of(node.module_name).values())[len(layer.param) :]:
            layer.param.add(lr_mult=1.0 if isinstance(blob, nn.Parameter) else 0.0)
