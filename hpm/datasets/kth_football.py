"""KTH Multiview Football II: its text files, and lists with the 2D and 3D poses that each camera sees.

The format is what ``readme.txt`` in the data set's own ``code3d.zip`` says: 14 joints, 3 cameras, one number a line,
the first index fastest; ``positions2d.txt`` 2 x 14 x 3 x frames, ``positions3d.txt`` 3 x 14 x frames, ``cameras.txt``
2 x 4 x 3 x frames. Pictures lie beside them as ``Camera 1/00001.png`` and so on. It does not tell the unit of the 3D
positions, which were reconstructed from the 2D ones with affine cameras.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caffe_compat.errors import FileError, UsageError
from caffe_compat.formats.files import read_file
from caffe_compat.formats.images import read_picture

from ..files.folders import CAMERAS, KthFolder
from ..files.lists import format_list_line
from ..scaling import (
    Bounds,
    bone_lengths,
    bounds_difference,
    centre_on_root,
    normalise,
    read_bounds,
    scale_limbs,
    write_bounds,
)
from ..skeleton import H36M16, KTH14, convert
from .bodies import MEAN_LENGTHS
from .cameras import Crop, square_crops
from .crops import write_crop
from .layout import ListFiles, make_folder, remove_lists

__all__ = ["KthPrepared", "KthSequence", "camera_pose", "prepare_kth", "read_kth"]

_JOINTS, _CAMERAS = len(KTH14), len(CAMERAS)


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
    """Read ``positions2d.txt``, ``positions3d.txt`` and ``cameras.txt``.

    Raises:
        FileError: a file is missing, holds no such numbers, the three differ in frames, or the cameras do not put the
            3D positions where the 2D ones are.
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
    projected = np.einsum("tcij,tnj->tcni", cameras[..., :3], pose) + cameras[:, :, None, :, 3]
    off, size = np.linalg.norm(projected - points, axis=-1), np.ptp(points, axis=2).max(-1)
    if float(np.median(off / np.maximum(size[..., None], 1))) > 0.25:
        raise FileError(
            f"the cameras put the 3D positions {np.median(off):.0f} pixels from the 2D ones: files of different "
            "sequences, or numbers in another order",
            path=str(root),
        )
    return KthSequence(points, pose, cameras)


def _numbers(path: Path, per_frame: int) -> np.ndarray:
    try:
        values = np.array(read_file(path).split(), np.float64)
    except ValueError as error:
        raise FileError(f"numbers were expected: {error}", path=str(path)) from error
    if len(values) == 0 or len(values) % per_frame or not np.isfinite(values).all():
        raise FileError(f"{len(values)} numbers; {per_frame} finite ones for each frame were expected", path=str(path))
    return values


def camera_pose(pose: np.ndarray, cameras: np.ndarray) -> np.ndarray:
    """World positions in the axes of affine cameras: x right, y down, z forward; no unit is changed.

    A camera's rows give the directions of x and y. They are made a right-handed system by the nearest rotation.

    Args:
        pose: (frames, joints, 3). cameras: (frames, 2, 4).
    """
    across = cameras[..., :3] / np.linalg.norm(cameras[..., :3], axis=-1, keepdims=True)
    u, _, v = np.linalg.svd(across, full_matrices=False)
    rows = u @ v
    rotation = np.concatenate([rows, np.cross(rows[:, :1], rows[:, 1:])], axis=1)
    return np.asarray(pose @ rotation.swapaxes(1, 2))


@dataclass(frozen=True)
class KthPrepared:
    """The lists of the cameras, the frames of each, and the pictures cut; with 0, those that lists name are not there.

    ``variation`` is the greatest standard deviation over mean of a bone's length in the positions as they were read.
    """

    lists: tuple[Path, ...]
    frames: int
    pictures: int
    variation: float


def prepare_kth(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    bounds: Bounds,
    limbs: np.ndarray = MEAN_LENGTHS,
    image_size: int = 368,
    margin: float = 0.125,
    *,
    keep_proportions: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> KthPrepared:
    """A list for each camera, ``camera1.txt`` ..., in the format of Human3.6M's.

    The unit of the positions is not known to be millimetres, so every bone gets its length of ``limbs`` (16,), mm. What
    the original did is not known either. Pictures named ``Camera 1/00001.png`` ... (or .jpg) beside the text files are
    cropped; without any the lists name pictures that are not there. The lists, and the bounds beside them, appear when
    everything is done; lists of an earlier run go before.

    Args:
        bounds: that the labels are normalised with, those of the weights that will be tested.
        keep_proportions: one factor for all positions instead, so that all bones together have the length of ``limbs``.
        progress: told how many frames of how many are done, all cameras together.

    Raises:
        UsageError: ``out`` holds other bounds, which the labels would be taken to refer to.
        FileError: see :func:`read_kth`; a picture is damaged, or only some are there.
    """
    sequence, root = read_kth(folder), Path(out)
    place = KthFolder(root).bounds
    if place.exists() and (apart := bounds_difference(read_bounds(place), bounds)) is not None:
        raise UsageError(f"{place} holds other bounds than these labels': {apart}; prepare in another folder")
    frames, pictures, variation = len(sequence.pose), 0, 0.0
    paths = tuple(map(KthFolder(root).ground_truth, CAMERAS))
    remove_lists(paths)
    with ListFiles() as lists:
        for camera, path in enumerate(paths):
            points = convert(sequence.points[:, camera], KTH14, H36M16)
            seen = camera_pose(sequence.pose, sequence.cameras[:, camera])
            pose = centre_on_root(convert(seen, KTH14, H36M16))
            lengths = bone_lengths(pose)[:, 1:]
            variation = float((lengths.std(0) / lengths.mean(0)).max())
            scaled = pose * (limbs.sum() / lengths.mean(0).sum()) if keep_proportions else scale_limbs(pose, limbs)
            labels, crops = normalise(scaled, bounds), square_crops(points, margin).whole()
            names = [f"images/camera{camera + 1}/{k + 1:05d}.jpg" for k in range(frames)]
            pictures += _write_crops(Path(folder), root, names, camera, crops, image_size, progress)
            flat = zip(names, crops.fractions(points).reshape(-1, 32), labels.reshape(-1, 48), strict=True)
            lists.add(path, (format_list_line(name, p, q, int(k > 0)) for k, (name, p, q) in enumerate(flat)))
        write_bounds(place, bounds)
    return KthPrepared(paths, frames, pictures, variation)


def _write_crops(
    folder: Path,
    root: Path,
    names: list[str],
    camera: int,
    crops: Crop,
    size: int,
    progress: Callable[[int, int], None] | None,
) -> int:
    """The crops of a camera's pictures; how many."""
    sources = [_picture(folder, camera, k) for k in range(len(names))]
    if not any(sources):
        return 0
    make_folder((root / names[0]).parent)
    for k, (name, source) in enumerate(zip(names, sources, strict=True)):
        if source is None:
            raise FileError(f"has pictures, but none called {k + 1:05d}", path=str(folder / f"Camera {camera + 1}"))
        picture = read_picture(source, "color")
        write_crop(root / name, picture, crops.corner[k], int(crops.side[k]), size)
        if progress is not None:
            progress(camera * len(names) + k + 1, _CAMERAS * len(names))
    return len(names)


def _picture(folder: Path, camera: int, frame: int) -> Path | None:
    names = [folder / f"Camera {camera + 1}" / f"{frame + 1:05d}{ending}" for ending in (".png", ".jpg")]
    return next((name for name in names if name.is_file()), None)
