"""``plot_training_log.py CHART_TYPE SAVE.png LOG ...``: Caffe's example of a plot.

It shows what the log tells, not what a script beside it left in files: the test network's outputs named accuracy and
loss, the learning rate, and the loss of the training.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ...errors import FileError, UsageError
from ...extras import require
from ...formats.files import atomic_write
from ...formats.logs import LogRow, TrainLog, read_log
from ..plotting import drawable, write_plainly
from .common import usage

__all__ = ["main"]

_CHARTS = (
    "Test accuracy  vs. Iters",
    "Test accuracy  vs. Seconds",
    "Test loss  vs. Iters",
    "Test loss  vs. Seconds",
    "Train learning rate  vs. Iters",
    "Train learning rate  vs. Seconds",
    "Train loss  vs. Iters",
    "Train loss  vs. Seconds",
)
_VALUES: tuple[Callable[[LogRow], float | None], ...] = (
    lambda row: row.outputs.get("accuracy"),
    lambda row: row.outputs.get("loss"),
    lambda row: row.rate,
    lambda row: row.loss,
)


def main(words: list[str]) -> int:
    """Run the program on the words after its name; its exit status."""
    if len(words) < 3 or words[0] not in map(str, range(len(_CHARTS))):
        kinds = "; ".join(f"{number}: {title}" for number, title in enumerate(_CHARTS))
        return usage(f"plot_training_log.py chart_type[0-7] /where/to/save.png /path/to/first.log ... ({kinds})")
    number, output, logs = int(words[0]), words[1], words[2:]
    if not output.endswith(".png"):
        raise UsageError(f"{output}: a path that ends in .png was expected")
    agg = require("matplotlib.backends.backend_agg", "plots")
    figure = require("matplotlib.figure", "plots").Figure()
    agg.FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lines = []
    for path in logs:
        x, y = _series(read_log(path), number)
        if not x:
            raise FileError(f"tells nothing of {_CHARTS[number].partition('  ')[0].lower()}", path=path)
        lines += axes.plot(x, drawable(y), marker=".", linewidth=0.75)
    legend = axes.legend(lines, list(map(str, range(len(lines)))), loc="lower right" if number < 2 else "upper right")
    for text, path in zip(legend.get_texts(), logs, strict=True):
        write_plainly(text, os.path.basename(path).removesuffix(".log"))
    axes.set(title=_CHARTS[number], xlabel=("Iters", "Seconds")[number % 2], ylabel=_CHARTS[number].partition("  ")[0])
    with atomic_write(output) as file:
        figure.savefig(file, format="png")
    return 0


def _series(log: TrainLog, number: int) -> tuple[list[float], list[float]]:
    """What one log has for a chart: x and y. Of several test networks, the first."""
    rows = log.tests.get(0, []) if number < 4 else log.train
    value = _VALUES[number // 2]
    points = [(row.seconds if number % 2 else float(row.iteration), y) for row in rows if (y := value(row)) is not None]
    kept = [(x, y) for x, y in points if x is not None]
    return [x for x, _ in kept], [y for _, y in kept]
