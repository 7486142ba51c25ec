"""What can be built: ``survey`` and ``layers``."""

from __future__ import annotations

import json

import click

from ..network.registry import layer_types
from ..reports.survey import survey as _survey
from .options import guess_option, load_plugins, plugin_option, say
from .tables import print_table


@click.command()
@click.argument("folder", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@guess_option
@plugin_option
def survey(folder: str, as_json: bool, guess_shapes: bool, plugins: tuple[str, ...]) -> None:
    """How many of the prototxt files below FOLDER can be read and built, and why not."""
    result = _survey(folder, guess_shapes=guess_shapes, plugins=plugins)
    if as_json:
        say(json.dumps(result.to_json()))
        return
    print_table(("networks", "count"), [(key, f"{n:,}") for key, n in result.counts().items()], right=("count",))
    if result.reasons:
        say()
        print_table(("why not", "files"), [(key, str(n)) for key, n in result.reasons.items()], right=("files",))


@click.command()
@plugin_option
def layers(plugins: tuple[str, ...]) -> None:
    """List the layer types that can be built."""
    load_plugins(plugins)
    for name in layer_types():
        say(name)
