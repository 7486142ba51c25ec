"""Human3.6M as people have it: the official CDF files, VideoPose3D's npz, 3d-pose-baseline's and h36m-fetch's h5.

Every reader gives :class:`.views.View` objects, one at a time, in a fixed order. Where 2D poses are missing they are
projected with the published cameras. What the formats hold was taken from the programs that write and read them:
``data/prepare_data_h36m.py`` of facebookresearch/VideoPose3D, ``src/data_utils.py`` of una-dinosauria/3d-pose-baseline,
``process_all.py`` of anibali/h36m-fetch.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from caffe_compat.errors import CaffeCompatWarning, FileError, UsageError
from caffe_compat.extras import require
from caffe_compat.formats.files import open_file
from caffe_compat.formats.guarded import guarded
from caffe_compat.formats.hdf5 import Group, find, is_dataset, open_hdf5, read_array
from caffe_compat.formats.images import read_picture
from caffe_compat.formats.videos import frame_count, video_frames

from ..files.npz import read_npz
from ..files.videopose3d import mapping
from ..scaling import bone_lengths
from ..skeleton import H36M16, H36M17, H36M32, convert
from .cdf import read_pose
from .human36m_cameras import human36m_cameras
from .views import Images, LeaveOut, View, official_names, split_action, view_name

__all__ = [
    "FAR_PIXELS",
    "SERIALS",
    "find_reader",
    "read_baseline",
    "read_cdf",
    "read_fetch",
    "read_h5",
    "read_videopose",
]

SUBJECTS = ("S1", "S5", "S6", "S7", "S8", "S9", "S11")

SERIALS = ("54138969", "55011271", "58860488", "60457274")
"""The cameras in the order that VideoPose3D's and 3d-pose-baseline's files have them."""

_FORMATS = (
    ("fetch", "S*/*/annot.h5"),
    ("baseline", "S*/MyPoses/3D_positions/*.h5"),
    ("cdf", "S*/**/*D3_Positions*/*.cdf"),
)

FAR_PIXELS = 50.0
"""2D poses farther than this from the projected 3D poses, in the median, are not of the same frames, camera or order.

Human3.6M's own agree to a pixel or two, those of detectors to ten or twenty; a person is some 400 pixels tall.
"""


def find_reader(path: str | os.PathLike[str]) -> str:
    """Which reader fits ``path``: ``"videopose"``, ``"cdf"``, ``"fetch"`` or ``"baseline"``.

    Raises:
        FileError: none does.
    """
    root = Path(path)
    if root.suffix == ".npz":
        return "videopose"
    for name, pattern in _FORMATS:
        if next(root.glob(pattern), None) is not None:
            return name
    raise FileError(
        "no data of Human3.6M was recognised; expected are data_3d_h36m.npz (VideoPose3D), a folder with "
        "S1/MyPoseFeatures/D3_Positions_mono/*.cdf (official), with S1/MyPoses/3D_positions/*.h5 (3d-pose-baseline) or "
        "with S1/Directions-1/annot.h5 (h36m-fetch)",
        path=str(root),
    )


# VideoPose3D


def read_videopose(
    path: str | os.PathLike[str],
    *,
    subjects: Iterable[str] = SUBJECTS,
    videos: str | os.PathLike[str] | None = None,
    leave_out: LeaveOut | None = None,
) -> Iterator[View]:
    """VideoPose3D's ``data_3d_h36m.npz``: ``positions_3d``, a dictionary of subjects, of performances such as
    ``Directions 1``, of (frames, 32 joints, 3): metres, world. 17 joints are read, too. S11 lacks ``Directions``, whose
    video is damaged.

    Args:
        videos: the folder of the subjects' folders with the official videos, for pictures.
        leave_out: what not to read.

    Raises:
        FileError: another file.
    """
    name = os.fspath(path)
    arrays = read_npz(path)
    if "positions_3d" not in arrays:
        raise FileError(f"has no positions_3d; it has {', '.join(arrays) or 'nothing'}", path=name)
    data = mapping(arrays["positions_3d"], f"{name}: positions_3d")
    present = [subject for subject in subjects if subject in data]
    if not present:
        raise FileError(
            f"has none of the subjects {', '.join(subjects)}; it has {', '.join(map(str, data))}", path=name
        )
    for subject in present:
        actions = mapping(data[subject], f"{name}: {subject}")
        for action in sorted(actions):
            place = f"{name}: {subject} {action}"
            if not _drops(leave_out, subject, *split_action(action)):
                world = 1000 * _joints17(actions[action], 3, place)
                yield from _from_world(subject, action, world, videos, leave_out, place)


# 3d-pose-baseline


def read_baseline(
    root: str | os.PathLike[str],
    *,
    subjects: Iterable[str] = SUBJECTS,
    videos: str | os.PathLike[str] | None = None,
    leave_out: LeaveOut | None = None,
) -> Iterator[View]:
    """3d-pose-baseline's ``S1/MyPoses/3D_positions/Directions 1.h5``: ``3D_positions``, (96, frames), 32 joints of x, y
    and z, mm, world."""
    for subject in subjects:
        for path in sorted((Path(root) / subject / "MyPoses" / "3D_positions").glob("*.h5")):
            if _drops(leave_out, subject, *_action_of(path, path.stem)):
                continue
            (flat,) = read_h5(path, "3D_positions")
            if flat.ndim != 2 or flat.shape[0] != 96:
                raise FileError(f"3D_positions has shape {flat.shape}; (96, frames) was expected", path=str(path))
            world = _joints17(flat.T.reshape(-1, 32, 3), 3, str(path))
            yield from _from_world(subject, path.stem, world, videos, leave_out, str(path))


# h36m-fetch


def read_fetch(
    root: str | os.PathLike[str], *, subjects: Iterable[str] = SUBJECTS, leave_out: LeaveOut | None = None
) -> Iterator[View]:
    """h36m-fetch's ``processed`` folder: ``S1/Directions-1/annot.h5`` and its pictures, camera coordinates, mm.

    A file holds the frames of all cameras one after another: ``pose/2d``, ``pose/3d``, ``pose/3d-univ`` (scaled to one
    body size by Human3.6M), ``camera`` (serial numbers) and ``frame`` (from 1). Old ones have ``pose/3d-univ`` only,
    which serves then. As it comes, h36m-fetch keeps every 64th frame of S9 and S11, and of the others those in which a
    joint has moved by 40 mm (old versions: every 5th); see :meth:`.views.View.every`. It numbers takes 1 and 2 where
    the official files have names with and without a number.
    """
    for subject in subjects:
        for path in sorted((Path(root) / subject).glob("*/annot.h5")):
            action, take = _action_of(path, path.parent.name)
            if _drops(leave_out, subject, action, take):
                continue
            names = ("pose/2d", _pose_of(path), "camera", "frame")
            points, pose, serials, numbers = read_h5(path, *names)
            if not len(points) == len(pose) == len(serials) == len(numbers):
                raise FileError(f"{', '.join(names)} differ in length", path=str(path))
            for key, whole in (("camera", serials), ("frame", numbers)):
                if whole.ndim != 1 or whole.dtype.kind not in "iu":
                    raise FileError(
                        f"{key} is {whole.dtype} {whole.shape}; whole numbers were expected", path=str(path)
                    )
            points17, pose17 = _joints17(points, 2, str(path)), _joints17(pose, 3, str(path))
            for serial in np.unique(serials):
                if _drops(leave_out, subject, action, take, str(serial)):
                    continue
                rows = np.flatnonzero(serials == serial)
                rows = rows[np.argsort(numbers[rows], kind="stable")]
                if (np.diff(numbers[rows]) == 0).any() or numbers[rows[0]] < 1:
                    raise FileError(f"frames of camera {serial} are there twice, or from before 1", path=str(path))
                folder = path.parent / "imageSequence" / str(serial)
                images = Images(folder, _pictures(folder)) if folder.is_dir() else None
                pose16 = convert(pose17[rows], H36M17, H36M16)
                found = numbers[rows].astype(int), points17[rows], pose16, images
                yield _checked(View(subject, action, take, str(serial), *found), str(path))


def _pose_of(path: Path) -> str:
    with open_hdf5(path) as file:
        return "pose/3d" if find(file, "pose/3d") is not None else "pose/3d-univ"


def _pictures(folder: Path) -> Callable[[Sequence[int]], Iterator[np.ndarray]]:
    def read(numbers: Sequence[int]) -> Iterator[np.ndarray]:
        for number in numbers:
            path = folder / f"img_{number:06d}.jpg"
            yield _full_size(read_picture(path, "color"), path)

    return read


# Official files


def read_cdf(
    root: str | os.PathLike[str],
    *,
    subjects: Iterable[str] = SUBJECTS,
    videos: str | os.PathLike[str] | None = None,
    leave_out: LeaveOut | None = None,
) -> Iterator[View]:
    """The official CDF files, anywhere below the subjects' folders (needs the package cdflib).

    Each holds one variable ``Pose`` of shape (1, frames, 32 joints times 2 or 3). ``D3_Positions_mono`` (camera
    coordinates, mm, ``Directions 1.54138969.cdf``) and ``D2_Positions`` (pixels) go together, video by video;
    ``D3_Positions_mono_universal`` (scaled to one body size) stands in for the former, and without either
    ``D3_Positions`` (world, ``Directions 1.cdf``) and the published cameras serve. h36m-fetch unpacks them to folders
    of the same names with ``Poses_`` before.
    """
    for subject in subjects:
        base = Path(root) / subject
        seen = _cdf_files(base, "D3_Positions_mono") or _cdf_files(base, "D3_Positions_mono_universal")
        flat = _cdf_files(base, "D2_Positions") if seen else {}
        for stem, path in seen.items():
            performance, _, serial = stem.rpartition(".")
            action, take = _action_of(path, performance)
            if _drops(leave_out, subject, action, take, serial):
                continue
            if stem not in flat:
                raise FileError("has no file of the same name in D2_Positions", path=str(path))
            pose17, points = _cdf_poses(path, 3), _cdf_poses(flat[stem], 2)
            if len(pose17) != len(points):
                raise FileError(f"has {len(pose17)} frames, {flat[stem]} has {len(points)}", path=str(path))
            numbers, images = np.arange(1, len(points) + 1), _video(videos, subject, performance, serial, len(points))
            pose16 = convert(pose17, H36M17, H36M16)
            yield _checked(View(subject, action, take, serial, numbers, points, pose16, images), str(path))
        if not seen:
            for performance, path in _cdf_files(base, "D3_Positions").items():
                if not _drops(leave_out, subject, *_action_of(path, performance)):
                    world = _cdf_poses(path, 3)
                    yield from _from_world(subject, performance, world, videos, leave_out, str(path))


def _cdf_files(base: Path, folder: str) -> dict[str, Path]:
    """CDF files by name without the ending. Some subjects have a file ``_ALL``, which is no action."""
    paths = sorted(path for prefix in ("", "Poses_") for path in base.glob(f"**/{prefix}{folder}/*.cdf"))
    return {path.stem: path for path in paths if not path.stem.startswith("_ALL")}


# Less than cdflib reads of a good file, on a slow machine that does other things too.
_BYTES_A_SECOND = 2**20


def _cdf_poses(path: Path, dim: int) -> np.ndarray:
    """(frames, 17, dim)"""
    require("cdflib", "h36m")
    open_file(path).close()
    # cdflib follows the links of a damaged header for ever.
    values = guarded(read_pose, str(path), more_seconds=os.path.getsize(path) / _BYTES_A_SECOND)
    if values.size == 0 or values.shape[-1] != 32 * dim:
        raise FileError(f"Pose has shape {values.shape}; (1, frames, {32 * dim}) was expected", path=str(path))
    return _joints17(values.reshape(-1, 32, dim), dim, str(path))


# In common


def _from_world(
    subject: str,
    performance: str,
    world: np.ndarray,
    videos: str | os.PathLike[str] | None,
    leave_out: LeaveOut | None,
    place: str,
) -> Iterator[View]:
    """A view for every camera from poses in the world (frames, 17, 3), mm."""
    cameras = human36m_cameras()
    if (subject, SERIALS[0]) not in cameras:
        raise UsageError(f"no cameras are published for subject {subject}")
    action, take = split_action(performance)
    numbers = np.arange(1, len(world) + 1)
    for serial in SERIALS:
        if _drops(leave_out, subject, action, take, serial):
            continue
        camera = cameras[subject, serial]
        with np.errstate(all="ignore"):
            pose = camera.to_camera(world)
            points = camera.project(pose)
        if (pose[..., 2] <= 0).any():
            raise FileError(f"joints behind camera {serial}; poses in the world were expected", path=place)
        images, pose16 = _video(videos, subject, performance, serial, len(world)), convert(pose, H36M17, H36M16)
        yield _checked(View(subject, action, take, serial, numbers, points, pose16, images), place)


def _checked(view: View, place: str) -> View:
    """The view, if its numbers can be what they should be. Raises FileError."""
    with np.errstate(all="ignore"):
        _check(view, place)
    return view


def _check(view: View, place: str) -> None:
    for what, values in (("2D", view.points), ("3D", view.pose)):
        # A kilometre, or a million pixels, is as little a place as a NaN; with a NaN, no comparison holds.
        bad = np.flatnonzero(~(np.abs(values) < 1e6).all((1, 2)))
        if bad.size:
            found = f"{view.name}: the {what} pose of frame {view.numbers[bad[0]]} is no place ({bad.size} such frames)"
            raise FileError(found, path=place)
    if not len(view.pose):
        return
    size = float(bone_lengths(view.pose)[:, 1:].mean())
    if not 50 < size < 1000:
        raise FileError(
            f"bones are {size:.4g} mm long on average; another unit or joint order?", path=place, place=view.name
        )
    camera = human36m_cameras().get((view.subject, view.camera))
    if camera is not None:
        off = float(np.median(np.linalg.norm(camera.project(view.pose) - view.points16, axis=-1)))
        if not off < FAR_PIXELS:
            raise FileError(
                f"2D poses lie {off:.0f} pixels from the projected 3D poses; another camera, unit or joint order?",
                path=place,
                place=view.name,
            )


def _joints17(values: Any, dim: int, place: str) -> np.ndarray:
    """Poses of 32 or 17 joints as (frames, 17, dim) float64."""
    try:
        poses = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise FileError(f"poses were expected: {error}", path=place) from error
    if poses.ndim != 3 or poses.shape[1] not in (32, 17) or poses.shape[2] != dim:
        raise FileError(f"poses of shape {poses.shape}; (frames, 32 or 17, {dim}) was expected", path=place)
    return poses if poses.shape[1] == 17 else convert(poses, H36M32, H36M17)


def _drops(leave_out: LeaveOut | None, *parts: str) -> bool:
    return leave_out is not None and leave_out.drops(view_name(*parts))


def _action_of(path: Path, name: str) -> tuple[str, str]:
    try:
        return split_action(name)
    except UsageError as error:
        raise FileError(error.detail, path=str(path)) from error


def read_h5(path: Path, *names: str) -> list[np.ndarray]:
    """Datasets of an HDF5 file, each with an axis at least. Raises FileError: it is none, is damaged, or lacks one."""
    with open_hdf5(path) as file:
        return [_dataset(file, name, path) for name in names]


def _dataset(file: Group, name: str, path: Path) -> np.ndarray:
    found = find(file, name)
    if not is_dataset(found):
        raise FileError(f"has no {name}", path=str(path))
    values = read_array(found)
    if values.ndim == 0:
        raise FileError(f"{name} is one number; an array was expected", path=str(path))
    return values


# Videos


def _video(
    videos: str | os.PathLike[str] | None, subject: str, performance: str, serial: str, frames: int
) -> Images | None:
    """The pictures of ``<videos>/<subject>/Videos/<performance>.<serial>.mp4``.

    A video may have more frames than there are poses, as some do, but not fewer.
    """
    if videos is None:
        return None
    folder = Path(videos) / subject / "Videos"
    names = [performance, *official_names(*split_action(performance))]
    paths = [folder / f"{name}.{serial}.mp4" for name in names]
    path = next((each for each in paths if each.exists()), paths[0])

    def read(numbers: Sequence[int]) -> Iterator[np.ndarray]:
        said = frame_count(path)
        if said > 1.05 * frames:
            warnings.warn(
                f"{path}: {said:.0f} frames for {frames} poses: another performance's?",
                CaffeCompatWarning,
                stacklevel=2,
            )
        at, wanted = 0, set(numbers)
        # To the last frame of the poses, though it may not be wanted: a video that is shorter is not theirs.
        for at, decode in enumerate(islice(video_frames(path), frames), 1):
            if at in wanted:
                yield _full_size(decode(), path)
        if at < frames:
            raise FileError(f"ends after {at} frames; there are {frames} poses", path=str(path))

    return Images(path, read)


def _full_size(picture: np.ndarray, path: Path) -> np.ndarray:
    """The picture, if it is one of Human3.6M's: 1000 wide, 1000 or 1002 high. 2D poses are in its pixels."""
    height, width = picture.shape[:2]
    if width != 1000 or height not in (1000, 1002):
        raise FileError(f"pictures of {width} x {height}; 1000 x 1000 or 1000 x 1002 were expected", path=str(path))
    return picture
