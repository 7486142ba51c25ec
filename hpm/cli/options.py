"""Options, progress bars and summaries that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from caffe_compat.cli.options import note
from caffe_compat.errors import UsageError

from ..drivers.models import find_data
from ..files.folders import ACTIONS, DataFolder, KthFolder

__all__ = [
    "Bars",
    "actions_option",
    "bounds_option",
    "data_folder",
    "data_option",
    "label_bounds_option",
    "layout_option",
    "model_arguments",
    "optimize_option",
    "parse_actions",
    "protocol_option",
    "report_problems",
]

data_option = click.option(
    "--data-dir",
    "--data_dir",
    required=True,
    type=click.Path(file_okay=False),
    help="Folder with gt/test, ours_2d and the like.",
)
layout_option = click.option(
    "--layout",
    type=click.Choice(["h36m", "kth"]),
    default="h36m",
    show_default=True,
    help="kth: camera1.txt and so on, the cameras in place of actions.",
)
protocol_option = click.option("--protocol", type=click.Choice(["1", "3"]), default="1", show_default=True)
actions_option = click.option("--actions", default="all", show_default=True, metavar="1,3,5-7", help="Which actions.")
_FILE_OR_RELEASED = "16point_mean_limb_scaled_max_min.csv in the data folder; those of the released model]"
bounds_option = click.option(
    "--bounds",
    metavar="CSV|published",
    help=f"Max-min CSV of the training data. [default: the model's own; {_FILE_OR_RELEASED}",
)
label_bounds_option = click.option(
    "--bounds",
    metavar="CSV|published",
    help=f"Max-min CSV that the labels were made with. [default: {_FILE_OR_RELEASED}",
)

optimize_option = click.option(
    "--optimize", is_flag=True, help="Convolutions in their inference form: faster, and other rounding."
)


def model_arguments(command: Callable[..., object]) -> Callable[..., object]:
    """MODEL and WEIGHTS, and how to read them."""
    for option in (
        click.option("--pose-blob", help="Blob with the pose, if the network does not end as the original's do."),
        click.argument("weights", type=click.Path(), required=False),
        click.argument("model", type=click.Path()),
    ):
        command = option(command)
    return command


def parse_actions(text: str, data: DataFolder | None = None) -> list[int]:
    """``1,3,5-7`` as numbers; ``all`` as all that ``data`` has. Raises UsageError."""
    if text == "all":
        return list(ACTIONS if data is None else data.actions)
    chosen: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,3})(?:-(\d{1,3}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= len(ACTIONS):
            raise UsageError(f"--actions {text!r}: numbers from 1 to {len(ACTIONS)} such as 1,3,5-7 were expected")
        chosen += [k for k in range(first, last + 1) if k not in chosen]
    return chosen


def data_folder(root: str, protocol: str, layout: str = "h36m") -> DataFolder:
    """Where the data lie. Raises UsageError if there is no such folder."""
    return find_data((KthFolder if layout == "kth" else DataFolder)(Path(root), int(protocol)))


class Bars(AbstractContextManager["Bars"]):
    """Progress bars on stderr; nothing where that is no terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, what: str, done: int, total: int | None = None) -> None:
        """``done`` of ``total`` of ``what``."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.update(self._tasks[what], completed=done, total=total)

    def actions(self, data: DataFolder) -> Callable[[int, int, int], None]:
        """What shows frames of an action."""
        return lambda action, done, total: self.show(data.called(action), done, total)

    def of(self, what: str) -> Callable[[int, int], None]:
        """What shows ``done`` of ``total`` of ``what``."""
        return lambda done, total: self.show(what, done, total)


def report_problems(data: DataFolder, problems: Mapping[int, str], done: int) -> int:
    """What could not be done, a line each on stderr, and how much could; the exit status."""
    for action, problem in problems.items():
        note(f"hpm: error: {data.called(action)}: {problem}")
    if problems:
        note(f"{done} of {done + len(problems)} {data.kind} done")
    return 1 if problems else 0
