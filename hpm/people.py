"""People as 2D detectors find them in single frames, and who is who from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from caffe_compat.errors import UsageError

__all__ = ["People", "Person", "Track", "chosen_tracks", "largest_track", "overlap", "tracks_of"]

People = Literal["largest", "all"] | int
"""Whoever fills most of the frames, everybody, or so many of those who fill most."""

# Boxes of one person in two frames overlap by more than this share of what they cover together.
_SAME = 0.2
# Frames after which someone who was lost is not looked for any more.
_LOST = 30
# Frames in which somebody must be found to be one of all; fewer are a detector's mistake, or a passer-by.
_STAYS = 10


@dataclass(frozen=True, eq=False)
class Person:
    """One person in one frame.

    Example:
        >>> Person(np.array([[10.0, 20.0], [30.0, 80.0]]), np.array([0.9, 0.8])).box.tolist()
        [10.0, 20.0, 20.0, 60.0]
    """

    points: np.ndarray
    """(joints, 2), x and y."""
    confidence: np.ndarray
    """(joints,), 0 of a joint that was not found."""
    given_box: np.ndarray | None = None
    """(4,): x, y, width, height, if the detector told it."""

    @property
    def box(self) -> np.ndarray:
        """(4,): x, y, width, height: the detector's, else about the joints that were found; all 0 without any."""
        if self.given_box is not None:
            return self.given_box
        found = self.points[(self.confidence > 0) & np.isfinite(self.points).all(-1)]
        if not len(found):
            return np.zeros(4)
        low, high = found.min(0), found.max(0)
        return np.concatenate([low, high - low])

    @property
    def area(self) -> float:
        """Of the box."""
        return float(self.box[2] * self.box[3])


@dataclass
class Track:
    """One person in the frames in which they were found."""

    people: dict[int, Person] = field(default_factory=dict)
    """By the number of the frame, in order."""

    @property
    def last(self) -> int:
        """The frame in which they were found last."""
        return next(reversed(self.people))

    @property
    def area(self) -> float:
        """Sum over frames of the box's area: who is large and long in view has most."""
        return sum(person.area for person in self.people.values())


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """The area that two boxes (x, y, width, height) share over that which they cover together, 0 to 1."""
    low = np.maximum(one[:2], other[:2])
    high = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    both = float(one[2] * one[3] + other[2] * other[3]) - shared
    return shared / both if both > 0 else 0.0


def tracks_of(frames: Sequence[Sequence[Person]]) -> list[Track]:
    """Follow people from frame to frame; the track that fills most of the frames comes first.

    Of all pairs of a track and a person of the next frame, those whose boxes overlap most belong together, if they
    overlap by a fifth; anyone else begins a track. A track ends when its person is not found for 30 frames.
    """
    done: list[Track] = []
    going: list[Track] = []
    for number, people in enumerate(frames):
        going, ended = [t for t in going if number - t.last <= _LOST], [t for t in going if number - t.last > _LOST]
        done += ended
        pairs = sorted(
            (
                (overlap(track.people[track.last].box, person.box), -k, -j)
                for k, track in enumerate(going)
                for j, person in enumerate(people)
            ),
            reverse=True,
        )
        taken: dict[int, int] = {}
        for shared, k, j in pairs:
            if shared >= _SAME and -k not in taken.values() and -j not in taken:
                taken[-j] = -k
        for j, person in enumerate(people):
            if j not in taken:
                going.append(Track())
                taken[j] = len(going) - 1
            going[taken[j]].people[number] = person
    return sorted(done + going, key=lambda track: -track.area)


def largest_track(frames: Sequence[Sequence[Person]]) -> Track:
    """Whoever fills most of the frames; an empty track if there is nobody."""
    return next(iter(tracks_of(frames)), Track())


def chosen_tracks(frames: Sequence[Sequence[Person]], people: People) -> list[Track]:
    """The tracks of those who are asked for, the one that fills most of the frames first; none if there is nobody.

    ``all`` are those who are found in 10 frames, or in all if there are fewer than 10.

    Raises:
        UsageError: another word, or a number below 1.
    """
    if people not in ("largest", "all") and (type(people) is not int or people < 1):
        raise UsageError(f"people {people!r}: largest, all or a number from 1 was expected")
    tracks = tracks_of(frames)
    if people == "all":
        return [track for track in tracks if len(track.people) >= min(_STAYS, len(frames))]
    return tracks[: 1 if people == "largest" else people]
