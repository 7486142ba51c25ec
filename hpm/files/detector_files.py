"""What 2D detectors write, each kind known by its content: people in frames, with joints and confidences.

| kind | frames |
|---|---|
| mmpose: ``{"instance_info": [{"frame_id", "instances"}]}``, or that list alone | by their ids, from 0 or 1 |
| AlphaPose: a list of ``{"image_id": "12.jpg", "keypoints": x, y, score ..., "score"}`` | by number, or by picture |
| COCO results: the same with whole numbers as ids | by id, or by the number in the picture's name |
| OpenPose: a folder of ``..._keypoints.json`` with ``people`` and their ``pose_keypoints_2d`` | by name |
| MediaPipe: a list of frames, 33 landmarks ``{"x", "y", "visibility"}`` (fractions of the picture) or null | in order |
| VideoPose3D: ``data_2d_custom_*.npz`` | in order |

AlphaPose and COCO results leave out frames without anybody; the other kinds have all.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caffe_compat.errors import CaffeCompatWarning, FileError, UsageError
from caffe_compat.formats.files import read_file

from ..joint_orders import BODY25, COCO17, COCO133, H36M17, HALPE26, MEDIAPIPE33, MPII16, Skeleton
from ..people import Person
from .videopose3d import read_custom

__all__ = ["Detected", "read_detected"]

# More frames than this is a number that is no frame's: days of video.
_MOST_FRAMES = 10_000_000

_OPENPOSE = re.compile(r"(.*?)_?(\d*)_keypoints\.json")


@dataclass(frozen=True, eq=False)
class Detected:
    """Who was found where."""

    order: Skeleton
    frames: Sequence[Sequence[Person]]
    """The people in every frame, from the first."""
    whole: bool = True
    """Every frame is told of; else frames with nobody may be left out at the end."""
    fractions: bool = False
    """Points are fractions of the picture's width and height, not pixels."""


def read_detected(
    path: str | os.PathLike[str],
    joints: Skeleton | None = None,
    *,
    pictures: Sequence[str] | None = None,
    video: str | None = None,
) -> Detected:
    """Read a detector's file, or OpenPose's folder.

    Args:
        joints: their order; None for what the kind of the file tells.
        pictures: the names of the pictures that were looked at, in their order; None of a video.
        video: the name of that video, for a file with several.

    Raises:
        FileError: none of these kinds, or joints in an order that is not the one given, or that nothing tells.
        UsageError: the people of pictures, none of which is among ``pictures``.
    """
    place = Path(path)
    if os.path.isdir(place):
        return _openpose_folder(place, joints)
    if place.suffix.lower() == ".npz":
        poses, order = read_custom(place, joints, video)
        sure = np.ones(len(order))
        return Detected(order, [[Person(pose, np.where(np.isfinite(pose).all(-1), sure, 0.0))] for pose in poses])
    content = _json(place)
    if isinstance(content, Mapping):
        if "instance_info" in content:
            return _mmpose(content["instance_info"], _named_order(content.get("meta_info")), joints, str(place))
        if "people" in content:
            order = _order(joints, BODY25, str(place))
            return Detected(order, [_openpose(content, order, str(place))])
        keys = ", ".join(map(str, list(content)[:5]))
        raise FileError(
            f"a detector's JSON was expected: {_KNOWN}; found an object with {keys or 'nothing'}", path=str(place)
        )
    if not isinstance(content, list):
        raise FileError(f"a detector's JSON was expected: {_KNOWN}; found a {type(content).__name__}", path=str(place))
    if not content:
        raise FileError("is empty: it tells of no frame", path=str(place))
    first = next((entry for entry in content if entry), None)
    if isinstance(first, Mapping) and "instances" in first:
        return _mmpose(content, None, joints, str(place))
    if isinstance(first, Mapping) and "image_id" in first:
        return _results(content, joints, pictures, str(place))
    return _mediapipe(content, joints, str(place))


_KNOWN = "mmpose's, AlphaPose's, OpenPose's, MediaPipe's or COCO results"


def _json(path: Path) -> object:
    try:
        content: object = json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise FileError(f"is no JSON: {str(error)[:100]}", path=str(path)) from error
    return content


def _order(given: Skeleton | None, told: Skeleton | None, path: str) -> Skeleton:
    """The order that was given or that the file tells, which must not differ."""
    if given is None and told is None:
        raise FileError("nothing in it tells the order of its joints; name it with --joints", path=path)
    if given is not None and told is not None and given != told:
        raise FileError(f"its joints are in the order of {told.name}, not of {given.name}", path=path)
    chosen = given if given is not None else told
    assert chosen is not None
    return chosen


def _numbers(values: object, shape: tuple[int, ...], what: str, place: str) -> np.ndarray:
    """An array of that shape; null stands for NaN. Raises FileError."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = None
    if array is None or array.shape != shape:
        found = "something else" if array is None else f"shape {array.shape}"
        raise FileError(f"{what} of shape {shape} were expected, found {found}", path=place)
    return array


def _list(value: object, what: str, place: str) -> list[object]:
    if not isinstance(value, list):
        raise FileError(f"{what} in a list were expected, found {type(value).__name__}", path=place)
    return value


# mmpose

_DATASETS = {"coco": COCO17, "halpe26": HALPE26, "coco_wholebody": COCO133, "h36m": H36M17, "mpii": MPII16}


def _named_order(meta: object) -> Skeleton | None:
    name = meta.get("dataset_name") if isinstance(meta, Mapping) else None
    return _DATASETS.get(name) if isinstance(name, str) else None


def _mmpose(entries: object, told: Skeleton | None, joints: Skeleton | None, path: str) -> Detected:
    order = _order(joints, told, path)
    frames: dict[int, list[Person]] = {}
    for entry in _list(entries, "frames", path):
        if not isinstance(entry, Mapping) or type(entry.get("frame_id")) is not int:
            raise FileError("frames with a frame_id and instances were expected", path=path)
        number = entry["frame_id"]
        place = f"{path}: frame_id {number}"
        if number in frames:
            raise FileError("this frame is there twice", path=place)
        frames[number] = [_instance(each, order, place) for each in _list(entry.get("instances"), "instances", place)]
    first = min(frames, default=0)
    if first not in (0, 1):
        raise FileError(f"frame_ids begin with {first}; 0 or 1 was expected", path=path)
    return Detected(order, _in_order({number - first: people for number, people in frames.items()}, path))


def _instance(entry: object, order: Skeleton, place: str) -> Person:
    if not isinstance(entry, Mapping):
        raise FileError("an instance with keypoints was expected", path=place)
    points = _numbers(entry.get("keypoints"), (len(order), 2), f"keypoints of {order.name}", place)
    scores = _numbers(entry.get("keypoint_scores"), (len(order),), "keypoint_scores", place)
    return Person(points, _sure(points, scores))


def _sure(points: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Confidences, 0 where a joint has no place or lies at 0, 0, where detectors put those that they do not find."""
    lost = ~np.isfinite(points).all(-1) | (points == 0).all(-1)
    return np.where(lost, 0.0, np.nan_to_num(scores, nan=0.0))


def _in_order(frames: Mapping[int, list[Person]], path: str) -> list[list[Person]]:
    if frames and max(frames) >= _MOST_FRAMES:
        raise FileError(f"frame {max(frames)}; numbers below {_MOST_FRAMES} were expected", path=path)
    return [frames.get(number, []) for number in range(max(frames, default=-1) + 1)]


# AlphaPose, and results as COCO's evaluation takes them


def _results(entries: list[object], joints: Skeleton | None, pictures: Sequence[str] | None, path: str) -> Detected:
    by_id: dict[int | str, list[Person]] = {}
    order: Skeleton | None = None
    for k, entry in enumerate(entries):
        place = f"{path}: entry {k}"
        if not isinstance(entry, Mapping) or type(entry.get("image_id")) not in (int, str):
            raise FileError("an entry with an image_id and keypoints was expected", path=place)
        values = _list(entry.get("keypoints"), "keypoints", place)
        if order is None:
            known = {3 * len(each): each for each in (COCO17, HALPE26, COCO133)}
            order = _order(joints, known.get(len(values)), place)
        flat = _numbers(values, (3 * len(order),), f"keypoints of {order.name}", place).reshape(-1, 3)
        person = Person(flat[:, :2], _sure(flat[:, :2], flat[:, 2]))
        by_id.setdefault(entry["image_id"], []).append(person)
    assert order is not None
    return Detected(order, _in_order(_numbered(by_id, pictures, path), path), whole=False)


def _numbered(
    by_id: Mapping[int | str, list[Person]], pictures: Sequence[str] | None, path: str
) -> dict[int, list[Person]]:
    """By the number of the frame, from 0: the picture of that name or number, or the frame of that number."""
    names = {key: _number(key) for key in by_id}
    if pictures is None:
        if 0 not in names.values() and not any(isinstance(key, str) for key in by_id):
            warnings.warn(
                f"{path}: no image_id is 0; they are taken as numbers of frames that count from 0",
                CaffeCompatWarning,
                stacklevel=2,
            )
        if unnamed := [key for key, number in names.items() if number is None]:
            raise FileError(f"{unnamed[0]!r} is a picture's name, and the frames are those of a video", path=path)
        return {number: by_id[key] for key, number in names.items() if number is not None}
    here = {Path(name).name: k for k, name in enumerate(pictures)}
    by_number = {_number(name): k for k, name in enumerate(here)}
    found = {}
    for key, people in by_id.items():
        place = here.get(Path(key).name) if isinstance(key, str) else by_number.get(key)
        if place is not None:
            found[place] = people
    if by_id and not found:
        raise UsageError(
            f"it tells of {next(iter(by_id))!r} and others, none of which is among the pictures", path=path
        )
    return found


def _number(key: int | str) -> int | None:
    """The number that an id is, or the number that its name ends in if there is nothing else: ``12`` of ``12.jpg``."""
    if isinstance(key, int):
        return key if key >= 0 else None
    match = re.fullmatch(r"\d{1,12}", Path(key).stem)
    return int(match[0]) if match else None


# OpenPose


def _openpose_folder(folder: Path, joints: Skeleton | None) -> Detected:
    found: dict[tuple[str, int], Path] = {}
    for file in folder.iterdir():
        if match := _OPENPOSE.fullmatch(file.name):
            found[match[1], int(match[2] or 0)] = file
    if not found:
        raise FileError("holds no ..._keypoints.json, as OpenPose writes them", path=str(folder))
    order = _order(joints, BODY25, str(folder))
    return Detected(order, [_openpose(_json(found[key]), order, str(found[key])) for key in sorted(found)])


def _openpose(content: object, order: Skeleton, path: str) -> list[Person]:
    people = _list(content.get("people") if isinstance(content, Mapping) else None, "people", path)
    persons = []
    for entry in people:
        values = entry.get("pose_keypoints_2d") if isinstance(entry, Mapping) else None
        flat = _numbers(values, (3 * len(order),), f"pose_keypoints_2d of {order.name}", path).reshape(-1, 3)
        persons.append(Person(flat[:, :2], _sure(flat[:, :2], flat[:, 2])))
    return persons


# MediaPipe


def _mediapipe(frames: Iterable[object], joints: Skeleton | None, path: str) -> Detected:
    order = _order(joints, MEDIAPIPE33, path)
    people = []
    for number, entry in enumerate(frames):
        place = f"{path}: frame {number}"
        for key in ("pose_landmarks", "landmark", "landmarks"):
            if isinstance(entry, Mapping) and key in entry:
                entry = entry[key]
        marks = _list(entry or [], f"{len(order)} landmarks", place)
        people.append([_landmarks(marks, order, place)] if marks else [])
    return Detected(order, people, fractions=True)


def _landmarks(marks: list[object], order: Skeleton, place: str) -> Person:
    rows = [
        [mark["x"], mark["y"], mark.get("visibility", 1.0)]
        for mark in marks
        if isinstance(mark, Mapping) and {"x", "y"} <= mark.keys()
    ]
    if len(marks) != len(order) or len(rows) != len(order):
        raise FileError(f"{len(order)} landmarks with x and y were expected ({_KNOWN})", path=place)
    flat = _numbers(rows, (len(order), 3), "landmarks", place)
    return Person(flat[:, :2], _sure(flat[:, :2], flat[:, 2]))
