"""The loader: the same batches whatever the number of workers, errors in their turn, and a clean end."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_compat.errors import CaffeCompatError, FileError, LayerError, UsageError
from caffe_compat.formats.weights import write_binaryproto
from caffe_compat.training.data import Loader, Source
from caffe_compat.training.data.source import Empty, Values
from tests.training.data.helpers import image_data, image_list, source_of, sources_of

NET = image_data("batch_size: 3 shuffle: true", "mirror: true crop_size: 5 scale: 0.5")


class Scripted(Source):
    """Does as its script says for each batch."""

    def __init__(self, script: dict[int, str], size: int = 4) -> None:
        self.name, self.type, self.tops, self.script, self.size = "s", "Scripted", ("x",), script, size

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"x": (self.size,)}

    def read(self, index: int, empty: Empty) -> dict[str, Values]:
        action = self.script.get(index)
        if action == "layer error":
            raise LayerError("layer 's': bad", layer="s")
        if action == "defect":
            raise ZeroDivisionError("oops")
        if action == "die":
            os._exit(9)
        if action == "hang":
            time.sleep(60)
        if action == "grow":
            return {"x": Values(empty((self.size * 1000,), torch.float32).fill_(index))}
        return {"x": Values(empty((self.size,), torch.float32).fill_(index))}


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("mean", ["", "mean_value: 100.5", 'mean_file: "mean"'])
def test_batches_are_the_sources_whatever_reads_them(
    workers: int, mean: str, tmp_path: Path, device: torch.device
) -> None:
    image_list(tmp_path, 10)
    write_binaryproto(tmp_path / "mean", np.random.RandomState(0).uniform(0, 255, (1, 3, 6, 9)).astype(np.float32))
    source = source_of(NET.replace("scale: 0.5", f"scale: 0.3 {mean}"), tmp_path, "TRAIN")
    with Loader([source], start=5, stop=16, workers=workers, device=device) as loader:
        batches = 0
        for k, batch in enumerate(loader, 5):
            expected = source.batch(k)
            assert list(batch) == ["data", "label"]
            assert all(batch[top].device.type == device.type for top in batch)
            assert all(torch.equal(batch[top].cpu(), expected[top]) for top in batch)
            batches += 1
    assert batches == 11
    assert not multiprocessing.active_children()


def test_batches_are_the_callers_own(tmp_path: Path) -> None:
    image_list(tmp_path, 10)
    source = source_of(NET, tmp_path, "TRAIN")
    with Loader([source], workers=1, prefetch=2) as loader:
        kept = [next(loader)["data"] for _ in range(8)]
    for k, data in enumerate(kept):
        assert torch.equal(data, source.batch(k)["data"])


def test_several_layers_make_one_batch(tmp_path: Path) -> None:
    image_list(tmp_path, 10)
    second = NET.replace('"data"', '"other"').replace('"label"', '"other_label"')
    both = sources_of(NET + second, tmp_path, "TRAIN")
    with Loader(both, workers=2, stop=3) as loader:
        assert [sorted(batch) for batch in loader] == [["data", "label", "other", "other_label"]] * 3
    with pytest.raises(UsageError, match="different tops"):
        Loader([both[0], both[0]])
    with pytest.raises(UsageError, match="found none"):
        Loader([])


def test_runs_ahead_but_not_too_far(tmp_path: Path) -> None:
    class Counting(Scripted):
        def read(self, index: int, empty: Empty) -> dict[str, Values]:
            (tmp_path / str(index)).touch()
            return super().read(index, empty)

    with Loader([Counting({})], workers=2, prefetch=4) as loader:
        next(loader)
        deadline = time.monotonic() + 10
        while len(list(tmp_path.iterdir())) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert sorted(int(p.name) for p in tmp_path.iterdir()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_missing_image_is_told_in_its_turn(workers: int, tmp_path: Path) -> None:
    image_list(tmp_path, 6)
    (tmp_path / "4.png").unlink()
    with Loader([source_of(image_data("batch_size: 2"), tmp_path)], workers=workers) as loader:
        next(loader), next(loader)
        with pytest.raises(FileError, match=r"list.txt: line 5: image .*4.png cannot be opened") as caught:
            next(loader)
    assert caught.value.path == str(tmp_path / "list.txt")
    assert not multiprocessing.active_children()


def test_errors_arrive_whole() -> None:
    with Loader([Scripted({1: "layer error"})], workers=1) as loader:
        next(loader)
        with pytest.raises(LayerError, match="layer 's': bad") as caught:
            next(loader)
        assert caught.value.layer == "s"
    with (
        Loader([Scripted({0: "defect"})], workers=1) as loader,
        pytest.raises(RuntimeError, match="ZeroDivisionError: oops"),
    ):
        next(loader)


def test_a_worker_that_dies() -> None:
    with Loader([Scripted({2: "die"})], workers=1) as loader:
        next(loader), next(loader)
        with pytest.raises(CaffeCompatError, match=r"ended by itself.*exit code 9"):
            next(loader)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_closing_does_not_wait_for_a_long_read() -> None:
    loader = Loader([Scripted({1: "hang"})], workers=1)
    next(loader)
    began = time.monotonic()
    loader.close()
    loader.close()
    assert time.monotonic() - began < 10
    assert not multiprocessing.active_children()
    with pytest.raises(StopIteration):
        next(loader)


def test_batches_that_outgrow_the_first() -> None:
    with Loader([Scripted({2: "grow"})], workers=1, stop=5) as loader:
        assert [(b["x"].numel(), b["x"][0].item()) for b in loader] == [(4, 0), (4, 1), (4000, 2), (4, 3), (4, 4)]


def test_an_interrupt_from_the_terminal_is_the_parents_business() -> None:
    with Loader([Scripted({})], workers=2) as loader:
        next(loader)
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGINT)
            os.kill(child.pid or 0, signal.SIGHUP)
        assert [next(loader)["x"][0].item() for _ in range(6)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    image_list(tmp_path, 4)
    script = f"""
import multiprocessing, os, sys, time
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from pathlib import Path
from tests.training.data.helpers import image_data, source_of
from caffe_compat.training.data import Loader
if __name__ == "__main__":
    loader = Loader([source_of(image_data(), Path({str(tmp_path)!r}))], workers=2)
    next(loader)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment, timeout=60, check=False
    )
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 15
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_runs(pid) for pid in pids)


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_sources_survive_pickling_for_fresh_processes(tmp_path: Path) -> None:
    """Where processes are spawned rather than forked, sources travel as pickles."""
    image_list(tmp_path, 5)
    source = source_of(NET, tmp_path, "TRAIN")
    copy = pickle.loads(pickle.dumps(source))
    assert torch.equal(copy.batch(3)["data"], source.batch(3)["data"])


def test_resumes_exactly(tmp_path: Path) -> None:
    image_list(tmp_path, 7)
    with Loader([source_of(NET, tmp_path, "TRAIN")], workers=2) as loader:
        whole = [next(loader) for _ in range(9)]
    with Loader([source_of(NET, tmp_path, "TRAIN")], start=6, workers=1) as loader:
        for expected in whole[6:]:
            batch = next(loader)
            assert all(torch.equal(batch[top], expected[top]) for top in batch)
