"""KTH Multiview Football II: its text files, and lists with the 2D and 3D poses that each camera sees."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caffe_compat.errors import FileError
from caffe_compat.extras import require
from caffe_compat.files import open_file

from ..annotations import format_list_line
from ..scaling import Bounds, centre_on_root, normalise, scale_limbs
from ..skeleton import H36M16, KTH14, convert
from .bodies import MEAN_LENGTHS
from .cameras import square_crops
from .layout import make_folder, write_lines
from .prepare import crop_picture

__all__ = ["KthSequence", "camera_pose", "prepare_kth", "read_kth"]

_JOINTS, _CAMERAS = len(KTH14), 3


@dataclass(frozen=True, eq=False)
class KthSequence:
    """One sequence.

    Attributes:
        points: (frames, 3 cameras, 14, 2), pixels. pose: (frames, 14, 3), the world, a unit of its own.
        cameras: (frames, 3 cameras, 2, 4), affine: pixels = camera @ (x, y, z, 1).
    """

    points: np.ndarray
    pose: np.ndarray
    cameras: np.ndarray


def read_kth(folder: str | os.PathLike[str]) -> KthSequence:
    """Read ``positions2d.txt``, ``positions3d.txt`` and ``cameras.txt``: one number a line, the first index fastest.

    Raises:
        FileError: a file is missing, holds no such numbers, or the three differ in frames.
    """
    root = Path(folder)
    points = _numbers(root / "positions2d.txt", 2 * _JOINTS * _CAMERAS).reshape(-1, _CAMERAS, _JOINTS, 2)
    pose = _numbers(root / "positions3d.txt", 3 * _JOINTS).reshape(-1, _JOINTS, 3)
    cameras = _numbers(root / "cameras.txt", 8 * _CAMERAS).reshape(-1, _CAMERAS, 4, 2).swapaxes(2, 3)
    if not len(points) == len(pose) == len(cameras):
        raise FileError(
            f"{len(points)} frames of 2D positions, {len(pose)} of 3D positions, {len(cameras)} of cameras",
            path=str(root),
        )
    return KthSequence(points, pose, cameras)


def _numbers(path: Path, per_frame: int) -> np.ndarray:
    with open_file(path) as handle:
        try:
            values = np.array(handle.read().split(), np.float64)
        except ValueError as error:
            raise FileError(f"numbers were expected: {error}", path=str(path)) from error
    if len(values) == 0 or len(values) % per_frame or not np.isfinite(values).all():
        raise FileError(f"{len(values)} numbers; {per_frame} finite ones for each frame were expected", path=str(path))
    return values


def camera_pose(pose: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """World positions (..., 3) in the axes of an affine camera (2, 4): x right, y down, z forward; no unit is changed.

    Its rows give the directions of x and y. They are made a right-handed system by the nearest rotation.
    """
    x, y = camera[0, :3], camera[1, :3]
    across = np.stack([x / np.linalg.norm(x), y / np.linalg.norm(y)])
    u, _, v = np.linalg.svd(across, full_matrices=False)
    rows = u @ v
    rotation = np.stack([rows[0], rows[1], np.cross(rows[0], rows[1])])
    return np.asarray(pose @ rotation.T)


def prepare_kth(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    bounds: Bounds,
    limbs: np.ndarray = MEAN_LENGTHS,
    image_size: int = 368,
    margin: float = 0.125,
) -> list[Path]:
    """A list for each camera, ``camera1.txt`` ..., in the format of Human3.6M's; the paths written.

    The unit of the positions is not millimetres, so every bone gets its length of ``limbs`` (16,), mm. Pictures named
    ``Camera 1/00001.jpg`` ... (or .png) beside the text files are cropped where they are; without them the lists name
    pictures that are not there.

    Args:
        bounds: that the labels are normalised with, those of the weights that will be tested.

    Raises:
        FileError: see :func:`read_kth`; a picture is damaged.
    """
    sequence, root, written = read_kth(folder), Path(out), []
    for camera in range(_CAMERAS):
        points = convert(sequence.points[:, camera], KTH14, H36M16)
        seen = np.stack([camera_pose(p, c) for p, c in zip(sequence.pose, sequence.cameras[:, camera], strict=True)])
        labels = normalise(scale_limbs(centre_on_root(convert(seen, KTH14, H36M16)), limbs), bounds)
        crops = square_crops(points, margin).whole()
        lines = []
        for k, (p, q) in enumerate(zip(crops.fractions(points), labels, strict=True)):
            name = f"camera{camera + 1}/{k + 1:05d}.jpg"
            source = _picture(Path(folder), camera, k)
            if source is not None:
                _write_crop(source, root / "images" / name, crops.corner[k], int(crops.side[k]), image_size)
            lines.append(format_list_line(f"images/{name}", p.ravel(), q.ravel(), int(k > 0)))
        path = root / f"camera{camera + 1}.txt"
        write_lines(path, lines)
        written.append(path)
    return written


def _picture(folder: Path, camera: int, frame: int) -> Path | None:
    names = [folder / f"Camera {camera + 1}" / f"{frame + 1:05d}{ending}" for ending in (".jpg", ".png")]
    return next((name for name in names if name.is_file()), None)


def _write_crop(source: Path, target: Path, corner: np.ndarray, side: int, size: int) -> None:
    cv2 = require("cv2", "images")
    picture = cv2.imread(str(source))
    if picture is None:
        raise FileError("is no picture that can be read", path=str(source))
    make_folder(target.parent)
    if not cv2.imwrite(str(target), crop_picture(picture, corner, side, size)):
        raise FileError("the picture cannot be written", path=str(target))
