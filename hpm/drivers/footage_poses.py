"""Frames of one's own footage with the 2D poses of the people in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from caffe_compat.errors import UsageError

from ..bridging import Bridged, Bridging, bridge
from ..detectors import Detector, detect
from ..files.keypoints import Keypoints, people_in, read_people
from ..files.pictures import footage_name, picture_names, read_frames
from ..people import People
from ..skeleton import H36M16, skeleton

__all__ = ["find_people", "frames_with_poses"]

_Path = str | os.PathLike[str]


def find_people(
    sources: Sequence[_Path],
    every: int,
    keypoints: _Path | np.ndarray | None,
    joints: str | None,
    detector: Detector | None,
    people: People,
    progress: Callable[[int], None] | None = None,
) -> list[Keypoints]:
    """The 2D poses of those who are asked for, as a file tells them or a detector finds them; see
    :func:`.predict.predict`. An empty list if there is neither.

    Raises:
        UsageError, FileError: keypoints that cannot be, keypoints and a detector, or nobody.
    """
    if keypoints is not None and detector is not None:
        raise UsageError("2D poses come from a file (--keypoints) or from a detector (--detect), not from both")
    if detector is not None:
        if joints is not None:
            raise UsageError(f"--joints goes with --keypoints; the detector's joints are {detector.joints.name}")
        name = footage_name(sources)
        detected = detect(read_frames(sources, every), detector, progress)
        found = people_in(detected, people, name)
        if not found:
            raise UsageError(f"the detector finds nobody in the {len(detected.frames)} frames of {name}")
        return found
    if keypoints is None:
        if people != "largest":
            raise UsageError("who is who needs 2D poses: --people goes with --detect or --keypoints")
        return []
    if isinstance(keypoints, np.ndarray):
        return [_in_array(keypoints)]
    pictures = picture_names(sources, every)
    video = Path(sources[0]).name if pictures is None else None
    order = None if joints is None else skeleton(joints)
    return read_people(keypoints, people, order, pictures=pictures, video=video)


def frames_with_poses(
    sources: Sequence[_Path], every: int, found: Keypoints | None, bridging: Bridging | None
) -> tuple[Callable[[int], Iterator[np.ndarray]], Bridged | None]:
    """What gives the frames from any number on, read when they are asked for; one person's 2D poses in all, bridged.

    Raises:
        UsageError: pictures of several sizes with keypoints in fractions of them. FileError: see the reader.
    """
    frames: Callable[[int], Iterator[np.ndarray]] = partial(read_frames, sources, every)
    if found is None:
        return frames, None
    if found.fractions:
        first = next(frames(0), None)
        if first is None:
            raise UsageError("no frames")
        found = found.in_pixels(first.shape[1], first.shape[0])
        frames = partial(_of_one_size, sources, every, first.shape[1], first.shape[0])
    return frames, bridge(found.points, found.confidence, bridging, whole=found.whole)


def _in_array(given: np.ndarray) -> Keypoints:
    if given.ndim != 3 or given.shape[1] != len(H36M16) or given.shape[2] not in (2, 3):
        raise UsageError(f"keypoints of shape (frames, {len(H36M16)}, 2 or 3) were expected, found {given.shape}")
    points = np.asarray(given[..., :2], np.float64)
    confidence = np.ones(points.shape[:2]) if given.shape[2] == 2 else np.asarray(given[..., 2], np.float64)
    return Keypoints(points, confidence)


def _of_one_size(sources: Sequence[_Path], every: int, width: int, height: int, start: int) -> Iterator[np.ndarray]:
    """The frames from number ``start`` on. Raises UsageError, when it comes to it, of another size."""
    for number, picture in enumerate(read_frames(sources, every, start), start):
        if picture.shape[:2] != (height, width):
            raise UsageError(
                f"frame {number} has {picture.shape[1]} x {picture.shape[0]} pixels, the first {width} x {height}: "
                "2D poses in fractions of the picture need one size"
            )
        yield picture
