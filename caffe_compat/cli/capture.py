"""``caffe-compat capture-script``. It needs no torch."""

from __future__ import annotations

import click

from ..formats.files import atomic_write
from ..parity.capture import capture_script as _capture_script
from .options import say_lines


@click.command("capture-script")
@click.option("-o", "--output", type=click.Path(), help="Write it here instead of to stdout.")
def capture_script(output: str | None) -> None:
    """Print a script that records outputs where real Caffe still lives (Python 2.7 to 3, any fork's pycaffe)."""
    if output is None:
        say_lines(_capture_script())
        return
    with atomic_write(output) as file:
        file.write(_capture_script().encode())
