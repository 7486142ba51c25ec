"""Some layers of a net as a net of their own, with a definition of their own and the same blobs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ..errors import LayerError, first_line
from ..schema.messages import LayerParameter, NetParameter
from .building import BuiltNet, plan
from .graph import Graph, Node, phase_graph
from .program import Program
from .registry import Shape
from .sharing import Holder, blob_names, get_tensor, make_own, view_owners

__all__ = ["copied_layer", "part_of"]


def part_of(whole: BuiltNet, piece: Program, shared: Sequence[object] = ()) -> BuiltNet:
    """The layers of ``piece``, which is a part of the program of ``whole``.

    The blobs are new parameters in the same memory, so that moving or casting one of the nets leaves the other alone.

    Args:
        shared: objects that the layers hold and that are not copied.
    """
    nodes = piece.nodes()
    old = whole.program.graph
    graph = phase_graph(_definition(piece, nodes), old.state, old.dialect, allow_python=old.allow_python)
    memo: dict[int, object] = {id(thing): thing for thing in shared}
    for module in whole.modules.values():
        for parameter in module.parameters():
            memo.setdefault(id(parameter), nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad))
        memo |= {id(blob): blob for blob in _buffers(module)}
    modules = {
        new.module_name: copied_layer(whole.modules[node.module_name], node, memo)
        for new, node in zip(graph.computed, nodes, strict=True)
    }
    owned = _keep_views_inside(modules)
    values = dict(zip(graph.inputs, piece.inputs, strict=True))
    specs = {}
    for new, node in zip(graph.computed, nodes, strict=True):
        values.update(zip(new.tops, node.tops, strict=True))
        for name in blob_names(modules[new.module_name]):
            specs[f"{new.module_name}.{name}"] = whole.param_specs[f"{node.module_name}.{name}"]
    shapes = tuple(piece.shapes[values[v]] for v in range(len(graph.blobs)))
    weights = {v: whole.loss_weights[old] for v, old in values.items() if old in whole.loss_weights}
    renamed = {node.module_name: new.module_name for new, node in zip(graph.computed, nodes, strict=True)}
    holders = {name: of for name, of in _holders(whole, renamed, modules).items() if name not in owned}
    names = [old.blobs[value] for value in piece.outputs]
    program = plan(graph, modules, shapes, specs, weights).returning(names)
    return BuiltNet(modules, program, weights, specs, holders, list(whole.warnings), list(whole.notes), whole.ignored)


def copied_layer(module: nn.Module, node: Node, memo: dict[int, object]) -> nn.Module:
    """A copy of a layer's module; ``memo`` holds what is not copied with it, as for :func:`copy.deepcopy`.

    Raises:
        LayerError: it cannot be copied.
    """
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:  # whatever the objects that a user's layer holds may raise
        raise LayerError(f"cannot be copied: {first_line(error)}", layer=node.name, type=node.type) from error


def _definition(piece: Program, nodes: Sequence[Node]) -> NetParameter:
    """A ``NetParameter`` of the layers of ``piece``, which begins with an ``Input`` layer for each of its inputs."""
    graph = piece.graph
    message = type(graph.message)(name=graph.message.name)
    if graph.message.HasField("force_backward"):
        message.force_backward = graph.message.force_backward
    for value in piece.inputs:
        message.layer.append(_input_layer(graph, value, piece.shapes[value], {node.name for node in nodes}))
    message.layer.extend([node.message for node in nodes])
    return message


def _input_layer(graph: Graph, value: int, shape: Shape, taken: set[str]) -> LayerParameter:
    """An ``Input`` layer for a value, with what the source that makes it says of preprocessing, if one does."""
    name = graph.blobs[value]
    maker = next(node for node in graph.nodes if value in node.tops)
    called = maker.name if maker in graph.sources and len(maker.tops) == 1 else name
    layer = type(maker.message)(name=f"input {called}" if called in taken else called, type="Input", top=[name])
    layer.input_param.shape.add(dim=shape)
    if maker in graph.sources and maker.message.HasField("transform_param"):
        layer.transform_param.CopyFrom(maker.message.transform_param)
    return layer


def _buffers(module: nn.Module) -> list[Tensor]:
    """The blobs that are no parameters."""
    blobs = [get_tensor(module, name) for name in blob_names(module)]
    return [blob for blob in blobs if not isinstance(blob, nn.Parameter) and not blob.requires_grad]


def _keep_views_inside(modules: Mapping[str, nn.Module]) -> set[str]:
    """Make blobs that are views of a layer which is not among ``modules`` their layers' own; their full names."""
    there = {id(part) for module in modules.values() for part in module.modules()}
    made = set()
    for path, module in modules.items():
        for name, owner in view_owners(module).items():
            if id(owner) not in there:
                make_own(module, name)
                made.add(f"{path}.{name}")
    return made


def _holders(whole: BuiltNet, renamed: Mapping[str, str], modules: Mapping[str, nn.Module]) -> dict[str, list[Holder]]:
    """Who shares what among the copies.

    Args:
        renamed: the name of the copy of each layer that was copied, by the layer's name.
    """
    copies = {id(whole.modules[old]): modules[new] for old, new in renamed.items()}
    lists = {
        id(holders): [(copies[id(module)], name) for module, name in holders if id(module) in copies]
        for holders in whole.holders.values()
    }
    found = {}
    for full, holders in whole.holders.items():
        path, _, blob = full.partition(".")
        if path in renamed and lists[id(holders)]:
            found[f"{renamed[path]}.{blob}"] = lists[id(holders)]
    return found
