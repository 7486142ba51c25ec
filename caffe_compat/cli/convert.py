"""``caffe-compat convert``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import torch

from ..conversion import Conversion
from ..conversion import convert as convert_model
from ..errors import ParityError, UsageError
from ..network.net import CaffeNet
from ..parity.reference_files import split_reference
from ..parity.report import Report
from ..parity.seeded import run_seeded
from .groups import network_options
from .options import check_output, device_option, note, parse_device, parse_pairs, say, warn
from .outputs import format_options, planned, write_output
from .tables import print_table
from .verify import load_inputs, print_report


@click.command()
@click.argument("model", type=click.Path())
@click.argument("weights", type=click.Path(), required=False)
@network_options
@click.option("--reference", metavar="FILE[:GROUP]", help="Recorded outputs of real Caffe to check against.")
@click.option("--input", "inputs", multiple=True, metavar="BLOB=FILE.npy", help="An input that the reference lacks.")
@click.option("--run", "run_once", is_flag=True, help="Without a reference: run once on a seeded input.")
@click.option(
    "--preprocess", help="How pixels become input, e.g. order=bgr,mean=104:117:123,scale=1,resize=256x256,crop=224."
)
@format_options
@click.option("--optimize", is_flag=True, help="Loading gives the inference form (layers folded and fused).")
@click.option(
    "--engine", help="With --optimize: what runs it: torch, onnxruntime, openvino, or auto for the fastest here."
)
@click.option(
    "--compute",
    type=click.Choice(["float32", "bfloat16"]),
    help="With --optimize: in which precision; how far bfloat16 is off is measured, and stored.",
)
@click.option("--report", "page", type=click.Path(), help="Write all there is to say as a page of HTML, too.")
@click.option("--quiet", is_flag=True, help="No table.")
@device_option
def convert(
    model: str,
    weights: str | None,
    outputs_to: tuple[str, ...],
    formats: tuple[str, ...],
    outputs: str | None,
    network: dict[str, Any],
    reference: str | None,
    inputs: tuple[str, ...],
    run_once: bool,
    preprocess: str | None,
    optimize: bool,
    engine: str | None,
    compute: str | None,
    page: str | None,
    quiet: bool,
    device: str,
    **asked: Any,
) -> int:
    """Convert MODEL (a prototxt, or a caffemodel with its own network) and WEIGHTS to a verified .pt, or to others."""
    torch_device = parse_device(device)
    for option, value in (("--engine", engine), ("--compute", compute)):
        if value is not None and not optimize:
            raise UsageError(f"{option} {value} is for --optimize")
    more = {"optimized": engine or optimize, "computed": compute, "preprocess": preprocess}
    files = planned(outputs_to, formats, _asked({**asked, **more}))
    given = parse_pairs(inputs, "--input")
    if given and reference is None:
        raise UsageError(f"--input {inputs[0]} is for --reference")
    recorded = [split_reference(reference)[0]] if reference is not None else []
    read = [model, *([weights] if weights is not None else []), *recorded, *given.values()]
    for path in (*(path for file in files for path in file.paths), *([page] if page is not None else [])):
        check_output(path, read)
    conversion = convert_model(model, weights, preprocess=preprocess or None, device=torch_device, **network)
    warn(conversion.warnings)
    if reference is not None:
        try:
            conversion = conversion.checked(reference, inputs=load_inputs(given))
        except ParityError as error:
            _save_page(conversion, page, error.report)
            print_report(error.report, only_failures=True)
            unwritten = ", ".join(file.path for file in files)
            note(f"caffe-compat: error: {unwritten} was not written: the net does not reproduce {reference}")
            return 1
    elif run_once:
        _run_once(conversion.net)
    if not quiet:
        print_layers(conversion.net)
    stop = [name for name in (outputs or "").split(",") if name]
    told = [line for file in files for line in write_output(conversion, file, stop)]
    _save_page(conversion, page)
    _summary(conversion, [*(path for file in files for path in file.paths), *([page] if page else [])], told)
    return 0


def _asked(options: dict[str, Any]) -> dict[str, Any]:
    """Those of ``options`` that were given."""
    usual = {"dtype": "float32"}
    return {name: value for name, value in options.items() if value and value != usual.get(name)}


def _save_page(conversion: Conversion, path: str | None, report: Report | None = None) -> None:
    if path is not None:
        from ..reports.page import save_page

        save_page(conversion, path, report)


def _run_once(net: CaffeNet) -> None:
    for name, value in run_seeded(net).items():
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


def _summary(conversion: Conversion, written: Iterable[str], told: Iterable[str]) -> None:
    net, definition, report = conversion.net, conversion.definition, conversion.report
    count = sum(tensor.numel() for tensor in {id(t): t for t in net.state_dict().values()}.values())
    # Of forks that fit the file, the shapes may have told which it is: a warning says so.
    why = f" ({definition.dialect_reason})" if net.graph.dialect == definition.schema.name else ""
    say(f"{len(net.graph.nodes)} layers, {count:,} parameters, dialect {net.graph.dialect}{why}")
    for text in conversion.notes:
        say(text)
    if report is None:
        say("not checked against real Caffe: pass --reference (caffe-compat capture-script helps to record one)")
    elif report.worst is not None:
        say(
            f"equal to {Path(report.reference).name} in {len(report.blobs)} blobs: worst relative error "
            f"{report.worst.max_rel:.1e} ({report.worst.name})"
        )
    for text in told:
        say(text)
    for path in written:
        say(f"wrote {path} ({Path(path).stat().st_size:,} bytes)")
