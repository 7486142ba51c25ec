"""The command line: the whole chain on synthetic data, exit status, one line per error."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from caffe_compat.cli.options import parse_device
from caffe_compat.errors import CaffeCompatWarning
from hpm import cli
from hpm.cli.options import parse_actions
from hpm.datasets.synthetic import SyntheticOptions, write
from hpm.drivers.predict import predict_footage
from hpm.files.exports import smoothed
from hpm.files.folders import ResultFolder
from hpm.files.lists import read_list, read_refined, read_results
from hpm.files.pictures import read_frames
from hpm.metrics import mpjpe
from hpm.model import PoseMachine
from hpm.networks import NetworkOptions, define, scaled_channels
from hpm.scaling import REFINEMENT_BOUNDS, denormalise, read_bounds
from hpm.skeleton import H36M16, swap_sides
from tests.hpm.seeded import seeded_net
from tests.hpm.tiny import random_frames


@dataclass
class Result:
    status: int | str | None
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what is wrong."""
        assert self.status == 2, (self.status, self.out, self.err)
        lines = [line for line in self.err.splitlines() if not line.startswith(("warning: ", "bounds: "))]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("hpm: error: ")
        return lines[0]


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as leaving:
            cli.main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Result(leaving.value.code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two actions of 4 x 7 test frames, and a little to train on."""
    root = tmp_path_factory.mktemp("synthetic")
    options = SyntheticOptions(
        subjects=("S1",),
        takes=1,
        frames=7,
        test_frames=7,
        run=7,
        singles=8,
        actions=("Walking", "Greeting"),
        image_size=64,
    )
    write(options, root)
    return root


@pytest.fixture
def tiny(reference: Path) -> tuple[Path, Path]:
    return reference / "tiny_mask3d" / "deploy.prototxt", reference / "tiny_mask3d" / "tiny_mask3d.caffemodel"


@pytest.fixture
def verified(reference: Path, tiny: tuple[Path, Path], tmp_path: Path) -> Path:
    machine = PoseMachine.from_caffe(*tiny, bounds=REFINEMENT_BOUNDS)
    machine.verify(reference / "tiny_mask3d" / "tiny_mask3d.h5")
    machine.save(tmp_path / "verified.pt")
    return tmp_path / "verified.pt"


def test_lists_to_coarse_to_refined_to_evaluated(
    run: Run, synthetic: Path, tiny: tuple[Path, Path], reference: Path, tmp_path: Path
) -> None:
    model, pickled = tmp_path / "model.pt", tmp_path / "refine.pkl"
    coarse, refined, table = tmp_path / "coarse", tmp_path / "refined", tmp_path / "table.json"
    actions, data = ("--actions", "4,13"), ("--data-dir", synthetic)
    done = run("convert", *tiny, "-o", model)
    assert done.status == 0
    assert "unverified" in done.out
    files = ("--coarse-3d", coarse, *data, "--pose2d", "gt", *actions, "--save", refined)
    assert "--released-coarse" in run("refine", "--model", model, *files).error
    assert not refined.exists()
    assert run("verify", model, "--reference", reference / "tiny_mask3d" / "tiny_mask3d.h5").status == 0
    assert run("convert", model, "-o", pickled).status == 0
    done = run("coarse", model, *data, "--save", coarse, *actions)
    assert done.status == 0
    assert done.out.splitlines() == ["4 Greeting: 28 frames", "13 Walking: 28 frames"]
    assert "kept from an earlier run" in run("coarse", model, *data, "--save", coarse, *actions).out
    assert "no such folder" in run("coarse", model, "--data-dir", tmp_path / "nowhere", "--save", coarse).error
    # An action that is missing is named, and the rest is there.
    done = run("coarse", model, *data, "--save", coarse, "--actions", "4,14")
    assert done.status == 1
    assert done.out.startswith("4 Greeting: 28 frames")
    assert "hpm: error: 14 WalkDog: " in done.err
    assert done.err.endswith("1 of 2 actions done\n")
    assert "name a verified .pt" in run("refine", "--model", pickled, *files).error
    done = run("refine", "--model", pickled, "--verified-by", model, *files)
    assert done.status == 0
    # As the original's line has it, with the .pt of its name beside the pickle.
    again, theirs = tmp_path / "model.pkl", tmp_path / "srr_results"
    pickled.rename(again)
    line = f"--trained_model {again} --protocol 1 --data_dir {synthetic} --coarse_3d {coarse} --save {theirs}"
    assert run("refine", *line.split(), "--pose2d", "gt", *actions).status == 0
    assert (theirs / "refine3d_13.txt").read_bytes() == (refined / "refine3d_13.txt").read_bytes()
    assert (refined / "0.00015mpjp_13.txt").exists()
    done = run(
        "evaluate", *data, "--coarse-3d", coarse, "--refined", refined, *actions, "--format", "json", "-o", table
    )
    assert done.status == 0
    rows = {(row["action"], row["stage"]): row for row in json.loads(table.read_text())["rows"]}
    assert len(rows) == 6
    # The errors, computed from the files by hand.
    bounds = read_bounds(synthetic / "16point_mean_limb_scaled_max_min.csv")
    values = [line.rpartition(" ")[2] for line in (synthetic / "gt/test/test13.txt").read_text().splitlines()]
    truth = denormalise(np.array([row.split(",")[32:80] for row in values], float), bounds).reshape(28, 16, 3)
    results = ResultFolder(coarse)
    for stage, pose in (
        ("coarse", denormalise(read_results(results.normalised(13), 48), bounds)),
        ("change", read_results(results.change_mm(13), 48)),
        ("refined", read_refined(refined / "refine3d_13.txt")),
    ):
        assert len(pose) == 28
        expected = mpjpe(pose.reshape(28, 16, 3), truth)
        assert rows["13 Walking", stage]["mpjpe"] == pytest.approx(expected, abs=0.01)
    page = tmp_path / "page.html"
    show = ("visualize", *data, "--action", 4, "--coarse-3d", coarse, "--refined", refined, "--no-images")
    assert run(*show, "--frames", "2:6", "-o", page).out == f"wrote {page}: 4 frames\n"
    assert "Greeting 5" in page.read_text()
    assert "there are frames 0 to 27" in run(*show, "--frames", "20:29", "-o", page).error


def test_2d_networks_have_no_bounds(run: Run, synthetic: Path, tmp_path: Path) -> None:
    options = NetworkOptions(image_size=64, channels=scaled_channels(1 / 16), hidden=24, projector=40)
    PoseMachine(seeded_net(define("pose_2d", options))).save(tmp_path / "flat.pt")
    command = ("coarse", tmp_path / "flat.pt", "--data-dir", synthetic, "--actions", 4, "--save", tmp_path / "out")
    assert "gives 2D poses, which have no --bounds" in run(*command, "--bounds", "published").error
    done = run(*command, "--optimize")
    assert (done.status, done.out, done.err) == (0, "4 Greeting: 28 frames\n", "")
    assert read_results(tmp_path / "out" / "result4_norm.csv", 32).shape == (28, 32)


def test_kth_from_text_files_to_correct_parts(run: Run, verified: Path, tmp_path: Path) -> None:
    raw, data, coarse = tmp_path / "raw", tmp_path / "data", tmp_path / "coarse"
    random = np.random.RandomState(4)
    raw.mkdir()
    pose, cameras = random.uniform(0, 1, (6, 14, 3)), random.uniform(1, 80, (6, 3, 2, 4))
    points = np.einsum("tcij,tnj->tcni", cameras[..., :3], pose) + cameras[:, :, None, :, 3]
    # The first index runs fastest, and the last are the frames.
    for name, values in (("positions2d", points), ("positions3d", pose), ("cameras", cameras.swapaxes(2, 3))):
        (raw / f"{name}.txt").write_text("\n".join(f"{v:.5f}" for v in values.ravel()))
    for camera in (1, 2, 3):
        (raw / f"Camera {camera}").mkdir()
        for k, picture in enumerate(random_frames(6, camera, 300, 300), 1):
            cv2.imwrite(str(raw / f"Camera {camera}" / f"{k:05d}.png"), picture)
    assert run("prepare", "kth", raw, "--out", data, "--image-size", 64).status == 0
    kth = ("--data-dir", data, "--layout", "kth")
    assert run("coarse", verified, *kth, "--save", coarse).out == "".join(f"camera {k}: 6 frames\n" for k in (1, 2, 3))
    refine = ("refine", "--model", verified, *kth, "--coarse-3d", coarse, "--save", tmp_path / "refined")
    assert "for KTH there are gt only" in run(*refine).error
    assert run(*refine, "--pose2d", "gt").status == 0
    shown = ("evaluate", *kth, "--coarse-3d", coarse, "--refined", tmp_path / "refined")
    rows = json.loads(run(*shown, "--format", "json").out)["rows"]
    assert [(row["camera"], row["stage"]) for row in rows[:4]] == [
        (1, "coarse"),
        (1, "change"),
        (1, "refined"),
        (2, "coarse"),
    ]
    assert all(0 <= row["pcp"]["all"] < 0.7 for row in rows)
    # The truth itself, as results, is all correct.
    values = [line.rpartition(" ")[2].split(",")[32:80] for line in (data / "camera2.txt").read_text().splitlines()]
    ResultFolder(coarse).coarse_mm(2).unlink()
    ResultFolder(coarse).normalised(2).write_text("".join(f",{','.join(row)}\n" for row in values))
    done = run("evaluate", *kth, "--coarse-3d", coarse, "--actions", "2", "--format", "csv")
    assert done.out.splitlines()[1] == "2,coarse,6,1,1,1,1,1"


def test_verify_against_released_predictions(
    run: Run, synthetic: Path, tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    model, coarse, data = tmp_path / "model.pt", tmp_path / "coarse", ("--data-dir", synthetic)
    assert run("coarse", *tiny, *data, "--save", coarse, "--actions", "4").status == 0
    check = ("verify", *tiny, "--released-coarse", coarse, *data, "--actions", "4", "--frames", 10)
    assert "Pass -o" in run(*check).error
    assert run(*check, "--window", 2, "-o", model).status == 1
    assert not model.exists()
    assert run(*check, "-o", model).status == 0
    assert PoseMachine.from_pretrained(model).parity is not None


def test_pickles_there_and_back(run: Run, verified: Path, tmp_path: Path) -> None:
    first, middle, second = tmp_path / "a.pkl", tmp_path / "a.pt", tmp_path / "b.pkl"
    assert run("convert", verified, "-o", first).status == 0
    assert ", unverified" in run("convert", first, "-o", middle).out
    assert ", verified" in run("convert", first, "-o", middle, "--verified-by", verified).out
    assert run("convert", middle, "-o", second).status == 0
    assert first.read_bytes() == second.read_bytes()
    assert "would overwrite" in run("convert", middle, "-o", middle).error
    plain = first.rename(tmp_path / "refine weights")
    assert ", verified" in run("convert", plain, "-o", middle, "--verified-by", verified).out
    for command in (
        ("coarse", plain, "--data-dir", tmp_path, "--save", tmp_path / "out"),
        ("verify", plain, "-o", middle),
    ):
        options = ("--reference", verified) if command[0] == "verify" else ()
        assert "holds the correction module and projector alone" in run(*command, *options).error
    assert "ends in .pt or .pkl" in run("convert", first, "-o", tmp_path / "a.onnx").error
    first.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert "refused" in run("convert", first, "-o", middle).error


def test_a_net_that_departs_is_not_written(run: Run, tiny: tuple[Path, Path], reference: Path, tmp_path: Path) -> None:
    # Weights of another training of the same network.
    other = reference / "tiny_mask3d" / "tiny_mask3d.h5"
    prototxt = tmp_path / "deploy.prototxt"
    prototxt.write_text(tiny[0].read_text().replace('name: "relu_project_3" type: "ReLU"', 'name: "r" type: "TanH"'))
    out = tmp_path / "model.pt"
    done = run("convert", prototxt, tiny[1], "-o", out, "--reference", other)
    assert done.status == 1
    assert "does not reproduce" in done.err
    assert not out.exists()


def test_bounds_are_put_into_the_model_and_used(
    run: Run, synthetic: Path, tiny: tuple[Path, Path], reference: Path, tmp_path: Path
) -> None:
    csv, model, data = synthetic / "16point_mean_limb_scaled_max_min.csv", tmp_path / "m.pt", ("--data-dir", synthetic)
    assert "bounds unknown" in run("convert", *tiny, "-o", model).out
    done = run("coarse", model, *data, "--save", tmp_path / "a", "--actions", 4)
    assert done.err == f"bounds: {model} holds none, so its poses are taken by {csv}\n"
    assert "16point_mean_limb_scaled_max_min.csv" in run("convert", *tiny, "-o", model, "--bounds", csv).out
    done = run("coarse", model, *data, "--save", tmp_path / "b", "--actions", 4)
    assert (done.status, done.err) == (0, "")
    name = "result4_unnorm.csv"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    # Other bounds are refused, unless they are put into the model.
    refused = run("coarse", model, *data, "--save", tmp_path / "c", "--bounds", "published").error
    assert "those given (the bounds of the released model) differ" in refused
    again = tmp_path / "again.pt"
    assert "bounds of the released" in run("convert", model, "-o", again, "--bounds", "published").out
    # A folder may have labels by other bounds than the model's: each by its own, and said.
    done = run("coarse", again, *data, "--save", tmp_path / "c", "--actions", 4)
    assert done.status == 0
    assert "poses are by its own bounds (the bounds of the released model), the labels by" in done.err
    found = [read_results(tmp_path / folder / name, 48) for folder in "ac"]
    assert np.abs(found[0] - found[1]).max() > 10
    refined = ("refine", "--model", again, *data, "--pose2d", "gt", "--coarse-3d", tmp_path / "c", "--actions", 4)
    done = run(*refined, "--save", tmp_path / "refined", "--allow-unverified")
    assert done.status == 0
    table = run("evaluate", *data, "--coarse-3d", tmp_path / "c", "--actions", 4, "--format", "json").out
    mm = json.loads(table)["rows"][0]["mpjpe"]
    assert float(done.out.splitlines()[1].split()[3]) == pytest.approx(mm, abs=0.02)


def test_exchanged_bounds_are_a_warning(run: Run, reference: Path, tmp_path: Path) -> None:
    data = reference / "synthetic_pose" / "data"
    rows = np.loadtxt(data / "16point_mean_limb_scaled_max_min.csv", delimiter=",").reshape(2, 16, 3)
    np.savetxt(tmp_path / "b.csv", rows[:, list(H36M16.swaps)].reshape(2, 48), delimiter=",", fmt="%.9g")
    command = ("evaluate", "--data-dir", data, "--coarse-3d", tmp_path, "--actions", 8)
    assert "may not be right" not in run(*command).err
    err = run(*command, "--bounds", tmp_path / "b.csv").err
    assert "warning: action 8 Sitting" in err
    assert "with left and right of the bounds exchanged, no bone differs by more than 0.0%" in err


def test_a_failed_check_withdraws_the_record(
    run: Run, verified: Path, tiny: tuple[Path, Path], synthetic: Path, reference: Path, tmp_path: Path
) -> None:
    recorded, data = reference / "tiny_mask3d" / "tiny_mask3d.h5", ("--data-dir", synthetic)
    assert run("coarse", verified, *data, "--save", tmp_path / "coarse", "--actions", 4).status == 0
    check = ("verify", verified, "--released-coarse", tmp_path / "coarse", *data, "--actions", 4, "--window", 2)
    before = verified.read_bytes()
    done = run(*check, "-o", tmp_path / "new.pt")
    assert done.status == 1
    assert f"{verified} still holds its parity record (of tiny_mask3d.h5)" in done.err
    assert verified.read_bytes() == before
    assert not (tmp_path / "new.pt").exists()
    done = run(*check)
    assert done.status == 1
    assert f"{verified} no longer holds its parity record (of tiny_mask3d.h5)" in done.err
    machine = PoseMachine.from_pretrained(verified)
    assert machine.parity is None
    assert machine.known_bounds is not None
    # What it once reproduced gives it a new one.
    assert run("verify", verified, "--reference", recorded).status == 0
    assert PoseMachine.from_pretrained(verified).parity is not None
    # A file of the same weights that would have been written over is withdrawn too, one of others left alone.
    again = ("verify", *tiny, *check[2:], "-o", verified)
    assert "no longer holds" in run(*again).err
    assert PoseMachine.from_pretrained(verified).parity is None


@pytest.mark.slow
def test_footage(run: Run, verified: Path, tmp_path: Path) -> None:
    folder, keypoints = tmp_path / "shots", tmp_path / "k.npy"
    folder.mkdir()
    for k in range(6):
        y, x = np.mgrid[:90, :120]
        cv2.imwrite(str(folder / f"{k}.png"), np.stack([2 * x, 2 * y, 0 * x + 40 * k], -1).astype(np.uint8))
    points = np.random.RandomState(1).uniform(10, 80, (6, 17, 2))
    np.save(keypoints, points)
    (tmp_path / "boxes.csv").write_text("20,10,40,60\n")
    out = tmp_path / "out"
    basic = ("predict", folder, "--model", verified, "--save", out, "--window", 4)
    assert run(*basic, "--keypoints", keypoints, "--joints", "COCO17").out.startswith("6 frames, refined")
    assert read_refined(out / "refined_mm.txt").shape == (6, 48)
    flat = read_results(out / "pose2d.csv", 32).reshape(6, 16, 2)
    # Crops have a margin of an eighth about the joints.
    assert np.abs(flat.min((1, 2)) - 0.1).max() < 0.03
    assert run(*basic, "--boxes", tmp_path / "boxes.csv").out.startswith("6 frames, coarse")
    assert not (out / "refined_mm.txt").exists()
    again = run("predict", folder / "0.png", folder / "1.png", *basic[2:])
    assert again.out.startswith("2 frames, coarse")
    assert sorted(path.name for path in (out / "crops").iterdir()) == ["000000.jpg", "000001.jpg"]
    assert run(*basic, "--boxes", tmp_path / "boxes.csv").out.startswith("6 frames, coarse")
    pictures = list(read_frames([folder]))
    # The box's square: 60 wide about its centre, so from x = 10.
    crop = cv2.resize(pictures[3][10:70, 10:70], (64, 64))
    assert np.abs(cv2.imread(str(out / "crops" / "000003.jpg")).astype(float) - crop).mean() < 3
    assert "shape (6, 17, 2)" in run(*basic, "--keypoints", keypoints).error
    for far in (3000, 1e6, 1e12):
        points[3, 5] = far
        np.save(keypoints, points)
        error = run(*basic, "--keypoints", keypoints, "--joints", "COCO17").error
        assert "frame 3: a square of " in error
        assert "in a picture of 120 x 90: a joint, or a box, far out" in error
    np.save(keypoints, points[:5])
    assert "5 2D poses" in run(*basic, "--keypoints", keypoints, "--joints", "COCO17").error
    np.save(keypoints, np.full((6, 17, 2), np.nan))
    assert "at most 0 of 16" in run(*basic, "--keypoints", keypoints, "--joints", "COCO17").error
    (tmp_path / "boxes.csv").write_text("1,2,3\n")
    assert "line 1: 3 values" in run(*basic, "--boxes", tmp_path / "boxes.csv").error


def test_footage_for_other_programs(run: Run, verified: Path, tmp_path: Path) -> None:
    video, keypoints, out = tmp_path / "clip.avi", tmp_path / "k.npy", tmp_path / "out"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 20, (96, 96))
    for picture in random_frames(8, height=96, width=96):
        writer.write(picture)
    writer.release()
    points = np.random.RandomState(2).uniform(10, 80, (4, 16, 2))
    np.save(keypoints, points)
    files = [tmp_path / name for name in ("a.npy", "a.json", "a.bvh")]
    command = ("predict", video, "--model", verified, "--save", out, "--every", 2)
    exports = [word for path in files for word in ("--export", path)]
    done = run(*command, *exports)
    assert done.out.endswith(f"coarse; wrote {out}, {files[0]}, {files[1]}, {files[2]}\n")
    coarse = read_results(out / "coarse_unnorm.csv", 48).reshape(4, 16, 3)
    np.testing.assert_allclose(np.load(files[0]), coarse, rtol=1e-5)
    assert "Frame Time: 0.1000" in files[2].read_text()  # every other of 20 a second
    run(*command, *exports, "--keypoints", keypoints, "--smooth", 1, "--fps", 5)
    content = json.loads(files[1].read_text())
    assert (content["stage"], content["fps"]) == ("refined", 5)
    expected = smoothed(read_refined(out / "refined_mm.txt").reshape(4, 16, 3), 1)
    np.testing.assert_allclose(content["poses"], expected, atol=1e-3)
    assert "--export a.fbx: a name that ends in" in run(*command, "--export", "a.fbx").error
    assert "--smooth -1.0" in run(*command, "--smooth", -1).error
    # Keypoints that are fractions of the picture, of a larger picture, or not found.
    np.save(keypoints, points / 96)
    assert "are they fractions of the picture?" in run(*command, "--keypoints", keypoints).error
    np.save(keypoints, points + 90)
    assert "in 4 of 4 frames most joints lie outside" in run(*command, "--keypoints", keypoints).err
    points[1:3, 5] = 0
    np.save(keypoints, points)
    assert "2 of 4 frames have joints that were not seen" in run(*command, "--keypoints", keypoints).err


def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_device("auto") == torch.device("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert parse_device("auto") == torch.device("cpu")
    capsys.readouterr()
    asked: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def zeros(size: int, device: torch.device) -> torch.Tensor:
        asked.append(device)
        return torch.ones(size)

    monkeypatch.setattr(torch, "zeros", zeros)
    assert parse_device("auto") == torch.device("cuda")
    assert asked == [torch.device("cuda")]
    assert capsys.readouterr().err == "device: cuda; --device cpu computes on the processor\n"
    for command in ("coarse", "predict", "refine", "train", "verify"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        assert "default: auto" in " ".join(capsys.readouterr().out.split())


def test_exchanged_keypoints_are_a_warning(reference: Path, tmp_path: Path) -> None:
    folder = reference / "synthetic_pose"
    machine = PoseMachine.from_caffe(
        folder / "deploy.prototxt",
        folder / "synthetic_pose.caffemodel",
        bounds=read_bounds(folder / "data" / "16point_mean_limb_scaled_max_min.csv"),
    )
    lines = read_list(folder / "data" / "gt" / "test" / "test13.txt")
    frames = list(read_frames([folder / "data" / "h36m" / name for name in lines.paths[:20]]))
    points = lines.pose2d[:20].reshape(20, 16, 2) * 64
    refiner = machine.refiner(allow_unverified=True)
    box = np.array([0, 0, 64, 64])
    predict_footage(machine, frames, tmp_path / "right", boxes=box, pose2d_pixels=points, refiner=refiner)
    swapped = swap_sides(points, H36M16)
    told = "left and right may be exchanged: in .* of 20 frames the pose fits"
    with (
        pytest.warns(CaffeCompatWarning, match="of 20 of 20 frames are doubtful.* sides in 0-19"),
        pytest.warns(CaffeCompatWarning, match=told),
    ):
        predict_footage(machine, frames, tmp_path / "wrong", boxes=box, pose2d_pixels=swapped, refiner=refiner)


def test_bounds_of_another_order_are_a_warning(run: Run, verified: Path, synthetic: Path, tmp_path: Path) -> None:
    rows = np.loadtxt(synthetic / "16point_mean_limb_scaled_max_min.csv", delimiter=",").reshape(2, 16, 3)
    other = tmp_path / "other.csv"
    np.savetxt(other, rows[:, [0, *range(7, 16), *range(1, 7)]].reshape(2, 48), delimiter=",")
    done = run("evaluate", "--data-dir", synthetic, "--coarse-3d", tmp_path, "--bounds", other, "--actions", 2)
    assert "bounds of another skeleton or joint order?" in done.err


# What untrained weights make of noise has no limbs to speak of.
@pytest.mark.filterwarnings("ignore:.*nothing that it knows:caffe_compat.errors.CaffeCompatWarning")
def test_footage_is_streamed(verified: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block ends do not show, and frames are asked for block by block."""
    machine, results, frames = PoseMachine.from_pretrained(verified), [], random_frames(11)
    for block in (60, 4):
        monkeypatch.setattr("hpm.drivers.footage._BLOCK", block)
        footage = predict_footage(machine, iter(frames), tmp_path / str(block), window=4)
        assert footage.frames == 11
        results.append((footage.root / "coarse_norm.csv").read_bytes())
    assert results[0] == results[1]


def test_videos(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (48, 32))
    for k in range(7):
        writer.write(np.full((32, 48, 3), 30 * k, np.uint8))
    writer.release()
    assert [round(float(frame.mean()) / 30) for frame in read_frames([path], every=3)] == [0, 3, 6]


def test_training_a_phase_and_going_on(run: Run, synthetic: Path, tmp_path: Path) -> None:
    command: tuple[object, ...] = (
        "train",
        "2d_to_3d",
        "--data",
        synthetic,
        "--out",
        tmp_path / "run",
        "--image-size",
        64,
    )
    command += ("--width", 0.05, "--hidden", 6, "--projector", 5, "--iterations", 2, "--workers", 0, "--seed", 3)
    weights = tmp_path / "run" / "train_test_cpm.caffemodel"
    assert "starts from the weights of train_test_cpm" in run(*command).error
    assert not weights.exists()
    first = ("train", "train_test_cpm", *command[2:], "--display", 1)
    done = run(*first)
    assert done.status == 0, done.err
    assert done.out == f"train_test_cpm: {weights}\n"
    done = run(*command)
    assert done.status == 0, done.err
    assert (tmp_path / "run" / "2d_to_3d.caffemodel").exists()
    assert "other settings" in run(*command, "--batches", 2).error


def test_preparing(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "data"
    made = ("--takes", 1, "--frames", 2, "--run", 2, "--singles", 1, "--actions", "Sitting", "--image-size", 16)
    assert run("prepare", "synthetic", "--out", out, *made).status == 0
    assert len((out / "gt" / "test" / "test8.txt").read_text().splitlines()) == 4 * SyntheticOptions.test_frames
    assert "no data of Human3.6M was recognised" in run("prepare", "h36m", tmp_path, "--out", out).error
    assert "no motion is called Flying" in run("prepare", "synthetic", "--out", out, "--actions", "Flying").error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("coarse", "no.pt", "--data-dir", ".", "--save", "x"), "no.pt: cannot be opened"),
        (("evaluate", "--data-dir", "."), "nothing to evaluate"),
        (("verify", "no.pt"), "pass either --reference"),
        (("verify", "no.pt", "--released-coarse", "x"), "pass --data-dir"),
        (
            ("verify", "no.pt", "--reference", "x", "--data-dir", "."),
            "--data-dir and --images are for --released-coarse",
        ),
        (("verify", "no.pt", "--released-coarse", "x", "--data-dir", ".", "--input", "a=b"), "a=b is for --reference"),
        (("convert", "no.pt", "-o", "x.pt", "--input", "a=b"), "--input a=b is for --reference"),
        (("train", "mask3d", "--data", ".", "--out", "x", "--width", "0"), "a factor above 0"),
    ],
)
def test_one_line_for_a_users_error(run: Run, arguments: tuple[str, ...], words: str) -> None:
    assert words in run(*arguments).error


def test_numbers_of_actions() -> None:
    assert parse_actions("3,5-7,6") == [3, 5, 6, 7]
    assert parse_actions("all") == list(range(1, 16))
    for wrong in ("0", "16", "4-2", "a", "1,,2", ""):
        with pytest.raises(Exception, match="numbers from 1 to 15"):
            parse_actions(wrong)


def test_help_names_every_command(run: Run) -> None:
    shown = run("--help").out
    for name in ("coarse", "convert", "evaluate", "predict", "prepare", "refine", "train", "verify", "visualize"):
        assert name in shown
        assert run(name, "--help").status == 0
