"""What limits the refinement of the network that ships: errors with parts of it made perfect, on its test set.

    .venv/bin/python scripts/pose_limits.py

An oracle's projector is one that sees a pose exactly where its 2D pose is. It is had by asking the projector where it
sees the true pose, and giving that as the 2D pose.

An exact projector is a formula: a camera 5 m away, and the square about the pose as the crop. It asks for no training,
and what it does not know are the body's own limb lengths. One update of Adam's moves the correction module by a length
that does not depend on the gradient's, so what updates can gain is found by steps of one length along the gradient,
the best of several lengths.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from caffe_compat import CaffeCompatWarning
from hpm import DataFolder, PoseMachine, RefineSettings, read_bounds
from hpm.files.lists import read_list
from hpm.files.pictures import PictureFiles
from hpm.metrics import mpjpe
from hpm.projector import ProjectionLoss
from hpm.scaling import Bounds

SHIPPED = Path(__file__).parent.parent / "reference_outputs" / "synthetic_pose"
ACTIONS, SIDE = (2, 8, 13), 64
STEPS = (2, 20, 100)
UPDATES, LENGTHS = (1, 2, 4, 8), (0.03, 0.06, 0.09, 0.12, 0.15)
DISTANCE_MM, MARGIN = 5000.0, 0.125


@dataclass(frozen=True, eq=False)
class Frames:
    """n frames of an action: coarse and true poses (n, 16, 3), normalised, and true 2D poses (n, 16, 2)."""

    coarse: np.ndarray
    truth: np.ndarray
    pose2d: np.ndarray


def frames_of(machine: PoseMachine, data: DataFolder, action: int) -> Frames:
    entries = read_list(data.ground_truth(action), need_3d=True)
    assert entries.pose3d is not None
    assert entries.clip is not None
    frames = PictureFiles([data.pictures / name for name in entries.paths])
    coarse = machine.predict([frames[k] for k in range(len(frames))], entries.clip).pose.reshape(-1, 16, 3)
    return Frames(coarse, entries.pose3d.astype(np.float32).reshape(-1, 16, 3), entries.pose2d.reshape(-1, 16, 2))


def measured(machine: PoseMachine, frames: Frames) -> dict[str, float]:
    """Mean errors over frames, mm, or pixels where the name says so."""
    coarse, true_pose, true_2d = frames.coarse, frames.truth, frames.pose2d
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


# With an exact projector


def exactly(pose: Tensor, bounds: Bounds) -> Tensor:
    """Where normalised poses (n, 48) lie in the square about each: (n, 32), fractions of its side."""
    low, size = torch.tensor(bounds.minimum), torch.tensor(bounds.range)
    joints = (pose * size + low).view(-1, 16, 3)
    flat = joints[..., :2] / (1 + joints[..., 2:] / DISTANCE_MM)
    first, last = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    side = (last - first).amax(-1, keepdim=True) * (1 + 2 * MARGIN)
    return ((flat - (first + last) / 2) / side + 0.5).flatten(1)


def along_gradient(machine: PoseMachine, frames: Frames, length: float) -> list[float]:
    """Mean errors in mm after each update of a length (normalised)."""
    bounds, loss = machine.bounds, ProjectionLoss(dtype=torch.float64)
    pose, wanted = (torch.tensor(part, dtype=torch.float64).flatten(1) for part in (frames.coarse, frames.pose2d))
    target, found = loss.target(wanted), []
    for _ in range(max(UPDATES)):
        pose = pose.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(exactly(pose, bounds), target).sum(), pose)
        pose = pose.detach() - length * gradient / gradient.norm(dim=1, keepdim=True)
        millimetres = machine.millimetres(pose.numpy().reshape(-1, 16, 3))
        found.append(mpjpe(millimetres, machine.millimetres(frames.truth)))
    return found


def main() -> None:
    warnings.simplefilter("ignore", CaffeCompatWarning)  # 40 frames of an action tell little about limbs
    data = DataFolder(SHIPPED / "data")
    machine = PoseMachine.from_caffe(
        SHIPPED / "deploy.prototxt", SHIPPED / "synthetic_pose.caffemodel", bounds=read_bounds(data.bounds)
    )
    machine.verify(SHIPPED / "outputs.h5")
    actions = [frames_of(machine, data, action) for action in ACTIONS]
    rows = [measured(machine, frames) for frames in actions]
    for name in rows[0]:
        print(f"{name}: {np.mean([row[name] for row in rows]):.1f}")
    seen = [exactly(torch.tensor(f.truth.reshape(-1, 48), dtype=torch.float64), machine.bounds) for f in actions]
    away = [s.numpy().reshape(-1, 16, 2) - f.pose2d for s, f in zip(seen, actions, strict=True)]
    print(f"pixels: true pose, exact projector: {SIDE * np.linalg.norm(np.concatenate(away), axis=-1).mean():.2f}")
    tables = [np.mean([along_gradient(machine, f, length) for f in actions], axis=0) for length in LENGTHS]
    for updates in UPDATES:
        print(f"exact projector, {updates} updates: {min(table[updates - 1] for table in tables):.1f}")


if __name__ == "__main__":
    main()
