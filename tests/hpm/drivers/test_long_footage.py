"""Any number of frames: pictures from a list, memory that does not grow with them, and runs that are cut off."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

import hpm
from caffe_compat.errors import FileError
from hpm.drivers.footage_sinks import FrameNumbers
from hpm.files.folders import DataFolder, ResultFolder
from hpm.files.lists import ResultWriter, format_list_line, write_list
from hpm.files.npz import read_npz
from hpm.files.pictures import footage_name, frame_names, picture_names, read_frames
from tests.hpm.tiny import random_frames, tiny_model, write_action

# What untrained weights make of noise has no limbs to speak of.
pytestmark = pytest.mark.filterwarnings("ignore:.*nothing that it knows:caffe_compat.errors.CaffeCompatWarning")


@pytest.fixture
def model(reference: Path, tmp_path: Path) -> Path:
    return tiny_model(reference, tmp_path)


def _pictures(folder: Path, count: int) -> np.ndarray:
    pictures = random_frames(count)
    folder.mkdir()
    for k, picture in enumerate(pictures):
        assert cv2.imwrite(str(folder / f"{k} of them.png"), picture)
    return pictures


def _list(path: Path, names: Iterable[str]) -> Path:
    path.write_text("".join(f"{name}\n" for name in names))
    return path


# Lists


def test_pictures_of_a_list(tmp_path: Path) -> None:
    pictures = _pictures(tmp_path / "in", 3)
    named = ["in/2 of them.png", str(tmp_path / "in" / "0 of them.png"), "in/2 of them.png"]
    path = _list(tmp_path / "frames.txt", named)
    assert [(pictures == frame).all((1, 2, 3)).argmax() for frame in read_frames([path])] == [2, 0, 2]
    assert picture_names([path], 2) == [str(tmp_path / "in/2 of them.png")] * 2
    assert frame_names([path], 2, 2)[1] == "frame 2: 2 of them.png"


def test_what_footage_is_called(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        ("films/walk.mp4",): "walk.mp4",
        ("run/walk",): "walk",
        ("run/walk/1.png",): "1.png",
        ("run/walk/1.png", "run/walk/2.png"): "walk",
        ("run/walk/1.png", "run/sit/1.png"): "run",
        ("/1.png", "/2.png"): "pictures",
    }
    assert {given: footage_name(given) for given in names} == names
    _pictures(tmp_path / "walk", 3)
    monkeypatch.chdir(tmp_path / "walk")
    assert footage_name(["."]) == footage_name(["0 of them.png", "1 of them.png"]) == "walk"
    hpm.predict(["2 of them.png", "0 of them.png"], model, tmp_path / "out", exports=[tmp_path / "out.npz"])
    assert list(read_npz(tmp_path / "out.npz")["positions_3d"]) == ["walk"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "is empty"),
        ("a.png\n\nb.png\n", "line 2: it is empty"),
        (f"a.png {','.join(['0.5'] * 81)}\n", "line 1: a path alone was expected"),
    ],
)
def test_lists_that_cannot_be(text: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "frames.txt").write_text(text)
    with pytest.raises(FileError, match=match):
        picture_names([tmp_path / "frames.txt"])


def test_a_list_says_which_picture_is_missing(model: Path, tmp_path: Path) -> None:
    path = _list(tmp_path / "frames.txt", ["no.png"])
    with pytest.raises(FileError, match=r"no\.png"):
        hpm.predict(path, model, tmp_path / "out")


def test_numbers_of_frames_in_words() -> None:
    numbers, few = FrameNumbers(), FrameNumbers(2)
    for number in (0, 1, 5, 7, 8, 9, 100):
        numbers.add(number)
        few.add(number)
    assert [str(numbers), str(few)] == ["0-1, 5, 7-9, 100", "0-1, 5 and 2 more"]
    assert numbers.count == few.count == 7


# Runs that are cut off


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class _CutOff(BaseException):
    """As hard an end as there is within a process."""


def _cut_off(*_: object) -> None:
    raise _CutOff


def test_prediction_after_one_that_was_cut_off(model: Path, tmp_path: Path) -> None:
    _pictures(tmp_path / "in", 8)
    path = _list(tmp_path / "frames.txt", [f"in/{k % 8} of them.png" for k in range(70)])
    hpm.predict(path, model, tmp_path / "peace")
    with pytest.raises(_CutOff):
        hpm.predict(path, model, tmp_path / "out", progress=_cut_off)
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_file()]
    hpm.predict(path, model, tmp_path / "out")
    assert _contents(tmp_path / "out") == _contents(tmp_path / "peace")
    assert len(_contents(tmp_path / "out")) == 5 + 70


@pytest.mark.filterwarnings("ignore:.*(may not be right|may be exchanged):caffe_compat.errors.CaffeCompatWarning")
def test_actions_after_a_run_that_was_cut_off(model: Path, tmp_path: Path) -> None:
    for action in (1, 2):
        write_action(tmp_path, action, 12)

    def coarse(out: Path, progress: Callable[[int, int, int], None] | None = None) -> None:
        hpm.coarse_files(model, tmp_path, out, actions=[1, 2], progress=progress)

    def refine(out: Path, progress: Callable[[int, int, int], None] | None = None) -> None:
        hpm.refine_files(
            model, tmp_path, out, coarse=tmp_path / "peace", pose2d="gt", actions=[1, 2], progress=progress
        )

    def in_the_second(action: int, done: int, frames: int) -> None:
        if action == 2:
            raise _CutOff

    coarse(tmp_path / "peace")
    for name, run in (("coarse", coarse), ("refine", refine)):
        run(tmp_path / name / "peace")
        with pytest.raises(_CutOff):
            run(tmp_path / name / "out", in_the_second)
        kept = _contents(tmp_path / name / "out")
        assert kept
        assert not [file for file in kept if file.startswith(("result2", "refine3d_2"))]
        run(tmp_path / name / "out")
        assert _contents(tmp_path / name / "out") == _contents(tmp_path / name / "peace")


# Memory


def _most(action: Callable[[], object]) -> int:
    """The most bytes that Python and numpy hold at once while it runs, beyond what they held before."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*(may not be right|may be exchanged):caffe_compat.errors.CaffeCompatWarning")
@pytest.mark.parametrize("command", ["predict", "coarse", "refine"])
def test_memory_does_not_grow_with_the_number_of_frames(command: str, model: Path, tmp_path: Path) -> None:
    few = 2100 if command == "refine" else 1100  # more than the readers of lists have at once
    rows = np.random.RandomState(0).rand(2 * few, 80)
    _pictures(tmp_path / "h36m", 1)
    held: list[int] = []
    for count in (5, few, 2 * few):  # the first makes what is made once, and kept
        lists, out = tmp_path / f"{count}", tmp_path / f"{count}" / "out"
        truth, coarse = DataFolder(lists).ground_truth(1), ResultFolder(lists / "coarse")
        truth.parent.mkdir(parents=True)
        coarse.root.mkdir()
        write_list(truth, (format_list_line("0 of them.png", row[:32], row[32:], 1) for row in rows[:count]))
        with ResultWriter(coarse.normalised(1), indexed=False) as results:
            results.write(rows[:count, 32:])
        path = _list(tmp_path / "frames.txt", ["h36m/0 of them.png"] * count)
        if command == "predict":
            run: Callable[[], object] = partial(hpm.predict, path, model, out)
        elif command == "coarse":
            run = partial(hpm.coarse_files, model, lists, out, images=tmp_path / "h36m", actions=[1])
        else:
            run = partial(hpm.refine_files, model, lists, out, coarse=coarse.root, pose2d="gt", actions=[1])
        held.append(_most(run))
        assert any(out.iterdir())
    # A pose alone is 384 bytes, the name of a picture 100.
    assert held[2] - held[1] < 50 * few, held
