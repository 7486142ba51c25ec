"""What Caffe's log says before the first iteration: the solver's settings, and how its networks are set up.

Many a script reads the shapes, the memory or the settings of a run from there. The words and the places are those of
BVLC's Caffe (commit 9b8915401: ``Solver::Init``, ``Net::Init``). Unlike there each line of the settings is a line of
the log of its own, so that no text in them can pass for one; the networks' definitions are not repeated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ...formats.cxx_numbers import cxx_number
from ...network.graph import Node
from ...network.net import CaffeNet
from ...network.registry import Shape
from ...schema.messages import LayerParameter
from .events import HeaderLine
from .settings import NetSource, SolverSettings
from .structure import layers_of_snapshot

__all__ = ["net_header", "settings_header", "source_header", "weights_header"]

_FLOAT_BYTES = 4
# Of a field of a solver that names the trained network: what is said of it, and where.
_CREATING = {
    "train_net_param": ("specified in train_net_param.", 88),
    "train_net": ("from train_net file: ", 92),
    "net_param": ("specified in net_param.", 97),
    "net": ("from net file: ", 102),
}


def settings_header(settings: SolverSettings) -> Iterator[HeaderLine]:
    """The settings as the solver file has them."""
    yield HeaderLine("Initializing solver from parameters: ", "solver.cpp:45")
    for line in settings.text.splitlines():
        yield HeaderLine(line, "solver.cpp:45")


def source_header(source: NetSource, number: int | None = None) -> HeaderLine:
    """That a network is made; ``number`` is that of a test network."""
    field, _, file = source.field.partition(" ")
    field = field.partition("[")[0]
    if number is None:
        words, line = _CREATING.get(field, (f"{field} given in memory.", 97))  # a network made in Python has no field
        return HeaderLine(f"Creating training net {words}{file}", f"solver.cpp:{line}")
    said = f"{field} file: {file}" if file else field
    return HeaderLine(f"Creating test net (#{number}) specified by {said}", "solver.cpp:190")


def weights_header(settings: SolverSettings) -> Iterator[HeaderLine]:
    """The files whose weights a network starts from."""
    for path in settings.weights:
        yield HeaderLine(f"Finetuning from {path}", "solver.cpp:72")


def net_header(net: CaffeNet) -> Iterator[HeaderLine]:
    """The layers of a network with their shapes, and the memory of their tops so far, as Caffe adds it up."""
    layers, nodes = layers_of_snapshot(net)
    shapes = {net.graph.blobs[value]: shape for value, shape in enumerate(net.shapes)}
    memory = 0
    for layer, node in zip(layers.layer, nodes, strict=True):
        yield HeaderLine(f"Creating Layer {layer.name}", "net.cpp:86")
        for bottom in layer.bottom:
            yield HeaderLine(f"{layer.name} <- {bottom}", "net.cpp:408")
        tops = list(_tops(net, layer, node, shapes))
        for i, (top, _) in enumerate(tops):
            if i < len(layer.bottom) and layer.bottom[i] == top:
                yield HeaderLine(f"{layer.name} -> {top} (in-place)", "net.cpp:369")
            else:
                yield HeaderLine(f"{layer.name} -> {top}", "net.cpp:382")
        yield HeaderLine(f"Setting up {layer.name}", "net.cpp:124")
        for i, (_, shape) in enumerate(tops):
            count = math.prod(shape)
            yield HeaderLine(f"Top shape: {''.join(f'{dim} ' for dim in shape)}({count})", "net.cpp:131")
            weight = layer.loss_weight[i] if i < len(layer.loss_weight) else 0.0
            if weight != 0:
                yield HeaderLine(f"    with loss weight {cxx_number(weight)}", "net.cpp:134")
            memory += count
        yield HeaderLine(f"Memory required for data: {memory * _FLOAT_BYTES}", "net.cpp:139")
    for name in net.output_names:
        yield HeaderLine(f"This network produces output {name}", "net.cpp:244")
    yield HeaderLine("Network initialization done.", "net.cpp:257")


def _tops(
    net: CaffeNet, layer: LayerParameter, node: Node | None, shapes: dict[str, Shape]
) -> Iterator[tuple[str, Shape]]:
    """Name and shape of each top; those of a ``Split``, which Caffe adds, are shaped as its bottom."""
    if node is not None:
        yield from ((net.graph.blobs[value], net.shapes[value]) for value in node.tops)
        return
    yield from ((top, shapes[layer.bottom[0]]) for top in layer.top)
