"""``caffe-compat convert``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch

from ..access import FileAccess
from ..errors import UsageError
from ..formats.files import Checksum
from ..formats.sniff import is_text
from ..inference.preprocess import Preprocess
from ..network.checkpoint import save_checkpoint
from ..network.definition import read_definition
from ..network.graph import NetState
from ..network.loading import build_net
from ..network.net import CaffeNet
from ..parity.precision import ieee_float32
from ..parity.record import ParityRecord, parity_record
from .options import (
    check_output,
    device_option,
    dialect_option,
    load_plugins,
    note,
    parse_device,
    parse_pairs,
    parse_shapes,
    plugin_option,
    print_table,
    python_option,
    root_option,
    shape_option,
    state_options,
    warn,
)
from .verify import load_inputs, print_results, split_reference, verify_against


@click.command()
@click.argument("model", type=click.Path())
@click.argument("weights", type=click.Path(), required=False)
@click.option("-o", "--output", required=True, type=click.Path(), help="Where to write.")
@state_options
@dialect_option
@shape_option
@click.option("--reference", metavar="FILE[:GROUP]", help="Recorded outputs of real Caffe to check against.")
@click.option("--input", "inputs", multiple=True, metavar="BLOB=FILE.npy", help="An input that the reference lacks.")
@click.option("--run", "run_once", is_flag=True, help="Without a reference: run once on a seeded input.")
@click.option(
    "--preprocess", help="How pixels become input, e.g. order=bgr,mean=104:117:123,scale=1,resize=256x256,crop=224."
)
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), default="float32", show_default=True)
@click.option("--format", "format_", type=click.Choice(["pt", "pt2"]), default="pt", show_default=True)
@click.option("--optimize", is_flag=True, help="Loading gives the inference form (layers folded and fused).")
@click.option("--quiet", is_flag=True, help="No table.")
@device_option
@root_option
@python_option
@plugin_option
def convert(
    model: str,
    weights: str | None,
    output: str,
    phase: str,
    level: int,
    stages: tuple[str, ...],
    dialect: str,
    input_shapes: tuple[str, ...],
    reference: str | None,
    inputs: tuple[str, ...],
    run_once: bool,
    preprocess: str | None,
    dtype: str,
    format_: str,
    optimize: bool,
    quiet: bool,
    device: str,
    root: str | None,
    allow_python_layers: bool,
    plugins: tuple[str, ...],
) -> int:
    """Convert MODEL (a prototxt, or a caffemodel with its own network) and WEIGHTS to a verified .pt."""
    load_plugins(plugins)
    torch_device = parse_device(device)
    if weights is None:
        if is_text(model):
            raise UsageError(f"{model} is a prototxt; pass its weights (.caffemodel or .caffemodel.h5) too")
        weights = model
    if format_ == "pt2":
        for option, wanted in (("--optimize", optimize), ("--preprocess", preprocess)):
            if wanted:
                raise UsageError(f"{option} has no place in a torch.export program; --format pt keeps it")
    read = [
        model,
        weights,
        *([split_reference(reference)[0]] if reference else []),
        *parse_pairs(inputs, "--input").values(),
    ]
    check_output(output, read)
    checksums = [Checksum(path) for path in dict.fromkeys([model, weights])]
    definition = read_definition(model, dialect)
    net, report = build_net(
        definition,
        weights,
        state=NetState(phase.upper(), level, stages),
        input_shapes=parse_shapes(input_shapes),
        files=FileAccess(root),
        allow_python=allow_python_layers,
        seed=0,
    )
    warn([*definition.warnings, *net.warnings, *report.warnings])
    known = Preprocess.from_text(preprocess) if preprocess else _preprocess_of(net)
    net.to(torch_device)
    parity = None
    if reference is not None:
        results = verify_against(net, reference, load_inputs(parse_pairs(inputs, "--input")))
        print_results(results, only_failures=True)
        if not all(result.passed for result in results):
            note(f"caffe-compat: error: {output} was not written: the net does not reproduce {reference}")
            return 1
        parity = parity_record(*split_reference(reference), results, torch_device)
    elif run_once:
        _run_once(net)
    if not quiet:
        print_layers(net)
    if format_ == "pt2":
        from converters import pt2

        pt2.write(net, output, dtype=dtype)
    else:
        record = known.to_record() if known else None
        save_checkpoint(
            net.cpu(),
            output,
            sources=checksums,
            preprocess=record,
            parity=parity,
            dtype=dtype,  # type: ignore[arg-type]  # click has checked it
            optimized=optimize,
        )
    _summary(net, definition.schema.name, definition.dialect_reason, definition.notes, parity, output)
    return 0


def _preprocess_of(net: CaffeNet) -> Preprocess | None:
    """What a data layer of the definition says; None where there is none, or none that stands alone."""
    for node in net.graph.sources:
        if node.message.HasField("transform_param"):
            return Preprocess.from_transform_param(node.message.transform_param)
    return None


def _run_once(net: CaffeNet) -> None:
    rng = np.random.RandomState(0)
    given = {name: np.asarray(rng.uniform(-1, 1, shape), np.float32) for name, shape in net.input_shapes.items()}
    with ieee_float32():
        outputs = net.run(given)
    net.reset_state()
    for name, value in outputs.items():
        state = "finite" if bool(torch.isfinite(value).all()) else "NOT FINITE"
        note(
            f"ran once on a seeded input: {name} {list(value.shape)} is {state}, mean {float(value.float().mean()):.6g}"
        )


def print_layers(net: CaffeNet) -> None:
    """The table of layers: name, type, output shape, parameters."""
    rows = []
    for node in net.graph.nodes:
        shapes = " ".join("x".join(map(str, net.shapes[v])) or "scalar" for v in node.tops)
        source = node in net.graph.sources
        count = 0 if source else sum(blob.numel() for blob in net.blobs_of(node.module_name).values())
        rows.append((node.name, node.type, shapes, f"{count:,}" if count else ""))
    print_table(("layer", "type", "output shape", "parameters"), rows, right=("parameters",))


def _summary(
    net: CaffeNet, dialect: str, reason: str, notes: Sequence[str], parity: ParityRecord | None, output: str
) -> None:
    count = sum(tensor.numel() for tensor in {id(t): t for t in net.state_dict().values()}.values())
    click.echo(f"{len(net.graph.nodes)} layers, {count:,} parameters, dialect {dialect} ({reason})")
    for text in (*notes, *net.notes):
        click.echo(text)
    if parity is None:
        click.echo("not checked against real Caffe: pass --reference (caffe-compat capture-script helps to record one)")
    else:
        click.echo(
            f"equal to {parity.reference} in {parity.blobs} blobs: worst relative error {parity.worst_rel:.1e} "
            f"({parity.worst_blob})"
        )
    click.echo(f"wrote {output} ({Path(output).stat().st_size:,} bytes)")
