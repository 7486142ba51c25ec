"""``hpm evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from caffe_compat.cli.groups import gathered
from caffe_compat.cli.options import note, say_lines
from caffe_compat.errors import UsageError
from caffe_compat.formats.files import atomic_write

from ..drivers.evaluate import evaluate as evaluate_results
from ..drivers.evaluate_actions import ROOTS, UNITS, Evaluation, Root
from ..drivers.evaluate_kth import PcpTable
from ..drivers.paper_table import paper_table, read_published
from .options import (
    Bars,
    actions_option,
    data_folder,
    data_option,
    label_bounds_option,
    parse_actions,
    protocol_option,
)

__all__ = ["evaluate"]


_ENDINGS = {".tex": "latex", ".csv": "csv", ".json": "json"}


@dataclass(frozen=True)
class _Table:
    """What is shown of an evaluation, and how."""

    layout: str
    format_: str | None
    """None: by the ending of the file."""
    measure: str | None
    published: str | None
    root: Root

    def __post_init__(self) -> None:
        paper = self.layout == "paper"
        for option, given in (("--measure", self.measure), ("--published", self.published)):
            if given is not None and not paper:
                raise UsageError(f"{option} is for --layout paper")
        if self.root != "as-is" and self.layout == "kth":
            raise UsageError("--root is for Human3.6M: parts have no root")
        if self.format_ is not None:
            self._check(f"--format {self.format_}", self.format_)

    def _check(self, said: str, format_: str) -> None:
        possible = ("markdown", "latex", "csv") if self.layout == "paper" else ("markdown", "csv", "json")
        if format_ not in possible:
            raise UsageError(f"{said}: --layout {self.layout} has {', '.join(possible)}")

    def for_file(self, output: str | None) -> str:
        """The format of what is written there, or shown. Raises UsageError of one that the layout has not."""
        if self.format_ is not None:
            return self.format_
        format_ = _ENDINGS.get("" if output is None else Path(output).suffix.lower(), "markdown")
        self._check(f"-o {output}", format_)
        return format_

    def text(self, found: Evaluation | PcpTable, format_: str) -> str:
        """The table."""
        if self.layout == "paper" and isinstance(found, Evaluation):
            rows = [] if self.published is None else read_published(self.published)
            paper = paper_table(found, self.measure or "mpjpe", rows)
            return {"markdown": paper.to_markdown, "latex": paper.to_latex, "csv": paper.to_csv}[format_]()
        return {"markdown": found.to_markdown, "csv": found.to_csv, "json": found.to_json}[format_]()


table_options = gathered(
    "table",
    _Table,
    click.option(
        "--layout",
        type=click.Choice(["h36m", "kth", "paper"]),
        default="h36m",
        show_default=True,
        help="kth: camera1.txt and so on, the cameras in place of actions; paper: Human3.6M's actions as columns.",
    ),
    click.option(
        "--format",
        "format_",
        type=click.Choice(["markdown", "latex", "csv", "json"]),
        help="latex of --layout paper, json of the others. [default: by the ending of -o; markdown]",
    ),
    click.option("--measure", type=click.Choice(list(UNITS)), help="Of --layout paper. [default: mpjpe]"),
    click.option(
        "--published",
        type=click.Path(),
        help="Of --layout paper: rows of other papers, a CSV with a name and 15 values each.",
    ),
    click.option(
        "--root",
        type=click.Choice(ROOTS),
        default="as-is",
        show_default=True,
        help="aligned: hips lie on each other; left-out: and do not count.",
    ),
)


@click.command()
@data_option
@click.option(
    "--coarse-3d", type=click.Path(file_okay=False), help="Folder of result<k>_unnorm.csv and _change_unnorm.csv."
)
@click.option("--refined", type=click.Path(file_okay=False), help="Folder of refine3d_<k>.txt.")
@protocol_option
@table_options
@actions_option
@click.option("-o", "--output", type=click.Path(), help="Write the table here instead of showing it.")
@click.option("--allow-short", is_flag=True, help="Results may have fewer frames than the labels.")
@label_bounds_option
def evaluate(
    data_dir: str,
    coarse_3d: str | None,
    refined: str | None,
    protocol: str,
    table: _Table,
    actions: str,
    output: str | None,
    allow_short: bool,
    bounds: str | None,
) -> int:
    """Errors per action of the coarse, corrected and refined poses: MPJPE, P-MPJPE, N-MPJPE, MPJVE, PCK, AUC.

    With --layout kth, the percentage of correct parts of each camera; with --layout paper, actions as columns.
    """
    format_ = table.for_file(output)
    data = data_folder(data_dir, protocol, "kth" if table.layout == "kth" else "h36m")
    with Bars() as bars:
        found = evaluate_results(
            data,
            coarse_3d,
            refined,
            bounds=bounds,
            actions=parse_actions(actions, data),
            allow_short=allow_short,
            root=table.root,
            progress=bars.of("actions"),
            tell=note,
        )
    text = table.text(found, format_)
    if output is None:
        say_lines(text)
    else:
        with atomic_write(output) as file:
            file.write(text.encode())
    for problem in found.problems:
        note(f"hpm: error: {problem}")
    return 1 if found.problems else 0
