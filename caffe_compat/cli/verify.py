"""``caffe-compat verify``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.core import ParameterSource

from ..errors import UsageError
from ..formats.arrays import read_npy
from ..formats.sniff import is_text
from ..parity.cases import run_cases
from ..parity.report import COLUMNS, NUMBERS, Report
from ..parity.tolerance import NET_TOLERANCE, Tolerance
from ..testing.checks import compare_tests, run_test, scratch
from ..testing.suite import NET, PRECISIONS, ParityTest, exported_form
from ..testing.writing import write_suite
from .groups import network_options
from .options import device_option, note, parse_device, parse_pairs, say, say_lines
from .tables import print_table

# Options that only a MODEL heeds, by parameter.
_MODEL_OPTIONS = {
    "inputs": "--input",
    "phase": "--phase",
    "level": "--level",
    "stages": "--stage",
    "input_shapes": "--input-shape",
    "guess_shapes": "--guess-shapes",
    "ignore_fields": "--ignore-field",
    "fill_missing": "--fill-missing",
    "root": "--root",
    "allow_python_layers": "--allow-python-layers",
    "format_": "--format",
    "dtype": "--dtype",
    "optimize": "--optimize",
    "tolerance": "--tolerance",
    "init": "--init",
    "python_config": "--python-config",
}

# Those that say how a net is made of MODEL, which an exported file is no more.
_OF_NETS = {name: option for name, option in _MODEL_OPTIONS.items() if name not in ("inputs", "tolerance", "init")}


@click.command()
@click.argument("model", nargs=-1, type=click.Path())
@click.option("--cases", type=click.Path(), help="File of recorded cases: run them all.")
@click.option(
    "--case", "names", multiple=True, metavar="PREFIX", help="Only cases whose name starts so; may be repeated."
)
@click.option("--reference", metavar="FILE[:GROUP]", help="Recorded outputs of MODEL in real Caffe.")
@click.option("--input", "inputs", multiple=True, metavar="BLOB=FILE.npy", help="An input that the reference lacks.")
@click.option(
    "--format",
    "format_",
    default=NET,
    metavar="NAME",
    help="Bring MODEL into a format of convert first.",
)
@click.option("--optimize", is_flag=True, help="Compare the inference form (layers folded and fused).")
@click.option("--dtype", type=click.Choice(PRECISIONS), default="float32", show_default=True)
@click.option(
    "--tolerance", type=float, metavar="X", help="How far off a blob may be, over its largest value.  [default: 1e-4]"
)
@click.option("--init", type=click.Path(), metavar="FILE", help="Write a parity.toml with this model, if it is equal.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout instead of tables.")
@click.option("--markdown", is_flag=True, help="Markdown on stdout instead of tables, for the summary of a CI job.")
@click.option("--all", "show_all", is_flag=True, help="Show every blob, not only the worst of each case.")
@network_options
@device_option
def verify(
    model: tuple[str, ...],
    cases: str | None,
    names: tuple[str, ...],
    reference: str | None,
    as_json: bool,
    markdown: bool,
    show_all: bool,
    network: dict[str, Any],
    device: str,
    init: str | None,
    **how: Any,
) -> int:
    """Compare with recorded outputs of real Caffe, blob by blob.

    Either --cases FILE, or MODEL (a .pt, a prototxt and its weights, or an exported file) with --reference FILE; or two
    models without a reference, which are compared with each other on seeded inputs. A case is read as the fork that it
    was recorded with, if it says which; --dialect NAME puts another in its place, and --dialect auto chooses by the
    case's network. Exit status 1 if anything departs.
    """
    device = str(parse_device(device))  # said, or refused, once
    if as_json and markdown:
        raise UsageError("either --json or --markdown")
    if cases is not None:
        report = _of_cases(cases, names, model, reference, device, network["dialect"])
        title = cases
    else:
        if names:
            raise UsageError("--case chooses from --cases FILE; it would be ignored")
        tests = [_test(files, reference or "", device, network, how) for files in _models(model)]
        title = " and ".join(test.model for test in tests)
        report = _of_models(tests, reference)
    if init is not None:
        if reference is None:
            raise UsageError("--init writes down a MODEL and its --reference")
        if report.ok:
            write_suite(init, tests[0])
            note(f"wrote {init}; run it with: pytest --parity {init}")
    if as_json:
        say(json.dumps(report.to_json()))
    elif markdown:
        say_lines(report.markdown(title))
    else:
        print_report(report, only_failures=False, every_blob=show_all or cases is None)
    return 0 if report.ok else 1


def _of_cases(
    cases: str, names: tuple[str, ...], model: Sequence[str], reference: str | None, device: str, dialect: str | None
) -> Report:
    """Every case of a file, each run as it says."""
    if reference is not None:
        raise UsageError("pass either --cases FILE or MODEL --reference FILE")
    if model:
        raise UsageError(f"--cases runs the networks in {cases}; {model[0]} would be ignored")
    given = click.get_current_context().get_parameter_source
    for name, option in _MODEL_OPTIONS.items():
        if given(name) is ParameterSource.COMMANDLINE:
            raise UsageError(f"every case of {cases} says how it is run; {option} would be ignored")
    asked_for = (dialect or "auto") if given("dialect") is ParameterSource.COMMANDLINE else None
    return Report(tuple(run_cases(cases, names, parse_device(device), dialect=asked_for)))


def _models(files: Sequence[str]) -> list[tuple[str, str | None]]:
    """The models that the arguments are: a prototxt takes the file after it for its weights."""
    models: list[tuple[str, str | None]] = []
    left = list(files)
    while left:
        file = left.pop(0)
        takes_weights = bool(left) and exported_form(file) is None and is_text(file)
        models.append((file, left.pop(0) if takes_weights else None))
    return models


def _of_models(tests: Sequence[ParityTest], reference: str | None) -> Report:
    """One model against its reference, or two against each other."""
    if reference is None and len(tests) != 2:
        raise UsageError("pass either --cases FILE or MODEL --reference FILE, or two models")
    if reference is not None and len(tests) != 1:
        raise UsageError("MODEL is a .pt, or a prototxt and its weights, or an exported file")
    if reference is None and any(test.writes for test in tests):
        raise UsageError("--format brings one MODEL into a format; of two, each is taken as it is")
    with scratch(*tests) as folder:
        if reference is None:
            return compare_tests(tests[0], tests[1], folder)
        return run_test(tests[0], folder).report


def _test(
    files: tuple[str, str | None], reference: str, device: str, network: dict[str, Any], how: Mapping[str, Any]
) -> ParityTest:
    model, weights = files
    exported = exported_form(model)
    if exported is not None and reference:
        given = click.get_current_context().get_parameter_source
        for name, option in _OF_NETS.items():
            if given(name) is ParameterSource.COMMANDLINE:
                raise UsageError(f"{model} was exported already; {option} would be ignored")
    tolerance = how["tolerance"]
    if tolerance is None and how["dtype"] != "float32":
        raise UsageError(f"--dtype {how['dtype']}: how far off may it be? Pass --tolerance, 0.02 for example")
    return ParityTest(
        name=Path(model).stem,
        place="",
        model=model,
        weights=weights,
        reference=reference,
        form=exported or how["format_"],
        device=device,
        precision=how["dtype"],
        optimized=how["optimize"],
        tolerance=NET_TOLERANCE if tolerance is None else Tolerance.of(tolerance),
        inputs=parse_pairs(how["inputs"], "--input"),
        options=network,
    )


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
