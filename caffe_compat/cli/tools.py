"""Small commands: ``capture-script``, ``upgrade``, ``survey``, ``layers``, ``dialects``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..errors import UsageError
from ..formats.files import atomic_write
from ..formats.sniff import is_text
from ..network.registry import layer_types
from ..parity.capture import capture_script as _capture_script
from ..reports.survey import survey as _survey
from ..schema import dialect_names, load_schema
from ..schema.upgrade import upgrade_caffemodel, upgrade_prototxt
from .options import dialect_option, load_plugins, note, plugin_option, print_table


@click.command("capture-script")
@click.option("-o", "--output", type=click.Path(), help="Write it here instead of to stdout.")
def capture_script(output: str | None) -> None:
    """Print a script that records outputs where real Caffe still lives (Python 2.7 to 3, any fork's pycaffe)."""
    if output is None:
        click.echo(_capture_script(), nl=False)
        return
    with atomic_write(output) as file:
        file.write(_capture_script().encode())


@click.command()
@click.argument("old", type=click.Path())
@click.argument("new", type=click.Path())
@dialect_option
def upgrade(old: str, new: str, dialect: str) -> None:
    """Bring OLD (prototxt, solver or caffemodel of any age) to the current generation and write it to NEW."""
    if Path(new).exists() and Path(old).exists() and Path(new).samefile(old):
        raise UsageError(f"{new} would overwrite its own source")
    write = upgrade_prototxt if is_text(old) else upgrade_caffemodel
    for text in write(old, new, None if dialect == "auto" else dialect).notes:
        note(text)
    click.echo(f"wrote {new} ({Path(new).stat().st_size:,} bytes)")


@click.command()
@click.argument("folder", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@plugin_option
def survey(folder: str, as_json: bool, plugins: tuple[str, ...]) -> None:
    """How many of the prototxt files below FOLDER can be read and built, and why not."""
    result = _survey(folder, plugins=plugins)
    if as_json:
        click.echo(json.dumps(result.to_json()))
        return
    counts = result.to_json()
    reasons = counts.pop("reasons")
    print_table(("networks", "count"), [(key, f"{value:,}") for key, value in counts.items()], right=("count",))
    if reasons:
        click.echo()
        print_table(("why not", "files"), [(key, str(value)) for key, value in reasons.items()], right=("files",))


@click.command()
@plugin_option
def layers(plugins: tuple[str, ...]) -> None:
    """List the layer types that can be built."""
    from .. import layers as _  # noqa: F401  registers what ships

    load_plugins(plugins)
    for name in layer_types():
        click.echo(name)


@click.command()
@click.argument("name", required=False)
def dialects(name: str | None) -> None:
    """List the known forks of Caffe; with NAME, the layer types that one adds."""
    if name is None:
        for known in dialect_names():
            click.echo(known)
        return
    own = load_schema().layer_types
    rows = [(t, ", ".join(p)) for t, p in sorted(load_schema(name).layer_types.items()) if t not in own]
    print_table(("layer type", "parameters"), rows)
