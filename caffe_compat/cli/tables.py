"""Tables on stdout. In a file of its own: rich takes as long to import as the quick commands may take in all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from ..display import shown

__all__ = ["print_table"]


class _Console(Console):
    """A console that leaves it to the command what happens when nobody reads any more; rich's own would exit with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> None:
    """A table on stdout; ``right`` names the columns that are aligned to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(shown(column), justify="right" if column in right else "left", no_wrap=True, overflow="ignore")
    for row in rows:
        table.add_row(*map(shown, row))
    # Off a terminal nothing may be cut or wrapped: the output goes to a file or to another program.
    console = _Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 10_000
    console.print(table, soft_wrap=False, crop=console.is_terminal)
