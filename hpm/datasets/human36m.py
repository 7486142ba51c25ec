"""Human3.6M as people have it: the official CDF files, VideoPose3D's npz, 3d-pose-baseline's and h36m-fetch's h5.

Every reader gives :class:`.views.View` objects, one at a time, in a fixed order. Where 2D poses are missing they are
projected with the published cameras.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np

from caffe_compat.errors import FileError, UsageError
from caffe_compat.extras import require
from caffe_compat.files import open_file

from ..pickles import read_npz
from ..skeleton import H36M16, H36M17, H36M32, convert
from .human36m_cameras import human36m_cameras
from .views import Images, View, split_action

__all__ = ["find_reader", "read_baseline", "read_cdf", "read_fetch", "read_videopose"]

SUBJECTS = ("S1", "S5", "S6", "S7", "S8", "S9", "S11")
_SERIALS = ("54138969", "55011271", "58860488", "60457274")


def find_reader(path: str | os.PathLike[str]) -> str:
    """Which reader fits ``path``: ``"videopose"``, ``"cdf"``, ``"fetch"`` or ``"baseline"``.

    Raises:
        FileError: none does.
    """
    root = Path(path)
    if root.suffix == ".npz":
        return "videopose"
    for name, pattern in (
        ("fetch", "S*/*/annot.h5"),
        ("baseline", "S*/MyPoses/3D_positions/*.h5"),
        ("cdf", "S*/**/D3_Positions*/*.cdf"),
    ):
        if next(root.glob(pattern), None) is not None:
            return name
    raise FileError(
        "no data of Human3.6M was recognised; expected are data_3d_h36m.npz (VideoPose3D), a folder with "
        "S1/MyPoseFeatures/D3_Positions_mono/*.cdf (official), with S1/MyPoses/3D_positions/*.h5 (3d-pose-baseline) or "
        "with S1/Directions/annot.h5 (h36m-fetch)",
        path=str(root),
    )


# VideoPose3D


def read_videopose(
    path: str | os.PathLike[str],
    path_2d: str | os.PathLike[str] | None = None,
    *,
    subjects: Iterable[str] = SUBJECTS,
    videos: str | os.PathLike[str] | None = None,
) -> Iterator[View]:
    """VideoPose3D's ``data_3d_h36m.npz``: metres, world, 32 joints (or 17).

    Args:
        path_2d: ``data_2d_h36m_*.npz`` with the 2D poses of every camera; None projects the 3D ones.
        videos: the folder of the subjects' folders with the official videos, for pictures.

    Raises:
        FileError: another file, or 2D poses that miss a video or differ in length.
    """
    name = os.fspath(path)
    data = _entry(read_npz(path), "positions_3d", name)
    flat = None if path_2d is None else _entry(read_npz(path_2d), "positions_2d", os.fspath(path_2d))
    for subject in _present(data, subjects, name):
        for action in sorted(_mapping(data[subject], f"{name}: {subject}")):
            world = 1000 * _poses(data[subject][action], 3, f"{name}: {subject} {action}")
            given = None if flat is None else _views_2d(flat, subject, action, len(world), os.fspath(path_2d or ""))
            yield from _from_world(subject, action, world, given, videos)


def _views_2d(data: Mapping[str, Any], subject: str, action: str, frames: int, path: str) -> list[np.ndarray]:
    try:
        views = data[subject][action]
    except (KeyError, TypeError):
        raise FileError(f"has no 2D poses of {subject} {action}", path=path) from None
    if len(views) != len(_SERIALS):
        raise FileError(f"{subject} {action}: {len(views)} cameras; {len(_SERIALS)} were expected", path=path)
    poses = [_poses(view, 2, f"{path}: {subject} {action}") for view in views]
    for serial, pose in zip(_SERIALS, poses, strict=True):
        # Detections may run on for a few frames beyond the motion capture; VideoPose3D cuts them off too.
        if len(pose) < frames:
            raise FileError(
                f"{subject} {action} {serial}: {len(pose)} frames of 2D poses for {frames} of 3D poses", path=path
            )
    return [pose[:frames] for pose in poses]


def _entry(arrays: Mapping[str, Any], key: str, path: str) -> Mapping[str, Any]:
    if key not in arrays:
        raise FileError(f"has no {key}; it has {', '.join(arrays) or 'nothing'}", path=path)
    return _mapping(arrays[key], f"{path}: {key}")


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if isinstance(value, np.ndarray) and value.shape == () and value.dtype == object:
        value = value.item()
    if not isinstance(value, Mapping):
        raise FileError(f"{what}: a dictionary was expected, found {type(value).__name__}")
    return value


def _present(data: Mapping[str, Any], subjects: Iterable[str], path: str) -> list[str]:
    found = [subject for subject in subjects if subject in data]
    if not found:
        raise FileError(f"has none of the subjects {', '.join(subjects)}; it has {', '.join(data)}", path=path)
    return found


# 3d-pose-baseline


def read_baseline(
    root: str | os.PathLike[str],
    *,
    subjects: Iterable[str] = SUBJECTS,
    videos: str | os.PathLike[str] | None = None,
) -> Iterator[View]:
    """3d-pose-baseline's ``S1/MyPoses/3D_positions/Directions 1.h5``: (96, frames), mm, world, 32 joints."""
    for subject in subjects:
        for path in sorted((Path(root) / subject / "MyPoses" / "3D_positions").glob("*.h5")):
            with _h5(path) as file:
                flat = _dataset(file, "3D_positions", path)
            if flat.ndim != 2 or flat.shape[0] != 96:
                raise FileError(f"3D_positions has shape {flat.shape}; (96, frames) was expected", path=str(path))
            world = flat.T.reshape(-1, 32, 3).astype(np.float64)
            yield from _from_world(subject, path.stem, convert(world, H36M32, H36M16), None, videos)


# h36m-fetch


def read_fetch(root: str | os.PathLike[str], *, subjects: Iterable[str] = SUBJECTS) -> Iterator[View]:
    """h36m-fetch's ``processed`` folder: ``S1/Directions-1/annot.h5`` and its pictures, camera coordinates, mm.

    3D poses are ``pose/3d`` where there are any, else ``pose/3d-univ`` (scaled to one body size by Human3.6M).
    """
    for subject in subjects:
        for path in sorted((Path(root) / subject).glob("*/annot.h5")):
            action, take = split_action(path.parent.name)
            with _h5(path) as file:
                key = "pose/3d" if "pose/3d" in file else "pose/3d-univ"
                names = ("pose/2d", key, "camera", "frame")
                points, pose, serials, numbers = (_dataset(file, name, path) for name in names)
            if not len(points) == len(pose) == len(serials) == len(numbers):
                raise FileError(f"{', '.join(names)} differ in length", path=str(path))
            points16, pose16 = _poses(points, 2, str(path)), _poses(pose, 3, str(path))
            for serial in sorted({int(s) for s in serials}):
                rows = np.flatnonzero(serials == serial)
                rows = rows[np.argsort(numbers[rows], kind="stable")]
                folder = path.parent / "imageSequence" / str(serial)
                images = _pictures(folder) if folder.is_dir() else None
                yield View(
                    subject, action, take, str(serial), numbers[rows].astype(int), points16[rows], pose16[rows], images
                )


def _pictures(folder: Path) -> Images:
    def images(numbers: Sequence[int]) -> Iterator[np.ndarray]:
        cv2 = require("cv2", "images")
        for number in numbers:
            path = folder / f"img_{number:06d}.jpg"
            open_file(path).close()
            picture = cv2.imread(str(path))
            if picture is None:
                raise FileError("is no picture that can be read", path=str(path))
            yield picture

    return images


# Official files


def read_cdf(
    root: str | os.PathLike[str],
    *,
    subjects: Iterable[str] = SUBJECTS,
    videos: str | os.PathLike[str] | None = None,
) -> Iterator[View]:
    """The official CDF files, anywhere below the subjects' folders (needs the package cdflib).

    ``D3_Positions_mono`` (camera coordinates, mm) and ``D2_Positions`` (pixels) go together, video by video; without
    them ``D3_Positions`` (world) and the published cameras serve.
    """
    for subject in subjects:
        base = Path(root) / subject
        mono = _cdf_files(base, "D3_Positions_mono")
        for stem, path in mono.items():
            action, _, serial = stem.rpartition(".")
            flat = _cdf_files(base, "D2_Positions").get(stem)
            if flat is None:
                raise FileError("has no file of the same name in D2_Positions", path=str(path))
            name, take = split_action(action)
            pose, points = _cdf_poses(path, 3), _cdf_poses(flat, 2)
            numbers = np.arange(1, len(pose) + 1)
            yield View(subject, name, take, serial, numbers, points, pose, _video(videos, subject, action, serial))
        if not mono:
            for action, path in _cdf_files(base, "D3_Positions").items():
                yield from _from_world(subject, action, _cdf_poses(path, 3), None, videos)


def _cdf_files(base: Path, folder: str) -> dict[str, Path]:
    """CDF files by name without the ending. Some subjects have a file ``_ALL``, which is no action."""
    paths = sorted(path for path in base.glob(f"**/{folder}/*.cdf"))
    return {path.stem: path for path in paths if not path.stem.startswith("_ALL")}


def _cdf_poses(path: Path, dim: int) -> np.ndarray:
    cdflib: ModuleType = require("cdflib", "h36m")
    open_file(path).close()
    try:
        values = np.asarray(cdflib.CDF(path).varget("Pose"), np.float64)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise FileError(f"no variable Pose can be read: {error}", path=str(path)) from error
    if values.size == 0 or values.shape[-1] != 32 * dim:
        raise FileError(f"Pose has shape {values.shape}; (1, frames, {32 * dim}) was expected", path=str(path))
    return convert(values.reshape(-1, 32, dim), H36M32, H36M16)


# In common


def _from_world(
    subject: str,
    action: str,
    world: np.ndarray,
    given: Sequence[np.ndarray] | None,
    videos: str | os.PathLike[str] | None,
) -> Iterator[View]:
    """A view for every camera from poses in the world (frames, 16, 3), mm, and 2D poses if there are any."""
    cameras = human36m_cameras()
    if (subject, _SERIALS[0]) not in cameras:
        raise UsageError(f"no cameras are published for subject {subject}")
    name, take = split_action(action)
    numbers = np.arange(1, len(world) + 1)
    for k, serial in enumerate(_SERIALS):
        camera = cameras[subject, serial]
        pose = camera.to_camera(world)
        if (pose[..., 2] <= 0).any():
            raise FileError(f"{subject} {action}: joints behind camera {serial}; poses in the world were expected")
        points = camera.project(pose) if given is None else given[k]
        yield View(subject, name, take, serial, numbers, points, pose, _video(videos, subject, action, serial))


def _poses(values: Any, dim: int, what: str) -> np.ndarray:
    """Poses of 32 or 17 joints as (frames, 16, dim) float64."""
    poses = np.asarray(values, np.float64)
    if poses.ndim != 3 or poses.shape[1] not in (32, 17) or poses.shape[2] < dim:
        raise FileError(f"{what}: shape {poses.shape}; (frames, 32 or 17, {dim}) was expected")
    return convert(poses[..., :dim], H36M32 if poses.shape[1] == 32 else H36M17, H36M16)


def _h5(path: Path) -> h5py.File:
    open_file(path).close()
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise FileError(f"is no HDF5 file: {error}", path=str(path)) from error


def _dataset(file: h5py.File, name: str, path: Path) -> np.ndarray:
    if not isinstance(file.get(name), h5py.Dataset):
        raise FileError(f"has no {name}", path=str(path))
    return np.asarray(file[name])


def _video(videos: str | os.PathLike[str] | None, subject: str, action: str, serial: str) -> Images | None:
    """The pictures of ``<videos>/<subject>/Videos/<action>.<serial>.mp4``."""
    if videos is None:
        return None
    path = Path(videos) / subject / "Videos" / f"{action}.{serial}.mp4"

    def images(numbers: Sequence[int]) -> Iterator[np.ndarray]:
        cv2 = require("cv2", "images")
        open_file(path).close()
        capture = cv2.VideoCapture(str(path))
        try:
            at = 0
            for number in numbers:
                # Frame by frame: to seek in a compressed video is not exact.
                while at < number:
                    if not capture.grab():
                        raise FileError(f"ends after {at} frames; frame {number} was wanted", path=str(path))
                    at += 1
                yield capture.retrieve()[1]
        finally:
            capture.release()

    return images
