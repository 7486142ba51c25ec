"""``caffe-compat reference``. It runs nothing."""

from __future__ import annotations

import json

import click

from ..reports.recorded import Recorded, describe_recorded
from .options import say
from .tables import print_table

_COLUMNS = ("group", "kind", "type", "phase", "passes", "inputs", "blobs", "sampled", "weights", "gradients")
_NUMBERS = ("passes", "blobs", "sampled", "weights")


@click.command()
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout instead of a table.")
def reference(file: str, as_json: bool) -> None:
    """Describe FILE of recorded outputs: its networks and cases, and what they were recorded with."""
    found = describe_recorded(file)
    if as_json:
        say(json.dumps(found.to_json()))
        return
    say(f"{found.path}: recorded outputs, version {found.version}, {found.size:,} bytes")
    sources = {group.source for group in found.groups if group.source} or {found.source or "unknown"}
    say(f"recorded with {'; '.join(sorted(sources)) if len(sources) < 4 else f'{len(sources)} programs'}")
    print_table(_COLUMNS, [_row(group) for group in found.groups], right=_NUMBERS)
    for group in found.groups:
        if group.note:
            say(f"{group.name}: {group.note}")


def _row(group: Recorded) -> tuple[str, ...]:
    inputs = " ".join(f"{name}:{'x'.join(map(str, shape)) or 'scalar'}" for name, shape in group.inputs.items())
    counts = (str(group.whole + group.sampled), str(group.sampled), str(group.weights))
    kind = f"{group.type} of {group.dialect}" if group.dialect else group.type
    return (
        group.name or "(the file)",
        group.kind,
        kind,
        group.phase,
        str(group.passes),
        inputs,
        *counts,
        "yes" if group.gradients else "no",
    )
