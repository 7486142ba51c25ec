"""``caffe-compat verify``."""

from __future__ import annotations

import json
from collections.abc import Mapping

import click
import numpy as np
from click.core import ParameterSource

from ..errors import UsageError
from ..formats.arrays import read_npy
from ..network.loading import load
from ..parity.cases import run_cases
from ..parity.report import COLUMNS, NUMBERS, Report
from ..parity.verification import verify as verify_net
from .options import (
    device_option,
    dialect_option,
    fill_option,
    ignore_option,
    load_plugins,
    parse_device,
    parse_pairs,
    parse_shapes,
    plugin_option,
    python_option,
    root_option,
    say,
    shape_option,
    state_options,
)
from .tables import print_table

# Options that only a MODEL heeds, by parameter.
_MODEL_OPTIONS = {
    "inputs": "--input",
    "phase": "--phase",
    "level": "--level",
    "stages": "--stage",
    "input_shapes": "--input-shape",
    "ignore_fields": "--ignore-field",
    "fill_missing": "--fill-missing",
    "root": "--root",
    "allow_python_layers": "--allow-python-layers",
}


@click.command()
@click.argument("model", nargs=-1, type=click.Path())
@click.option("--cases", type=click.Path(), help="File of recorded cases: run them all.")
@click.option(
    "--case", "names", multiple=True, metavar="PREFIX", help="Only cases whose name starts so; may be repeated."
)
@click.option("--reference", metavar="FILE[:GROUP]", help="Recorded outputs of MODEL in real Caffe.")
@click.option("--input", "inputs", multiple=True, metavar="BLOB=FILE.npy", help="An input that the reference lacks.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout instead of tables.")
@click.option("--all", "show_all", is_flag=True, help="Show every blob, not only the worst of each case.")
@state_options
@dialect_option
@shape_option
@ignore_option
@fill_option
@device_option
@root_option
@python_option
@plugin_option
def verify(
    model: tuple[str, ...],
    cases: str | None,
    names: tuple[str, ...],
    reference: str | None,
    inputs: tuple[str, ...],
    as_json: bool,
    show_all: bool,
    phase: str,
    level: int,
    stages: tuple[str, ...],
    dialect: str,
    input_shapes: tuple[str, ...],
    ignore_fields: tuple[str, ...],
    fill_missing: bool,
    device: str,
    root: str | None,
    allow_python_layers: bool,
    plugins: tuple[str, ...],
) -> int:
    """Compare with recorded outputs of real Caffe, blob by blob.

    Either --cases FILE, or MODEL (a .pt, or a prototxt and its weights) with --reference FILE. A case is read as the
    fork that it was recorded with, if it says which; --dialect NAME puts another in its place, and --dialect auto
    chooses by the case's network. Exit status 1 if anything departs.
    """
    load_plugins(plugins)
    if (cases is None) == (reference is None):
        raise UsageError("pass either --cases FILE or MODEL --reference FILE")
    torch_device = parse_device(device)
    if cases is not None:
        if model:
            raise UsageError(f"--cases runs the networks in {cases}; {model[0]} would be ignored")
        given = click.get_current_context().get_parameter_source
        for name, option in _MODEL_OPTIONS.items():
            if given(name) is ParameterSource.COMMANDLINE:
                raise UsageError(f"every case of {cases} says how it is run; {option} would be ignored")
        asked_for = dialect if given("dialect") is ParameterSource.COMMANDLINE else None
        report = Report(tuple(run_cases(cases, names, torch_device, dialect=asked_for)))
    else:
        if names:
            raise UsageError("--case chooses from --cases FILE; it would be ignored")
        if not 1 <= len(model) <= 2:
            raise UsageError("MODEL is a .pt, or a prototxt and its weights")
        net = load(
            model[0],
            model[1] if len(model) == 2 else None,
            phase=phase,
            level=level,
            stages=stages,
            dialect=None if dialect == "auto" else dialect,
            input_shapes=parse_shapes(input_shapes),
            ignore_fields=ignore_fields,
            fill_missing=fill_missing,
            root=root,
            allow_python=allow_python_layers,
            seed=0,
        ).to(torch_device)
        report = verify_net(net, str(reference), inputs=load_inputs(parse_pairs(inputs, "--input")))
    if as_json:
        say(json.dumps(report.to_json()))
    else:
        print_report(report, only_failures=False, every_blob=show_all or cases is None)
    return 0 if report.ok else 1


def load_inputs(paths: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The arrays of ``--input NAME=FILE.npy`` options."""
    return {name: read_npy(path) for name, path in paths.items()}


def print_report(report: Report, *, only_failures: bool, every_blob: bool = False) -> None:
    """Tables of what was compared, and the first blob in execution order that departs."""
    rows = report.rows(every_blob=every_blob, only_failures=only_failures)
    if rows:
        print_table(COLUMNS, rows, right=NUMBERS)
    elif only_failures:
        return
    for result in report.results if every_blob else ():
        first = result.first_failure
        if first is not None:
            say(f"{result.name}: the first blob in execution order that departs is {first.name}")
        if result.skipped:
            say(f"{result.name}: not compared: {'; '.join(result.skipped)}")
    say(report.summary())
