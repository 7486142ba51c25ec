"""Where Caffe computes gradients, and where it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import LayerError
from ..schema.messages import NetParameter
from .graph import Graph, Node
from .registry import find_layer
from .sharing import ParamSpec

__all__ = ["forced", "gradient_stops", "has_gradient", "learns", "starts_backward"]


def has_gradient(message: NetParameter, lr_mult: float) -> bool:
    """Whether Caffe computes the gradient of a blob of ``message``'s net, which training moves by ``lr_mult``."""
    return lr_mult != 0 or bool(message.force_backward)


def starts_backward(message: NetParameter, loss_weight: float) -> bool:
    """Whether a top that no layer reads starts the backward pass: without ``force_backward``, losses alone do."""
    return loss_weight != 0 or bool(message.force_backward)


def learns(node: Node, blobs: Sequence[str], specs: Mapping[str, ParamSpec]) -> bool:
    """Whether training moves one of the layer's ``blobs``."""
    return bool(blobs) and any(specs[f"{node.module_name}.{name}"].lr_mult != 0 for name in blobs)


def forced(node: Node, needs: Sequence[bool], dialect: str) -> list[bool]:
    """Which bottoms get a gradient under a net's ``force_backward``: all, but those that Caffe's ``AllowForceBackward``
    excepts, unless they need one anyway.

    Args:
        needs: whether each bottom of the layer needs a gradient without it.
    """
    # A source of data has no bottoms, and no type that is built.
    unforced = find_layer(node.type, dialect).unforced if needs else ()
    return [need or i not in unforced for i, need in enumerate(needs)]


def gradient_stops(
    graph: Graph, blobs: Mapping[str, Sequence[str]], specs: Mapping[str, ParamSpec]
) -> list[tuple[bool, ...]]:
    """Which bottoms of each computed layer get no gradient: those with ``propagate_down: false``.

    ``force_backward`` overrides that, as in Caffe, except into bottoms that do not allow it, unless a learned blob
    above needs the gradient anyway.

    Args:
        blobs: the names of each layer's blobs, by module name.

    Raises:
        LayerError: another number of ``propagate_down`` than of bottoms.
    """
    needed: set[int] = set()  # values with a learned blob above them
    force_backward = graph.message.force_backward
    stops = []
    for node in graph.computed:
        down = node.message.propagate_down[:] or [True] * len(node.bottoms)
        if len(down) != len(node.bottoms):
            raise LayerError(
                f"propagate_down has {len(down)} values for {len(node.bottoms)} bottoms",
                layer=node.name,
                type=node.type,
            )
        if force_backward:
            down_to = forced(node, [v in needed for v in node.bottoms], graph.dialect)
            stops.append(tuple(not gets for gets in down_to))
        else:
            stops.append(tuple([not d for d in down]))
        reached = [v for v, d in zip(node.bottoms, down, strict=True) if d]
        if not needed.isdisjoint(reached) or learns(node, blobs[node.module_name], specs):
            needed.update(node.tops)
    return stops
