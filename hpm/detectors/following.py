"""A detector over all frames: who is found where, as the readers of detectors' files tell it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from caffe_compat.errors import UsageError, located

from ..files.detector_files import Detected
from ..people import Person
from .protocol import Detector

__all__ = ["detect"]


def detect(frames: Iterable[np.ndarray], detector: Detector, progress: Callable[[int], None] | None = None) -> Detected:
    """Find the people of consecutive frames; the detector is told who was there in the frame before.

    Args:
        frames: pictures (height, width, 3), uint8, blue first.
        progress: told how many frames are done.

    Raises:
        UsageError: no frames, or a detector that gives another number of joints than it says.

    Example:
        >>> detected = detect(read_frames(["walk.mp4"]), detector)
        >>> len(detected.frames), detected.order.name
        (20, 'MEDIAPIPE33')
    """
    found: list[list[Person]] = []
    before: list[Person] = []
    for number, picture in enumerate(frames):
        with located(place=f"frame {number}"):
            before = _checked(detector.people(picture, before), detector)
        found.append(before)
        if progress is not None:
            progress(number + 1)
    if not found:
        raise UsageError("no frames")
    return Detected(detector.joints, found)


def _checked(people: list[Person], detector: Detector) -> list[Person]:
    count = len(detector.joints)
    for person in people:
        if person.points.shape != (count, 2) or person.confidence.shape != (count,):
            raise UsageError(
                f"a detector of {detector.joints.name} gave points {person.points.shape} and confidences "
                f"{person.confidence.shape}; ({count}, 2) and ({count},) were expected"
            )
    return people
