"""A small model with recorded outputs, and made-up actions, for tests of the whole chain."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from hpm.files.folders import DataFolder
from hpm.files.lists import format_list_line, write_list

SIDE = 64


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
