"""Refinement from files to files: the original's formats, what is missing, what was killed, and long runs."""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caffe_compat.errors import CaffeCompatWarning, UsageError
from caffe_compat.formats.hdf5 import open_hdf5
from hpm.drivers.refine_files import refine_actions
from hpm.files.folders import DataFolder, ResultFolder
from hpm.files.lists import ResultWriter, format_list_line, read_errors, read_refined, write_list
from hpm.refine import Refiner, RefineSettings
from tests.hpm.refinement import seeded_projector


def _write(root: Path, action: int, coarse: np.ndarray, pose2d: np.ndarray, truth: np.ndarray) -> None:
    """An action's files as the data folder has them, digits as the original's files have them."""
    data, results = DataFolder(root), ResultFolder(root / "coarse")
    for path in (results.root, data.ground_truth(1).parent, data.pose2d(1, "ours").parent):
        path.mkdir(parents=True, exist_ok=True)
    with ResultWriter(results.normalised(action), indexed=False) as writer:
        writer.write(coarse)
    with ResultWriter(data.pose2d(action, "ours"), indexed=False) as writer:
        writer.write(pose2d)
    lines = [format_list_line(f"a/{k}.jpg", pose2d[k % len(pose2d)], truth[k], int(k > 0)) for k in range(len(truth))]
    write_list(data.ground_truth(action), lines)


def _random_action(root: Path, action: int, frames: int, labels: int | None = None) -> None:
    random = np.random.RandomState(action)
    _write(root, action, random.rand(frames, 48), random.rand(frames, 32), random.rand(labels or frames, 48))


def test_the_originals_files(reference: Path, tmp_path: Path) -> None:
    with open_hdf5(reference / "hpm_refine.h5") as file:
        stored = {n: {k: np.asarray(v) for k, v in file[f"action_{n}"].items()} for n in (1, 2)}
    for action, values in stored.items():
        _write(tmp_path, action, values["coarse_3d"], values["pose_2d"], values["ground_truth_3d"])
    seen: list[tuple[int, int, int]] = []
    summary = refine_actions(
        Refiner(seeded_projector()),
        DataFolder(tmp_path),
        tmp_path / "coarse",
        tmp_path / "out",
        actions=(1, 2),
        progress=lambda *numbers: seen.append(numbers),
    )
    assert summary.problems == {}
    assert seen == [(1, 40, 40), (2, 40, 40)]
    for done, (action, values) in zip(summary.done, stored.items(), strict=True):
        refined = read_refined(tmp_path / "out" / f"refine3d_{action}.txt")
        expected = values["refined_3d_mm"]
        assert np.abs(refined - expected).max() < 1e-5 * np.abs(expected).max()
        errors = read_errors(tmp_path / "out" / f"0.00015mpjp_{action}.txt")
        np.testing.assert_allclose(errors, values["mpjpe_mm"], rtol=1e-5)
        means = [done.coarse_mm, done.change_mm, done.refined_mm]
        np.testing.assert_allclose(means, values["mpjpe_mm"].mean(0), rtol=1e-5)
        assert not done.kept


def test_what_is_missing_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    _random_action(tmp_path, 2, 5)
    _random_action(tmp_path, 3, 5, labels=7)
    _random_action(tmp_path, 4, 5)
    path = DataFolder(tmp_path).pose2d(4, "ours")
    path.write_text(path.read_text().replace("\n", ",0.5\n"))
    args = Refiner(seeded_projector(20, 30)), DataFolder(tmp_path), tmp_path / "coarse", tmp_path / "out"
    summary = refine_actions(*args, actions=range(1, 5))
    assert [done.action for done in summary.done] == [2]
    assert summary.problems[1].startswith(f"missing: {tmp_path}/coarse/result1_norm.csv, ")
    assert "test1.txt" in summary.problems[1]
    assert "result3_norm.csv has 5" in summary.problems[3]
    assert "test3.txt has 7" in summary.problems[3]
    assert f"{path}: line 1: 33 values; 32 were expected" in summary.problems[4]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "0.00015mpjp_2.txt",
        "refine3d_2.json",
        "refine3d_2.txt",
    ]
    # The coarse files of the original's script lack frames at the end.
    assert refine_actions(*args, actions=[3], allow_short=True).done[0].frames == 5
    with pytest.raises(UsageError, match="action 16; Human3"):
        refine_actions(*args, actions=[16])


def test_sources_of_2d_poses(tmp_path: Path) -> None:
    _random_action(tmp_path, 1, 6)
    refiner, data = Refiner(seeded_projector(20, 30)), DataFolder(tmp_path)
    data.pose2d(1, "hourglass").parent.mkdir()
    other = np.random.RandomState(9).rand(6, 32)
    write_list(data.pose2d(1, "hourglass"), [format_list_line("a.jpg", pose, None, None) for pose in other])
    outcomes = {}
    for source in ("ours", "gt", "hourglass"):
        refine_actions(refiner, data, tmp_path / "coarse", tmp_path / source, pose2d=source, actions=[1])
        outcomes[source] = read_refined(tmp_path / source / "refine3d_1.txt")
    # "ours" and the labels hold the same 2D poses here, to six digits.
    np.testing.assert_allclose(outcomes["ours"], outcomes["gt"], atol=0.01)
    assert np.abs(outcomes["ours"] - outcomes["hourglass"]).max() > 0.1


def test_finished_actions_are_kept_until_something_changes(tmp_path: Path) -> None:
    _random_action(tmp_path, 1, 5)
    folders = DataFolder(tmp_path), tmp_path / "coarse", tmp_path / "out"
    refiner = Refiner(seeded_projector(20, 30))

    def kept(with_refiner: Refiner = refiner) -> bool:
        (done,) = refine_actions(with_refiner, *folders, actions=[1]).done
        return done.kept

    assert [kept(), kept()] == [False, True]
    out = tmp_path / "out" / "refine3d_1.txt"
    text = out.read_text()
    out.write_text(text[:-30])
    assert [kept(), kept()] == [False, True]
    assert out.read_text() == text
    assert not kept(Refiner(seeded_projector(20, 30), RefineSettings("independent")))
    assert not kept(Refiner(seeded_projector(20, 31), RefineSettings("independent")))
    assert not kept()
    (tmp_path / "out" / "refine3d_1.json").write_text("{}")
    assert not kept()
    _random_action(tmp_path, 1, 6)
    assert not kept()
    assert json.loads((tmp_path / "out" / "refine3d_1.json").read_text())["made_from"]["frames"] == 6


def test_other_options_leave_no_file_of_an_earlier_run(tmp_path: Path) -> None:
    for action in (1, 2, 3):
        _random_action(tmp_path, action, 5)
    out = tmp_path / "out"

    def run(rate: float, actions: tuple[int, ...]) -> set[str]:
        refiner = Refiner(seeded_projector(20, 30), RefineSettings(learning_rate=rate))
        assert not refine_actions(refiner, DataFolder(tmp_path), tmp_path / "coarse", out, actions=actions).problems
        return {path.name for path in out.glob("*mpjp*")}

    assert run(0.00015, (1, 2, 3)) == {f"0.00015mpjp_{action}.txt" for action in (1, 2, 3)}
    assert run(0.00015, (3,)) == {f"0.00015mpjp_{action}.txt" for action in (1, 2, 3)}
    # What someone changed since is theirs, and a record names files beside it alone.
    (out / "0.00015mpjp_2.txt").write_text("mine\n")
    with pytest.warns(CaffeCompatWarning, match="files of actions 2, 3 in .* other options"):
        assert run(0.001, (1,)) == {"0.001mpjp_1.txt", "0.00015mpjp_2.txt"}
    assert [path.name for path in sorted(out.glob("refine3d_*"))] == ["refine3d_1.json", "refine3d_1.txt"]
    (tmp_path / "other.txt").write_text("other\n")
    record = json.loads((out / "refine3d_1.json").read_text())
    record["outputs"]["../other.txt"] = hashlib.sha256(b"other\n").hexdigest()
    (out / "refine3d_1.json").write_text(json.dumps(record))
    assert run(0.002, (1, 2)) == {"0.002mpjp_1.txt", "0.002mpjp_2.txt", "0.00015mpjp_2.txt"}
    assert (tmp_path / "other.txt").exists()


# Kills itself, as from outside, after a block of the second action.
_KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from tests.hpm.refinement import seeded_projector
from hpm.files.folders import DataFolder
from hpm.refine import Refiner
from hpm.drivers.refine_files import refine_actions
def progress(action, done, frames):
    if (action, done) == (2, 1024):
        os.kill(os.getpid(), signal.SIGKILL)
root = Path({root!r})
refine_actions(Refiner(seeded_projector(20, 30)), DataFolder(root), root / "coarse", root / "out", actions=(1, 2),
               progress=progress)
"""


@pytest.mark.slow
def test_killed_and_started_again_loses_and_repeats_nothing(tmp_path: Path) -> None:
    _random_action(tmp_path, 1, 30)
    _random_action(tmp_path, 2, 1100)
    code = _KILLED.format(tests=str(Path(__file__).parents[3]), root=str(tmp_path))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    out = tmp_path / "out"
    assert (out / "refine3d_1.txt").exists()
    assert not (out / "refine3d_2.txt").exists()
    args = Refiner(seeded_projector(20, 30)), DataFolder(tmp_path), tmp_path / "coarse"
    summary = refine_actions(*args, out, actions=(1, 2))
    assert [done.kept for done in summary.done] == [True, False]
    refine_actions(*args, tmp_path / "whole", actions=(1, 2))
    for name in ("refine3d_1.txt", "refine3d_2.txt", "0.00015mpjp_2.txt"):
        assert (out / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert (out / "refine3d_2.txt").read_text().count("\n") == 1100


def test_exchanged_sides_give_a_warning_with_the_evidence(tmp_path: Path) -> None:
    from hpm.scaling import REFINEMENT_BOUNDS, normalise
    from hpm.skeleton import H36M16, swap_sides
    from tests.hpm.test_skeleton import STANDING

    body = np.tile(STANDING * 0.9, (20, 1, 1))
    coarse = normalise(swap_sides(body, H36M16), REFINEMENT_BOUNDS).reshape(20, 48)
    coarse[:, :3] = 0
    _write(tmp_path, 1, coarse, np.full((20, 32), 0.5), coarse)
    with pytest.warns(CaffeCompatWarning, match=r"left and right may be exchanged: .*in 20 of 20 frames knees bend"):
        (done,) = refine_actions(
            Refiner(seeded_projector(20, 30)), DataFolder(tmp_path), tmp_path / "coarse", tmp_path / "out", actions=[1]
        ).done
    assert any("knees" in reason for reason in done.suspicions)


@pytest.mark.slow
def test_100000_frames_in_constant_memory(tmp_path: Path) -> None:
    frames, part = 100_000, 2_000
    _random_action(tmp_path, 1, part)
    _random_action(tmp_path, 2, part)
    for path in (
        ResultFolder(tmp_path / "coarse").normalised(2),
        DataFolder(tmp_path).pose2d(2, "ours"),
        DataFolder(tmp_path).ground_truth(2),
    ):
        path.write_text(path.read_text() * (frames // part))
    args = DataFolder(tmp_path), tmp_path / "coarse", tmp_path / "out"
    refiner = Refiner(seeded_projector(20, 30))
    refine_actions(refiner, *args, actions=[1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (done,) = refine_actions(refiner, *args, actions=[2]).done
    assert done.frames == frames
    assert (tmp_path / "out" / "refine3d_2.txt").read_bytes().count(b"\n") == frames
    # The lists alone hold 100,000 x 128 numbers: 100 MB as an array.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000
