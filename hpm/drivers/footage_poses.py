"""Frames of one's own footage with the 2D poses of the person in them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from caffe_compat.errors import UsageError

from ..bridging import Bridged, Bridging, bridge
from ..files.keypoints import Keypoints, read_keypoints
from ..files.pictures import picture_names, read_frames
from ..skeleton import H36M16, skeleton

__all__ = ["frames_with_poses"]

_Path = str | os.PathLike[str]


def frames_with_poses(
    sources: Sequence[_Path],
    every: int,
    keypoints: _Path | np.ndarray | None,
    joints: str | None,
    bridging: Bridging | None,
) -> tuple[Iterator[np.ndarray], Bridged | None]:
    """The frames, read when they are asked for, and the 2D poses in them, bridged; see :func:`.predict.predict`.

    Raises:
        UsageError, FileError: keypoints that cannot be; pictures of several sizes with keypoints in fractions of them.
    """
    frames = read_frames(sources, every)
    if keypoints is None:
        return frames, None
    found = _keypoints(keypoints, joints, sources, every)
    if found.fractions:
        frames, size = _of_one_size(frames)
        found = found.in_pixels(*size)
    return frames, bridge(found.points, found.confidence, bridging, whole=found.whole)


def _keypoints(given: _Path | np.ndarray, joints: str | None, sources: Sequence[_Path], every: int) -> Keypoints:
    if not isinstance(given, np.ndarray):
        pictures = picture_names(sources, every)
        video = Path(sources[0]).name if pictures is None else None
        order = None if joints is None else skeleton(joints)
        return read_keypoints(given, order, pictures=pictures, video=video)
    if given.ndim != 3 or given.shape[1] != len(H36M16) or given.shape[2] not in (2, 3):
        raise UsageError(f"keypoints of shape (frames, {len(H36M16)}, 2 or 3) were expected, found {given.shape}")
    points = np.asarray(given[..., :2], np.float64)
    confidence = np.ones(points.shape[:2]) if given.shape[2] == 2 else np.asarray(given[..., 2], np.float64)
    return Keypoints(points, confidence)


def _of_one_size(frames: Iterator[np.ndarray]) -> tuple[Iterator[np.ndarray], tuple[int, int]]:
    """The same frames, and their width and height. Raises UsageError, when it comes to it, of another size."""
    first = next(frames, None)
    if first is None:
        raise UsageError("no frames")

    def checked() -> Iterator[np.ndarray]:
        for number, picture in enumerate(chain([first], frames)):
            if picture.shape != first.shape:
                raise UsageError(
                    f"frame {number} has {picture.shape[1]} x {picture.shape[0]} pixels, the first "
                    f"{first.shape[1]} x {first.shape[0]}: 2D poses in fractions of the picture need one size"
                )
            yield picture

    return checked(), (first.shape[1], first.shape[0])
