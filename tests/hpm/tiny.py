"""A small model with recorded outputs, and made-up actions, for tests of the whole chain."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from hpm.files.folders import DataFolder
from hpm.files.lists import format_list_line, write_list
from hpm.model import PoseMachine
from hpm.scaling import REFINEMENT_BOUNDS

SIDE = 64


def tiny_machine(reference: Path) -> PoseMachine:
    """Small and verified, by the published bounds."""
    stored = reference / "tiny_mask3d"
    machine = PoseMachine.from_caffe(
        stored / "deploy.prototxt", stored / "tiny_mask3d.caffemodel", bounds=REFINEMENT_BOUNDS
    )
    machine.verify(stored / "tiny_mask3d.h5")
    return machine


def tiny_model(reference: Path, folder: Path) -> Path:
    """``model.pt`` in a folder, of :func:`tiny_machine`."""
    tiny_machine(reference).save(folder / "model.pt")
    return folder / "model.pt"


def random_frames(count: int, seed: int = 0, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """(count, height, width, 3) uint8."""
    return np.random.RandomState(seed).randint(0, 256, (count, height, width, 3)).astype(np.uint8)


def write_action(root: Path, action: int, count: int, starts: tuple[int, ...] = (0,)) -> np.ndarray:
    """The list of an action with random labels, and its pictures below ``root/h36m``; the pictures as written."""
    pictures = random_frames(count, action)
    random = np.random.RandomState(100 + action)
    folder = root / "h36m" / f"action {action}"
    folder.mkdir(parents=True)
    lines = []
    for k, picture in enumerate(pictures):
        assert cv2.imwrite(str(folder / f"{k}.png"), picture)
        clip = int(k not in starts)
        lines.append(format_list_line(f"action {action}/{k}.png", random.rand(32), random.rand(48), clip))
    path = DataFolder(root).ground_truth(action)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_list(path, lines)
    return pictures
