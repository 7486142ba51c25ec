"""A net, step by step, to a graph: names of blobs, inputs and outputs, and each layer by its emitter or traced."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from caffe_compat.errors import NetworkError
from caffe_compat.network.graph import Node
from caffe_compat.network.net import CaffeNet

from ..dynamic import Axes
from ..overwritten import OVERWRITTEN
from ..pixels import Pixels
from ..state import AFTER
from .emitters import find_emitter, is_wide
from .graph import GraphBuilder, Site
from .sizes import Size, Sizes, sizes_of
from .traced import emit_traced

__all__ = ["Built", "build_graph"]

# Every file that registers emitters or translations.
for _name in (
    *(
        "activations",
        "arithmetic",
        "boxes",
        "center_grid",
        "detection",
        "distances",
        "kernels",
        "moving",
        "openpose",
        "pooling",
        "rearranging",
    ),
    *("proposals", "recurrent", "regions", "sources", "windows", "yolo_second"),
):
    importlib.import_module(f"{__package__}.{_name}")


@dataclass
class Built:
    """A graph with its inputs and outputs: name -> (what its values are, the sizes or names of its axes)."""

    graph: GraphBuilder
    inputs: dict[str, tuple[type, list[int | str]]] = field(default_factory=dict)
    outputs: dict[str, tuple[type, list[int | str]]] = field(default_factory=dict)


def build_graph(
    net: CaffeNet, *, axes: Axes, kind: type = np.float32, pixels: Pixels | None = None, state: str = "reset"
) -> Built:
    """The graph of ``net``, which is in float32 and of phase TEST.

    Raises:
        NetworkError: a layer cannot be in a graph, which is named.
    """
    return _Builder(net, axes, kind, pixels, state).build()


class _Builder:
    def __init__(self, net: CaffeNet, axes: Axes, kind: type, pixels: Pixels | None, state: str) -> None:
        self.net, self.axes, self.kind, self.pixels, self.state = net, axes, kind, pixels, state
        self.program = net.program
        self.sizes = sizes_of(net, axes)
        self.graph = GraphBuilder(kind)
        self.built = Built(self.graph)
        self.tops = self._named_tops()
        self.values: dict[int, str] = {}

    def _named_tops(self) -> dict[int, str]:
        """The name of every value: that of its blob, which an input has, and else only the last value of the blob."""
        blobs = self.program.graph.blobs
        inputs = self.program.inputs
        names = {value: blobs[value] for value in inputs}
        taken = set(names.values())
        made = [v for step in self.program.steps for v in step.tops if v not in names]
        last = {blobs[value]: value for value in made}
        names |= {value: name for name, value in last.items() if name not in taken}
        for name in names.values():
            self.graph.take(name)
        for value in made:
            if value not in names:
                name = blobs[value]
                names[value] = self.graph.fresh(name + (OVERWRITTEN if last[name] == value else "/before"))
        return names

    def build(self) -> Built:
        self._inputs()
        wanted = [v for v in self.program.outputs if v not in self.program.inputs]
        if not wanted:
            raise NetworkError("the net computes nothing: its outputs are inputs")
        for step, node in zip(self.program.steps, self._nodes(), strict=True):
            self._step(self.net.get_submodule(step.module), node)
        for value in wanted:
            self._output(value)
        return self.built

    def _nodes(self) -> list[Node]:
        by_module = {node.module_name: node for node in self.program.graph.computed}
        return [by_module[step.module] for step in self.program.steps]

    def _inputs(self) -> None:
        needed = self.program.needed_inputs
        for value, name in zip(self.program.inputs, self.program.input_names, strict=True):
            if name not in needed:
                continue
            asked = self.axes.get(name, {})
            dims = [asked.get(i, n) for i, n in enumerate(self.net.input_shapes[name])]
            if self.pixels is not None and self.pixels.blob == name:
                self.values[value] = self._pixels(self.pixels, dims)
            else:
                self.built.inputs[name] = (np.float32, dims)
                self.values[value] = self._cast(name, self.kind) if self.kind is not np.float32 else name

    def _cast(self, x: str, kind: type, target: str | None = None) -> str:
        from onnx import helper

        made = target or self.graph.fresh(f"{x}/{np.dtype(kind).name}")
        to = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        self.graph.nodes.append(helper.make_node("Cast", [x], [made], name=self.graph.fresh(f"{made}:Cast"), to=to))
        return made

    def _pixels(self, pixels: Pixels, dims: list[int | str]) -> str:
        """The first operations: pixels to input."""
        size = pixels.size or (f"{pixels.blob}_height", f"{pixels.blob}_width")
        self.built.inputs[pixels.blob] = (np.uint8, [dims[0], *size, pixels.channels])
        nothing: Any = None
        node = Node(-1, f"{pixels.blob} (preprocessing)", "Preprocess", nothing, (), (), pixels.blob)
        site = Site(self.graph, nn.Identity(), node, (), ())
        site.kind = np.float32
        x = site.op("Transpose", site.cast(pixels.blob, np.float32), perm=[0, 3, 1, 2])
        if pixels.resize is not None:
            first = site.op("Shape", x, start=0, end=2)
            sizes = site.op("Concat", first, site.ints(pixels.resize), axis=0)
            x = site.op("Resize", x, "", "", sizes, mode="linear", coordinate_transformation_mode="half_pixel")
        if pixels.crop is not None:
            top, left, height, width = pixels.crop
            x = site.op("Slice", x, site.ints([top, left]), site.ints([top + height, left + width]), site.ints([2, 3]))
        if pixels.reverse:
            x = site.op("Gather", x, site.ints([2, 1, 0]), axis=1)
        if pixels.mean is not None:
            x = site.op("Sub", x, site.floats(pixels.mean))
        if pixels.scale != 1:
            x = site.op("Mul", x, site.floats(pixels.scale))
        return x if self.kind is np.float32 else self._cast(x, self.kind)

    def _step(self, module: nn.Module, node: Node) -> None:
        emitter = find_emitter(module)
        wide = self.kind is not np.float32 and (emitter is None or is_wide(module))
        bottoms = [self.values[v] for v in node.bottoms]
        if wide:
            bottoms = [self._cast(x, np.float32) for x in bottoms]
        site = Site(self.graph, module, node, bottoms, self.sizes)
        site.kind = np.float32 if wide else self.kind
        site.state = self.state
        results = emitter(site) if emitter is not None else None
        if results is None:
            if self.kind is not np.float32 and not wide:
                bottoms = [self._cast(x, np.float32) for x in bottoms]
                site = Site(self.graph, module, node, bottoms, self.sizes)
                site.kind = np.float32
            results = emit_traced(site)
        listed = [results] if isinstance(results, str) else list(results)
        self._name(site, node, listed)
        for name, (kind, dims) in site.state_inputs.items():
            self.built.inputs[name] = (kind, dims)
        for name, (source, dims) in site.state_outputs.items():
            self.built.outputs[name + AFTER] = (np.float32, dims)
            self._cast(source, np.float32, name + AFTER)

    def _name(self, site: Site, node: Node, results: list[str]) -> None:
        """Give the results of a layer their names: of blobs where somebody sees them, else as they came."""
        if site.kind is not self.kind:
            results = [self._cast(x, self.kind) for x in results]
        own = {name for made in self.graph.nodes[site.first_node :] for name in made.output}
        for value, result in zip(node.tops, results, strict=False):
            if result in own:
                self.values[value] = self.tops[value]
                own.discard(result)
            else:
                self.values[value] = result  # a layer that does nothing
        fresh = {result: self.values[v] for v, result in zip(node.tops, results, strict=False)}
        site.rename({a: b for a, b in fresh.items() if a != b})

    def _output(self, value: int) -> None:
        name, source = self.tops[value], self.values[value]
        dims = self._dims(name, self.sizes[value])
        self.built.outputs[name] = (np.float32, dims)
        if self.kind is not np.float32:
            self._rename_output(source, name)
        elif source != name:
            self._identity(source, name)

    def _dims(self, name: str, sizes: Sizes) -> list[int | str]:
        """Sizes for the outside: one that is always that of an input has its name."""
        known: dict[Size, str] = {}
        for value in self.program.inputs:
            for axis, asked in self.axes.get(self.program.graph.blobs[value], {}).items():
                size = self.sizes[value][axis]
                if isinstance(size, Size):
                    known.setdefault(size, asked)
        return [known.get(n, f"{name}_{i}") if isinstance(n, Size) else n for i, n in enumerate(sizes)]

    def _identity(self, source: str, target: str) -> None:
        from onnx import helper

        self.graph.nodes.append(
            helper.make_node("Identity", [source], [target], name=self.graph.fresh(f"{target}:Identity"))
        )

    def _rename_output(self, source: str, name: str) -> None:
        """In half precision, what comes out is in single precision all the same."""
        if source == name:
            source = self.graph.fresh(f"{name}/{np.dtype(self.kind).name}")
            for node in self.graph.nodes:
                for names in (node.input, node.output):
                    for i, known in enumerate(names):
                        if known == name:
                            names[i] = source
            self.values = {v: source if known == name else known for v, known in self.values.items()}
        self._cast(source, np.float32, name)
