"""A prediction that was cut off goes on from what is whole, and ends in the files of one that was left in peace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest

import hpm
from caffe_compat.errors import CaffeCompatWarning, FileError
from hpm.drivers import footage, footage_shards
from hpm.model import PoseMachine
from hpm.refine import Refiner, RefineSettings
from tests.hpm.tiny import random_frames, tiny_machine, tiny_model

FRAMES, PICTURES = 40, 8
# Frames of a block and of a shard; the gap in the 2D poses makes shorter blocks.
BLOCK, SHARD = 5, 10


class _CutOff(BaseException):
    """As hard an end as there is within a process."""


def _when(frames: int) -> Callable[[str, int, int | None], None]:
    def progress(what: str, done: int, total: int | None) -> None:
        if done >= frames:
            raise _CutOff

    return progress


@pytest.fixture
def run(reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Predict to a folder of that name; what was warned of."""
    monkeypatch.setattr(footage, "_BLOCK", BLOCK)
    monkeypatch.setattr(footage_shards, "_BLOCKS", SHARD // BLOCK)
    model = tiny_model(reference, tmp_path)
    (tmp_path / "in").mkdir()
    for k, picture in enumerate(random_frames(PICTURES)):
        assert cv2.imwrite(str(tmp_path / "in" / f"{k}.png"), picture)
    (tmp_path / "frames.txt").write_text("".join(f"in/{k % PICTURES}.png\n" for k in range(FRAMES)))
    points = np.random.RandomState(3).uniform(8, 50, (FRAMES, 16, 3))
    points[..., 2] = 0.9
    points[11:24, :, 2] = 0.1
    points[33:36] = points[33]  # frozen, across the border of two shards

    def predict(name: str, **options: object) -> list[str]:
        settings: dict[str, object] = {"keypoints": points, "exports": [tmp_path / f"{name}.npy"]} | options
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always", CaffeCompatWarning)
            hpm.predict(tmp_path / "frames.txt", model, tmp_path / name, **settings)  # type: ignore[arg-type]  # by name
        return [str(warning.message) for warning in found]

    return predict


def _contents(folder: Path) -> dict[str, bytes]:
    export = {"the export": Path(f"{folder}.npy").read_bytes()}
    return export | {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pictures that are read from now on."""
    found: list[str] = []
    real = hpm.files.pictures.read_picture

    def read(path: str, kind: Literal["color"]) -> np.ndarray:
        found.append(path)
        return real(path, kind)

    monkeypatch.setattr(hpm.files.pictures, "read_picture", read)
    return found


@pytest.mark.parametrize(
    ("cut", "mode"), [(4, "faithful"), (26, "independent"), (38, "faithful"), (FRAMES, "faithful")]
)
def test_equal_files_and_warnings(
    cut: int, mode: str, run: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = run("peace", mode=mode)
    assert any("frozen" in text for text in said)
    with pytest.raises(_CutOff):
        run("out", mode=mode, progress=_when(cut))
    read = _read(monkeypatch)
    assert run("out", mode=mode) == said
    assert _contents(tmp_path / "out") == _contents(tmp_path / "peace")
    assert not (tmp_path / "out" / "unfinished").exists()
    # Blocks end with the gap: after frames 5, 10, 11, 16, 21, 24, 29, 34, 39, 40; two are a shard.
    whole = max([end for end in (0, 10, 16, 24, 34) if end < cut])
    assert len(read) == FRAMES - whole


def test_an_error_before_the_first_shard_leaves_nothing_to_go_on_from(
    run: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "in" / "3.png").unlink()
    with pytest.raises(FileError, match=r"3\.png"):
        run("out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["crops"]


@pytest.mark.slow
def test_cut_off_again_and_again(run: Callable[..., list[str]], tmp_path: Path) -> None:
    run("peace")
    for cut in (12, 18, 30, 30, FRAMES):
        with pytest.raises(_CutOff):
            run("out", progress=_when(cut))
    run("out")
    assert _contents(tmp_path / "out") == _contents(tmp_path / "peace")


def test_other_options_begin_anew(
    run: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("peace", window=4)
    with pytest.raises(_CutOff):
        run("out", progress=_when(30))
    read = _read(monkeypatch)
    run("out", window=4)
    assert len(read) == FRAMES
    assert _contents(tmp_path / "out") == _contents(tmp_path / "peace")


def test_a_picture_that_was_changed_begins_anew(
    run: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(_CutOff):
        run("out", progress=_when(30))
    assert cv2.imwrite(str(tmp_path / "in" / "0.png"), random_frames(1, seed=9)[0])
    read = _read(monkeypatch)
    run("out")
    run("peace")
    assert len(read) == 2 * FRAMES
    assert _contents(tmp_path / "out") == _contents(tmp_path / "peace")


def test_crops_that_were_taken_away_are_made_again(run: Callable[..., list[str]], tmp_path: Path) -> None:
    run("peace")
    with pytest.raises(_CutOff):
        run("out", progress=_when(38))
    (tmp_path / "out" / "crops" / "000012.jpg").unlink()
    run("out")
    assert _contents(tmp_path / "out") == _contents(tmp_path / "peace")


def test_what_others_put_there_stays(run: Callable[..., list[str]], tmp_path: Path) -> None:
    with pytest.raises(_CutOff):
        run("out", progress=_when(30))
    (tmp_path / "out" / "unfinished" / "notes.txt").write_text("mine")
    run("out")
    assert [path.name for path in (tmp_path / "out" / "unfinished").iterdir()] == ["notes.txt"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="locks are POSIX")
def test_two_runs_at_once_are_refused(run: Callable[..., list[str]], tmp_path: Path) -> None:
    def again(what: str, done: int, total: int | None) -> None:
        if done == FRAMES:
            # The lock is the process's own, so another process asks for it.
            code = "import sys; from caffe_compat.extraction.shards import ShardStore; ShardStore(sys.argv[1], {})"
            asked = subprocess.run(
                [sys.executable, "-c", code, str(tmp_path / "out" / "unfinished")], capture_output=True, text=True
            )
            assert "another process is at work on it" in asked.stderr
            raise _CutOff

    with pytest.raises(_CutOff):
        run("out", progress=again)


def test_people_who_are_done_are_not_done_again(
    run: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.RandomState(4)
    entries = [
        {
            "image_id": f"{k}.png",
            "keypoints": np.insert(rng.uniform(a, a + 25, (17, 2)), 2, 0.9, axis=1).ravel().tolist(),
        }
        for k in range(PICTURES)
        for a in (3, 33)
    ]
    (tmp_path / "k.json").write_text(json.dumps(entries))
    (tmp_path / "frames.txt").write_text("".join(f"in/{k}.png\n" for k in range(PICTURES)))
    options = {"keypoints": tmp_path / "k.json", "people": 2, "exports": []}

    def in_the_second(what: str, done: int, total: int | None) -> None:
        if what == "person 2":
            raise _CutOff

    with pytest.raises(_CutOff):
        run("out", progress=in_the_second, **options)
    read = _read(monkeypatch)
    run("out", **options)
    assert len(read) == PICTURES
    assert [path.name for path in (tmp_path / "out").rglob("unfinished")] == []


@pytest.mark.parametrize("paper", [False, True])
def test_a_refiner_goes_on_in_another_one(paper: bool, reference: Path) -> None:
    machine, rng = tiny_machine(reference), np.random.RandomState(5)
    settings = RefineSettings(steps=3, update_projector=paper)
    coarse, pose2d = rng.rand(140, 48).astype(np.float32), rng.rand(140, 32).astype(np.float32)
    make: Callable[[], Refiner] = partial(machine.refiner, settings)
    whole, first, second = make(), make(), make()
    for refiner in (whole, first):
        refiner.refine(coarse[:130], pose2d[:130])
    second.recall(first.memory())
    on, anew, again = (refiner.refine(coarse[130:], pose2d[130:]).pose for refiner in (whole, make(), second))
    np.testing.assert_array_equal(again, on)
    assert (anew != on).any()


def test_a_machine_goes_on_in_another_one(reference: Path) -> None:
    whole, first, second = (tiny_machine(reference) for _ in range(3))
    frames = random_frames(10)
    together = whole.predict(frames).pose
    first.predict(frames[:5])
    second.recall(first.memory())
    np.testing.assert_array_equal(second.predict(frames[5:]).pose, together[5:])
    fresh: PoseMachine = tiny_machine(reference)
    assert (fresh.predict(frames[5:]).pose != together[5:]).any()
