"""Runs that are killed at any moment and started again: no line lost, none twice, the bytes of a run left in peace."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpm.files.folders import DataFolder, ResultFolder
from hpm.files.lists import format_list_line, write_list
from tests.hpm.tiny import tiny_model, write_action

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")]

ACTIONS = (1, 2, 3)
KILLS = 6


@pytest.fixture
def model(reference: Path, tmp_path: Path) -> Path:
    return tiny_model(reference, tmp_path)


def _at_work(out: Path, *command: object) -> subprocess.Popen[bytes]:
    """The command, once it has begun to write to ``out``."""
    before = set(out.iterdir()) if out.exists() else set()
    running = subprocess.Popen(
        [sys.executable, "-m", "hpm", *map(str, command), "--save", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while running.poll() is None and not (out.exists() and set(out.iterdir()) - before):
        time.sleep(0.001)
    return running


def _finished(out: Path, *command: object) -> float:
    """How long the command writes, in seconds."""
    running, start = _at_work(out, *command), time.monotonic()
    _, complaints = running.communicate()
    assert running.returncode == 0, complaints.decode()
    return time.monotonic() - start


def _killed(out: Path, after: float, *command: object) -> bool:
    """Kill a run some seconds after it has begun to write; whether it was still at work."""
    running = _at_work(out, *command)
    time.sleep(after)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    return running.returncode != 0


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _outlives(seed: int, save: Path, peace: Path, *command: object) -> None:
    """Kill the command again and again, let it finish, and compare with one that nobody disturbed."""
    rng = random.Random(seed)
    killed = left = 0
    # Actions that are done are kept, so a run after a kill has less to do.
    longest = _finished(peace, *command) / len(ACTIONS)
    for _ in range(KILLS):
        killed += _killed(save, rng.uniform(0, longest), *command)
        left += any(path.suffix == ".tmp" for path in save.iterdir())
    assert killed >= KILLS // 2
    assert left  # else nothing was cut off amid its writing
    _finished(save, *command)
    assert _contents(save) == _contents(peace)


def test_coarse(model: Path, tmp_path: Path) -> None:
    for action in ACTIONS:
        write_action(tmp_path, action, 150)
    actions = ",".join(map(str, ACTIONS))
    command = ("coarse", model, "--data-dir", tmp_path, "--actions", actions, "--readers", 1)
    _outlives(1, tmp_path / "killed", tmp_path / "peace", *command)
    for action in ACTIONS:
        lines = ResultFolder(tmp_path / "killed").coarse_mm(action).read_text().splitlines()
        assert [int(line.partition(",")[0]) for line in lines] == list(range(1, 151))


@pytest.mark.parametrize("mode", ["faithful", "independent"])
def test_refine(mode: str, model: Path, tmp_path: Path) -> None:
    data, rng = DataFolder(tmp_path), np.random.RandomState(3)
    data.ground_truth(1).parent.mkdir(parents=True)
    coarse = ResultFolder(tmp_path / "coarse")
    coarse.root.mkdir()
    count = 3000 if mode == "faithful" else 9000
    for action in ACTIONS:
        labels = rng.rand(count, 80)
        write_list(data.ground_truth(action), (format_list_line("a.png", row[:32], row[32:], 1) for row in labels))
        rows = "".join("," + ",".join(f"{v:.6f}" for v in row) + "\n" for row in rng.rand(count, 48))
        coarse.normalised(action).write_text(rows)
    actions = ",".join(map(str, ACTIONS))
    command: tuple[Any, ...] = (
        "refine",
        "--model",
        model,
        "--data-dir",
        tmp_path,
        "--coarse-3d",
        coarse.root,
        "--pose2d",
        "gt",
    )
    command += ("--actions", actions, "--mode", mode)
    _outlives(2, tmp_path / "killed", tmp_path / "peace", *command)
    for action in ACTIONS:
        assert len(ResultFolder(tmp_path / "killed").refined_mm(action).read_text().splitlines()) == count
