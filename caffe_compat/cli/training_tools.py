"""What a training's log tells: ``plot-log``, a picture, and ``log``, tables."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from ..extras import require
from ..formats.files import atomic_write
from ..formats.log_tables import read_log_tables, write_log_tables
from ..formats.logs import LogRow, TrainLog, read_log
from .options import say
from .plotting import drawable, write_plainly


@click.command("plot-log")
@click.argument("log", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="The picture; its ending tells the format.")
def plot_log(log: str, output: str) -> None:
    """Draw the losses and outputs in LOG, the log of a training with Caffe or with this."""
    parsed = read_log(log)
    figure = _figure(parsed, Path(log).name)
    kind = Path(output).suffix.lstrip(".").lower() or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise UsageError(f"-o {output}: {', '.join(sorted(figure.canvas.get_supported_filetypes()))} can be written")
    with atomic_write(output) as file:
        figure.savefig(file, format=kind)
    tests = sum(map(len, parsed.tests.values()))
    say(f"wrote {output}: {len(parsed.train)} iterations and {tests} tests")


@click.command("log")
@click.argument("log", type=click.Path())
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--delimiter", default=",", show_default=True, help="Between columns.")
def log(log: str, folder: str, delimiter: str) -> None:
    """Write the tables of LOG, of iterations and of tests, into FOLDER as CSV, as Caffe's parse_log.py does."""
    if len(delimiter) != 1:
        raise UsageError(f"--delimiter {delimiter!r}: one character was expected")
    for path in write_log_tables(read_log_tables(log), os.path.basename(log), folder, delimiter):
        say(f"wrote {path}")


def _figure(log: TrainLog, title: str) -> Any:
    # No pyplot: it would look for a screen.
    agg = require("matplotlib.backends.backend_agg", "plots")
    lines = {"loss": (_series(log.train, None), True)}
    for label, rows in {"train": log.train, **{f"test #{k}": rows for k, rows in log.tests.items()}}.items():
        for name in dict.fromkeys(name for row in rows for name in row.outputs):
            lines[f"{name} ({label})"] = (_series(rows, name), name.partition("#")[0] in log.losses)
    losses = {name: series for name, (series, is_loss) in lines.items() if is_loss and series[0]}
    others = {name: series for name, (series, is_loss) in lines.items() if not is_loss and series[0]}
    panels = [panel for panel in (("loss", losses), ("outputs", others)) if panel[1]]
    figure = require("matplotlib.figure", "plots").Figure(figsize=(9, 4.5 * len(panels)), layout="constrained")
    agg.FigureCanvasAgg(figure)
    write_plainly(figure.suptitle(""), title)
    for i, (name, series) in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, i + 1)
        _draw(axes, series)
        axes.set_ylabel(name)
    figure.axes[-1].set_xlabel("iteration")
    return figure


def _series(rows: Sequence[LogRow], output: str | None) -> tuple[list[int], list[float]]:
    """Iterations and values of an output, or of the loss, where the rows have it."""
    found = [(row.iteration, row.loss if output is None else row.outputs.get(output)) for row in rows]
    kept = [(iteration, value) for iteration, value in found if value is not None]
    return [iteration for iteration, _ in kept], [value for _, value in kept]


def _draw(axes: Any, series: Mapping[str, tuple[list[int], list[float]]]) -> None:
    series = {name: (x, drawable(y)) for name, (x, y) in series.items()}
    lines = [axes.plot(x, y, marker="." if len(x) < 50 else None, linewidth=1)[0] for x, y in series.values()]
    values = [value for _, y in series.values() for value in y if math.isfinite(value)]
    if values and min(values) > 0 and max(values) > 100 * min(values):
        axes.set_yscale("log")
    axes.grid(True, alpha=0.3)
    # Under their own names, some lines would be left out: those that begin with an underscore.
    legend = axes.legend(lines, [str(i) for i, _ in enumerate(lines)], fontsize="small")
    for text, name in zip(legend.get_texts(), series, strict=True):
        write_plainly(text, name)
