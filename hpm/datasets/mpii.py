"""MPII Human Pose: the official .mat or the json files that people use, as a list of 2D poses and square crops."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caffe_compat.errors import FileError, UsageError
from caffe_compat.formats.files import open_file, read_file
from caffe_compat.formats.guarded import guarded
from caffe_compat.formats.images import read_picture

from ..files.lists import format_list_line
from ..skeleton import H36M16, MPII16, convert
from .cameras import square_crops
from .crops import write_crop
from .layout import TrainingFolder, make_folder, remove_lists, write_lines
from .mpii_release import place_of, read_release

__all__ = ["MpiiPerson", "MpiiPrepared", "prepare_mpii", "read_mpii"]

_JOINTS = len(MPII16)

# Less than scipy reads of a good file, on a slow machine that does other things too.
_BYTES_A_SECOND = 2**19


@dataclass(frozen=True, eq=False)
class MpiiPerson:
    """One annotated person: the picture's name, (16, 2) pixels from 0 in MPII's order, and which joints there are.

    ``centre`` (2,) is MPII's rough position of the person, pixels from 0, and ``scale`` its size in units of 200
    pixels; None where the file does not tell.
    """

    image: str
    points: np.ndarray
    present: np.ndarray
    centre: np.ndarray | None = None
    scale: float | None = None


def read_mpii(path: str | os.PathLike[str]) -> list[MpiiPerson]:
    """Read ``mpii_human_pose_v1_u12_1.mat`` (its training pictures), or a json of persons.

    Kinds of json that are known: a list, or ``{"root": list}`` as CPM's genJSON.m writes, of entries with ``img_paths``
    and ``joint_self`` (x, y, visible); a list of entries with ``image``, ``joints`` and ``joints_vis`` (the train.json
    and valid.json of human-pose-estimation.pytorch). Coordinates in all of them count from 1, as in the .mat; here they
    count from 0. A joint that is not there is at 0, 0 or -1, -1; in the .mat, its id is missing. Whether a joint that
    is there can be seen makes no difference: ``is_visible`` is a text, a number or empty. The person's centre and scale
    are ``objpos`` and ``scale`` in the .mat, ``objpos`` and ``scale_provided`` or ``center`` and ``scale`` in a json;
    files may lack them.

    Raises:
        FileError: none of these.
    """
    name = os.fspath(path)
    if name.endswith(".mat"):
        return _read_mat(name)
    try:
        entries = json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise FileError(f"is no json: {error}", path=name) from error
    if isinstance(entries, dict):
        entries = entries.get("root", entries)
    if not isinstance(entries, list):
        raise FileError(f"a list of persons was expected, found {type(entries).__name__}", path=name)
    return [_person(entry, k, name) for k, entry in enumerate(entries)]


def _person(entry: Any, k: int, path: str) -> MpiiPerson:
    try:
        if "joint_self" in entry:
            image, joints = entry["img_paths"], np.asarray(entry["joint_self"], np.float64)
            shown = np.ones(len(joints), bool)
            place = place_of(entry.get("objpos"), entry.get("scale_provided"))
        else:
            image, joints = entry["image"], np.asarray(entry["joints"], np.float64)
            shown = np.asarray(entry["joints_vis"]).reshape(_JOINTS, -1)[:, 0] > 0
            place = place_of(entry.get("center"), entry.get("scale"))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise FileError(f"{type(error).__name__} {error}", path=path, place=f"person {k}") from error
    if joints.ndim != 2 or len(joints) != _JOINTS or joints.shape[1] < 2 or not isinstance(image, str):
        raise FileError(f"{_JOINTS} joints were expected, found shape {joints.shape}", path=path, place=f"person {k}")
    present = shown & np.asarray((joints[:, :2] > 0).any(1))
    if not np.isfinite(joints[present, :2]).all():
        raise FileError("joints that are not finite", path=path, place=f"person {k}")
    return MpiiPerson(image, joints[:, :2] - 1, present, *place)


def _read_mat(path: str) -> list[MpiiPerson]:
    open_file(path).close()
    # A flipped byte in an uncompressed .mat ends scipy's process.
    found = guarded(read_release, path, more_seconds=os.path.getsize(path) / _BYTES_A_SECOND)
    columns = zip(*(found[name] for name in ("images", "points", "present", "centres", "scales")), strict=True)
    return [
        MpiiPerson(
            image,
            points,
            present,
            None if np.isnan(centre).any() else centre,
            None if np.isnan(scale) else float(scale),
        )
        for image, points, present, centre, scale in columns
    ]


@dataclass(frozen=True)
class MpiiPrepared:
    """Persons written, persons left out because a joint is missing, and pictures that are not there."""

    folder: TrainingFolder
    persons: int
    incomplete: int
    missing: tuple[str, ...]


def prepare_mpii(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str],
    out: str | os.PathLike[str],
    image_size: int = 368,
    margin: float = 0.125,
    progress: Callable[[int, int], None] | None = None,
) -> MpiiPrepared:
    """Write the list of persons with all joints, and their crops, below ``out``.

    The list appears when all crops are written; that of an earlier run goes before the first is. Its lines have a clip
    of 0, as every person is a sequence by itself.

    Args:
        path: see :func:`read_mpii`. images: the folder of the pictures. progress: told how many of how many.

    Raises:
        UsageError: no person has all joints, or no picture is there. FileError: a picture is damaged; see also
            :func:`read_mpii`.
    """
    folder, people = TrainingFolder(Path(out)), read_mpii(path)
    whole = [person for person in people if person.present.all()]
    if not whole:
        raise UsageError(f"no person of {len(people)} has all {_JOINTS} joints", path=os.fspath(path))
    make_folder(folder.mpii / "images")
    remove_lists([folder.mpii_list])
    lines, missing = [], set()
    for k, person in enumerate(whole):
        source = Path(images) / person.image
        if not source.is_file():
            missing.add(person.image)
        else:
            picture = read_picture(source, "color")
            points = convert(person.points, MPII16, H36M16)[None]
            crops = square_crops(points, margin).whole()
            name = f"images/{Path(person.image).stem}_{k:05d}.jpg"
            write_crop(folder.mpii / name, picture, crops.corner[0], int(crops.side[0]), image_size)
            lines.append(format_list_line(name, crops.fractions(points).ravel(), None, 0))
        if progress is not None:
            progress(k + 1, len(whole))
    if not lines:
        raise UsageError(f"none of {len(missing)} pictures is there", path=os.fspath(images))
    write_lines(folder.mpii_list, lines)
    return MpiiPrepared(folder, len(lines), len(people) - len(whole), tuple(sorted(missing)))
