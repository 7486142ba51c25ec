"""``caffe-compat capture-script``. It needs no torch."""

from __future__ import annotations

import click

from ..formats.files import atomic_write
from ..parity.capture import capture_script as _capture_script
from .options import say_lines


@click.command("capture-script")
@click.option("-o", "--output", type=click.Path(), help="Write it here instead of to stdout.")
@click.option("--sample", type=int, metavar="N", help="It records N values of a large blob: a few MB for any net.")
def capture_script(output: str | None, sample: int | None) -> None:
    """Print a script that records outputs where real Caffe still lives (Python 2.7 to 3, any fork's pycaffe)."""
    text = _capture_script(sample)
    if output is None:
        say_lines(text)
        return
    with atomic_write(output) as file:
        file.write(text.encode())
