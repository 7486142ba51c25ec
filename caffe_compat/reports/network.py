"""What is in a network: its layers with their shapes and costs.

One that cannot be built is listed as far as it goes: every layer that its bottoms' shapes reach has its own shapes, the
others say why they have none.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from torch import nn

from ..errors import CaffeCompatError, GraphError
from ..network.alike import Likeness, likeness_of
from ..network.building import build_layer, without_memory
from ..network.definition import Definition
from ..network.graph import Graph, NetState, Node, phase_graph
from ..network.guess import Guess
from ..network.guessing import guess_shapes_of, net_of
from ..network.net import CaffeNet
from ..network.registry import Layer, Shape, find_layer
from ..network.rules import included, own_state
from ..network.sharing import blob_names, get_tensor
from ..network.surroundings import Surroundings
from ..schema import is_repeated
from ..schema.messages import LayerParameter, Message
from ..schema.unknown import unknown_fields_of
from .cost import multiply_accumulates

__all__ = ["Asked", "LayerRow", "NetworkInspection", "inspect_network", "layer_rows"]


@dataclass(frozen=True)
class LayerRow:
    """One layer of the phase.

    Attributes:
        tops: a loss without one has the top that Caffe calls ``(automatic)``.
        shapes: of its tops, in order; None for one that is not known.
        blobs: shapes of its learned blobs in Caffe's order; None if the layer could not be built.
        any_size: which of them take those of a file with another height and width.
        shared: the names that its blobs are shared by with other layers, in order; empty or too short for none.
        macs: multiply-accumulates of one forward pass (:func:`.cost.multiply_accumulates`), None likewise.
        problem: why something is None, or what is wrong with the layer; empty if nothing is.
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    shapes: tuple[Shape | None, ...]
    blobs: tuple[Shape, ...] | None
    shared: tuple[str, ...]
    macs: int | None
    problem: str = ""
    any_size: tuple[int, ...] = ()

    def shared_name(self, blob: int) -> str:
        """The name that blob number ``blob`` is shared by; empty if it is not shared."""
        return self.shared[blob] if blob < len(self.shared) else ""

    @property
    def parameters(self) -> int | None:
        """How many numbers its blobs hold."""
        return None if self.blobs is None else sum(math.prod(shape) for shape in self.blobs)


@dataclass(frozen=True)
class Asked:
    """How a user wants a network built; the attributes are arguments of :func:`caffe_compat.load`."""

    state: NetState
    input_shapes: Mapping[str, Shape]
    guess_shapes: bool = False
    ignore_fields: Collection[str] = ()


@dataclass(frozen=True)
class NetworkInspection:
    """A definition, as one phase builds it.

    Attributes:
        dialect, dialect_reason: the schema it was read with, and why.
        inputs, outputs: shapes by blob name; None for one that is not known.
        layers: in execution order.
        parameters: numbers in all blobs, shared ones counted once. macs: of one forward pass. Both count the layers
            that could be built; ``complete`` tells whether those are all.
        activation_bytes: memory of all activations in float32 as Caffe keeps them, in-place ones counted once.
        problem: why the network cannot be built; empty if it can.
        guessed: shapes of inputs that nothing tells, if they were to be guessed.
        unknown: fields that no schema knows. notes: what was upgraded or replaced. warnings: what Caffe would refuse or
            drop.
    """

    name: str
    phase: str
    level: int
    stages: tuple[str, ...]
    dialect: str
    dialect_reason: str
    inputs: dict[str, Shape | None]
    outputs: dict[str, Shape | None]
    layers: tuple[LayerRow, ...]
    parameters: int
    macs: int
    activation_bytes: int
    problem: str = ""
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    guessed: tuple[Guess, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every layer could be built."""
        return not self.problem


def inspect_network(definition: Definition, how: Asked, weights: str | Path | None = None) -> NetworkInspection:
    """``definition`` as its user wants it built, or as much of it as can be built.

    Args:
        weights: those that will fill it.

    Raises:
        UsageError: shapes are given for a blob that is no input.
    """
    message, dialect = definition.message, definition.schema.name
    state = own_state(message, how.state)
    guesses = _guesses(definition, how, weights)
    input_shapes = {**{guess.blob: guess.shape for guess in guesses}, **how.input_shapes}
    try:
        net = net_of(
            message,
            state,
            dialect=dialect,
            input_shapes=input_shapes,
            weights=weights,
            ignore_fields=how.ignore_fields,
            dialect_is_open=not definition.dialect_was_told,
            twins=False,
        )
    except CaffeCompatError as error:
        found = _as_far_as_it_goes(definition, state, input_shapes)
        return replace(found, problem=found.problem or str(error), guessed=guesses)
    found = _summary(definition, state, net.graph, layer_rows(net))
    warnings = (*found.warnings, *net.warnings)
    return replace(found, notes=(*found.notes, *net.notes), warnings=warnings, guessed=guesses)


def _as_far_as_it_goes(definition: Definition, state: NetState, input_shapes: Mapping[str, Shape]) -> NetworkInspection:
    """A network that cannot be built, or not even be wired.

    Raises:
        UsageError: shapes are given for a blob that is no input.
    """
    message = definition.message
    try:
        graph = phase_graph(message, state, definition.schema.name, input_shapes)
    except GraphError as error:
        rows = [_unwired_row(layer) for layer in message.layer if _may_be_included(layer, state)]
        return replace(_summary(definition, state, None, rows), problem=str(error))
    return _summary(definition, state, graph, _rows_one_by_one(graph))


def _guesses(definition: Definition, how: Asked, weights: str | Path | None) -> tuple[Guess, ...]:
    """What is guessed of the inputs' shapes; nothing of a network whose building will say what is wrong with it."""
    if how.guess_shapes:
        with suppress(CaffeCompatError):
            return guess_shapes_of(definition.message, how.state, definition.schema.name, how.input_shapes, weights)
    return ()


def _may_be_included(layer: LayerParameter, state: NetState) -> bool:
    """Whether ``layer`` is in the net, or has rules that cannot tell."""
    try:
        return included(layer, state)
    except GraphError:
        return True


def _summary(
    definition: Definition, state: NetState, graph: Graph | None, rows: Sequence[LayerRow]
) -> NetworkInspection:
    shapes: dict[int, Shape | None] = {}
    activation_bytes = 0
    seen: set[str] = set()
    if graph is not None:
        for node, row in zip(graph.nodes, rows, strict=True):
            shapes.update(zip(node.tops, row.shapes, strict=True))
            for i, (top, shape) in enumerate(zip(row.tops, row.shapes, strict=True)):
                in_place = i < len(row.bottoms) and row.bottoms[i] == top
                activation_bytes += 0 if in_place or shape is None else 4 * math.prod(shape)
    parameters = 0
    for row in rows:
        for i, shape in enumerate(row.blobs or ()):
            shared = row.shared_name(i)
            if shared not in seen:
                parameters += math.prod(shape)
            if shared:
                seen.add(shared)
    return NetworkInspection(
        name=definition.message.name,
        phase=state.phase,
        level=state.level,
        stages=state.stages,
        dialect=definition.schema.name,
        dialect_reason=definition.dialect_reason,
        inputs={graph.blobs[v]: shapes[v] for v in graph.inputs} if graph else {},
        outputs={graph.blobs[v]: shapes[v] for v in graph.outputs} if graph else {},
        layers=tuple(rows),
        parameters=parameters,
        macs=sum(row.macs or 0 for row in rows),
        activation_bytes=activation_bytes,
        unknown=tuple(_all_unknown(definition.message, "")) if _has_unknown(definition.message) else (),
        notes=definition.notes,
        warnings=definition.warnings,
    )


def layer_rows(net: CaffeNet) -> list[LayerRow]:
    """The layers of a net in execution order, sources of data included."""
    graph, every_shape = net.graph, net.shapes
    sources = {node.index for node in graph.sources}
    known: dict[nn.Module, tuple[tuple[Shape, ...], int, tuple[int, ...]]] = {}
    rows = []
    for node in graph.nodes:
        shapes = tuple([every_shape[v] for v in node.tops])
        if node.index in sources:
            rows.append(_row(node, graph, shapes, (), 0))
            continue
        module = getattr(net, node.module_name)  # layers that are alike may have one between them
        if module not in known:
            known[module] = _blobs_and_macs(module, [every_shape[v] for v in node.bottoms], shapes)
        rows.append(_row(node, graph, shapes, *known[module]))
    return rows


def _rows_one_by_one(graph: Graph) -> list[LayerRow]:
    """Rows of a network that cannot be built as a whole: each layer that can be is built alone."""
    lone = _Lone(graph)
    sources = {node.index for node in graph.sources}
    rows = []
    for node in graph.nodes:
        row = _source_row(node, graph) if node.index in sources else lone.row(node)
        lone.known.update((v, shape) for v, shape in zip(node.tops, row.shapes, strict=True) if shape is not None)
        rows.append(row)
    return rows


def _source_row(node: Node, graph: Graph) -> LayerRow:
    try:
        shapes = graph.source_shapes(node)
    except CaffeCompatError as error:
        return _row(node, graph, (None,) * len(node.tops), (), 0, problem=str(error))
    untold = [name for name, shape in zip(node.message.top, shapes, strict=True) if shape is None]
    hint = " ".join(f"--input-shape {name}=N,C,H,W" for name in untold)
    return _row(node, graph, shapes, (), 0, problem=f"the file does not tell its shape; pass {hint}" if untold else "")


class _Lone:
    """Layers of a network that cannot be built as a whole, each of which is built without those that cannot be.

    Attributes:
        known: the shapes that are known so far, by value id.
    """

    def __init__(self, graph: Graph) -> None:
        self.known: dict[int, Shape] = {}
        self._graph, self._around = graph, Surroundings(graph, self.known)
        self._alike: dict[Likeness, _Found] = {}

    def row(self, node: Node) -> LayerRow:
        graph = self._graph
        nothing = (None,) * len(node.tops)
        try:
            find_layer(node.type, graph.dialect)
        except CaffeCompatError:
            return _row(node, graph, nothing, None, None, problem=f"layer type {node.type!r} is not known")
        bottoms: list[Shape] = []
        for value in node.bottoms:
            shape = self.known.get(value)
            if shape is None:
                problem = f"the shape of its bottom {graph.blobs[value]!r} is not known"
                return _row(node, graph, nothing, None, None, problem=problem)
            bottoms.append(shape)
        try:
            return _row(node, graph, *self._found(node, bottoms))
        except CaffeCompatError as error:
            return _row(node, graph, nothing, None, None, problem=str(error))

    def _found(self, node: Node, bottoms: Sequence[Shape]) -> _Found:
        """What a layer makes of its bottoms. Raises what :func:`.building.build_layer` does."""
        blobs = [self._graph.blobs[v] for v in (*node.bottoms, *node.tops)]
        likeness = likeness_of(node.message, bottoms, blobs)
        if likeness is not None and likeness in self._alike:
            return self._alike[likeness]
        given = [without_memory(shape, self._graph.blobs[v]) for v, shape in zip(node.bottoms, bottoms, strict=True)]
        self._around.asked = False
        built = build_layer(node, self._graph, given, around=self._around)
        shapes = tuple(tuple(top.shape) for top in built.tops)
        found = (shapes, *_blobs_and_macs(built.module, bottoms, shapes))
        if likeness is not None and built.entry.ships and not self._around.asked:
            self._alike[likeness] = found
        return found


# Shapes of a layer's tops and blobs, its multiply-accumulates, and which blobs are of any size.
_Found: TypeAlias = "tuple[tuple[Shape, ...], tuple[Shape, ...], int, tuple[int, ...]]"


def _blobs_and_macs(
    module: nn.Module, bottoms: Sequence[Shape], tops: Sequence[Shape]
) -> tuple[tuple[Shape, ...], int, tuple[int, ...]]:
    names = blob_names(module)
    blobs = tuple(tuple(get_tensor(module, name).shape) for name in names)
    any_size = tuple(names.index(name) for name in module.any_size) if isinstance(module, Layer) else ()
    return blobs, multiply_accumulates(module, bottoms, tops), any_size


def _row(
    node: Node,
    graph: Graph,
    shapes: tuple[Shape | None, ...],
    blobs: tuple[Shape, ...] | None,
    macs: int | None,
    any_size: tuple[int, ...] = (),
    problem: str = "",
) -> LayerRow:
    param = node.message.param
    shared = tuple([one.name for one in param]) if param else ()
    bottoms, tops = tuple([graph.blobs[v] for v in node.bottoms]), tuple([graph.blobs[v] for v in node.tops])
    return LayerRow(node.name, node.type, bottoms, tops, shapes, blobs, shared, macs, problem, any_size)


def _unwired_row(layer: LayerParameter) -> LayerRow:
    bottoms, tops = tuple(layer.bottom), tuple(layer.top)
    nothing = (None,) * len(tops)
    return LayerRow(layer.name, layer.type, bottoms, tops, nothing, None, (), None, "the graph is broken")


def _has_unknown(message: Message) -> bool:
    """Whether :func:`_all_unknown` finds anything, which it takes its time for."""
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    return known.ByteSize() != message.ByteSize()


def _all_unknown(message: Message, where: str) -> Iterator[str]:
    """Unknown fields of a message and everything in it."""
    for unknown in unknown_fields_of(message):
        yield f"{where}{unknown}"
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        for item in value if is_repeated(descriptor) else (value,):
            inner = f"{where}layer {item.name!r}: " if descriptor.name == "layer" else where
            yield from _all_unknown(item, inner)
