"""Tables on stdout: cut to a terminal's width, and whole where they go to a file or to another program.

In a file of its own: rich takes as long to import as the quick commands may take in all.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from ..display import brief, shown
from .options import say_lines

__all__ = ["print_table"]


# The most letters of a cell: no name that a person gave has as many.
_WIDEST = 500


class _Console(Console):
    """A console that leaves it to the command what happens when nobody reads any more; rich's own would exit with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> None:
    """A table on stdout; ``right`` names the columns that are aligned to the right."""
    if not sys.stdout.isatty():
        _print_plain([_shown_row(row) for row in (columns, *rows)], [column in right for column in columns])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(shown(column), justify="right" if column in right else "left", no_wrap=True, overflow="ignore")
    for row in rows:
        table.add_row(*_shown_row(row))
    _Console(markup=False, highlight=False, emoji=False).print(table, soft_wrap=False)


def _shown_row(row: Sequence[str]) -> Sequence[str]:
    """The cells as they are shown; nearly all rows are as they are, which one look at all of a row tells.

    Every cell of a column is as wide as the widest, so one of millions of letters would make a table of gigabytes.
    """
    whole = "".join(row)
    if len(whole) <= _WIDEST and whole.isascii() and whole.isprintable():
        return row
    return [brief(shown(cell), _WIDEST) for cell in row]


def _print_plain(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    """As rich does, a hundred times as fast: a network may have tens of thousands of layers."""
    columns = [_filled_up(column, at_right) for column, at_right in zip(zip(*rows, strict=True), right, strict=True)]
    say_lines("".join("  ".join(row) + "\n" for row in zip(*columns, strict=True)))


def _filled_up(column: Sequence[str], at_right: bool) -> list[str]:
    """Cells of one width, with blanks before or behind them."""
    widths = [_width(cell) for cell in column]
    most = max(widths)
    blanks = (" " * (most - width) for width in widths)
    return [blank + cell if at_right else cell + blank for cell, blank in zip(column, blanks, strict=True)]


def _width(text: str) -> int:
    """Columns of a terminal that a cell takes."""
    return len(text) if text.isascii() else cell_len(text)
