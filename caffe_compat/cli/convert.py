"""``caffe-compat convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import torch

from ..conversion import Conversion, save
from ..conversion import convert as convert_model
from ..errors import ParityError, UsageError
from ..network.net import CaffeNet
from ..parity.seeded import run_seeded
from ..parity.stored import split_reference
from .options import (
    check_output,
    device_option,
    dialect_option,
    fill_option,
    ignore_option,
    load_plugins,
    note,
    parse_device,
    parse_pairs,
    parse_shapes,
    plugin_option,
    python_config_option,
    python_option,
    root_option,
    say,
    shape_option,
    state_options,
    warn,
)
from .tables import print_table
from .verify import load_inputs, print_report


class _Format(click.ParamType):
    """``pt``, or a format of :mod:`converters`, which is imported only if it is asked for."""

    name = "format"

    def get_metavar(self, *_: Any, **__: Any) -> str:
        from converters import targets

        return f"[{'|'.join(['pt', *(target.name for target in targets())])}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value != "pt":
            from converters import find_target

            find_target(value)
        return value


@click.command()
@click.argument("model", type=click.Path())
@click.argument("weights", type=click.Path(), required=False)
@click.option("-o", "--output", required=True, type=click.Path(), help="Where to write.")
@state_options
@dialect_option
@shape_option
@ignore_option
@fill_option
@click.option("--reference", metavar="FILE[:GROUP]", help="Recorded outputs of real Caffe to check against.")
@click.option("--input", "inputs", multiple=True, metavar="BLOB=FILE.npy", help="An input that the reference lacks.")
@click.option("--run", "run_once", is_flag=True, help="Without a reference: run once on a seeded input.")
@click.option(
    "--preprocess", help="How pixels become input, e.g. order=bgr,mean=104:117:123,scale=1,resize=256x256,crop=224."
)
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), default="float32", show_default=True)
@click.option("--format", "format_", type=_Format(), default="pt", show_default=True)
@click.option("--optimize", is_flag=True, help="Loading gives the inference form (layers folded and fused).")
@click.option("--quiet", is_flag=True, help="No table.")
@device_option
@root_option
@python_option
@python_config_option
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
    ignore_fields: tuple[str, ...],
    fill_missing: bool,
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
    python_config: str | None,
    plugins: tuple[str, ...],
) -> int:
    """Convert MODEL (a prototxt, or a caffemodel with its own network) and WEIGHTS to a verified .pt."""
    load_plugins(plugins)
    torch_device = parse_device(device)
    if format_ != "pt":
        _check_format(format_, optimize=optimize, preprocess=bool(preprocess), narrow=dtype != "float32")
    given = parse_pairs(inputs, "--input")
    if given and reference is None:
        raise UsageError(f"--input {inputs[0]} is for --reference")
    recorded = [split_reference(reference)[0]] if reference is not None else []
    check_output(output, [model, *([weights] if weights is not None else []), *recorded, *given.values()])
    conversion = convert_model(
        model,
        weights,
        preprocess=preprocess or None,
        phase=phase,
        level=level,
        stages=stages,
        dialect=dialect,
        input_shapes=parse_shapes(input_shapes),
        ignore_fields=ignore_fields,
        fill_missing=fill_missing,
        root=root,
        allow_python=allow_python_layers,
        python_config=python_config,
        device=torch_device,
    )
    warn(conversion.warnings)
    if reference is not None:
        try:
            conversion = conversion.checked(reference, inputs=load_inputs(given))
        except ParityError as error:
            print_report(error.report, only_failures=True)
            note(f"caffe-compat: error: {output} was not written: the net does not reproduce {reference}")
            return 1
    elif run_once:
        _run_once(conversion.net)
    if not quiet:
        print_layers(conversion.net)
    if format_ == "pt":
        save(conversion, output, dtype=dtype, optimized=optimize)  # type: ignore[arg-type]  # click has checked dtype
    else:
        from converters import export

        export(conversion, output, format_, **({} if dtype == "float32" else {"dtype": dtype}))
    _summary(conversion, output)
    return 0


def _check_format(name: str, *, optimize: bool, preprocess: bool, narrow: bool) -> None:
    """Refuse early what files of a format have no place for."""
    from converters import find_target

    target = find_target(name)
    target.check(())  # what it needs is installed
    for option, asked, kept in (
        ("--optimize", optimize, False),
        ("--preprocess", preprocess, "preprocess" in target.keeps),
        ("--dtype", narrow, "dtype" in target.options),
    ):
        if asked and not kept:
            raise UsageError(f"{option} has no place in {target.title}; --format pt keeps it")


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


def _summary(conversion: Conversion, output: str) -> None:
    net, definition, report = conversion.net, conversion.definition, conversion.report
    count = sum(tensor.numel() for tensor in {id(t): t for t in net.state_dict().values()}.values())
    say(
        f"{len(net.graph.nodes)} layers, {count:,} parameters, dialect {definition.schema.name} "
        f"({definition.dialect_reason})"
    )
    for text in conversion.notes:
        say(text)
    if report is None:
        say("not checked against real Caffe: pass --reference (caffe-compat capture-script helps to record one)")
    elif report.worst is not None:
        say(
            f"equal to {Path(report.reference).name} in {len(report.blobs)} blobs: worst relative error "
            f"{report.worst.max_rel:.1e} ({report.worst.name})"
        )
    say(f"wrote {output} ({Path(output).stat().st_size:,} bytes)")
