"""Footage in blocks, what becomes of them, and that poses do not go through a file on their way."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import hpm.files.lists
from caffe_compat.formats.cxx_numbers import cxx_rows
from hpm.drivers.footage import Block, footage_blocks
from hpm.drivers.footage_sinks import Poses
from hpm.drivers.predict import predict_footage
from hpm.files.exports import Motion, export_poses
from hpm.files.lists import read_results, refined_line
from hpm.files.numbers import as_in_results, as_refined
from hpm.model import PoseMachine
from tests.hpm.tiny import random_frames, tiny_machine

# What untrained weights make of noise has no limbs to speak of.
pytestmark = pytest.mark.filterwarnings("ignore:.*nothing that it knows:caffe_compat.errors.CaffeCompatWarning")


@pytest.fixture
def machine(reference: Path) -> PoseMachine:
    return tiny_machine(reference)


def test_numbers_are_those_that_a_reader_of_the_file_finds() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 20_000) * 10.0 ** rng.integers(-12, 9, 20_000)
    # Ties, and what lies beside them.
    values = np.concatenate([values, [0.0, -0.0, 0.5, 2.5, 1000005.0, 100000.5, 1234565.0, 12345.65, -999999.5]])
    single = values.astype(np.float32)
    text = [float(row) for row in cxx_rows(single[:, None], ",")]
    assert as_in_results(values).tolist() == text
    text = [float(value) for value in refined_line(values).split(",")]
    assert as_refined(values).tolist() == text
    assert as_refined(values[:6].reshape(1, 2, 3)).shape == (1, 2, 3)


@pytest.mark.parametrize("keypoints", [False, True])
def test_what_is_exported_has_all_digits_and_the_files_have_theirs(
    keypoints: bool, machine: PoseMachine, tmp_path: Path
) -> None:
    frames, poses = random_frames(7), Poses(machine)
    points = np.random.RandomState(3).uniform(8, 50, (7, 16, 2)) if keypoints else None
    refiner = machine.refiner() if keypoints else None
    footage = predict_footage(machine, frames, tmp_path, pose2d_pixels=points, refiner=refiner, window=3, sinks=[poses])
    assert list(poses.stages_mm) == (["coarse", "refined"] if keypoints else ["coarse"])
    # What is exported has all digits; the text files have theirs of the same numbers.
    digits = {"coarse": as_in_results, "refined": as_refined}
    for stage, pose in poses.stages_mm.items():
        np.testing.assert_array_equal(digits[stage](pose), footage.pose_mm(stage))
        assert (pose != footage.pose_mm(stage)).any()
    assert poses.pose2d is not None
    flat = as_in_results(poses.pose2d.reshape(7, 32))
    np.testing.assert_array_equal(flat, read_results(tmp_path / "pose2d.csv", 32))
    last = list(poses.stages_mm)[-1]
    export_poses(poses.stages_mm[last], tmp_path / "a.json", Motion(10, last))
    exported = np.array(json.loads((tmp_path / "a.json").read_text())["poses"])
    np.testing.assert_array_equal(exported, poses.stages_mm[last])


def test_no_pose_is_read_from_a_file(machine: PoseMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hpm.drivers import predict as driver

    def refused(*arguments: object) -> None:
        raise AssertionError(arguments)

    machine.save(tmp_path / "m.pt")
    np.save(tmp_path / "k.npy", np.random.RandomState(3).uniform(8, 50, (3, 16, 2)))
    (tmp_path / "somewhere").mkdir()
    for k, frame in enumerate(random_frames(3)):
        assert cv2.imwrite(str(tmp_path / "somewhere" / f"{k}.png"), frame)
    monkeypatch.setattr(hpm.files.lists, "_blocks", refused)
    done = driver.predict(
        tmp_path / "somewhere",
        tmp_path / "m.pt",
        tmp_path / "out",
        keypoints=tmp_path / "k.npy",
        exports=[tmp_path / "a.npy"],
        overlay=tmp_path / "a.html",
        fps=5,
    )
    assert done.footage.frames == 3
    assert np.load(tmp_path / "a.npy").shape == (3, 16, 3)
    assert "Refined" in (tmp_path / "a.html").read_text()


def test_blocks_of_footage(machine: PoseMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their shapes and units, whatever their length."""
    monkeypatch.setattr("hpm.drivers.footage._BLOCK", 4)
    frames = random_frames(6)
    points = np.random.RandomState(3).uniform(8, 50, (6, 16, 2))
    points[2:] += 500  # outside the pictures
    blocks = list(
        footage_blocks(
            machine, frames, boxes=np.array([0, 0, 64, 64]), pose2d_pixels=points, refiner=machine.refiner(), window=2
        )
    )
    assert [(block.first, len(block.crops), block.outside) for block in blocks] == [(0, 4, 2), (4, 2, 2)]

    def whole(name: str) -> np.ndarray:
        return np.concatenate([getattr(block, name) for block in blocks])

    machine.reset_state()
    crops = [crop for block in blocks for crop in block.crops]
    found = machine.predict(crops, None, 2)
    np.testing.assert_array_equal(whole("coarse"), found.pose)
    np.testing.assert_array_equal(whole("change"), found.change)
    np.testing.assert_array_equal(whole("pose2d"), (points / 64).reshape(6, 32))
    # Sums are rounded by how many frames are multiplied at once.
    projected = machine.project(whole("change")).reshape(6, 32)
    np.testing.assert_allclose(whole("projected"), projected, rtol=1e-5, atol=1e-6)
    expected = machine.refiner().refine(whole("coarse"), whole("pose2d")).pose
    np.testing.assert_allclose(whole("refined"), expected, rtol=1e-5, atol=1e-6)
    assert isinstance(blocks[0], Block)
