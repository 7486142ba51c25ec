"""Frames whose 2D poses are damaged cost themselves, not the frames around them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hpm.bridging import Bridging, bridge
from hpm.drivers.footage import footage_blocks
from hpm.drivers.footage_sinks import Footage
from hpm.drivers.predict import predict, predict_footage
from hpm.files.lists import read_list
from hpm.files.pictures import read_frames
from hpm.metrics import mpjpe_per_frame
from hpm.model import PoseMachine
from hpm.scaling import read_bounds
from tests.hpm.tiny import random_frames, tiny_machine

QUIET = "ignore:.*(nothing that it knows|too few joints|were not seen):caffe_compat.errors.CaffeCompatWarning"


def test_undamaged_frames_stay_where_they_were(reference: Path) -> None:
    """A tenth of the frames of the shipped model's subject: lost, or a third of the joints far off and unsure."""
    folder = reference / "synthetic_pose"
    machine = PoseMachine.from_caffe(
        folder / "deploy.prototxt",
        folder / "synthetic_pose.caffemodel",
        bounds=read_bounds(folder / "data" / "16point_mean_limb_scaled_max_min.csv"),
    )
    lines = read_list(folder / "data" / "gt" / "test" / "test13.txt")
    frames = list(read_frames([folder / "data" / "h36m" / name for name in lines.paths[:20]]))
    points, sure = lines.pose2d[:20].reshape(20, 16, 2) * 64, np.ones((20, 16))
    damaged, good = [4, 13], [k for k in range(20) if k not in (4, 13)]
    wrong = points.copy()
    wrong[4], sure[4] = 0, 0
    wrong[13, ::3] += np.random.default_rng(0).normal(0, 40, (6, 2))
    sure[13, ::3] = 0.05

    def refined(points: np.ndarray, sure: np.ndarray | None, threshold: float) -> np.ndarray:
        bridged = bridge(points, sure, Bridging(threshold))
        refiner = machine.refiner(allow_unverified=True)
        blocks = footage_blocks(machine, frames, pose2d_pixels=bridged, refiner=refiner)
        pose = np.concatenate([block.refined for block in blocks if block.refined is not None])
        return machine.millimetres(pose).reshape(-1, 16, 3)

    clean = refined(points, None, 0.3)
    apart = mpjpe_per_frame(refined(wrong, sure, 0.3), clean)
    assert apart[good].max() < 2
    assert apart[damaged].max() < 10
    # What it would have cost, had the places been taken as they are.
    taken = mpjpe_per_frame(refined(wrong, sure, 0.0), clean)
    assert taken[good].max() > 10
    assert taken[damaged].min() > 50


@pytest.fixture
def machine(reference: Path) -> PoseMachine:
    return tiny_machine(reference)


@pytest.mark.filterwarnings(QUIET)
def test_no_pose_and_a_fresh_start_after_a_long_gap(machine: PoseMachine, tmp_path: Path) -> None:
    frames, points = random_frames(14), np.random.RandomState(3).uniform(8, 50, (14, 16, 2))
    sure = np.ones((14, 16))
    sure[5:9] = 0
    sure[11, 2] = 0
    bridged = bridge(points, sure, Bridging(longest=3))
    box = np.array([0, 0, 64, 64])

    def run(name: str, part: slice) -> Footage:
        poses = bridged.rows(slice(*part.indices(14)[:2]))
        refiner = machine.refiner()
        return predict_footage(
            machine, frames[part], tmp_path / name, boxes=box, pose2d_pixels=poses, refiner=refiner, window=3
        )

    whole, before, after = run("whole", slice(0, 14)), run("before", slice(0, 5)), run("after", slice(9, 14))
    for stage in ("coarse", "refined"):
        pose = whole.pose_mm(stage)
        assert np.isnan(pose[5:9]).all()
        # Sums are rounded by how many frames are multiplied at once.
        np.testing.assert_allclose(pose[:5], before.pose_mm(stage), rtol=1e-4, atol=1e-2)
        np.testing.assert_allclose(pose[9:], after.pose_mm(stage), rtol=1e-4, atol=1e-2)
    rows = (whole.root / "frames.csv").read_text().splitlines()
    assert rows[0] == "frame,rests_on,bridged,lacking,doubts"
    assert [row.split(",")[1] for row in rows[1:]] == ["seen"] * 5 + ["none"] * 4 + ["seen"] * 2 + ["bridged"] + [
        "seen"
    ] * 2
    assert rows[12].startswith("11,bridged,RKnee,,")
    assert rows[6].endswith("RElbow RWrist,")


@pytest.mark.filterwarnings(QUIET)
def test_exports_say_which_frames_have_no_pose(machine: PoseMachine, tmp_path: Path) -> None:
    machine.save(tmp_path / "m.pt")
    (tmp_path / "frames").mkdir()
    import cv2

    for k, frame in enumerate(random_frames(9)):
        assert cv2.imwrite(str(tmp_path / "frames" / f"{k}.png"), frame)
    points = np.random.RandomState(3).uniform(8, 50, (9, 17, 2))
    entries = [
        {"image_id": f"{k}.png", "keypoints": np.insert(points[k], 2, 0.9, axis=1).ravel().tolist()}
        for k in (0, 1, 2, 7)
    ]
    (tmp_path / "k.json").write_text(json.dumps(entries))
    files = [tmp_path / name for name in ("a.npy", "a.json", "a.bvh")]
    done = predict(
        tmp_path / "frames",
        tmp_path / "m.pt",
        tmp_path / "out",
        keypoints=tmp_path / "k.json",
        bridging=Bridging(longest=3),
        exports=files,
        overlay=tmp_path / "a.html",
        smooth=1,
    )
    assert done.footage.frames == 9
    absent = [3, 4, 5, 6, 8]
    pose = np.load(files[0])
    assert np.isnan(pose).all((1, 2)).nonzero()[0].tolist() == absent
    content = json.loads(files[1].read_text())
    assert [k for k, each in enumerate(content["poses"]) if each is None] == absent
    motion = [row.split() for row in files[2].read_text().partition("Frame Time")[2].splitlines()[1:]]
    assert motion[8] == motion[7]
    assert np.isfinite(np.array(motion, float)).all()
