"""The small trained network that ships: its outputs, and that it has learnt to see poses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch

from caffe_compat import CaffeNet, load
from caffe_compat.formats.hdf5 import open_hdf5
from caffe_compat.parity.reference import verify_net
from caffe_compat.parity.reference_files import pick_group
from hpm.datasets.layout import TrainingFolder
from hpm.files.lists import PoseList, read_list
from hpm.metrics import mpjpe
from hpm.projector import Projector
from hpm.refine import Refiner, RefineSettings
from hpm.scaling import denormalise, read_bounds

ACTIONS = {2: "Discussion", 8: "Sitting", 13: "Walking"}
WINDOW = 5


@pytest.fixture(scope="module")
def folder(reference: Path) -> Path:
    return reference / "synthetic_pose"


def _load(folder: Path, device: torch.device) -> CaffeNet:
    return load(folder / "deploy.prototxt", folder / "synthetic_pose.caffemodel").to(device)


def test_outputs_agree_with_plain_numpy(folder: Path, device: torch.device) -> None:
    with open_hdf5(folder / "outputs.h5") as file:
        results = verify_net(_load(folder, device), pick_group(file))
    assert [(blob.name, blob.max_abs) for result in results for blob in result.blobs if not blob.passed] == []
    assert [len(result.blobs) for result in results] == [39, 39]


def _predict(net: CaffeNet, data: TrainingFolder, entries: PoseList) -> tuple[np.ndarray, np.ndarray]:
    frames = np.stack([np.asarray(cv2.imread(str(data.h36m / name))) for name in entries.paths]).transpose(0, 3, 1, 2)
    inputs = (frames.astype(np.float32) - 128) / 256
    assert entries.clip is not None
    clip = entries.clip.astype(np.float32)[:, None]
    net.reset_state()
    found = []
    with torch.no_grad():
        for start in range(0, len(inputs), WINDOW):
            window = slice(start, start + WINDOW)
            found.append(net.run({"data": inputs[window], "clip": clip[window]}, blobs=["3dpredict", "change"]))
    coarse, change = (torch.cat([blobs[name] for blobs in found]).cpu().numpy() for name in ("3dpredict", "change"))
    return coarse, change


@pytest.fixture(scope="module")
def errors(folder: Path) -> dict[str, list[float]]:
    """MPJPE in mm of each action of the test set, by what was measured."""
    data = TrainingFolder(folder / "data")
    bounds = read_bounds(data.bounds)
    net = _load(folder, torch.device("cpu"))
    projector = Projector.from_state(net.state_dict())
    table: dict[str, list[float]] = {"mean pose": [], "coarse": [], "change": [], "faithful": [], "independent": []}
    for number in ACTIONS:
        entries = read_list(data.test_data().ground_truth(number), need_3d=True)
        assert entries.pose3d is not None

        def measured(pose: np.ndarray, truth: np.ndarray = entries.pose3d) -> float:
            ours, theirs = (denormalise(x.astype(np.float64), bounds).reshape(-1, 16, 3) for x in (pose, truth))
            return mpjpe(ours, theirs)

        coarse, change = _predict(net, data, entries)
        table["coarse"].append(measured(coarse))
        table["change"].append(measured(change))
        table["mean pose"].append(measured(np.broadcast_to(entries.pose3d.mean(0), entries.pose3d.shape)))
        modes: tuple[Literal["faithful", "independent"], ...] = ("faithful", "independent")
        for mode in modes:
            refiner = Refiner(projector, RefineSettings(mode=mode), bounds=bounds)
            table[mode].append(measured(refiner.refine(coarse, entries.pose2d.astype(np.float32)).pose))
    return table


def test_it_has_learnt(errors: dict[str, list[float]], folder: Path) -> None:
    """Under half of the error of one pose for all frames, though that pose is this action's own mean."""
    assert np.mean(errors["coarse"]) < 0.5 * np.mean(errors["mean pose"])
    measured = json.loads((folder / "measured.json").read_text())
    stored = measured["mm"]["average"]
    assert stored["coarse"] < 0.5 * stored["mean pose"]
    for k, action in enumerate(ACTIONS.values()):
        for name in ("coarse", "change", "faithful", "independent"):
            assert errors[name][k] == pytest.approx(measured["mm_of_test_set"][action][name], abs=0.02)


@pytest.mark.parametrize("mode", ["faithful", "independent"])
def test_refinement_with_true_2d_poses_helps(errors: dict[str, list[float]], mode: str, folder: Path) -> None:
    assert np.mean(errors[mode]) < np.mean(errors["coarse"])
    assert np.mean(errors[mode]) < np.mean(errors["change"])
    measured = json.loads((folder / "measured.json").read_text())
    for stored in (measured["mm"]["average"], measured["mm_of_unseen_subject"]["average"]):
        assert stored[mode] < min(stored["coarse"], stored["change"])


def test_the_test_set_is_small(folder: Path) -> None:
    assert sum(path.stat().st_size for path in (folder / "data").rglob("*") if path.is_file()) < 2 * 2**20
