"""A network definition -> the layers of one phase, wired by value.

Caffe wires layers by blob name, and a layer may overwrite its bottom in place. Here every write makes a new value, so a
value never changes: whoever read a blob before it was overwritten keeps what it read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import GraphError, UsageError
from ..schema.unknown import unknown_fields_of

__all__ = ["Graph", "NetState", "Node", "build_graph", "included", "layer_name", "module_names", "strange_phases"]


# What Caffe calls the top of a loss that the definition gives none.
AUTOMATIC_TOP = "(automatic)"


@dataclass(frozen=True)
class NetState:
    """What include and exclude rules are matched against. ``phase`` is ``"TRAIN"`` or ``"TEST"``."""

    phase: str = "TEST"
    level: int = 0
    stages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.phase not in ("TRAIN", "TEST"):
            raise UsageError(f"phase {self.phase!r}: train or test was expected")


@dataclass(frozen=True)
class Node:
    """One layer of the phase.

    Attributes:
        index: its place in the definition (of all phases).
        message: its ``LayerParameter``.
        bottoms, tops: value ids.
        module_name: the attribute of the net that holds its module.
    """

    index: int
    name: str
    type: str
    message: Any
    bottoms: tuple[int, ...]
    tops: tuple[int, ...]
    module_name: str


@dataclass(frozen=True)
class Graph:
    """The layers of one phase in execution order.

    Attributes:
        nodes: every layer, sources of data included.
        blobs: the blob name of each value id.
        inputs: value ids that come from outside: tops of ``Input`` layers and of data layers.
        outputs: value ids that nobody reads, sorted by blob name: Caffe's outputs in Caffe's order.
        sources: the nodes whose tops are the inputs. computed: all others.
    """

    state: NetState
    nodes: tuple[Node, ...]
    blobs: tuple[str, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    sources: tuple[Node, ...]
    computed: tuple[Node, ...]


def build_graph(
    net: Any,
    state: NetState,
    is_source: Callable[[Any], bool],
    reserved: frozenset[str] = frozenset(),
    is_loss: Callable[[Any], bool] = lambda layer: False,
) -> Graph:
    """Pick the layers of ``state`` from ``net`` (a current-generation ``NetParameter``) and wire them.

    Args:
        is_source: tells of a ``LayerParameter`` whether its tops come from outside the net.
        reserved: names that no module may have.
        is_loss: tells of a ``LayerParameter`` whether it is a loss. Without a top, Caffe gives it one that counts but
            that nobody can read.

    Raises:
        GraphError: a bottom that no layer above produces, a top that two layers produce.
    """
    chosen = [(i, layer) for i, layer in enumerate(net.layer) if included(layer, state)]
    names = module_names([layer.name for _, layer in chosen], reserved)
    blobs: list[str] = []
    current: dict[str, int] = {}  # blob name -> the value it holds now
    maker: dict[str, str] = {}
    unread: dict[int, None] = {}
    nodes, inputs, sources, computed = [], [], [], []
    for (index, layer), module_name in zip(chosen, names, strict=True):
        label = f"layer {layer.name!r} ({layer.type})"
        bottoms = []
        for name in layer.bottom:
            if name not in current:
                raise GraphError(_unknown_bottom(label, name, index, chosen, net, state))
            bottoms.append(current[name])
            unread.pop(current[name], None)
        tops = []
        for i, name in enumerate(layer.top):
            in_place = i < len(layer.bottom) and layer.bottom[i] == name
            if name in current and not in_place:
                raise GraphError(f"{label}: top {name!r} is already produced by layer {maker[name]!r}")
            value = len(blobs)
            blobs.append(name)
            current[name], maker[name] = value, layer.name
            unread[value] = None
            tops.append(value)
        if not layer.top and is_loss(layer):
            tops.append(len(blobs))
            blobs.append(AUTOMATIC_TOP)
        node = Node(index, layer.name, layer.type, layer, tuple(bottoms), tuple(tops), module_name)
        nodes.append(node)
        if is_source(layer):
            inputs += tops
            sources.append(node)
        else:
            computed.append(node)
    if not nodes:
        raise GraphError(f"no layer is left for {_state_text(state)} ({len(net.layer)} in the definition)")
    outputs = sorted(unread, key=blobs.__getitem__)
    return Graph(state, tuple(nodes), tuple(blobs), tuple(inputs), tuple(outputs), tuple(sources), tuple(computed))


def _unknown_bottom(
    label: str, name: str, index: int, chosen: Sequence[tuple[int, Any]], net: Any, state: NetState
) -> str:
    message = f"{label}: bottom {name!r} is produced by no layer above it"
    for i, layer in chosen:
        if i > index and name in layer.top and name not in layer.bottom:
            return f"{message}; layer {layer.name!r} produces it further down (layers run in the order of the file)"
    present = {i for i, _ in chosen}
    for i, layer in enumerate(net.layer):
        if i not in present and name in layer.top:
            return f"{message}; layer {layer.name!r} would, but is not part of {_state_text(state)}"
    if any(name in layer.top for layer in net.layer):
        return message
    return f"{message}; if it is an input of the network, give its shape: --input-shape '{name}=N,C,H,W'"


def _state_text(state: NetState) -> str:
    stages = f" stages {', '.join(state.stages)}" if state.stages else ""
    return f"phase {state.phase} level {state.level}{stages}"


def included(layer: Any, state: NetState) -> bool:
    """Caffe's FilterNet: with include rules one must match; with exclude rules none may."""
    if layer.include and layer.exclude:
        raise GraphError(f"layer {layer.name!r} has include and exclude rules; Caffe allows only one kind")
    for rule in (*layer.include, *layer.exclude):
        for unknown in unknown_fields_of(rule):
            if unknown.name != "phase":
                # Left out, it would make the rule hold where it should not.
                raise GraphError(f"layer {layer.name!r} has an include or exclude rule with {unknown}")
    if layer.include:
        return any(_matches(rule, state) for rule in layer.include)
    return not any(_matches(rule, state) for rule in layer.exclude)


def strange_phases(layer: Any) -> list[str]:
    """Phases that rules of ``layer`` name and Caffe does not have (MyCaffe has ``RUN``)."""
    rules = (*layer.include, *layer.exclude)
    return [unknown.text for rule in rules for unknown in unknown_fields_of(rule) if unknown.name == "phase"]


def _matches(rule: Any, state: NetState) -> bool:
    if any(unknown.name == "phase" for unknown in unknown_fields_of(rule)):
        return False
    if rule.HasField("phase"):
        phase = rule.DESCRIPTOR.fields_by_name["phase"].enum_type.values_by_number[rule.phase].name
        if phase != state.phase:
            return False
    if rule.HasField("min_level") and state.level < rule.min_level:
        return False
    if rule.HasField("max_level") and state.level > rule.max_level:
        return False
    return all(s in state.stages for s in rule.stage) and not any(s in state.stages for s in rule.not_stage)


# Layer names -> names of modules

# torch refuses dots and empty names, and names of nn.Module's own attributes. The mapping is reversible: ``%`` quotes,
# ``#2`` marks the second layer of a name.
_QUOTED = {"%": "%25", "#": "%23", ".": "%2E"}


def module_names(names: Iterable[str], reserved: frozenset[str]) -> list[str]:
    """One legal, unique module name per layer name: almost always the name itself.

    >>> module_names(["conv1", "a.b", "", "conv1", "forward"], frozenset({"forward"}))
    ['conv1', 'a%2Eb', '%', 'conv1#2', '%forward']
    """
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        quoted = "".join(_QUOTED.get(c, c) for c in name)
        if not quoted or quoted in reserved:
            quoted = "%" + quoted
        out.append(quoted if seen[name] == 1 else f"{quoted}#{seen[name]}")
    return out


def layer_name(module_name: str) -> str:
    """The layer name behind a module name.

    >>> [layer_name(n) for n in ("conv1", "a%2Eb", "%", "conv1#2", "%forward")]
    ['conv1', 'a.b', '', 'conv1', 'forward']
    """
    name = module_name.partition("#")[0]
    if name.startswith("%") and name[1:3] not in ("25", "23", "2E"):
        name = name[1:]
    for char, quoted in reversed(_QUOTED.items()):
        name = name.replace(quoted, char)
    return name
