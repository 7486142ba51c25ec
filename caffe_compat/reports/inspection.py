"""What is in a file: prototxt, solver, weights, mean image, solver snapshot or ``.pt``."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from google.protobuf.descriptor import FieldDescriptor

from ..collector import collecting_later
from ..errors import CaffeCompatError, FileError, UsageError, located
from ..formats.blob_proto import read_blob
from ..formats.sniff import TEXT_KINDS, FileKind, kind_of
from ..formats.textformat import TextTree, parse_text
from ..formats.weights import WeightsFile, read_solverstate, read_weights
from ..inference.preprocess import Preprocess
from ..network.checkpoint import Checkpoint, read_checkpoint
from ..network.definition import Definition, read_definition
from ..network.filling import shape_fits, sizes_fit
from ..network.graph import NetState
from ..network.python_config import PythonConfig
from ..network.registry import Shape
from ..schema import is_repeated, load_schema
from ..schema.messages import Message
from ..schema.prototxt import parse_message, read_message, read_text
from ..schema.upgrade import upgrade_solver
from .blobs import (
    BlobRow,
    WeightsInspection,
    WeightsRow,
    array_row,
    blob_row,
    blob_warnings,
    row_warnings,
    weights_rows,
)
from .network import Asked, LayerRow, NetworkInspection, inspect_network

__all__ = [
    "CheckpointInspection",
    "Inspection",
    "PairInspection",
    "SolverInspection",
    "SolverStateInspection",
    "inspect_file",
    "inspect_pair",
    "text_kind",
]

TextKind: TypeAlias = Literal["network", "solver", "other"]
Kind: TypeAlias = Literal["network", "solver", "weights", "mean image", "solver state", "checkpoint"]


@dataclass(frozen=True)
class SolverInspection:
    """A solver's fields that are set, in the current generation, as text."""

    dialect: str
    dialect_reason: str
    fields: dict[str, object]
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
    """What a ``.pt`` says of itself, beside its network and tensors; see :mod:`caffe_compat.network.checkpoint`.

    ``choice`` is what was measured for engine ``"auto"``, ``reduced`` what the inference form computes in if not in
    float32, and how far that is off, both in words.
    """

    dtype: str
    optimized: bool
    sources: tuple[dict[str, str], ...]
    preprocess: dict[str, object] | None
    parity: dict[str, object] | None
    extra: dict[str, str]
    written_by: str
    unfilled: tuple[str, ...] = ()
    engine: str = "torch"
    choice: str = ""
    reduced: str = ""


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

    def to_json(self) -> dict[str, object]:
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

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {
            "network": self.network.to_json(),
            "weights": self.weights.to_json(),
            "leftover": list(self.leftover),
            "missing": list(self.missing),
            "mismatches": list(self.mismatches),
            "unchecked": list(self.unchecked),
        }


@collecting_later
def inspect_file(
    path: str | Path,
    *,
    phase: str = "test",
    level: int = 0,
    stages: Sequence[str] = (),
    dialect: str | None = None,
    input_shapes: Mapping[str, Shape] | None = None,
    guess_shapes: bool = False,
    ignore_fields: Collection[str] = (),
    python_config: PythonConfig | None = None,
    filled_from: str | Path | None = None,
) -> Inspection:
    """Look into ``path``. What it is is told by its contents, not by its name.

    Args:
        phase, level, stages, input_shapes, guess_shapes, ignore_fields, python_config: as :func:`caffe_compat.load`; a
            ``.pt`` has its own.
        dialect: a fork's name; None finds it out.
        filled_from: the weights that a prototxt will be filled from, which tell shapes that are to be guessed.

    Raises:
        FileError, PrototxtError, WireError: the file is none of the kinds, or damaged.
        UsageError: no such phase, or no such input.
    """
    name = str(path)
    found, size = kind_of(name), os.path.getsize(name)
    if found is FileKind.EMPTY:
        raise FileError("is empty", path=name)
    how = Asked(NetState(phase.upper(), level, tuple(stages)), input_shapes or {}, guess_shapes, ignore_fields)
    if found is FileKind.ZIP:
        return _inspect_checkpoint(name, size)
    if found is FileKind.HDF5:
        return _inspect_hdf5(name, size)
    if found not in TEXT_KINDS:
        return _inspect_binary(name, size, dialect, how)
    tree = parse_text(read_text(name), name)
    kind = text_kind(tree)
    if kind == "solver":
        return _inspect_solver(name, size, dialect)
    if kind == "other":
        raise FileError("is text, but neither a network (no layer) nor a solver", path=name)
    definition = read_definition(name, dialect, python_config=python_config, tree=tree)
    network = inspect_network(definition, how, filled_from)
    return Inspection(name, "network", "text", size, network=network, warnings=network.warnings)


@collecting_later
def inspect_pair(
    network: str | Path,
    weights: str | Path,
    *,
    phase: str = "test",
    level: int = 0,
    stages: Sequence[str] = (),
    dialect: str | None = None,
    input_shapes: Mapping[str, Shape] | None = None,
    guess_shapes: bool = False,
    ignore_fields: Collection[str] = (),
    python_config: PythonConfig | None = None,
) -> PairInspection:
    """Look into a prototxt and a weights file, and which blobs of one have a place in the other.

    Layers are matched by name as Caffe does it: a name that occurs twice in the network means its first layer.

    Raises:
        As :func:`inspect_file`. UsageError: the files are of other kinds.
    """
    second = inspect_file(weights, phase=phase, level=level, stages=stages, dialect=dialect, guess_shapes=guess_shapes)
    first = inspect_file(
        network,
        phase=phase,
        level=level,
        stages=stages,
        dialect=dialect,
        input_shapes=input_shapes,
        guess_shapes=guess_shapes,
        ignore_fields=ignore_fields,
        python_config=python_config,
        filled_from=weights if second.kind == "weights" else None,
    )
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


# Weights


def _inspect_binary(
    path: str,
    size: int,
    dialect: str | None,
    how: Asked,
) -> Inspection:
    """A caffemodel, solver state or blob: nothing in these files says which, so the one that parses it is."""
    try:
        with read_weights(path) as weights:
            return _inspect_weights(path, size, weights, dialect, how)
    except FileError as error:
        refused = error
    try:
        return _inspect_state(path, size, "binary")
    except FileError as error:
        refused = error if path.endswith(".solverstate") else refused
    try:
        row = blob_row(read_blob(path))
        return Inspection(path, "mean image", "binary", size, mean_image=row, warnings=blob_warnings("the blob", row))
    except FileError as error:
        refused = error if path.endswith(".binaryproto") else refused
    raise refused


def _inspect_hdf5(path: str, size: int) -> Inspection:
    try:
        with read_weights(path) as weights:
            rows = weights_rows(weights)
    except FileError as error:
        refused = error
    else:
        warnings = tuple(warning for row in rows.layers for warning in row_warnings(row))
        return Inspection(path, "weights", "hdf5", size, weights=rows, warnings=warnings)
    try:
        return _inspect_state(path, size, "hdf5")
    except FileError as error:
        raise (error if path.endswith(".solverstate.h5") else refused) from error


def _inspect_weights(
    path: str,
    size: int,
    weights: WeightsFile,
    dialect: str | None,
    how: Asked,
) -> Inspection:
    rows = weights_rows(weights)
    warnings = [w for row in rows.layers for w in row_warnings(row)]
    network = None
    try:
        network = inspect_network(read_definition(path, dialect, weights), how, path)
        warnings += network.warnings
    except CaffeCompatError as error:
        warnings.append(f"the network inside was not read: {error}")
    return Inspection(path, "weights", "binary", size, network=network, weights=rows, warnings=tuple(warnings))


def _inspect_state(path: str, size: int, form: Literal["binary", "hdf5"]) -> Inspection:
    state = read_solverstate(path)
    history = tuple(blob_row(blob) for blob in state.history)
    warnings = [w for i, blob in enumerate(history) for w in blob_warnings(f"history blob {i}", blob)]
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


def _plain(message: Message) -> dict[str, object]:
    """The fields of a message that are set, as plain data."""
    plain: dict[str, object] = {}
    for descriptor, value in message.ListFields():
        items = list(value) if is_repeated(descriptor) else [value]
        if descriptor.message_type is not None:
            items = [_plain(item) for item in items]
        elif descriptor.enum_type is not None:
            items = [descriptor.enum_type.values_by_number[item].name for item in items]
        elif descriptor.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
            # The shortest decimal that is this float32: 0.1, not 0.10000000149011612.
            items = [float(str(np.float32(item))) for item in items]
        plain[descriptor.name] = items if is_repeated(descriptor) else items[0]
    return plain


def _inspect_checkpoint(path: str, size: int) -> Inspection:
    content = read_checkpoint(path)
    parsed = parse_message(content.network, dialect=content.dialect, path=path)
    definition = Definition(path, parsed.message, parsed.schema, "stored in the file", (), tuple(parsed.warnings))
    network = inspect_network(definition, Asked(content.state, content.input_shapes, False, content.accepted_fields))
    network = replace(network, guessed=content.guessed)
    rows = _tensor_rows(content)
    own = CheckpointInspection(
        content.dtype,
        content.optimized,
        content.sources,
        _plain_preprocess(content.preprocess, path),
        None if content.parity is None else asdict(content.parity),
        {name: _plain_extra(value) for name, value in content.extra.items()},
        content.written_by,
        content.unfilled,
        content.engine,
        "" if content.choice is None else str(content.choice),
        "" if content.reduced is None else str(content.reduced),
    )
    warnings = [*network.warnings, *(w for row in rows.layers for w in row_warnings(row))]
    return Inspection(
        path, "checkpoint", "pt", size, network=network, weights=rows, checkpoint=own, warnings=tuple(warnings)
    )


def _tensor_rows(content: Checkpoint) -> WeightsInspection:
    """The tensors by layer. numpy lacks bfloat16, which float32 holds without loss."""
    layers: dict[str, list[BlobRow]] = {}
    stored = 0
    for name, tensor in content.state_dict.items():
        values = tensor.float() if tensor.is_floating_point() else tensor
        row = array_row(values.numpy(), tuple(tensor.shape))
        row = replace(row, dtype=str(tensor.dtype).removeprefix("torch."))
        layers.setdefault(name.rpartition(".")[0], []).append(row)
        stored += tensor.nbytes
    rows = tuple(WeightsRow(name, "", tuple(blobs)) for name, blobs in layers.items())
    return WeightsInspection(len(rows), rows, sum(row.parameters for row in rows), stored)


def _plain_preprocess(record: Mapping[str, Any] | None, path: str) -> dict[str, object] | None:
    """The record, if it is one. A mean image is told by its shape; it does not belong into a report."""
    if record is None:
        return None
    with located(path=path):
        image = Preprocess.from_record(record).mean_image
    return {**record, "mean_image": None if image is None else {"shape": list(image.shape)}}


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
        if not shape_fits(blob.shape, needed) and not (i in row.any_size and sizes_fit(blob.shape, needed)):
            yield f"{where}, blob {i}: the file has shape {list(blob.shape)}, the net needs {list(needed)}"
