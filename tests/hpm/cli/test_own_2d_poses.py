"""From pictures to poses refined by 2D poses of a network of one's own, with the commands that do it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import hpm.cli
from caffe_compat.formats.images import read_picture
from hpm.datasets.synthetic import SyntheticOptions, write
from hpm.files.folders import DataFolder, ResultFolder
from hpm.files.lists import read_list, read_refined, read_results
from hpm.model import PoseMachine
from hpm.projector import POSE_2D, POSE_3D

ACTION = 13
SIZES = ("--image-size", "56", "--width", "0.06", "--hidden", "16", "--projector", "24", "--initial", "scaled")
RUN = ("--iterations", "12", "--learning-rate", "0.001", "--batch", "10", "--seed", "4", "--workers", "0")


def _hpm(*words: object) -> None:
    with pytest.raises(SystemExit) as ended:
        hpm.cli.main([str(word) for word in words])
    assert not ended.value.code


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::caffe_compat.errors.CaffeCompatWarning")  # of poses of so short a training
def test_from_pictures_to_refined_poses(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    few = SyntheticOptions(
        subjects=("S1",), takes=1, frames=20, test_frames=10, run=5, singles=5, image_size=56, actions=("Walking",)
    )
    data, run = DataFolder(write(few, tmp_path / "data").root), tmp_path / "run"
    for phase in ("train_test_cpm", "pose_2d", "2d_to_3d", "3d_to_2d"):
        _hpm("train", phase, "--data", data.root, "--out", run, *SIZES, *RUN)
    for network in ("pose_2d", "3d_to_2d"):
        bounds = () if network == "pose_2d" else ("--bounds", data.bounds)
        blob = ("--pose-blob", "2dpredict") if network == "pose_2d" else ()
        files = (run / f"{network}.prototxt", run / f"{network}.caffemodel", "-o", tmp_path / f"{network}.pt")
        _hpm("convert", *files, *bounds, *blob)
    ours = data.pose2d(ACTION, "ours").parent
    where = ("--data-dir", data.root, "--actions", ACTION)
    _hpm("coarse", tmp_path / "pose_2d.pt", *where, "--save", ours)
    _hpm("coarse", tmp_path / "3d_to_2d.pt", *where, "--save", tmp_path / "coarse")
    how = ("refine", "--model", tmp_path / "3d_to_2d.pt", "--allow-unverified", "--coarse-3d", tmp_path / "coarse")
    for source in ("ours", "gt"):
        _hpm(*how, *where, "--pose2d", source, "--save", tmp_path / source)

    # The file has what the network sees, and the refinement had the file.
    entries = read_list(data.ground_truth(ACTION))
    flat = PoseMachine.from_pretrained(tmp_path / "pose_2d.pt")
    frames = np.stack([read_picture(data.pictures / name, "color") for name in entries.paths])
    assert entries.clip is not None
    seen = flat.predict(frames, entries.clip).pose
    written = read_results(data.pose2d(ACTION, "ours"), POSE_2D)
    np.testing.assert_allclose(written, seen, rtol=1e-5, atol=1e-6)
    machine = PoseMachine.from_pretrained(tmp_path / "3d_to_2d.pt")
    coarse = read_results(ResultFolder(tmp_path / "coarse").normalised(ACTION), POSE_3D)
    refined = machine.refiner(allow_unverified=True).refine(coarse, written).pose
    stored = read_refined(ResultFolder(tmp_path / "ours").refined_mm(ACTION))
    np.testing.assert_allclose(stored, machine.millimetres(refined), rtol=1e-6, atol=1e-3)
    assert np.abs(stored - read_refined(ResultFolder(tmp_path / "gt").refined_mm(ACTION))).max() > 1e-3
    # It has begun to learn: nearer by far than the corner of the picture, where it began.
    corner, off = (
        np.linalg.norm(pose.reshape(-1, 2), axis=-1).mean() for pose in (entries.pose2d, written - entries.pose2d)
    )
    assert off < 0.6 * corner
