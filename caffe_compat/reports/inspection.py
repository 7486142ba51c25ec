"""What is in a file: prototxt, solver, weights, mean image, solver snapshot or ``.pt``.

A network that cannot be built is listed as far as it goes: every layer that its bottoms' shapes reach has its own
shapes, the others say why they have none.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import nn

from ..errors import CaffeCompatError, FileError, GraphError, UsageError
from ..formats.sniff import TEXT_KINDS, FileKind, kind_of
from ..formats.textformat import TextTree, parse_text
from ..formats.weights import WeightsFile, read_solverstate, read_weights
from ..formats.wire import BlobView, read_blob
from ..network.building import build_layer, without_memory
from ..network.checkpoint import Checkpoint, read_checkpoint
from ..network.definition import Definition, read_definition
from ..network.filling import shape_fits
from ..network.graph import Graph, NetState, Node, phase_graph
from ..network.net import CaffeNet
from ..network.registry import Shape, find_layer
from ..network.rules import included, own_state
from ..network.sharing import blob_names, get_tensor
from ..schema import is_repeated, load_schema
from ..schema.prototxt import parse_message, read_message, read_text
from ..schema.unknown import unknown_fields_of
from ..schema.upgrade import upgrade_solver
from .cost import multiply_accumulates

__all__ = [
    "BlobRow",
    "CheckpointInspection",
    "Inspection",
    "LayerRow",
    "NetworkInspection",
    "PairInspection",
    "SolverInspection",
    "SolverStateInspection",
    "WeightsInspection",
    "WeightsRow",
    "inspect_file",
    "inspect_network",
    "inspect_pair",
    "layer_rows",
    "text_kind",
]

TextKind: TypeAlias = Literal["network", "solver", "other"]
Kind: TypeAlias = Literal["network", "solver", "weights", "mean image", "solver state", "checkpoint"]


@dataclass(frozen=True)
class LayerRow:
    """One layer of the phase.

    Attributes:
        tops: a loss without one has the top that Caffe calls ``(automatic)``.
        shapes: of its tops, in order; None for one that is not known.
        blobs: shapes of its learned blobs in Caffe's order; None if the layer could not be built.
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

    def shared_name(self, blob: int) -> str:
        """The name that blob number ``blob`` is shared by; empty if it is not shared."""
        return self.shared[blob] if blob < len(self.shared) else ""

    @property
    def parameters(self) -> int | None:
        """How many numbers its blobs hold."""
        return None if self.blobs is None else sum(math.prod(shape) for shape in self.blobs)


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

    @property
    def complete(self) -> bool:
        """Whether every layer could be built."""
        return not self.problem


@dataclass(frozen=True)
class BlobRow:
    """One stored array.

    Attributes:
        minimum, maximum: of its finite values; None if there are none. not_finite: how many are NaN or infinite.
        has_diff: whether the file stores a gradient beside it.
        problem: what is wrong with it; empty if nothing is.
    """

    shape: Shape
    dtype: str
    count: int
    minimum: float | None
    maximum: float | None
    not_finite: int
    has_diff: bool = False
    problem: str = ""


@dataclass(frozen=True)
class WeightsRow:
    """One layer of a weights file. ``type`` is empty where the file does not say (HDF5)."""

    name: str
    type: str
    blobs: tuple[BlobRow, ...]

    @property
    def parameters(self) -> int:
        """How many numbers its blobs hold."""
        return sum(blob.count for blob in self.blobs)


@dataclass(frozen=True)
class WeightsInspection:
    """The blobs of a weights file or ``.pt``: layers that have none are left out; ``layers_in_file`` counts all."""

    layers_in_file: int
    layers: tuple[WeightsRow, ...]
    parameters: int
    bytes: int


@dataclass(frozen=True)
class SolverInspection:
    """A solver's fields that are set, in the current generation, as text."""

    dialect: str
    dialect_reason: str
    fields: dict[str, Any]
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SolverStateInspection:
    """A solver's snapshot; ``history`` are its optimiser's arrays in Caffe's order."""

    iteration: int
    learned_net: str | None
    current_step: int
    history: tuple[BlobRow, ...]


@dataclass(frozen=True)
class CheckpointInspection:
    """What a ``.pt`` says of itself, beside its network and tensors; see :mod:`caffe_compat.network.checkpoint`."""

    dtype: str
    optimized: bool
    sources: tuple[dict[str, str], ...]
    preprocess: dict[str, Any] | None
    parity: dict[str, Any] | None
    extra: dict[str, str]
    written_by: str
    unfilled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """One file. The parts that its kind does not have are None.

    Attributes:
        format: ``"text"``, ``"binary"``, ``"hdf5"`` or ``"pt"``. size: bytes of the file.
        warnings: what to look at, of all parts.
    """

    path: str
    kind: Kind
    format: Literal["text", "binary", "hdf5", "pt"]
    size: int
    network: NetworkInspection | None = None
    weights: WeightsInspection | None = None
    solver: SolverInspection | None = None
    solver_state: SolverStateInspection | None = None
    mean_image: BlobRow | None = None
    checkpoint: CheckpointInspection | None = None
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data; parts that are None are left out."""
        plain = {key: value for key, value in asdict(self).items() if value is not None}
        if self.network is not None:
            plain["network"]["complete"] = self.network.complete
            for row, layer in zip(plain["network"]["layers"], self.network.layers, strict=True):
                row["parameters"] = layer.parameters
        return plain


@dataclass(frozen=True)
class PairInspection:
    """A network and weights for it.

    Attributes:
        leftover: layers of the weights file with blobs that the network has no layer for.
        missing: layers of the network with blobs that the file has none for.
        mismatches: layers that have both, but another number of blobs or other shapes, in words.
        unchecked: layers that could not be built, so that the shapes of their blobs, if they have any, are not known.
    """

    network: Inspection
    weights: Inspection
    leftover: tuple[str, ...]
    missing: tuple[str, ...]
    mismatches: tuple[str, ...]
    unchecked: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "network": self.network.to_json(),
            "weights": self.weights.to_json(),
            "leftover": list(self.leftover),
            "missing": list(self.missing),
            "mismatches": list(self.mismatches),
            "unchecked": list(self.unchecked),
        }


def inspect_file(
    path: str | Path,
    *,
    phase: str = "test",
    level: int = 0,
    stages: Sequence[str] = (),
    dialect: str | None = None,
    input_shapes: Mapping[str, Shape] | None = None,
    ignore_fields: Collection[str] = (),
) -> Inspection:
    """Look into ``path``. What it is is told by its contents, not by its name.

    Args:
        phase, level, stages, input_shapes, ignore_fields: as :func:`caffe_compat.load`; a ``.pt`` has its own.
        dialect: a fork's name; None finds it out.

    Raises:
        FileError, PrototxtError, WireError: the file is none of the kinds, or damaged.
        UsageError: no such phase, or no such input.
    """
    name = str(path)
    found, size = kind_of(name), os.path.getsize(name)
    if found is FileKind.EMPTY:
        raise FileError("is empty", path=name)
    state = NetState(phase.upper(), level, tuple(stages))
    if found is FileKind.ZIP:
        return _inspect_checkpoint(name, size)
    if found is FileKind.HDF5:
        return _inspect_hdf5(name, size)
    if found not in TEXT_KINDS:
        return _inspect_binary(name, size, state, dialect, input_shapes or {}, ignore_fields)
    kind = text_kind(parse_text(read_text(name), name))
    if kind == "solver":
        return _inspect_solver(name, size, dialect)
    if kind == "other":
        raise FileError("is text, but neither a network (no layer) nor a solver", path=name)
    network = inspect_network(read_definition(name, dialect), state, input_shapes or {}, ignore_fields)
    return Inspection(name, "network", "text", size, network=network, warnings=network.warnings)


def inspect_pair(
    network: str | Path,
    weights: str | Path,
    *,
    phase: str = "test",
    level: int = 0,
    stages: Sequence[str] = (),
    dialect: str | None = None,
    input_shapes: Mapping[str, Shape] | None = None,
    ignore_fields: Collection[str] = (),
) -> PairInspection:
    """Look into a prototxt and a weights file, and which blobs of one have a place in the other.

    Layers are matched by name as Caffe does it: a name that occurs twice in the network means its first layer.

    Raises:
        As :func:`inspect_file`. UsageError: the files are of other kinds.
    """
    first = inspect_file(
        network,
        phase=phase,
        level=level,
        stages=stages,
        dialect=dialect,
        input_shapes=input_shapes,
        ignore_fields=ignore_fields,
    )
    second = inspect_file(weights, dialect=dialect)
    if first.kind != "network" or second.kind != "weights":
        found = f"{first.path} is a {first.kind}, {second.path} a {second.kind}"
        raise UsageError(f"a network's prototxt and weights were expected; {found}")
    assert first.network is not None
    assert second.weights is not None
    return _match(first, second, first.network, second.weights)


def text_kind(tree: TextTree) -> TextKind:
    """What a text in protobuf's format is, by the fields at its top."""
    kinds = {(field.name, field.value.kind) for field in tree.fields}
    if kinds & {("layer", "message"), ("layers", "message"), ("input", "string")}:
        return "network"
    solver = set(load_schema().message("SolverParameter").DESCRIPTOR.fields_by_name) - {"type"}
    return "solver" if solver & {name for name, _ in kinds} else "other"


# Networks


def inspect_network(
    definition: Definition,
    state: NetState,
    input_shapes: Mapping[str, Shape],
    ignore_fields: Collection[str] = (),
) -> NetworkInspection:
    """``definition`` as ``state`` builds it, or as much of it as can be built.

    Raises:
        UsageError: ``input_shapes`` names a blob that is no input.
    """
    message, dialect = definition.message, definition.schema.name
    state = own_state(message, state)
    try:
        graph = phase_graph(message, state, dialect, input_shapes)
    except GraphError as error:
        rows = [_unwired_row(layer) for layer in message.layer if _may_be_included(layer, state)]
        return replace(_summary(definition, state, None, rows), problem=str(error))
    try:
        net = CaffeNet(message, state, dialect=dialect, input_shapes=input_shapes, ignore_fields=ignore_fields)
    except CaffeCompatError as error:
        found = _summary(definition, state, graph, _rows_one_by_one(graph))
        return replace(found, problem=str(error))
    found = _summary(definition, state, graph, layer_rows(net))
    return replace(found, notes=(*found.notes, *net.notes), warnings=(*found.warnings, *net.warnings))


def _may_be_included(layer: Any, state: NetState) -> bool:
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
            parameters += 0 if shared in seen else math.prod(shape)
            seen |= {shared} - {""}
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
        unknown=tuple(_all_unknown(definition.message, "")),
        notes=definition.notes,
        warnings=definition.warnings,
    )


def layer_rows(net: CaffeNet) -> list[LayerRow]:
    """The layers of a net in execution order, sources of data included."""
    rows = []
    for node in net.graph.nodes:
        shapes = tuple(net.shapes[v] for v in node.tops)
        if node in net.graph.sources:
            rows.append(_row(node, net.graph, shapes, (), 0))
            continue
        bottoms = [net.shapes[v] for v in node.bottoms]
        rows.append(_built_row(node, net.graph, net.get_submodule(node.module_name), bottoms, shapes))
    return rows


def _rows_one_by_one(graph: Graph) -> list[LayerRow]:
    """Rows of a network that cannot be built as a whole: each layer that can be is built alone."""
    known: dict[int, Shape | None] = {}
    rows = []
    for node in graph.nodes:
        row = _source_row(node, graph) if node in graph.sources else _lone_row(node, graph, known)
        known.update(zip(node.tops, row.shapes, strict=True))
        rows.append(row)
    return rows


def _source_row(node: Node, graph: Graph) -> LayerRow:
    try:
        shapes = graph.source_shapes(node)
    except CaffeCompatError as error:
        return _row(node, graph, (None,) * len(node.tops), (), 0, str(error))
    untold = [name for name, shape in zip(node.message.top, shapes, strict=True) if shape is None]
    hint = " ".join(f"--input-shape {name}=N,C,H,W" for name in untold)
    return _row(node, graph, shapes, (), 0, f"the file does not tell its shape; pass {hint}" if untold else "")


def _lone_row(node: Node, graph: Graph, known: Mapping[int, Shape | None]) -> LayerRow:
    nothing = (None,) * len(node.tops)
    try:
        find_layer(node.type, graph.dialect)
    except CaffeCompatError:
        return _row(node, graph, nothing, None, None, f"layer type {node.type!r} is not known")
    bottoms: list[Shape] = []
    for value in node.bottoms:
        shape = known[value]
        if shape is None:
            problem = f"the shape of its bottom {graph.blobs[value]!r} is not known"
            return _row(node, graph, nothing, None, None, problem)
        bottoms.append(shape)
    try:
        given = [without_memory(shape, graph.blobs[v]) for v, shape in zip(node.bottoms, bottoms, strict=True)]
        built = build_layer(node, graph, given)
    except CaffeCompatError as error:
        return _row(node, graph, nothing, None, None, str(error))
    return _built_row(node, graph, built.module, bottoms, [tuple(top.shape) for top in built.tops])


def _built_row(
    node: Node, graph: Graph, module: nn.Module, bottoms: Sequence[Shape], tops: Sequence[Shape]
) -> LayerRow:
    blobs = tuple(tuple(get_tensor(module, name).shape) for name in blob_names(module))
    return _row(node, graph, tuple(tops), blobs, multiply_accumulates(module, bottoms, tops))


def _row(
    node: Node,
    graph: Graph,
    shapes: tuple[Shape | None, ...],
    blobs: tuple[Shape, ...] | None,
    macs: int | None,
    problem: str = "",
) -> LayerRow:
    shared = tuple(param.name for param in node.message.param)
    bottoms, tops = (tuple(graph.blobs[v] for v in values) for values in (node.bottoms, node.tops))
    return LayerRow(node.name, node.type, bottoms, tops, shapes, blobs, shared, macs, problem)


def _unwired_row(layer: Any) -> LayerRow:
    bottoms, tops = tuple(layer.bottom), tuple(layer.top)
    nothing = (None,) * len(tops)
    return LayerRow(layer.name, layer.type, bottoms, tops, nothing, None, (), None, "the graph is broken")


def _all_unknown(message: Any, where: str) -> Iterator[str]:
    """Unknown fields of a message and everything in it."""
    for unknown in unknown_fields_of(message):
        yield f"{where}{unknown}"
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        for item in value if is_repeated(descriptor) else (value,):
            inner = f"{where}layer {item.name!r}: " if descriptor.name == "layer" else where
            yield from _all_unknown(item, inner)


# Weights


def _inspect_binary(
    path: str,
    size: int,
    state: NetState,
    dialect: str | None,
    input_shapes: Mapping[str, Shape],
    ignore_fields: Collection[str],
) -> Inspection:
    """A caffemodel, solver state or blob: nothing in these files says which, so the one that parses it is."""
    try:
        with read_weights(path) as weights:
            return _inspect_weights(path, size, weights, state, dialect, input_shapes, ignore_fields)
    except FileError as error:
        refused = error
    try:
        return _inspect_state(path, size, "binary")
    except FileError as error:
        refused = error if path.endswith(".solverstate") else refused
    try:
        row = _blob_row(read_blob(path))
        return Inspection(path, "mean image", "binary", size, mean_image=row, warnings=_blob_warnings("the blob", row))
    except FileError as error:
        refused = error if path.endswith(".binaryproto") else refused
    raise refused


def _inspect_hdf5(path: str, size: int) -> Inspection:
    try:
        with read_weights(path) as weights:
            rows = _weights_rows(weights)
    except FileError as error:
        refused = error
    else:
        warnings = tuple(warning for row in rows.layers for warning in _row_warnings(row))
        return Inspection(path, "weights", "hdf5", size, weights=rows, warnings=warnings)
    try:
        return _inspect_state(path, size, "hdf5")
    except FileError as error:
        raise (error if path.endswith(".solverstate.h5") else refused) from error


def _inspect_weights(
    path: str,
    size: int,
    weights: WeightsFile,
    state: NetState,
    dialect: str | None,
    input_shapes: Mapping[str, Shape],
    ignore_fields: Collection[str],
) -> Inspection:
    rows = _weights_rows(weights)
    warnings = [w for row in rows.layers for w in _row_warnings(row)]
    network = None
    try:
        network = inspect_network(read_definition(path, dialect, weights), state, input_shapes, ignore_fields)
        warnings += network.warnings
    except CaffeCompatError as error:
        warnings.append(f"the network inside was not read: {error}")
    return Inspection(path, "weights", "binary", size, network=network, weights=rows, warnings=tuple(warnings))


def _weights_rows(weights: WeightsFile) -> WeightsInspection:
    rows = []
    stored = 0
    for record in weights.layers:
        if not record.blobs:
            continue
        blobs = []
        for blob in record.blobs:
            blobs.append(_blob_row(blob))
            stored += blob.data.nbytes
            weights.release(blob)
        rows.append(WeightsRow(record.name, _type_name(record.type), tuple(blobs)))
    return WeightsInspection(len(weights.layers), tuple(rows), sum(row.parameters for row in rows), stored)


def _type_name(kind: str | int | None) -> str:
    """A V1 file has the number of its enum of types in place of a name."""
    if not isinstance(kind, int):
        return kind or ""
    enum = load_schema().message("V1LayerParameter").DESCRIPTOR.fields_by_name["type"].enum_type
    known = enum.values_by_number.get(kind)
    return known.name if known else f"V1 type {kind}"


def _blob_row(blob: BlobView) -> BlobRow:
    if blob.is_empty:
        return BlobRow(
            blob.shape, blob.data.dtype.name, 0, None, None, 0, problem="declares its shape and holds no values"
        )
    return _array_row(blob.data, blob.shape, blob.diff is not None)


def _array_row(data: np.ndarray, shape: Shape, has_diff: bool = False) -> BlobRow:
    low = high = None
    bad = 0
    if data.size:
        low, high = float(data.min()), float(data.max())  # NaN if any value is
        if not (math.isfinite(low) and math.isfinite(high)):
            finite = data[np.isfinite(data)]
            bad = data.size - finite.size
            low, high = (float(finite.min()), float(finite.max())) if finite.size else (None, None)
    problem = f"{bad} of {data.size} values are not finite (NaN or infinity)" if bad else ""
    return BlobRow(shape, data.dtype.name, data.size, low, high, bad, has_diff, problem)


def _blob_warnings(what: str, blob: BlobRow) -> tuple[str, ...]:
    return (f"{what}: {blob.problem}",) if blob.problem else ()


def _row_warnings(row: WeightsRow) -> Iterator[str]:
    for i, blob in enumerate(row.blobs):
        yield from _blob_warnings(f"layer {row.name!r}, blob {i}", blob)


def _inspect_state(path: str, size: int, form: Literal["binary", "hdf5"]) -> Inspection:
    state = read_solverstate(path)
    history = tuple(_blob_row(blob) for blob in state.history)
    warnings = [w for i, blob in enumerate(history) for w in _blob_warnings(f"history blob {i}", blob)]
    return Inspection(
        path,
        "solver state",
        form,
        size,
        solver_state=SolverStateInspection(state.iteration, state.learned_net, state.current_step, history),
        warnings=tuple(warnings),
    )


# Solvers and .pt files


def _inspect_solver(path: str, size: int, dialect: str | None) -> Inspection:
    parsed = read_message(path, "SolverParameter", None if dialect == "auto" else dialect)
    upgraded = upgrade_solver(parsed.message, parsed.schema, path)
    solver = SolverInspection(
        parsed.schema.name,
        parsed.dialect_reason,
        _plain(upgraded.message),
        tuple(map(str, parsed.unknown)),
        tuple(upgraded.notes),
    )
    return Inspection(path, "solver", "text", size, solver=solver, warnings=tuple(parsed.warnings))


def _plain(message: Any) -> dict[str, Any]:
    """The fields of a message that are set, as plain data."""
    plain: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        items = list(value) if is_repeated(descriptor) else [value]
        if descriptor.message_type is not None:
            items = [_plain(item) for item in items]
        elif descriptor.enum_type is not None:
            items = [descriptor.enum_type.values_by_number[item].name for item in items]
        elif descriptor.cpp_type == descriptor.CPPTYPE_FLOAT:
            # The shortest decimal that is this float32: 0.1, not 0.10000000149011612.
            items = [float(str(np.float32(item))) for item in items]
        plain[descriptor.name] = items if is_repeated(descriptor) else items[0]
    return plain


def _inspect_checkpoint(path: str, size: int) -> Inspection:
    content = read_checkpoint(path)
    parsed = parse_message(content.network, dialect=content.dialect, path=path)
    definition = Definition(path, parsed.message, parsed.schema, "stored in the file", (), tuple(parsed.warnings))
    network = inspect_network(definition, content.state, content.input_shapes, content.accepted_fields)
    rows = _tensor_rows(content)
    own = CheckpointInspection(
        content.dtype,
        content.optimized,
        content.sources,
        _plain_preprocess(content.preprocess),
        None if content.parity is None else asdict(content.parity),
        {name: _plain_extra(value) for name, value in content.extra.items()},
        content.written_by,
        content.unfilled,
    )
    warnings = [*network.warnings, *(w for row in rows.layers for w in _row_warnings(row))]
    return Inspection(
        path, "checkpoint", "pt", size, network=network, weights=rows, checkpoint=own, warnings=tuple(warnings)
    )


def _tensor_rows(content: Checkpoint) -> WeightsInspection:
    """The tensors by layer. numpy lacks bfloat16, which float32 holds without loss."""
    layers: dict[str, list[BlobRow]] = {}
    stored = 0
    for name, tensor in content.state_dict.items():
        values = tensor.float() if tensor.is_floating_point() else tensor
        row = _array_row(values.numpy(), tuple(tensor.shape))
        row = replace(row, dtype=str(tensor.dtype).removeprefix("torch."))
        layers.setdefault(name.rpartition(".")[0], []).append(row)
        stored += tensor.nbytes
    rows = tuple(WeightsRow(name, "", tuple(blobs)) for name, blobs in layers.items())
    return WeightsInspection(len(rows), rows, sum(row.parameters for row in rows), stored)


def _plain_preprocess(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A mean image is told by its shape; it does not belong into a report."""
    if record is None:
        return None
    plain = dict(record)
    if plain.get("mean_image") is not None:
        plain["mean_image"] = {"shape": list(plain["mean_image"].shape)}
    return plain


def _plain_extra(value: torch.Tensor | str) -> str:
    """A string as it is; of a tensor, what kind it is."""
    if isinstance(value, str):
        return value
    return f"{' x '.join(map(str, value.shape)) or 'a number'} {str(value.dtype).removeprefix('torch.')}"


# A network and its weights


def _match(
    first: Inspection, second: Inspection, network: NetworkInspection, weights: WeightsInspection
) -> PairInspection:
    by_name: dict[str, LayerRow] = {}
    for layer in network.layers:
        by_name.setdefault(layer.name, layer)
    leftover: list[str] = []
    mismatches: list[str] = []
    unchecked: list[str] = []
    for record in weights.layers:
        row = by_name.get(record.name)
        if row is None:
            leftover.append(record.name)
        elif row.blobs is None:
            unchecked.append(record.name)
        else:
            mismatches += _mismatches(record, row, second.format)
    filled = {record.name for record in weights.layers}
    shared = {name for row in network.layers if row.name in filled for name in row.shared}
    missing = [
        row.name
        for row in network.layers
        if row.name not in filled and any(row.shared_name(i) not in shared - {""} for i in range(len(row.blobs or ())))
    ]
    # Whether these have blobs at all is not known, and so not that they lack none.
    unchecked += [row.name for row in network.layers if row.blobs is None and row.name not in filled]
    return PairInspection(first, second, tuple(leftover), tuple(missing), tuple(mismatches), tuple(unchecked))


def _mismatches(record: WeightsRow, row: LayerRow, form: str) -> Iterator[str]:
    assert row.blobs is not None
    where = f"layer {row.name!r} ({row.type})"
    # Caffe leaves blobs that another layer owns out of HDF5.
    if len(record.blobs) != len(row.blobs) and not (form == "hdf5" and len(record.blobs) < len(row.blobs)):
        yield f"{where}: the file has {len(record.blobs)} blobs, the net needs {len(row.blobs)}"
        return
    for i, (blob, needed) in enumerate(zip(record.blobs, row.blobs, strict=False)):
        if not shape_fits(blob.shape, needed):
            yield f"{where}, blob {i}: the file has shape {list(blob.shape)}, the net needs {list(needed)}"
