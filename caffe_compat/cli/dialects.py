"""``caffe-compat dialects``. It needs no torch."""

from __future__ import annotations

import click

from ..schema import dialect_names, load_schema
from .options import say


@click.command()
@click.argument("name", required=False)
def dialects(name: str | None) -> None:
    """List the known forks of Caffe; with NAME, the layer types that one adds."""
    if name is None:
        for known in dialect_names():
            say(known)
        return
    from .tables import print_table

    own = load_schema().layer_types
    rows = [(t, ", ".join(p)) for t, p in sorted(load_schema(name).layer_types.items()) if t not in own]
    print_table(("layer type", "parameters"), rows)
