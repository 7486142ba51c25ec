"""A network definition -> the layers of one phase, wired by value.

Caffe wires layers by blob name, and a layer may overwrite its bottom in place. Here every write makes a new value, so a
value never changes: whoever read a blob before it was overwritten keeps what it read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..errors import GraphError, UnknownLayerError, UsageError
from ..schema import keep_dialect, portable_dialect
from ..schema.messages import LayerParameter, NetParameter
from ..schema.printing import format_message
from ..schema.prototxt import parse_message
from .names import RESERVED, layer_name, module_names
from .registry import Shape, find_layer
from .rules import NetState, included, own_state
from .sources import is_source, told_shapes, with_batch

__all__ = ["AUTOMATIC_TOP", "Graph", "NetState", "Node", "phase_graph", "undeclared", "with_inputs"]


# What Caffe calls the top of a loss that the definition gives none.
AUTOMATIC_TOP = "(automatic)"


@dataclass(frozen=True)
class Node:
    """One layer of the phase.

    Attributes:
        index: its place in the definition (of all phases).
        message: its ``LayerParameter``.
        bottoms, tops: value ids.
        module_name: the attribute of the net that holds its module; of a source, which has none, just a unique name.
    """

    index: int
    name: str
    type: str
    message: LayerParameter
    bottoms: tuple[int, ...]
    tops: tuple[int, ...]
    module_name: str


@dataclass(frozen=True)
class Graph:
    """The layers of one phase in execution order, as :func:`phase_graph` wires them.

    Attributes:
        message: the definition, with an ``Input`` layer for what the user declared an input.
        state: what rules were matched against: the user's, with the definition's own stages.
        dialect: name of the schema that ``message`` is bound to.
        given: shapes of inputs that the user gave, by blob name; they win over what the definition tells.
        nodes: every layer, sources of data included.
        blobs: the blob name of each value id.
        inputs: value ids that come from outside: tops of ``Input`` layers and of data layers.
        outputs: value ids that nobody reads, sorted by blob name: Caffe's outputs in Caffe's order.
        sources: the nodes whose tops are the inputs. computed: all others.
        allow_python: whether a ``Python`` layer without bottoms may be the user's own class that reads data.
    """

    message: NetParameter
    state: NetState
    dialect: str
    given: Mapping[str, Shape]
    nodes: tuple[Node, ...]
    blobs: tuple[str, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    sources: tuple[Node, ...]
    computed: tuple[Node, ...]
    allow_python: bool = False

    def source_shapes(self, node: Node) -> tuple[Shape | None, ...]:
        """The shapes of a source's tops: as given, else as the source tells; None where neither does.

        Raises:
            UsageError: the source contradicts itself, or a dimension is negative.
        """
        shapes = {}
        for name, told in zip(node.message.top, told_shapes(node.message), strict=True):
            given = self.given.get(name)
            shapes[name] = told if given is None else with_batch(node.message, given, told)
        for name, shape in shapes.items():
            if shape is not None and any(dim < 0 for dim in shape):
                raise UsageError(
                    f"input {name!r} has a negative dimension: {list(shape)}", layer=node.name, type=node.type
                )
        return tuple(shapes.values())

    def __deepcopy__(self, memo: dict[int, object]) -> Graph:
        return self  # nothing in it changes

    def __reduce__(self) -> tuple[object, ...]:
        """For pickles: the definition as text, and how the graph is made of it."""
        dialect, text = portable_dialect(self.dialect)
        given = dict(self.given)
        return _restored, (format_message(self.message), self.state, dialect, text, given, self.allow_python)

    def check(self) -> None:
        """What holds of every graph. Nothing that a user does breaks it; the tests run it on many networks.

        Raises:
            AssertionError: it does not hold, so :func:`phase_graph` is wrong.
        """
        made: set[int] = set()
        read: set[int] = set()
        latest: dict[str, int] = {}
        for node in self.nodes:
            where = f"layer {node.name!r} ({node.type})"
            assert included(node.message, self.state), f"{where} is not part of {self.state}"
            assert made.issuperset(node.bottoms), f"{where} reads what no layer above it makes"
            names = [self.blobs[v] for v in node.bottoms]
            assert names == list(node.message.bottom), f"{where} reads {names}"
            assert self.message.layer[node.index] == node.message, f"{where} is not at its place"
            assert [latest[name] for name in names] == list(node.bottoms), f"{where} reads what was overwritten"
            for value in node.tops:
                assert value == len(made), f"{where} makes value {value}; values are counted from 0 as they are made"
                made.add(value)
                latest[self.blobs[value]] = value
            named = [self.blobs[v] for v in node.tops]
            assert named == (list(node.message.top) or named[:1]), f"{where} makes {named}"
            read.update(node.bottoms)
        places = [node.index for node in self.nodes]
        assert places == sorted(set(places)), "layers are not in the order of the definition"
        assert len(made) == len(self.blobs), "there are values that no layer makes"
        automatic = {v for node in self.nodes if not node.message.top for v in node.tops}
        unread = [v for v in range(len(self.blobs)) if v not in read | automatic]
        assert list(self.outputs) == sorted(unread, key=lambda v: self.blobs[v]), "outputs are what nobody reads"
        parted = sorted((*self.sources, *self.computed), key=lambda node: node.index)
        assert [node.index for node in parted] == places, "a layer is neither a source nor computed, or both"
        assert list(self.inputs) == [v for node in self.sources for v in node.tops], "inputs are the sources' tops"
        modules = [node.module_name for node in self.nodes]
        assert len(set(modules)) == len(modules), "two layers have one module"
        assert [layer_name(name) for name in modules] == [node.name for node in self.nodes], "a module has another name"
        assert RESERVED.isdisjoint(node.module_name for node in self.computed), "a layer hides an attribute of the net"
        assert self.given.keys() <= {self.blobs[v] for v in self.inputs}, "a shape is given for what is no input"


def _restored(
    definition: str,
    state: NetState,
    dialect: str,
    dialect_text: str | None,
    given: Mapping[str, Shape],
    allow_python: bool,
) -> Graph:
    if dialect_text is not None:
        dialect = keep_dialect(dialect, dialect_text)
    parsed = parse_message(definition, dialect=dialect, path="the pickled network")
    return phase_graph(parsed.message, state, parsed.schema.name, given, allow_python=allow_python)


def phase_graph(
    message: NetParameter,
    state: NetState | None = None,
    dialect: str = "bvlc",
    input_shapes: Mapping[str, Shape] | None = None,
    *,
    allow_python: bool = False,
) -> Graph:
    """The layers of ``message`` (a current-generation ``NetParameter``) that ``state`` picks, wired.

    Args:
        state: of phase TEST by default. The definition's own stages count too.
        dialect: name of the schema that ``message`` is bound to.
        input_shapes: by blob name. A blob that layers read and none makes is declared an input by it; that is how files
            that name their inputs without a shape (``input: "data"``) are read, as Caffe drops these.
        allow_python: as :class:`Graph` has it.

    Raises:
        GraphError: a bottom that no layer above produces, a top that two layers produce, a rule that makes no sense.
        UsageError: a shape for a blob that is no input.
    """
    given = dict(input_shapes or {})
    message = with_inputs(message, given)
    state = own_state(message, state or NetState())
    chosen = [(i, layer) for i, layer in enumerate(message.layer) if included(layer, state)]
    if not chosen:
        raise GraphError(f"no layer is left for {state} ({len(message.layer)} in the definition)")
    wiring = _Wiring(message, state, dialect, chosen)
    # A source has no module, so it may be called what it likes; its name is what its random draws depend on.
    layer_names = [layer.name for _, layer in chosen]
    of_sources, of_modules = module_names(layer_names, frozenset()), module_names(layer_names, RESERVED)
    nodes: list[Node] = []
    sources: list[Node] = []
    computed: list[Node] = []
    for k, (index, layer) in enumerate(chosen):
        bottoms, tops = wiring.add(index, layer)
        source = is_source(layer, allow_python=allow_python)
        name = of_sources[k] if source else of_modules[k]
        node = Node(index, layer.name, layer.type, layer, bottoms, tops, name)
        nodes.append(node)
        (sources if source else computed).append(node)
    blobs = tuple(wiring.blobs)
    inputs = tuple(value for node in sources for value in node.tops)
    outputs = tuple(sorted(wiring.unread, key=blobs.__getitem__))
    _check_given(given, [blobs[value] for value in inputs])
    parted = tuple(sources), tuple(computed)
    return Graph(message, state, dialect, given, tuple(nodes), blobs, inputs, outputs, *parted, allow_python)


def undeclared(message: NetParameter) -> tuple[str, ...]:
    """The blobs that layers read and none makes, in no phase: inputs that the file declares without a shape, or not."""
    made = {top for layer in message.layer for top in layer.top}
    read = (bottom for layer in message.layer for bottom in layer.bottom)
    return tuple(dict.fromkeys(name for name in read if name not in made))


def with_inputs(message: NetParameter, shapes: Mapping[str, Shape | None]) -> NetParameter:
    """``message``, or a copy that declares as inputs the blobs of ``shapes`` that layers read and none makes.

    Those without a shape come last, each in a layer of its own.
    """
    known = undeclared(message) if shapes else ()
    missing = [name for name in shapes if name in known]
    if not missing:
        return message
    out = type(message)()
    out.CopyFrom(message)
    layers = list(out.layer)
    del out.layer[:]
    told = {name: shape for name in missing if (shape := shapes[name]) is not None}
    if told:
        source = out.layer.add(name="input", type="Input", top=list(told))
        for shape in told.values():
            source.input_param.shape.add(dim=shape)
    for name in missing:
        if name not in told:
            out.layer.add(name=f"input {name}", type="Input", top=[name])
    out.layer.extend(layers)
    return out


def _check_given(given: Mapping[str, Shape], inputs: Sequence[str]) -> None:
    for name in given:
        if name not in inputs:
            raise UsageError(
                f"--input-shape names {name!r}, which is no input of the net ({', '.join(sorted(set(inputs)))})"
            )


class _Wiring:
    """Blob names -> values, layer by layer.

    Attributes:
        blobs: the name of every value so far.
        unread: the values that nobody has read yet, in the order in which they were made.
    """

    def __init__(
        self, message: NetParameter, state: NetState, dialect: str, chosen: Sequence[tuple[int, LayerParameter]]
    ) -> None:
        self._message, self._state, self._dialect, self._chosen = message, state, dialect, chosen
        self._current: dict[str, int] = {}  # blob name -> the value it holds now
        self._maker: dict[str, str] = {}
        self.blobs: list[str] = []
        self.unread: dict[int, None] = {}

    def add(self, index: int, layer: LayerParameter) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The values that a layer reads and makes."""
        bottom_names, top_names = layer.bottom[:], layer.top[:]  # protobuf makes each anew whenever it is asked
        bottoms = []
        for name in bottom_names:
            if name not in self._current:
                raise GraphError(self._unknown_bottom(name, index), layer=layer.name, type=layer.type)
            bottoms.append(self._current[name])
            self.unread.pop(self._current[name], None)
        tops = []
        for i, name in enumerate(top_names):
            in_place = i < len(bottom_names) and bottom_names[i] == name
            if name in self._current and not in_place:
                raise GraphError(
                    f"top {name!r} is already produced by layer {self._maker[name]!r}",
                    layer=layer.name,
                    type=layer.type,
                )
            value = len(self.blobs)
            self.blobs.append(name)
            self._current[name], self._maker[name] = value, layer.name
            self.unread[value] = None
            tops.append(value)
        if not top_names and _is_loss(layer, self._dialect):
            # It counts, but nobody can read it.
            tops.append(len(self.blobs))
            self.blobs.append(AUTOMATIC_TOP)
        return tuple(bottoms), tuple(tops)

    def _unknown_bottom(self, name: str, index: int) -> str:
        message = f"bottom {name!r} is produced by no layer above it"
        for i, layer in self._chosen:
            if i > index and name in layer.top and name not in layer.bottom:
                return f"{message}; layer {layer.name!r} produces it further down (layers run in the order of the file)"
        present = {i for i, _ in self._chosen}
        for i, layer in enumerate(self._message.layer):
            if i not in present and name in layer.top:
                return f"{message}; layer {layer.name!r} would, but is not part of {self._state}{self._phase_of(layer)}"
        if any(name in layer.top for layer in self._message.layer):
            return message
        return (
            f"{message}; if it is an input of the network, have its shape guessed (--guess-shapes) or give it: "
            f"--input-shape '{name}=N,C,H,W'"
        )

    def _phase_of(self, layer: LayerParameter) -> str:
        """How to get the other phase, if ``layer`` is part of that one: a caffemodel carries what was trained."""
        other = "TEST" if self._state.phase == "TRAIN" else "TRAIN"
        if not included(layer, replace(self._state, phase=other)):
            return ""
        return f"; the network is there for phase {other}: --phase {other.lower()}"


def _is_loss(layer: LayerParameter, dialect: str) -> bool:
    try:
        return find_layer(layer.type, dialect).is_loss
    except UnknownLayerError:
        return False  # said with the layer's name when its turn comes
