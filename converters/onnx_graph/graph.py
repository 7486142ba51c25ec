"""What a graph is made of while layers are put into it: nodes, weights and constants, each under its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from torch import Tensor, nn

from caffe_compat.errors import LayerError
from caffe_compat.network.graph import Node

from .sizes import Size, Sizes, is_fixed

__all__ = ["OPSET", "GraphBuilder", "Site"]

OPSET = 18

Value = str


class GraphBuilder:
    """Nodes in execution order, and the tensors that they read.

    Attributes:
        nodes: ``NodeProto`` messages. weights: blobs of layers by name, as they are in memory, and what they are
            stored as. constants: everything else that is known beforehand.
        kind: ``np.float32`` or ``np.float16``: what layers compute in, unless they ask for single precision.
    """

    def __init__(self, kind: type = np.float32) -> None:
        self.nodes: list[Any] = []
        self.weights: dict[str, tuple[Tensor, type]] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.kind = kind
        self._taken: dict[str, int] = {}
        self._weight_names: dict[tuple[Any, ...], str] = {}
        self._constant_names: dict[tuple[Any, ...], str] = {}

    def fresh(self, name: str) -> str:
        """``name``, or where that is taken ``name_1`` and so on."""
        while name in self._taken:
            self._taken[name] += 1
            name = f"{name}_{self._taken[name]}"
        self._taken[name] = 0
        return name

    def take(self, name: str) -> None:
        """Keep ``name`` for later."""
        self._taken.setdefault(name, 0)

    def weight(self, name: str, tensor: Tensor, kind: type) -> Value:
        """A blob under its name; one that several layers share is there once."""
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, kind)
        if tensor.numel() and key in self._weight_names:
            return self._weight_names[key]
        name = self._weight_names[key] = self.fresh(name)
        self.weights[name] = tensor.detach(), kind
        return name

    def constant(self, array: np.ndarray, hint: str = "constant") -> Value:
        """A constant; equal ones are there once."""
        array = np.array(array, order="C")  # which keeps a scalar a scalar
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constant_names:
            self._constant_names[key] = self.fresh(hint)
            self.constants[self._constant_names[key]] = array
        return self._constant_names[key]


class Site:
    """One layer that is put into a graph: what it reads and makes, and the tools for that.

    Attributes:
        module, node: the layer. bottoms: names of what it reads. bottom_sizes, top_sizes: their axes.
        kind: what it computes in. first_node: the number of nodes before it.
        state: what becomes of recurrent state (:mod:`converters.state`), and the inputs and outputs for it.
    """

    def __init__(
        self, graph: GraphBuilder, module: nn.Module, node: Node, bottoms: Sequence[Value], sizes: Sequence[Sizes]
    ) -> None:
        self.graph, self.node = graph, node
        self.module: Any = module
        self.bottoms = list(bottoms)
        self.bottom_sizes = [sizes[v] for v in node.bottoms]
        self.top_sizes = [sizes[v] for v in node.tops]
        self.kind: type = graph.kind
        self.first_node = len(graph.nodes)
        self.state = "reset"
        self.state_inputs: dict[str, tuple[type, list[int | str]]] = {}
        self.state_outputs: dict[str, tuple[Value, list[int | str]]] = {}

    def fail(self, what: str) -> NoReturn:
        """Raise: the layer cannot be in a graph."""
        raise LayerError(
            f"{what}; stop before it with outputs (--outputs a,b)", layer=self.node.name, type=self.node.type
        )

    # Nodes

    def op(self, type_: str, *inputs: Value, outputs: int = 1, **attributes: Any) -> Value:
        """Add a node; the name of its (first) output. An empty input is left out."""
        return self.ops(type_, *inputs, outputs=outputs, **attributes)[0]

    def ops(self, type_: str, *inputs: Value, outputs: int = 1, **attributes: Any) -> list[Value]:
        """Add a node; the names of its outputs."""
        from onnx import helper

        made = [self.graph.fresh(f"{self.node.module_name}/{type_}") for _ in range(outputs)]
        name = self.graph.fresh(f"{self.node.module_name}:{type_}")
        given = {key: value for key, value in attributes.items() if value is not None}
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        self.graph.nodes.append(helper.make_node(type_, list(inputs), made, name=name, **given))
        return made

    def rename(self, names: Mapping[str, Value]) -> None:
        """Call what the layer has made otherwise: new names by old ones."""
        for node in self.graph.nodes[self.first_node :]:
            for listed in (node.input, node.output):
                for i, name in enumerate(listed):
                    listed[i] = names.get(name, name)

    # Tensors

    def weight(self, name: str, tensor: Tensor | None = None) -> Value:
        """The blob ``name`` of the layer, or ``tensor`` under that name; empty where the layer has none."""
        blob = getattr(self.module, name) if tensor is None else tensor
        return "" if blob is None else self.graph.weight(f"{self.node.module_name}.{name}", blob, self.kind)

    def floats(self, values: Any) -> Value:
        """A constant of fractions."""
        if isinstance(values, Tensor):
            values = values.detach().cpu().numpy()
        return self.graph.constant(np.asarray(values, self.kind))

    def ints(self, values: Any) -> Value:
        """A constant of whole numbers."""
        return self.graph.constant(np.asarray(values, np.int64))

    def cast(self, x: Value, kind: np.dtype | type) -> Value:
        """``x`` as ``kind`` (of numpy)."""
        from onnx import helper

        return self.op("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(kind)))

    # Sizes

    def size(self, wanted: int | Size) -> Value:
        """A size as a value (1,): a constant, or worked out from the axis of a bottom that it varies with."""
        if not isinstance(wanted, Size):
            return self.ints([wanted])
        found = self._place_of(wanted)
        if found is None:
            self.fail("has a size that depends on the input in a way that a file cannot say")
        bottom, axis, factor, rest = found
        y = self.op("Shape", bottom, start=axis, end=axis + 1)
        if factor != 1:
            y = self.op("Mul", y, self.ints([factor]))
        return self.op("Add", y, self.ints([rest])) if rest else y

    def _place_of(self, wanted: Size) -> tuple[Value, int, int, int] | None:
        """A bottom and an axis of it, a factor for its size, and what is to be added."""
        step = wanted.larger - wanted.built
        for bottom, sizes in zip(self.bottoms, self.bottom_sizes, strict=True):
            for axis, size in enumerate(sizes):
                if isinstance(size, Size) and step % (size.larger - size.built) == 0:
                    factor = step // (size.larger - size.built)
                    return bottom, axis, factor, wanted.built - factor * size.built
        return None

    def shape(self, sizes: Sequence[int | Size]) -> Value:
        """Sizes as a value (axes,)."""
        if is_fixed(sizes):
            return self.ints(list(sizes))
        return self.op("Concat", *[self.size(size) for size in sizes], axis=0)

    def reshape(self, x: Value, before: Sequence[int | Size], after: Sequence[int | Size]) -> Value:
        """``x`` of sizes ``before`` in another shape; it stays itself if that is its own."""
        if tuple(before) == tuple(after):
            return x
        varying = [i for i, size in enumerate(after) if isinstance(size, Size)]
        kept = [i for i in varying if i < len(before) and before[i] == after[i]]
        if len(varying) <= 1 or len(varying) - len(kept) <= 1:
            # 0 copies a size, -1 is what remains.
            copied = set(kept if len(varying) > 1 else ())
            numbers = [0 if i in copied else -1 if isinstance(n, Size) else n for i, n in enumerate(after)]
            if 0 not in [n for i, n in enumerate(numbers) if i not in copied]:
                return self.op("Reshape", x, self.ints(numbers))
        return self.op("Reshape", x, self.shape(after))
