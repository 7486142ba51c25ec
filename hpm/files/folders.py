"""Where the original's files lie, and what they are numbered by: actions, cameras, protocols."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from caffe_compat.errors import UsageError

from .numbers import python2_number

__all__ = [
    "ACTIONS",
    "CAMERAS",
    "PROTOCOLS",
    "DataFolder",
    "KthFolder",
    "Protocol",
    "ResultFolder",
    "known_actions",
    "protocol",
]

ACTIONS: dict[int, str] = {
    1: "Directions",
    2: "Discussion",
    3: "Eating",
    4: "Greeting",
    5: "Phoning",
    6: "Posing",
    7: "Purchases",
    8: "Sitting",
    9: "SittingDown",
    10: "Smoking",
    11: "Photo",
    12: "Waiting",
    13: "Walking",
    14: "WalkDog",
    15: "WalkTogether",
}
"""The 15 actions of Human3.6M by the number in the file names."""

CAMERAS = (1, 2, 3)
"""The cameras of KTH Multiview Football II."""


def known_actions(actions: Iterable[int]) -> list[int]:
    """The numbers of actions in a list. Raises UsageError if one is not 1 to 15."""
    wanted = list(actions)
    if unknown := [action for action in wanted if action not in ACTIONS]:
        raise UsageError(f"action {unknown[0]}; Human3.6M has actions 1 to {len(ACTIONS)}")
    return wanted


@dataclass(frozen=True)
class Protocol:
    """Which subjects train and which test."""

    number: int
    train: tuple[str, ...]
    test: tuple[str, ...]


PROTOCOLS = {
    1: Protocol(1, ("S1", "S5", "S6", "S7", "S8"), ("S9", "S11")),
    3: Protocol(3, ("S1", "S5", "S6", "S7", "S8", "S9"), ("S11",)),
}


def protocol(number: int) -> Protocol:
    """Protocol I (1) or III (3). Raises UsageError for another number."""
    if number not in PROTOCOLS:
        raise UsageError(f"protocol {number}; there are {' and '.join(map(str, PROTOCOLS))}")
    return PROTOCOLS[number]


@dataclass(frozen=True)
class DataFolder:
    """Where the original looks for its inputs below the data root.

    Example:
        >>> data = DataFolder(Path("data"), protocol=3)
        >>> data.ground_truth(13).as_posix(), data.called(13)
        ('data/gt/test_p3/test13.txt', '13 Walking')
    """

    root: Path
    protocol: int = 1

    def __post_init__(self) -> None:
        protocol(self.protocol)

    kind: ClassVar[str] = "actions"
    """What the numbers of the files count."""

    @property
    def actions(self) -> tuple[int, ...]:
        """All numbers that there are."""
        return tuple(ACTIONS)

    def name(self, action: int) -> str:
        """What a number stands for, such as ``Walking``."""
        return ACTIONS[action]

    def called(self, action: int) -> str:
        """The number and its name, such as ``13 Walking``."""
        return f"{action} {self.name(action)}"

    @property
    def pictures(self) -> Path:
        """The folder that the paths in lists are relative to."""
        return self.root / "h36m"

    def ground_truth(self, action: int) -> Path:
        """The list of an action: 2D and 3D labels."""
        return self.root / "gt" / {1: "test", 3: "test_p3"}[self.protocol] / f"test{action}.txt"

    def pose2d(self, action: int, source: str) -> Path:
        """The 2D input of an action: ``ours``, ``hourglass`` or ``gt``.

        Raises:
            UsageError: another source, or hourglass with protocol III, for which there is none.
        """
        if source == "gt":
            return self.ground_truth(action)
        if source == "ours":
            return self.root / "ours_2d" / f"bilstm2d-p{self.protocol}-800000" / f"result{action}_norm.csv"
        if source == "hourglass":
            if self.protocol != 1:
                raise UsageError("hourglass predictions exist for protocol 1 only; use ours or gt with protocol 3")
            return self.root / "hg2dh36m" / f"test{action}_square2d.txt"
        raise UsageError(f"2D poses from {source!r}; there are ours, hourglass and gt")

    @property
    def coarse(self) -> Path:
        """The folder of the authors' coarse predictions."""
        return self.root / "ours_3d" / "mask3d-400000"

    @property
    def bounds(self) -> Path:
        """The maxima and minima that normalised values refer to."""
        return self.root / "16point_mean_limb_scaled_max_min.csv"


@dataclass(frozen=True)
class KthFolder(DataFolder):
    """KTH Multiview Football II: the lists of its cameras, which stand in for actions; camera ``k`` is action ``k``.

    Example:
        >>> data = KthFolder(Path("football"))
        >>> data.ground_truth(2).as_posix(), data.actions
        ('football/camera2.txt', (1, 2, 3))
    """

    kind: ClassVar[str] = "cameras"

    @property
    def actions(self) -> tuple[int, ...]:
        return CAMERAS

    def name(self, action: int) -> str:
        """Such as ``camera 2``."""
        return f"camera {action}"

    def called(self, action: int) -> str:
        return self.name(action)

    @property
    def pictures(self) -> Path:
        return self.root

    def ground_truth(self, action: int) -> Path:
        """``camera<k>.txt``. Raises UsageError for another number than 1 to 3."""
        if action not in CAMERAS:
            raise UsageError(f"camera {action}; KTH Multiview Football II has cameras 1 to {len(CAMERAS)}")
        return self.root / f"camera{action}.txt"

    def pose2d(self, action: int, source: str) -> Path:
        """The list too: there are no other 2D poses. Raises UsageError for another source than ``gt``."""
        if source != "gt":
            raise UsageError(f"2D poses from {source!r}; for KTH there are gt only")
        return self.ground_truth(action)


@dataclass(frozen=True)
class ResultFolder:
    """The names of results in a folder."""

    root: Path

    def normalised(self, action: int) -> Path:
        """Coarse 3D, or 2D, as the network gives it."""
        return self.root / f"result{action}_norm.csv"

    def coarse_mm(self, action: int) -> Path:
        """Coarse 3D, mm."""
        return self.root / f"result{action}_unnorm.csv"

    def change_mm(self, action: int) -> Path:
        """The correction module's 3D, mm."""
        return self.root / f"result{action}_change_unnorm.csv"

    def refined_mm(self, action: int) -> Path:
        """Refined 3D, mm."""
        return self.root / f"refine3d_{action}.txt"

    def refined_record(self, action: int) -> Path:
        """What the refined files were made from."""
        return self.root / f"refine3d_{action}.json"

    def errors_mm(self, action: int, learning_rate: float) -> Path:
        """MPJPE before, corrected and refined, per frame."""
        return self.root / f"{python2_number(learning_rate)}mpjp_{action}.txt"
