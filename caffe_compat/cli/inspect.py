"""``caffe-compat inspect``."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from typing import Any

import click

from ..formats.sizes import MAX_BLOB_AXES
from ..network.registry import Shape
from ..reports.blobs import BlobRow, WeightsInspection
from ..reports.inspection import (
    CheckpointInspection,
    Inspection,
    PairInspection,
    SolverInspection,
    SolverStateInspection,
    inspect_file,
    inspect_pair,
)
from ..reports.network import NetworkInspection
from .groups import definition_options
from .options import say, warn
from .tables import print_table


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILE ...")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout: an object, or a list for several files.")
@definition_options
def inspect(files: tuple[str, ...], as_json: bool, definition: dict[str, Any]) -> None:
    """Show what is in prototxt, caffemodel, .caffemodel.h5, .pt, solverstate and binaryproto files.

    A prototxt followed by its weights also shows blobs without a layer and layers without blobs.
    """
    gc.set_threshold(10_000_000)  # a large network is a million objects, none of them garbage; the process ends soon
    found: list[Inspection | PairInspection] = []
    if len(files) == 2 and _is_pair(files, definition):
        found.append(inspect_pair(*files, **definition))
    else:
        found += [inspect_file(path, **definition) for path in files]
    if as_json:
        plain = [item.to_json() for item in found]
        say(json.dumps(plain[0] if len(plain) == 1 else plain))
        return
    for item in found:
        if isinstance(item, PairInspection):
            _print_pair(item)
        else:
            _print_file(item)


def _is_pair(files: Sequence[str], options: dict[str, Any]) -> bool:
    first = inspect_file(files[0], **options)
    return first.kind == "network" and inspect_file(files[1]).kind == "weights"


def _print_file(item: Inspection) -> None:
    say(f"{item.path}: {item.kind} ({item.format}, {item.size:,} bytes)")
    if item.checkpoint is not None:
        _print_checkpoint(item.checkpoint)
    if item.network is not None:
        _print_network(item.network)
    if item.weights is not None and item.checkpoint is None:
        _print_weights(item.weights)
    if item.solver is not None:
        _print_solver(item.solver)
    if item.solver_state is not None:
        _print_state(item.solver_state)
    if item.mean_image is not None:
        print_table(_BLOB_COLUMNS, [_blob_cells(item.mean_image)], right=_BLOB_NUMBERS)
    warn(item.warnings)


def _print_network(net: NetworkInspection) -> None:
    rows = []
    for layer in net.layers:
        shapes = " ".join("?" if shape is None else _shape(shape) for shape in layer.shapes)
        count = "?" if layer.parameters is None else f"{layer.parameters:,}" if layer.parameters else ""
        macs = "?" if layer.macs is None else f"{layer.macs:,}" if layer.macs else ""
        wiring = f"{' '.join(layer.bottoms)} -> {' '.join(layer.tops)}"
        rows.append((layer.name, layer.type, wiring, shapes, count, macs, layer.problem))
    columns = ("layer", "type", "bottoms -> tops", "output shape", "parameters", "MACs", "problem")
    print_table(columns, rows, right=("parameters", "MACs"))
    stages = f", stages {', '.join(net.stages)}" if net.stages else ""
    say(f"network {net.name!r}, phase {net.phase}, level {net.level}{stages}")
    say(f"dialect {net.dialect} ({net.dialect_reason})")
    for what, blobs in (("inputs", net.inputs), ("outputs", net.outputs)):
        listed = ", ".join(f"{name} {'?' if shape is None else _shape(shape)}" for name, shape in blobs.items())
        say(f"{what}: {listed or 'none'}")
    totals = f"{net.parameters:,} parameters, {net.macs:,} MACs, {net.activation_bytes / 2**20:,.1f} MiB of activations"
    say(totals + ("" if net.complete else " (of the layers that could be built)"))
    for text in (*(f"guessed: {guess}" for guess in net.guessed), *net.notes, *net.unknown):
        say(text)
    if net.problem:
        say(f"cannot be built: {net.problem}")


_BLOB_COLUMNS = ("shape", "type", "count", "least", "greatest", "not finite", "problem")
_BLOB_NUMBERS = ("count", "least", "greatest", "not finite")


def _blob_cells(blob: BlobRow) -> tuple[str, ...]:
    ends = tuple("" if value is None else f"{value:.6g}" for value in (blob.minimum, blob.maximum))
    return (_shape(blob.shape), blob.dtype, f"{blob.count:,}", *ends, str(blob.not_finite or ""), blob.problem)


def _print_weights(weights: WeightsInspection) -> None:
    rows = [
        (layer.name, layer.type, str(i), *_blob_cells(blob))
        for layer in weights.layers
        for i, blob in enumerate(layer.blobs)
    ]
    print_table(("layer", "layer type", "blob", *_BLOB_COLUMNS), rows, right=("blob", *_BLOB_NUMBERS))
    say(
        f"{weights.layers_in_file} layers, {len(weights.layers)} of them with blobs: {weights.parameters:,} numbers, "
        f"{weights.bytes:,} bytes"
    )


def _print_solver(solver: SolverInspection) -> None:
    say(f"dialect {solver.dialect} ({solver.dialect_reason})")
    print_table(("field", "value"), [(name, str(value)) for name, value in solver.fields.items()])
    for text in (*solver.notes, *solver.unknown):
        say(text)


def _print_state(state: SolverStateInspection) -> None:
    say(f"iteration {state.iteration}, step {state.current_step}, weights {state.learned_net or 'not named'}")
    rows = [(str(i), *_blob_cells(blob)) for i, blob in enumerate(state.history)]
    print_table(("history", *_BLOB_COLUMNS), rows, right=("history", *_BLOB_NUMBERS))


def _print_checkpoint(checkpoint: CheckpointInspection) -> None:
    say(f"weights in {checkpoint.dtype}{', loads in its inference form' if checkpoint.optimized else ''}")
    if checkpoint.engine != "torch":
        say(f"runs in {checkpoint.choice or checkpoint.engine}")
    if checkpoint.reduced:
        say(f"computes in {checkpoint.reduced}")
    for source in checkpoint.sources:
        say(f"made from {source['name']} (sha256 {source['sha256']})")
    if checkpoint.preprocess:
        say("preprocessing: " + ", ".join(f"{k}={v}" for k, v in checkpoint.preprocess.items() if v is not None))
    if checkpoint.parity:
        record = checkpoint.parity
        say(
            f"reproduces {record['reference']} in {record['blobs']} blobs: worst relative error "
            f"{record['worst_rel']:.1e} ({record['worst_blob']}), {record['precision']} on {record['device']}"
        )
    else:
        say("never checked against real Caffe")
    if checkpoint.unfilled:
        say(f"without weights, with initial values: {', '.join(checkpoint.unfilled)}")
    for name, value in checkpoint.extra.items():
        say(f"holds {name}: {value}")
    say(f"written by {checkpoint.written_by}")


def _print_pair(pair: PairInspection) -> None:
    _print_file(pair.network)
    say()
    _print_file(pair.weights)
    say()
    for what, names in (
        ("blobs without a layer", pair.leftover),
        ("layers without blobs", pair.missing),
        ("do not fit", pair.mismatches),
        ("shapes not known", pair.unchecked),
    ):
        say(f"{what}: {', '.join(names) or 'none'}")


def _shape(shape: Shape) -> str:
    if len(shape) > MAX_BLOB_AXES:  # a file may say it, and no blob has it
        return f"{'x'.join(map(str, shape[:4]))}... ({len(shape)} axes)"
    return "x".join(map(str, shape)) or "scalar"
