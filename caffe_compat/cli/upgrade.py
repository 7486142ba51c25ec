"""``caffe-compat upgrade``. It needs no torch."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ..errors import UsageError
from ..formats.sniff import is_text
from ..schema.upgrade_files import upgrade_caffemodel, upgrade_prototxt
from .options import dialect_option, note, say


@click.command()
@click.argument("old", type=click.Path())
@click.argument("new", type=click.Path())
@dialect_option
def upgrade(old: str, new: str, dialect: str) -> None:
    """Bring OLD (prototxt, solver or caffemodel of any age) to the current generation and write it to NEW."""
    if os.path.exists(new) and os.path.exists(old) and Path(new).samefile(old):
        raise UsageError(f"{new} would overwrite its own source")
    write = upgrade_prototxt if is_text(old) else upgrade_caffemodel
    for text in write(old, new, None if dialect == "auto" else dialect).notes:
        note(text)
    say(f"wrote {new} ({Path(new).stat().st_size:,} bytes)")
