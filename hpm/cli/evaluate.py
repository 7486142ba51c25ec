"""``hpm evaluate``."""

from __future__ import annotations

import click

from caffe_compat.cli.options import note, say_lines
from caffe_compat.formats.files import atomic_write

from ..drivers.evaluate import evaluate as evaluate_results
from .options import (
    Bars,
    actions_option,
    data_folder,
    data_option,
    label_bounds_option,
    layout_option,
    parse_actions,
    protocol_option,
)

__all__ = ["evaluate"]


@click.command()
@data_option
@click.option(
    "--coarse-3d", type=click.Path(file_okay=False), help="Folder of result<k>_unnorm.csv and _change_unnorm.csv."
)
@click.option("--refined", type=click.Path(file_okay=False), help="Folder of refine3d_<k>.txt.")
@protocol_option
@layout_option
@actions_option
@click.option(
    "--format", "format_", type=click.Choice(["markdown", "csv", "json"]), default="markdown", show_default=True
)
@click.option("-o", "--output", type=click.Path(), help="Write the table here instead of showing it.")
@click.option("--allow-short", is_flag=True, help="Results may have fewer frames than the labels.")
@label_bounds_option
def evaluate(
    data_dir: str,
    coarse_3d: str | None,
    refined: str | None,
    protocol: str,
    layout: str,
    actions: str,
    format_: str,
    output: str | None,
    allow_short: bool,
    bounds: str | None,
) -> int:
    """Errors per action of the coarse, corrected and refined poses: MPJPE, P-MPJPE, N-MPJPE, MPJVE, PCK, AUC.

    With --layout kth, the percentage of correct parts of each camera.
    """
    data = data_folder(data_dir, protocol, layout)
    with Bars() as bars:
        found = evaluate_results(
            data,
            coarse_3d,
            refined,
            bounds=bounds,
            actions=parse_actions(actions, data),
            allow_short=allow_short,
            progress=bars.of("actions"),
            tell=note,
        )
    text = {"markdown": found.to_markdown, "csv": found.to_csv, "json": found.to_json}[format_]()
    if output is None:
        say_lines(text)
    else:
        with atomic_write(output) as file:
            file.write(text.encode())
    for problem in found.problems:
        note(f"hpm: error: {problem}")
    return 1 if found.problems else 0
