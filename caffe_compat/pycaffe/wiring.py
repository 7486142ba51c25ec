"""A network's layers as Caffe's ``Net`` holds them: with its Split layers, and with what needs a backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..network.gradients import forced, learns
from ..network.graph import Node
from ..network.net import CaffeNet
from ..schema.messages import LayerParameter
from ..training.solver.structure import layers_of_snapshot

__all__ = ["Wire", "need_backward", "wire"]


@dataclass(frozen=True)
class Wire:
    """One layer.

    Attributes:
        message: its ``LayerParameter`` with what Caffe adds to it. node: None for a Split.
        bottoms, tops: blob names. loss_weights: one for each top.
    """

    name: str
    type: str
    message: LayerParameter
    node: Node | None
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    loss_weights: tuple[float, ...]


def wire(net: CaffeNet) -> list[Wire]:
    """The layers of ``net`` in Caffe's order."""
    message, nodes = layers_of_snapshot(net)
    return [
        Wire(
            layer.name,
            layer.type,
            layer,
            node,
            tuple(layer.bottom),
            tuple(layer.top),
            tuple(layer.loss_weight[i] if i < len(layer.loss_weight) else 0.0 for i in range(len(layer.top))),
        )
        for layer, node in zip(message.layer, nodes, strict=True)
    ]


def need_backward(net: CaffeNet, wires: Sequence[Wire]) -> tuple[list[bool], list[tuple[bool, ...]]]:
    """For each layer whether Caffe runs its backward pass, and which of its bottoms get a gradient (``Net::Init``)."""
    layers: list[bool] = []
    bottoms: list[list[bool]] = []
    needing: dict[str, bool] = {}
    for w in wires:
        given = list(w.message.propagate_down)
        bottoms.append([given[i] if given else needing[name] for i, name in enumerate(w.bottoms)])
        layers.append(_learns(net, w) or any(needing[name] for name in w.bottoms))
        for i, name in enumerate(w.tops):
            in_place = i < len(w.bottoms) and w.bottoms[i] == name
            needing[name] = layers[-1] or (in_place and needing[name])

    under_loss: set[str] = set()
    skipped: set[str] = set()
    for k in reversed(range(len(wires))):
        w = wires[k]
        contributes = skips = False
        if w.tops:
            contributes = any(
                weight != 0 or name in under_loss for name, weight in zip(w.tops, w.loss_weights, strict=True)
            )
            skips = all(name in skipped for name in w.tops)
        if not contributes or (layers[k] and skips):
            layers[k] = False
            bottoms[k] = [False] * len(w.bottoms)
        if contributes:
            under_loss.update(w.bottoms)
        skipped.update(name for name, need in zip(w.bottoms, bottoms[k], strict=True) if not need)

    if net.message.force_backward:
        for k, w in enumerate(wires):
            layers[k] = True
            bottoms[k] = [True] * len(w.bottoms) if w.node is None else forced(w.node, bottoms[k], net.dialect)
    return layers, [tuple(needs) for needs in bottoms]


def _learns(net: CaffeNet, w: Wire) -> bool:
    if w.node is None or w.node in net.graph.sources:
        return False
    return learns(w.node, list(net.blobs_of(w.node.module_name)), net.param_specs)
