"""Options, progress bars and summaries that several commands share."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from caffe_compat.cli.options import note
from caffe_compat.errors import CaffeCompatWarning, UsageError
from caffe_compat.formats.sniff import is_checkpoint, is_text

from ..files.checkpoint_extras import check_agreement
from ..files.lists import ACTIONS, CAMERAS, DataFolder, KthFolder
from ..files.pickles import is_pickle
from ..model import PoseMachine
from ..scaling import REFINEMENT_BOUNDS, Bounds, bounds_difference, or_built_in, order_suspicion, read_bounds
from ..skeleton import H36M16

__all__ = [
    "Bars",
    "actions_option",
    "bounds_option",
    "choose_bounds",
    "data_folder",
    "data_option",
    "given_bounds",
    "label",
    "label_bounds",
    "label_bounds_option",
    "layout_option",
    "model_arguments",
    "open_machine",
    "optimize_option",
    "parse_actions",
    "picture_folder",
    "protocol_option",
    "report_problems",
]

data_option = click.option(
    "--data-dir", required=True, type=click.Path(file_okay=False), help="Folder with gt/test, ours_2d and the like."
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


def open_machine(model: str, weights: str | None, pose_blob: str | None) -> PoseMachine:
    """MODEL: a .pt, a prototxt with WEIGHTS, or a caffemodel that carries its own network."""
    if is_checkpoint(model):
        if weights is not None:
            raise UsageError(f"{model} holds its own weights; {weights} would be ignored")
        return PoseMachine.from_pretrained(model, pose_blob=pose_blob)
    if is_pickle(model):
        raise UsageError(
            f"{model} is a pickle, which holds the correction module and projector alone: 'hpm refine' takes it with "
            "--verified-by, 'hpm convert' makes a .pt of it"
        )
    if weights is None and is_text(model):
        raise UsageError(f"{model} is a prototxt; pass its weights (.caffemodel or .caffemodel.h5) too")
    return PoseMachine.from_caffe(model, weights or model, pose_blob=pose_blob)


def parse_actions(text: str, data: DataFolder | None = None) -> list[int]:
    """``1,3,5-7`` as numbers; ``all`` as all that ``data`` has. Raises UsageError."""
    if text == "all":
        return list(CAMERAS if isinstance(data, KthFolder) else ACTIONS)
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
    if not Path(root).is_dir():
        raise UsageError(f"--data-dir {root}: there is no such folder")
    return (KthFolder if layout == "kth" else DataFolder)(Path(root), int(protocol))


def picture_folder(data: DataFolder, given: str | None) -> Path:
    """The folder that lists' paths are relative to."""
    return Path(given) if given is not None else data.root if isinstance(data, KthFolder) else data.root / "h36m"


def label(data: DataFolder, action: int) -> str:
    """What an action, or a camera, is called."""
    return f"camera {action}" if isinstance(data, KthFolder) else f"{action} {ACTIONS[action]}"


def given_bounds(text: str | None) -> Bounds | None:
    """What ``--bounds`` says."""
    if text is None:
        return None
    return REFINEMENT_BOUNDS if text == "published" and not Path(text).exists() else _checked(text)


def label_bounds(given: str | None, data: DataFolder) -> Bounds:
    """What the labels of a data folder are normalised by."""
    return _labels(given_bounds(given), data, None)


def choose_bounds(given: str | None, data: DataFolder, model: str, own: Bounds | None) -> tuple[Bounds | None, Bounds]:
    """What a model's normalised poses refer to, None if nothing tells; and what the labels of a data folder do.

    Args:
        own: the model's own bounds, if it holds any.

    Warns:
        CaffeCompatWarning: the model's and the folder's bounds differ.

    Raises:
        UsageError: ``given`` ones differ from the model's own.
    """
    chosen = given_bounds(given)
    check_agreement(model, own, chosen)
    labels = _labels(chosen, data, own)
    if own is None:
        if chosen is None and data.bounds.exists():
            note(f"bounds: {model} holds none, so its poses are taken by {labels.source}")
        return chosen or (labels if data.bounds.exists() else None), labels
    if (apart := bounds_difference(own, labels)) is not None:
        warnings.warn(
            f"{model}'s poses are by its own bounds ({own.source}), the labels by {labels.source}: {apart}",
            CaffeCompatWarning,
            stacklevel=2,
        )
    return own, labels


def _labels(chosen: Bounds | None, data: DataFolder, own: Bounds | None) -> Bounds:
    if chosen is not None:
        return chosen
    if data.bounds.exists():
        return _checked(data.bounds)
    if own is None:
        note(f"bounds: no --bounds and no {data.bounds}, so values are taken by {REFINEMENT_BOUNDS.source}")
    return own or REFINEMENT_BOUNDS


def _checked(path: str | Path) -> Bounds:
    """The bounds in a file, with a warning if their joints seem to be in another order."""
    found = or_built_in(read_bounds(path))
    if (reason := order_suspicion(found)) is not None:
        warnings.warn(
            f"{path}: bounds of another skeleton or joint order? {reason}; {H36M16.name} is {' '.join(H36M16.joints)}",
            CaffeCompatWarning,
            stacklevel=2,
        )
    return found


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
        return lambda action, done, total: self.show(label(data, action), done, total)

    def of(self, what: str) -> Callable[[int, int], None]:
        """What shows ``done`` of ``total`` of ``what``."""
        return lambda done, total: self.show(what, done, total)


def report_problems(data: DataFolder, problems: Mapping[int, str], done: int) -> int:
    """What could not be done, a line each on stderr, and how much could; the exit status."""
    for action, problem in problems.items():
        note(f"hpm: error: {label(data, action)}: {problem}")
    if problems:
        what = "cameras" if isinstance(data, KthFolder) else "actions"
        note(f"{done} of {done + len(problems)} {what} done")
    return 1 if problems else 0
