"""``caffe-compat verify``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.core import ParameterSource

from ..errors import UsageError
from ..formats.arrays import read_npy
from ..network.loading import load
from ..network.net import CaffeNet
from ..parity.cases import run_cases
from ..parity.compare import CaseResult
from ..parity.reference import verify_net
from ..parity.stored import open_reference, pick_group
from .options import (
    device_option,
    dialect_option,
    load_plugins,
    parse_device,
    parse_pairs,
    parse_shapes,
    plugin_option,
    print_table,
    python_option,
    root_option,
    shape_option,
    state_options,
)

# Options that only a MODEL heeds, by parameter.
_MODEL_OPTIONS = {
    "inputs": "--input",
    "phase": "--phase",
    "level": "--level",
    "stages": "--stage",
    "input_shapes": "--input-shape",
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
        results = list(run_cases(cases, names, torch_device, dialect=asked_for))
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
            root=root,
            allow_python=allow_python_layers,
            seed=0,
        ).to(torch_device)
        results = verify_against(net, str(reference), load_inputs(parse_pairs(inputs, "--input")))
    if as_json:
        click.echo(json.dumps(results_to_json(results)))
    else:
        print_results(results, only_failures=False, every_blob=show_all or cases is None)
    return 0 if all(result.passed for result in results) else 1


def load_inputs(paths: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The arrays of ``--input NAME=FILE.npy`` options."""
    return {name: read_npy(path) for name, path in paths.items()}


def verify_against(net: CaffeNet, reference: str, inputs: Mapping[str, np.ndarray]) -> list[CaseResult]:
    """Compare ``net`` with ``FILE[:GROUP]``; a file with one group only needs no name."""
    path, group = split_reference(reference)
    with open_reference(path) as file:
        return verify_net(net, pick_group(file, group), inputs)


def split_reference(reference: str) -> tuple[str, str]:
    """``ref.h5:group`` -> (path, group); a path may itself hold a colon."""
    if Path(reference).exists() or ":" not in reference:
        return reference, ""
    path, _, group = reference.rpartition(":")
    return path, group


def results_to_json(results: Sequence[CaseResult]) -> dict[str, Any]:
    """What ``--json`` prints."""
    failed = [
        {
            "case": r.name,
            "blob": b.name,
            "max_abs": _finite(b.max_abs),
            "max_rel": _finite(b.max_rel),
            "problem": b.problem,
        }
        for r in results
        for b in r.blobs
        if not b.passed
    ]
    unsupported = [{"case": r.name, "reason": r.unsupported} for r in results if r.unsupported]
    return {
        "cases": len(results),
        "passed": sum(r.passed for r in results),
        "failed": failed,
        "unsupported": unsupported,
    }


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def print_results(results: Sequence[CaseResult], *, only_failures: bool, every_blob: bool = False) -> None:
    """Tables of what was compared, and the first blob in execution order that departs."""
    rows = []
    for result in results:
        worst_one = [result.worst] if result.worst is not None else []
        shown = result.blobs if every_blob else [b for b in result.blobs if not b.passed] or worst_one
        for blob in shown:
            if not (only_failures and blob.passed):
                state = "pass" if blob.passed else "FAIL"
                shape = "x".join(map(str, blob.shape)) or "scalar"
                numbers = (f"{blob.count:,}", shape, f"{blob.max_abs:.2e}", f"{blob.max_rel:.2e}")
                rows.append((result.name, blob.name, *numbers, state + (f": {blob.problem}" if blob.problem else "")))
        if result.unsupported:
            rows.append((result.name, "", "", "", "", "", f"FAIL: {result.unsupported}"))
        elif not result.blobs:
            rows.append((result.name, "", "", "", "", "", "FAIL: nothing to compare"))
    if rows:
        print_table(
            ("case", "blob", "count", "shape", "max abs", "max rel", "result"),
            rows,
            right=("count", "max abs", "max rel"),
        )
    if only_failures and not rows:
        return
    for result in results:
        first = result.first_failure
        if first is not None and every_blob:
            click.echo(f"{result.name}: the first blob in execution order that departs is {first.name}")
        if every_blob and result.skipped:
            click.echo(f"{result.name}: not compared: {'; '.join(result.skipped)}")
    blobs = [blob for result in results for blob in result.blobs]
    worst = max(blobs, key=lambda blob: blob.max_rel, default=None)
    passed = sum(result.passed for result in results)
    click.echo(
        f"{passed} of {len(results)} passed, {len(blobs)} blobs compared"
        + (f", worst relative error {worst.max_rel:.1e} ({worst.name})" if worst else "")
    )
