"""What 2D poses rest on: joints that a detector was sure of, joints bridged in time, or nothing.

A joint that a detector did not find, or of which it is not sure, lies anywhere; a network that refines by it gives a
pose that is wrong by decimetres, and carries the damage on to frames that were seen well. So a joint below the
threshold counts as not there, and a short gap is bridged: its places are taken from the cubic that runs through the
joint's seen places and turns back only where they do (Fritsch & Carlson, SIAM J. Numer. Anal. 1980: PCHIP), which
cannot swing beyond them as other splines do. Nothing is put before a joint's first seen frame or after its last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from caffe_compat.errors import UsageError

from .skeleton import H36M16

__all__ = ["BRIDGED", "NONE", "SEEN", "Bridged", "Bridging", "RestsOn", "bridge"]

RestsOn = Literal["seen", "bridged", "none"]
SEEN: RestsOn = "seen"
BRIDGED: RestsOn = "bridged"
NONE: RestsOn = "none"


@dataclass(frozen=True)
class Bridging:
    """What counts as seen, and how far a gap is bridged.

    Example:
        >>> Bridging(longest=0)  # nothing is bridged
        Bridging(threshold=0.3, longest=0, enough=12)
    """

    threshold: float = 0.3
    """Confidence from which a joint counts as seen."""
    longest: int = 5
    """Frames of the longest gap that is bridged."""
    enough: int = 12
    """Joints, of 16, that a frame must have, seen or bridged, to get a pose."""

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            raise UsageError(f"a threshold of {self.threshold} for confidences; 0 or more was expected")
        if self.longest < 0:
            raise UsageError(f"gaps of {self.longest} frames; 0 or more was expected")
        if not 1 <= self.enough <= len(H36M16):
            raise UsageError(f"{self.enough} joints of {len(H36M16)} are enough; 1 to {len(H36M16)} was expected")


@dataclass(frozen=True, eq=False)
class Bridged:
    """2D poses of n frames, and what each rests on."""

    pixels: np.ndarray
    """(n, 16, 2); NaN where a joint is neither seen nor bridged."""
    seen: np.ndarray
    """(n, 16) booleans: a detector was sure of the joint."""
    rests_on: np.ndarray
    """(n,) texts: ``seen`` all joints, ``bridged`` some of them (or a few lacking), ``none``: too few joints."""

    whole: bool = True
    """All frames are told of; else frames after the last have no pose."""

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def known(self) -> np.ndarray:
        """(n, 16) booleans: the joint is seen or bridged."""
        return np.isfinite(self.pixels).all(-1)

    def rows(self, part: slice) -> Bridged:
        """Some consecutive frames. Raises UsageError if there are fewer, and the frames are :attr:`whole`."""
        lacking = part.stop - len(self)
        if lacking > 0 and self.whole:
            raise UsageError(f"{len(self)} 2D poses for {part.stop} frames or more")
        here = Bridged(self.pixels[part], self.seen[part], self.rests_on[part], self.whole)
        if lacking <= 0:
            return here
        beyond = part.stop - part.start - len(here)
        return Bridged(
            np.concatenate([here.pixels, np.full((beyond, *self.pixels.shape[1:]), np.nan)]),
            np.concatenate([here.seen, np.zeros((beyond, self.seen.shape[1]), bool)]),
            np.concatenate([here.rests_on, np.full(beyond, NONE)]),
            self.whole,
        )

    def posed(self, number: int) -> bool:
        """Whether a frame rests on anything."""
        return number < len(self) and bool(self.rests_on[number] != NONE)


def bridge(
    pixels: np.ndarray,
    confidence: np.ndarray | None = None,
    settings: Bridging | None = None,
    *,
    whole: bool = True,
) -> Bridged:
    """Bridge gaps of 2D poses.

    Args:
        pixels: (n, 16, 2), in the order of :data:`.skeleton.H36M16`; a joint that is not finite was not found.
        confidence: (n, 16); None: every joint that is finite was seen.
        settings: None for the defaults.
        whole: see :class:`Bridged`.

    Raises:
        UsageError: shapes that do not fit.

    Example:
        >>> pixels = np.zeros((5, 16, 2))
        >>> pixels[:, :, 0] = np.arange(5)[:, None]
        >>> sure = np.ones((5, 16))
        >>> sure[2] = 0
        >>> found = bridge(pixels, sure)
        >>> found.rests_on.tolist(), found.pixels[2, 0].tolist()
        (['seen', 'seen', 'bridged', 'seen', 'seen'], [2.0, 0.0])
    """
    rule = settings or Bridging()
    joints = len(H36M16)
    if pixels.ndim != 3 or pixels.shape[1:] != (joints, 2):
        raise UsageError(f"2D poses of shape (frames, {joints}, 2) were expected, found {pixels.shape}")
    sure = np.ones(pixels.shape[:2]) if confidence is None else confidence
    if sure.shape != pixels.shape[:2]:
        raise UsageError(f"confidences of shape {sure.shape} for 2D poses of shape {pixels.shape}")
    # A confidence that is no number is none.
    seen = np.isfinite(pixels).all(-1) & (np.nan_to_num(sure, nan=-1.0) >= rule.threshold)
    filled = np.where(seen[..., None], pixels, np.nan).astype(np.float64)
    for joint in range(joints):
        _fill(filled[:, joint], seen[:, joint], rule.longest)
    known = np.isfinite(filled).all(-1).sum(1)
    rests_on = np.where(seen.all(1), SEEN, np.where(known >= rule.enough, BRIDGED, NONE))
    return Bridged(filled, seen, rests_on, whole)


def _fill(track: np.ndarray, seen: np.ndarray, longest: int) -> None:
    """Put places into the short gaps of one joint's track (n, 2), in place."""
    frames = np.flatnonzero(seen)
    gaps = np.diff(frames) - 1
    short = np.flatnonzero((gaps > 0) & (gaps <= longest))
    if not len(short):
        return
    # Importing it takes half a second, and most footage has no gap.
    from scipy.interpolate import PchipInterpolator

    missing = np.concatenate([np.arange(frames[k] + 1, frames[k + 1]) for k in short])
    track[missing] = PchipInterpolator(frames, track[frames])(missing)
