"""Sums of NVIDIA's fork, which lie in the memory of their first bottom and so overwrite it.

A sum without coefficients has no memory of its own there, unless the network sets ``eltwise_mem_sharing`` to false.
That is harmless as long as nobody needs the bottom afterwards: a layer that reads it later would read the sum, and so
would the backward pass of a layer that reads it earlier, or that made it and looks at what it made. Here a sum is a
value of its own, so where that makes a difference the network is not what the fork computes. Source: NVIDIA/caffe,
``src/caffe/layers/eltwise_layer.cpp``.
"""

from __future__ import annotations

from ..errors import NetworkError
from ..schema.params import Params
from .graph import Graph, Node

__all__ = ["MEMORY_SHARING", "check_shared_sums"]

# The field of the network; in the forks that have it, it is on unless a file turns it off.
MEMORY_SHARING = "eltwise_mem_sharing"
_PARAMS = "eltwise_param"
# Types that only name their bottom anew.
_SAME_MEMORY = frozenset({"Flatten", "Reshape", "Split"})
# Types whose backward pass does not look at their tops.
_FORGET_TOPS = frozenset(
    {
        *("BatchNorm", "Concat", "Convolution", "Deconvolution", "Dropout", "Eltwise", "InnerProduct", "Pooling"),
        *("Scale", "Slice"),
    }
)


def check_shared_sums(graph: Graph, *, accepted: bool = False) -> list[str]:
    """Warnings of a sum that the fork in force would let overwrite what is needed afterwards.

    Args:
        accepted: whether the user wants sums with memory of their own although the file says otherwise.

    Raises:
        NetworkError: the file asks for it.
    """
    message = graph.message
    if MEMORY_SHARING not in message.DESCRIPTOR.fields_by_name or not getattr(message, MEMORY_SHARING):
        return []
    reason = next(filter(None, (_overwrites(graph, node) for node in graph.computed)), "")
    if not reason:
        return []
    if message.HasField(MEMORY_SHARING) and not accepted:
        raise NetworkError(
            f"{MEMORY_SHARING} is on: {reason}, and what the fork computes then is not supported; "
            f"--ignore-field {MEMORY_SHARING} gives sums memory of their own, and the .pt says so"
        )
    return [f"unless {MEMORY_SHARING} is false, in the fork {reason}; here the sum has memory of its own"]


def _overwrites(graph: Graph, node: Node) -> str:
    """What a layer overwrites that is needed afterwards, in words; empty if nothing."""
    if node.type != "Eltwise":
        return ""
    params = Params(getattr(node.message, _PARAMS), _PARAMS)
    if params.operation != "SUM" or any(factor != 1 for factor in params.coeff):
        return ""
    who = _who_needs(graph, node)
    blob = graph.blobs[node.bottoms[0]]
    return f"the sum of layer {node.name!r} overwrites its bottom {blob!r}, which {who}" if who else ""


def _who_needs(graph: Graph, node: Node) -> str:
    """Who needs the first bottom of a sum besides it, in words; empty if nobody does."""
    training = graph.state.phase == "TRAIN"
    memory = _in_the_same_memory(graph, node.bottoms[0])
    for other in graph.computed:
        if other is node or other.type in _SAME_MEMORY:
            continue
        if not memory.isdisjoint(other.bottoms) and (training or other.index > node.index):
            return f"layer {other.name!r} ({other.type}) reads"
        if training and not memory.isdisjoint(other.tops) and other.type not in _FORGET_TOPS:
            return f"the gradient of layer {other.name!r} ({other.type}) looks at"
    return ""


def _in_the_same_memory(graph: Graph, value: int) -> set[int]:
    """A value, those that it only names anew, and those that name it anew."""
    found, left = {value}, [value]
    while left:
        at = left.pop()
        for node in graph.computed:
            if node.type in _SAME_MEMORY and (at in node.bottoms or at in node.tops):
                new = {*node.bottoms, *node.tops} - found
                found |= new
                left += new
    return found
