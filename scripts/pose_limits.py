"""What limits the refinement of the network that ships: errors with parts of it made perfect, on its test set.

    .venv/bin/python scripts/pose_limits.py

An oracle's projector is one that sees a pose exactly where its 2D pose is. It is had by asking the projector where it
sees the true pose, and giving that as the 2D pose.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from caffe_compat import CaffeCompatWarning
from hpm import DataFolder, PoseMachine, RefineSettings, read_bounds
from hpm.files.lists import read_list
from hpm.files.pictures import PictureFiles
from hpm.metrics import mpjpe

SHIPPED = Path(__file__).parent.parent / "reference_outputs" / "synthetic_pose"
ACTIONS, SIDE = (2, 8, 13), 64
STEPS = (2, 20, 100)


def measured(machine: PoseMachine, data: DataFolder, action: int) -> dict[str, float]:
    """Mean errors over the frames of an action, mm, or pixels where the name says so."""
    entries = read_list(data.ground_truth(action), need_3d=True)
    assert entries.pose3d is not None
    assert entries.clip is not None
    frames = PictureFiles([data.pictures / name for name in entries.paths])
    coarse = machine.predict([frames[k] for k in range(len(frames))], entries.clip).pose.reshape(-1, 16, 3)
    true_pose = entries.pose3d.astype(np.float32).reshape(-1, 16, 3)
    true_2d = entries.pose2d.reshape(-1, 16, 2)
    ours, truth = machine.millimetres(coarse), machine.millimetres(true_pose)
    by_truth = np.asarray(machine.project(true_pose))

    def pixels(pose2d: np.ndarray) -> float:
        return SIDE * float(np.linalg.norm(pose2d - true_2d, axis=-1).mean())

    flat = np.concatenate([truth[..., :2], ours[..., 2:]], -1)
    deep = np.concatenate([ours[..., :2], truth[..., 2:]], -1)
    found = {
        "coarse": mpjpe(ours, truth),
        "coarse, x and y true": mpjpe(flat, truth),
        "coarse, depth true": mpjpe(deep, truth),
        "pixels: projected true pose": pixels(by_truth),
        "pixels: projected coarse pose": pixels(np.asarray(machine.project(coarse))),
    }
    for name, target in (("true 2D poses", true_2d), ("an oracle's projector", by_truth)):
        for steps in STEPS:
            settings = RefineSettings(mode="independent", steps=steps)
            refined = machine.refine(coarse, target.astype(np.float32), settings, unit="mm")
            found[f"refined, {name}, {steps} steps"] = mpjpe(refined, truth)
    return found


def main() -> None:
    warnings.simplefilter("ignore", CaffeCompatWarning)  # 40 frames of an action tell little about limbs
    data = DataFolder(SHIPPED / "data")
    machine = PoseMachine.from_caffe(
        SHIPPED / "deploy.prototxt", SHIPPED / "synthetic_pose.caffemodel", bounds=read_bounds(data.bounds)
    )
    machine.verify(SHIPPED / "outputs.h5")
    rows = [measured(machine, data, action) for action in ACTIONS]
    for name in rows[0]:
        print(f"{name}: {np.mean([row[name] for row in rows]):.1f}")


if __name__ == "__main__":
    main()
