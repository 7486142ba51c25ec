"""What is killed: everything that writes files, with inputs small enough to be run hundreds of times."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeAlias

import numpy as np

import converters
import hpm.cli
from caffe_compat.cli import main
from caffe_compat.training.solver import latest_snapshot
from hpm.files.folders import DataFolder, ResultFolder
from hpm.files.lists import format_list_line, write_list
from tests.extraction.small import write_images
from tests.hpm.tiny import tiny_model, write_action
from tests.training.tiny_training import write_training

__all__ = ["Job", "jobs"]

REFERENCE = Path(__file__).parents[2] / "reference_outputs"
FORMATS = REFERENCE / "formats"

Main: TypeAlias = Callable[[Sequence[str] | None], NoReturn]


@dataclass(frozen=True)
class Job:
    """A command that writes.

    Attributes:
        prepare: makes its inputs, in a folder that is empty.
        run: runs it in the current folder, from the start or from where an earlier run was ended.
        made: patterns of what it leaves in the end, below that folder.
        other: writes the same files with other content, where the command replaces what is there.
    """

    name: str
    prepare: Callable[[Path], None]
    run: Callable[[], object]
    made: tuple[str, ...]
    other: Callable[[], object] | None = None


def jobs() -> list[Job]:
    """All of them: converting, every exporter, training, extracting, and the pose system's commands."""
    names = {"convert": "a.pt", **{target.name: f"a{target.suffix}" for target in converters.targets()}}
    found = [
        Job(kind, _nothing, _converting(name, "v1net"), ("a.*",), _converting(name, "v0net"))
        for kind, name in names.items()
    ]
    return [
        *found,
        Job("train", _training, _train, ("snap_iter_*",)),
        Job("extract", _pictures, _extracting("a.h5"), ("a.h5",)),
        Job("coarse", _actions, _pose("coarse", "model.pt", *_COARSE), ("out/*",)),
        Job("refine", _results, _pose("refine", "--model", "model.pt", *_REFINE), ("out/*",)),
        Job("predict", _actions, _pose("predict", *_PREDICT), ("out/*", "a.npy", "a.bvh")),
    ]


def _nothing(folder: Path) -> None:
    pass


def _command(program: Main, *arguments: str) -> Callable[[], object]:
    return lambda: program(arguments)


def _converting(name: str, net: str) -> Callable[[], object]:
    return _command(main, "convert", str(FORMATS / f"{net}.prototxt"), str(FORMATS / f"{net}.caffemodel"), "-o", name)


# Training and features


def _training(folder: Path) -> None:
    write_training(folder, "max_iter: 6 snapshot: 2 random_seed: 5")


def _train() -> None:
    state = latest_snapshot("snap", Path.cwd())
    resume = ["-snapshot", state.name] if state else []
    main(["train", "-solver=solver.prototxt", "--workers=0", *resume])


def _pictures(folder: Path) -> None:
    write_images(folder / "images", 24)


def _extracting(name: str) -> Callable[[], object]:
    net = (str(FORMATS / "v1net.prototxt"), str(FORMATS / "v1net.caffemodel"))
    how = ("--preprocess", "order=bgr,mean=104:117:123,scale=0.5,resize=8x8", "--workers", "0")
    return _command(main, "extract", *net, "--images", "images", "-o", name, "--batch", "4", "--shard", "4", *how)


# Poses

_COARSE = ("--data-dir", ".", "--actions", "1,2", "--readers", "1", "--save", "out")
_REFINE = ("--data-dir", ".", "--coarse-3d", "coarse", "--pose2d", "gt", "--actions", "1,2", "--save", "out")
_PREDICT = ("h36m/action 1", "--model", "model.pt", "--save", "out", "--window", "4", "--keypoints", "points.npy")


def _pose(*arguments: str) -> Callable[[], object]:
    return _command(hpm.cli.main, *arguments)


def _actions(folder: Path) -> None:
    tiny_model(REFERENCE, folder)
    for action in (1, 2):
        write_action(folder, action, 12)
    np.save(folder / "points.npy", np.random.RandomState(0).uniform(5, 55, (12, 16, 2)))


def _results(folder: Path) -> None:
    tiny_model(REFERENCE, folder)
    data, chance = DataFolder(folder), np.random.RandomState(3)
    data.ground_truth(1).parent.mkdir(parents=True)
    coarse = ResultFolder(folder / "coarse")
    os.mkdir(coarse.root)
    for action in (1, 2):
        labels = chance.rand(30, 80)
        write_list(data.ground_truth(action), (format_list_line("a.png", row[:32], row[32:], 1) for row in labels))
        rows = "".join("," + ",".join(f"{v:.6f}" for v in row) + "\n" for row in chance.rand(30, 48))
        coarse.normalised(action).write_text(rows)
