"""Extractions that are killed, at any moment, and started again; workers of Ray that are."""

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


def run(folder: Path, name: str, workers: int, ray: str | None = None) -> None:
    extract(
        small_net(),
        find_images(folder / "images"),
        folder / name,
        preprocess=HOW,
        batch=4,
        shard=8,
        workers=workers,
        ray=ray,
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


def children(named: bytes) -> list[int]:
    """The processes whose name begins so."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if line.startswith(named) and _descends(int(entry.name)):
                found.append(int(entry.name))
    return found


def _descends(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what Ray imports
def test_a_worker_of_ray_is_killed(folder: Path) -> None:
    import ray

    run(folder, "whole.h5", workers=0)
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if done and not killed:
            killed.extend(children(b"ray::_shard")[:1])
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    try:
        extract(
            small_net(),
            find_images(folder / "images"),
            folder / "ray.h5",
            preprocess=HOW,
            batch=4,
            shard=8,
            ray="",
            on_progress=kill,
        )
    finally:
        ray.shutdown()
    assert len(killed) == 1
    assert (folder / "ray.h5").read_bytes() == (folder / "whole.h5").read_bytes()
