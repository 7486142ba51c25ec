"""``hpm prepare`` from files as people have them to lists that the other commands read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from hpm import cli
from hpm.files.folders import ResultFolder
from hpm.files.lists import read_list
from hpm.model import PoseMachine
from hpm.scaling import REFINEMENT_BOUNDS, bone_variation, denormalise, read_bounds
from hpm.skeleton import H36M16, MPII16
from tests.hpm.datasets.human36m_files import SERIALS, Recordings


@dataclass
class Result:
    status: int | str | None
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what is wrong."""
        assert self.status == 2, (self.status, self.out, self.err)
        assert len(self.err.splitlines()) == 1, self.err
        assert self.err.startswith("hpm: error: ")
        return self.err


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as leaving:
            cli.main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Result(leaving.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def verified(reference: Path, tmp_path: Path) -> Path:
    folder = reference / "tiny_mask3d"
    machine = PoseMachine.from_caffe(folder / "deploy.prototxt", folder / "tiny_mask3d.caffemodel")
    machine.verify(folder / "tiny_mask3d.h5")
    machine.save(tmp_path / "verified.pt")
    return tmp_path / "verified.pt"


FILES = Recordings(
    {
        ("S1", "TakingPhoto"): 21,
        ("S5", "Walking 1"): 26,
        ("S9", "Walking 1"): 26,
        ("S9", "Walking"): 16,
        ("S9", "Eating"): 11,
    }
)


@pytest.mark.slow
def test_official_files_to_refined_poses(run: Run, verified: Path, tmp_path: Path) -> None:
    """Prepare, predict, refine by a detector's 2D poses, evaluate."""
    source, data, coarse = FILES.videos(FILES.cdf(tmp_path / "h36m")), tmp_path / "data", tmp_path / "coarse"
    detections = FILES.detections(tmp_path / "data_2d_h36m_sh_ft_h36m.npz", "MPII16")
    command = ("prepare", "h36m", source, "--videos", source, "--pose2d", detections, "--out", data, "--image-size", 64)
    # The model's own bounds are others: the tiny network is not trained on this.
    done = run(*command, "--bounds", "published")
    assert done.status == 0
    assert done.out.splitlines() == [
        "read as cdf: 44 training frames, 52 test frames, 96 pictures",
        "bone lengths vary by up to 2.7% in training and 0.0% in test poses; labels scaled to the training means, test "
        "labels vary by 0.0%",
    ]
    assert "not in the source: S1 Directions, " in done.err
    assert "S6, S7, S8, S9 Directions" in done.err
    assert "no test frames of Directions, Discussion, Greeting" in done.err
    again = run(*command, "--bounds", "published")
    assert again.out.splitlines()[1] == "96 pictures were kept from an earlier run"
    np.testing.assert_allclose(
        read_bounds(data / "h36m/16point_mean_limb_scaled_max_min.csv").minimum[3:], REFINEMENT_BOUNDS.minimum[3:]
    )

    chosen = ("--data-dir", data, "--actions", "3,13")
    assert run("coarse", verified, *chosen, "--save", coarse).out == "3 Eating: 12 frames\n13 Walking: 40 frames\n"
    refine = ("refine", "--model", verified, *chosen, "--coarse-3d", coarse)
    for pose2d in ("gt", "hourglass"):
        assert run(*refine, "--pose2d", pose2d, "--save", tmp_path / pose2d).status == 0
    poses = [(tmp_path / pose2d / "refine3d_13.txt").read_text() for pose2d in ("gt", "hourglass")]
    assert poses[0] != poses[1]
    done = run("evaluate", *chosen, "--coarse-3d", coarse, "--refined", tmp_path / "gt", "--format", "json")
    table = json.loads(done.out)
    assert {(row["action"], row["frames"]) for row in table["rows"]} == {("3 Eating", 12), ("13 Walking", 40)}
    assert table["label_bone_variation"] < 1e-3
    # What was prepared are the poses, not some numbers: the truth as a result has no error.
    truth = (data / "gt/test/test13.txt").read_text().splitlines()
    values = [",".join(line.rpartition(" ")[2].split(",")[32:80]) for line in truth]
    results = ResultFolder(tmp_path / "truth")
    results.root.mkdir()
    results.normalised(13).write_text("".join(f",{row}\n" for row in values))
    done = run(
        "evaluate",
        "--data-dir",
        data,
        "--actions",
        13,
        "--coarse-3d",
        results.root,
        "--format",
        "json",
        "--bounds",
        "published",
    )
    row = next(row for row in json.loads(done.out)["rows"] if row["stage"] == "coarse")
    assert row["mpjpe"] == 0


def test_both_protocols(run: Run, tmp_path: Path) -> None:
    files = Recordings({(subject, "Walking 1"): 26 for subject in ("S1", "S9", "S11")})
    source, out = files.videopose(tmp_path), tmp_path / "out"
    command = ("prepare", "h36m", source, "--out", out)
    assert run(*command).status == 0
    error = run(*command, "--protocol", 3).error
    assert "holds lists of protocol 1 that are normalised with other bounds" in error
    folder = out / "h36m"
    limbs = ("--limbs", folder / "16point_mean_limb_lengths.csv")
    bounds = ("--bounds", folder / "16point_mean_limb_scaled_max_min.csv")
    done = run(*command, "--protocol", 3, *limbs, *bounds)
    assert done.out.splitlines()[0] == "read as videopose: 48 training frames, 24 test frames, 0 pictures"
    assert "labels scaled to the given ones" in done.out
    assert len(read_list(out / "gt/test/test13.txt")) == 48
    assert len(read_list(out / "gt/test_p3/test13.txt")) == 24


def test_options_of_h36m(run: Run, tmp_path: Path) -> None:
    source = FILES.baseline(tmp_path / "in")
    command = ("prepare", "h36m", source, "--out", tmp_path / "out", "--every", 2, "--margin", 0.5)
    done = run(*command, "--unscaled-test", "--leave-out", "S9_Walking", "--leave-out", f"S1_Photo_{SERIALS[0]}")
    assert done.out.startswith("read as baseline: 85 training frames, 24 test frames, 0 pictures\n")
    assert "no pictures were written: the lists name pictures that are not there (see --videos)" in done.err
    entries = read_list(tmp_path / "out/gt/test/test3.txt")
    assert np.ptp(entries.pose2d.reshape(-1, 16, 2), axis=1).max() == pytest.approx(0.5, abs=0.01)
    assert entries.pose3d is not None
    bounds = read_bounds(tmp_path / "out/16point_mean_limb_scaled_max_min.csv")
    assert bone_variation(denormalise(entries.pose3d, bounds).reshape(-1, 16, 3)).max() < 1e-3
    assert "nothing was called S9_Wlaking, to be left out" in run(*command, "--leave-out", "S9_Wlaking").err


def test_bounds_of_another_order_are_suspected(run: Run, tmp_path: Path) -> None:
    source = FILES.baseline(tmp_path / "in")
    mixed = np.stack([REFINEMENT_BOUNDS.maximum, REFINEMENT_BOUNDS.minimum]).reshape(2, 16, 3)
    # The hip stays where it is, the others follow in MPII's order.
    names = [name.replace("HeadTop", "Head").replace("UpperNeck", "Spine") for name in MPII16.joints]
    order = [0, *(H36M16.index(name) for name in names if name != "Hip")]
    path = tmp_path / "bounds.csv"
    np.savetxt(path, mixed[:, order].reshape(2, 48), delimiter=",")
    done = run("prepare", "h36m", source, "--out", tmp_path / "out", "--bounds", path)
    assert f"warning: {path}: bounds of another skeleton or joint order? RHip reaches 943 mm from the hip" in done.err
    assert "labels reach beyond the bounds by up to " in done.err
    np.savetxt(path, mixed.reshape(2, 48)[:, :45], delimiter=",")
    error = run("prepare", "h36m", source, "--out", tmp_path / "out", "--bounds", path).error
    assert "H36M16 has 16 joints, so 48 belong here" in error
    error = run("prepare", "kth", tmp_path, "--out", tmp_path / "out", "--bounds", path).error
    assert "H36M16 has 16 joints, so 48 belong here" in error


def test_a_choice_of_frames_is_said(run: Run, tmp_path: Path) -> None:
    files = Recordings({("S1", "Walking 1"): 150, ("S9", "Walking 1"): 150})
    done = run("prepare", "h36m", files.fetch(tmp_path / "in", as_it_comes=True), "--out", tmp_path / "out")
    assert done.status == 0
    assert "8 views hold a choice of frames already, not one in 5; all of it was kept" in done.err


def test_what_is_wrong_is_one_line(run: Run, tmp_path: Path) -> None:
    source, out = FILES.baseline(tmp_path / "in"), tmp_path / "out"
    command = ("prepare", "h36m", source, "--out", out)
    assert "no data of Human3.6M was recognised" in run("prepare", "h36m", tmp_path / "no", "--out", out).error
    assert "cannot be opened" in run("prepare", "h36m", tmp_path / "no.npz", "--out", out).error
    assert "S1/Videos/Photo.54138969.mp4: cannot be opened" in run(*command, "--videos", tmp_path).error
    assert "--margin nan; a number from 0 to 10" in run(*command, "--margin", "nan").error
    assert "--pose2d-order COCO17 without --pose2d" in run(*command, "--pose2d-order", "COCO17").error
    assert "no 2D poses were recognised" in run(*command, "--pose2d", tmp_path).error
    hourglass = FILES.hourglass(tmp_path / "sh")
    assert "protocol 1 only" in run(*command, "--pose2d", hourglass, "--protocol", 3).error
    (hourglass / "S9/StackedHourglass" / f"Eating.{SERIALS[1]}.h5").unlink()
    assert (
        f"has no 2D poses of S9_Eating_{SERIALS[1]}; leave that view out" in run(*command, "--pose2d", hourglass).error
    )
    assert run(*command, "--pose2d", hourglass, "--leave-out", f"S9_Eating_{SERIALS[1]}").status == 0
    fetched = FILES.fetch(tmp_path / "fetched")
    fetch = ("prepare", "h36m", fetched, "--out", out)
    assert "--videos would be ignored" in run(*fetch, "--videos", tmp_path).error
    assert "h36m-fetch numbers takes in its own way" in run(*fetch, "--pose2d", hourglass).error
    (source / "S5/MyPoses/3D_positions/Walking 1.h5").write_bytes(b"no h5")
    assert "S5/MyPoses/3D_positions/Walking 1.h5: is no HDF5 file" in run(*command).error
    assert run(*command, "--leave-out", "S5_Walking_1").status == 0
    with h5py.File(source / "S5/MyPoses/3D_positions/Walking 1.h5", "w") as file:
        file["3D_positions"] = np.full((96, 5), np.nan)
    assert "the 2D pose of frame 1 is no place (5 such frames)" in run(*command).error


def test_mpii(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    entries = [
        {"image": name, "joints": rng.uniform(50, 250, (16, 2)).tolist(), "joints_vis": [1] * 15 + [seen]}
        for name, seen in (("a.jpg", 1), ("b.jpg", 0), ("gone.jpg", 1))
    ]
    (tmp_path / "train.json").write_text(json.dumps(entries))
    cv2.imwrite(str(tmp_path / "a.jpg"), np.full((300, 300, 3), 80, np.uint8))
    out = tmp_path / "out"
    done = run("prepare", "mpii", tmp_path / "train.json", "--images", tmp_path, "--out", out, "--image-size", 32)
    listed = out / "MPII/annotation/train_h36m.txt"
    assert done.out == f"wrote {listed}: 1 persons with all joints; 1 lack some\n"
    assert "1 pictures are not there, the first is gone.jpg" in done.err
    entry = read_list(listed)
    assert entry.clip is not None
    assert entry.clip.tolist() == [0]
    assert cv2.imread(str(out / "MPII" / entry.paths[0])).shape == (32, 32, 3)
    (tmp_path / "train.json").write_text("[")
    assert "is no json" in run("prepare", "mpii", tmp_path / "train.json", "--images", tmp_path, "--out", out).error
