"""Who reads an input, and as what: a picture that layers compute with, or labels that results are compared with."""

from __future__ import annotations

from collections.abc import Iterator

from ..graph import Graph, Node

__all__ = ["PASSES_ON", "first_reader", "is_picture", "readers", "steady_source"]

# Types that hand on what they read, in pieces or in another form, and say nothing of what it is.
_SAME_SHAPE = (
    *("AbsVal", "Bias", "BNLL", "Clip", "Dropout", "ELU", "Exp", "Log", "Power", "Pow", "PReLU", "ReLU", "Scale"),
    *("Sigmoid", "Split", "TanH", "Threshold", "Normalize", "MVN", "BatchNorm", "DummyTransform"),
)
PASSES_ON = frozenset(_SAME_SHAPE)
_REFORMS = frozenset({"Concat", "Eltwise", "Flatten", "Permute", "Reshape", "Silence", "Slice", "Tile", "Reduction"})


def readers(graph: Graph, value: int) -> Iterator[tuple[Node, int]]:
    """The layers that read a value, and as which of their bottoms."""
    for node in graph.computed:
        for place, bottom in enumerate(node.bottoms):
            if bottom == value:
                yield node, place


def is_picture(graph: Graph, value: int) -> bool:
    """Whether some layer computes with a value as its first bottom, which labels never are.

    The first blob that a source brings is a picture, too, if nobody reads it as anything.
    """
    seen, left, labels = {value}, [value], False
    while left:
        for node, place in readers(graph, left.pop()):
            if node.type in PASSES_ON or node.type in _REFORMS:
                left += [top for top in node.tops if top not in seen]
                seen.update(node.tops)
            elif place == 0:
                return True
            else:
                labels = True
    return not labels and any(value == node.tops[0] for node in graph.sources)


def first_reader(graph: Graph, value: int) -> Node | None:
    """The layer that first computes with a value, behind those that only hand it on in its own shape."""
    while True:
        found = next((node for node, place in readers(graph, value) if place == 0), None)
        if found is None or found.type not in PASSES_ON:
            return found
        value = found.tops[0]


def steady_source(graph: Graph, value: int) -> Node | None:
    """The source of what stays the same for all steps of the layer with memory that reads ``value``: of its third
    bottom."""
    memory = next((node for node, place in readers(graph, value) if place == 0 and node.type in ("LSTM", "RNN")), None)
    if memory is None or len(memory.bottoms) < 3:
        return None
    value, makers = memory.bottoms[2], {top: node for node in graph.nodes for top in node.tops}
    while value in makers and makers[value].bottoms:
        value = makers[value].bottoms[0]
    return makers.get(value)
