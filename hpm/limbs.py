"""Whether bounds fit the poses that were normalised by them: left and right limbs then come out equally long.

The bounds alone do not tell. People turn every way, so those of left and right joints are much alike, yet not equal:
poses taken by the wrong ones get a left and a right thigh of different lengths. Labels have equal ones (in Human3.6M by
construction, and by the scaling of limbs in preparation), so a few percent are a sign. A network's poses err by more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .scaling import Bounds, bone_lengths, denormalise
from .skeleton import H36M16

__all__ = ["LABELS", "PREDICTIONS", "LimbEvidence", "asymmetry", "limb_evidence"]

LABELS, PREDICTIONS = 0.05, 0.3
"""How far left and right may differ, relative to their mean: poses that were measured, and poses that were guessed."""

_LEFT = [k for k, other in enumerate(H36M16.swaps) if other != k and H36M16.joints[k].startswith("L")]
_RIGHT = [H36M16.swaps[k] for k in _LEFT]
_ENDS = [H36M16.joints[k][1:].lower() for k in _LEFT]


@dataclass(frozen=True)
class LimbEvidence:
    """Sums over frames, in mm, each (6,): of the bones that end in hip, knee, foot, shoulder, elbow and wrist."""

    frames: int = 0
    left: np.ndarray | float = 0.0
    right: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0
    """Of left minus right."""
    exchanged: np.ndarray | float = 0.0
    """Left minus right, if the bounds of left and right are exchanged."""

    def __add__(self, other: LimbEvidence) -> LimbEvidence:
        """The evidence of two stretches of frames together."""
        return LimbEvidence(
            self.frames + other.frames,
            self.left + other.left,
            self.right + other.right,
            self.squares + other.squares,
            self.exchanged + other.exchanged,
        )

    def reason(self, limit: float) -> str | None:
        """What speaks against the bounds, with the numbers; None if nothing does.

        Args:
            limit: :data:`LABELS` or :data:`PREDICTIONS`.
        """
        if self.frames < 10:
            return None
        left, right = (np.atleast_1d(total) / self.frames for total in (self.left, self.right))
        mean = (left + right) / 2
        apart = np.abs(left - right)
        # Four standard errors: what lies within is chance.
        noise = np.sqrt(np.maximum(self.squares / self.frames - apart**2, 0) / self.frames)
        relative = np.where(apart > 4 * noise, apart / np.maximum(mean, 1e-9), 0)
        worst = int(relative.argmax())
        if relative[worst] <= limit:
            return None
        said = (
            f"the bone to the {_ENDS[worst]} is {left[worst]:.0f} mm on the left and {right[worst]:.0f} mm on the "
            f"right, on average of {self.frames} frames"
        )
        other = float((np.abs(self.exchanged) / self.frames / np.maximum(mean, 1e-9)).max())
        if other < relative[worst] / 2:
            return f"{said}; with left and right of the bounds exchanged, no bone differs by more than {other:.1%}"
        return said


def limb_evidence(pose_normalised: np.ndarray, bounds: Bounds) -> LimbEvidence:
    """The evidence of normalised poses (frames, 48)."""
    flat = np.asarray(pose_normalised, np.float64)
    left, right = _lengths(flat, bounds)
    order = list(H36M16.swaps)
    exchanged = [row.reshape(-1, 3)[order].ravel() for row in (bounds.maximum, bounds.minimum)]
    other_left, other_right = _lengths(flat, Bounds(exchanged[0], exchanged[1], bounds.source))
    return LimbEvidence(
        len(flat), left.sum(0), right.sum(0), ((left - right) ** 2).sum(0), (other_left - other_right).sum(0)
    )


def asymmetry(pose_mm: np.ndarray) -> np.ndarray:
    """(frames,): by how much left and right bones of poses (frames, 16, 3) differ, relative to their mean; the mean of
    hip, knee, foot, shoulder, elbow and wrist.

    Example:
        >>> asymmetry(np.ones((1, 16, 3))).tolist()
        [0.0]
    """
    lengths = bone_lengths(pose_mm)
    left, right = lengths[:, _LEFT], lengths[:, _RIGHT]
    return np.asarray((2 * np.abs(left - right) / np.maximum(left + right, 1e-9)).mean(1))


def _lengths(flat: np.ndarray, bounds: Bounds) -> tuple[np.ndarray, np.ndarray]:
    """(frames, 6) of the left bones and of the right, mm."""
    lengths = bone_lengths(denormalise(flat, bounds).reshape(-1, len(H36M16), 3))
    return lengths[:, _LEFT], lengths[:, _RIGHT]
