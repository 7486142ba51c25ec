"""2D poses and boxes of a detector, from their files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caffe_compat.errors import CaffeCompatWarning, FileError
from caffe_compat.formats.arrays import read_npy
from caffe_compat.formats.files import atomic_write, read_file
from caffe_compat.formats.sniff import decode_text

from ..people import People, Track, chosen_tracks
from ..skeleton import H36M16, MEDIAPIPE33, Skeleton, conversion
from .detector_files import Detected, read_detected

__all__ = ["Keypoints", "keypoints_of", "people_in", "read_boxes", "read_keypoints", "read_people", "save_keypoints"]


@dataclass(frozen=True, eq=False)
class Keypoints:
    """2D poses of one person in the order of :data:`hpm.skeleton.H36M16`, and how sure their detector was."""

    points: np.ndarray
    """(frames, 16, 2): pixels from the picture's top left corner, x right and y down."""
    confidence: np.ndarray
    """(frames, 16): 0 of a joint that was not found."""
    whole: bool = True
    """Every frame is told of; else there may be frames after the last, without the person."""
    fractions: bool = False
    """Points are fractions of the picture's width and height, not pixels."""

    def in_pixels(self, width: int, height: int) -> Keypoints:
        """The same in pixels of a picture of this size."""
        if not self.fractions:
            return self
        return Keypoints(self.points * (width, height), self.confidence, self.whole)


def read_keypoints(
    path: str | os.PathLike[str],
    joints: Skeleton | None = None,
    *,
    pictures: Sequence[str] | None = None,
    video: str | None = None,
) -> Keypoints:
    """The 2D poses of one person: of whoever fills most of the frames, where there are several.

    A ``.npy`` is an array (frames, joints, 2) in pixels, (frames, joints, 3) with confidences, or (frames, 33, 2) and
    (frames, 33, 4) as MediaPipe has them: x, y, z and visibility, fractions of the picture. For the other kinds see
    :mod:`.detector_files`. A joint at 0, 0, or of which a place is no number, was not found.

    Args:
        joints: their order; None for what the file's kind tells, and H36M16 in a ``.npy``.
        pictures, video: see :func:`.detector_files.read_detected`.

    Raises:
        FileError: another file.

    Warns:
        CaffeCompatWarning: there are several people.
    """
    return read_people(path, "largest", joints, pictures=pictures, video=video)[0]


def read_people(
    path: str | os.PathLike[str],
    people: People,
    joints: Skeleton | None = None,
    *,
    pictures: Sequence[str] | None = None,
    video: str | None = None,
) -> list[Keypoints]:
    """As :func:`read_keypoints`, the 2D poses of whom ``people`` asks for; whoever fills most of the frames first.

    Raises:
        FileError: another file. UsageError: no such choice of people.

    Warns:
        CaffeCompatWarning: there are others than those who are asked for, or fewer.
    """
    if Path(path).suffix.lower() == ".npy":
        return [_in_npy(path, H36M16 if joints is None else joints)]
    detected = read_detected(path, joints, pictures=pictures, video=video)
    found = people_in(detected, people, os.fspath(path))
    if not found:
        raise FileError("tells of nobody", path=os.fspath(path))
    return found


def people_in(detected: Detected, people: People, name: str) -> list[Keypoints]:
    """The 2D poses of whom ``people`` asks for, by :func:`hpm.people.chosen_tracks`; an empty list of nobody.

    Args:
        name: of what was looked at, for warnings.

    Warns:
        CaffeCompatWarning: there are others than those who are asked for, or fewer.
    """
    tracks = chosen_tracks(detected.frames, people)
    most = max(map(len, detected.frames), default=0)
    if people == "largest" and most > 1:
        _warn(f"{name}: up to {most} people in a frame; the one who fills most of the frames is taken")
    if isinstance(people, int) and 0 < len(tracks) < people:
        _warn(f"{name}: {people} people were asked for, and there {'is' if len(tracks) == 1 else 'are'} {len(tracks)}")
    return [keypoints_of(track, detected) for track in tracks]


def _warn(text: str) -> None:
    warnings.warn(text, CaffeCompatWarning, stacklevel=4)


def keypoints_of(track: Track, detected: Detected) -> Keypoints:
    """The 2D poses of one person of a detector's file."""
    count, to = len(detected.frames), conversion(detected.order, H36M16)
    points = np.full((count, len(detected.order), 2), np.nan)
    confidence = np.zeros(points.shape[:2])
    for number, person in track.people.items():
        points[number], confidence[number] = person.points, person.confidence
    return Keypoints(to(points), to.confidence(confidence), detected.whole, detected.fractions)


def save_keypoints(path: str | os.PathLike[str], keypoints: Keypoints) -> None:
    """Write (frames, 16, 3): pixels and confidences, as :func:`read_keypoints` takes them. Raises FileError."""
    lost = keypoints.confidence[..., None] <= 0
    values = np.concatenate([np.where(lost, 0.0, keypoints.points), keypoints.confidence[..., None]], -1)
    with atomic_write(path) as handle:
        np.save(handle, values, allow_pickle=False)


def _in_npy(path: str | os.PathLike[str], joints: Skeleton) -> Keypoints:
    name, values = os.fspath(path), read_npy(path)
    widths = (2, 4) if joints is MEDIAPIPE33 else (2, 3)
    if values.ndim != 3 or values.shape[1] != len(joints) or values.shape[2] not in widths:
        shapes = " or ".join(f"(frames, {len(joints)}, {width})" for width in widths)
        raise FileError(f"has shape {values.shape}; {shapes} was expected for {joints.name}", path=name)
    points = np.asarray(values[..., :2], np.float64)
    lost = ~np.isfinite(points).all(-1) | (points == 0).all(-1)
    sure = np.ones(lost.shape) if values.shape[2] == 2 else np.nan_to_num(values[..., -1].astype(np.float64), nan=0.0)
    if (sure < 0).any():
        frame, joint = np.argwhere(sure < 0)[0]
        raise FileError(
            f"joint {joint} of frame {frame} has confidence {sure[frame, joint]:g}; 0 or more was expected", path=name
        )
    to = conversion(joints, H36M16)
    # Of MediaPipe's values, which are fractions of the picture, few lie beyond it.
    fractions = joints is MEDIAPIPE33 and bool(np.nanmedian(np.abs(points)) < 2) if points.size else False
    return Keypoints(to(points), to.confidence(np.where(lost, 0.0, sure)), fractions=fractions)


def read_boxes(path: str | os.PathLike[str]) -> np.ndarray:
    """(frames, 4) or (4,): x, y, width, height in pixels, of a ``.npy``, or a text with such a line for all or each.

    Raises:
        FileError: another file.
    """
    name = os.fspath(path)
    if name.endswith(".npy"):
        return read_npy(path)
    rows = []
    for number, line in enumerate(decode_text(read_file(path), name, replace=True).splitlines(), 1):
        try:
            rows.append([float(value) for value in line.split(",")])
        except ValueError as error:
            raise FileError(f"x,y,width,height were expected: {error}", path=name, line=number) from error
        if len(rows[-1]) != 4:
            raise FileError(f"{len(rows[-1])} values; x,y,width,height were expected", path=name, line=number)
    if not rows:
        raise FileError("is empty; x,y,width,height were expected", path=name)
    return np.array(rows[0] if len(rows) == 1 else rows)
