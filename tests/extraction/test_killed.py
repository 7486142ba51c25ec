"""Extractions that are killed, at any moment, and started again."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from caffe_compat.extraction import extract, find_images
from tests.extraction.small import HOW, small_net, write_images


def run(folder: Path, name: str, workers: int) -> None:
    extract(
        small_net(),
        find_images(folder / "images"),
        folder / name,
        preprocess=HOW,
        batch=4,
        shard=8,
        workers=workers,
    )


def killed_often(folder: Path, kills: int, workers: int) -> int:
    """Extract until so many runs were killed, each at a random moment; how often an extraction came to its end.

    Whenever it does, its file is as the undisturbed one.
    """
    start = time.monotonic()
    run(folder, "whole.h5", workers)
    longest = time.monotonic() - start
    whole, output = (folder / "whole.h5").read_bytes(), folder / "killed.h5"
    chance = random.Random(5)
    ended = killed = 0
    while killed < kills or not ended:
        process = multiprocessing.get_context("fork").Process(target=run, args=(folder, output.name, workers))
        process.start()
        process.join(chance.uniform(0, longest if killed < kills else 600))
        if process.exitcode is None:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode == 0:
            assert output.read_bytes() == whole
            output.unlink()
            ended += 1
        assert not list(folder.glob("killed.h5.bad.txt"))
    return ended


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    write_images(tmp_path / "images", 60)
    return tmp_path


def test_a_few_kills(folder: Path) -> None:
    assert killed_often(folder, 3, workers=0) >= 1


@pytest.mark.slow
def test_fifty_kills(folder: Path) -> None:
    assert killed_often(folder, 50, workers=1) >= 1
