"""What becomes of the blocks of :mod:`.footage`: files, checks, and the poses that pictures and exports are made of.

Millimetres here are the machine's, in double precision. The original's text files hold as many digits as their kind
does (see :mod:`hpm.files.numbers`); what is drawn and exported has all of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

import numpy as np

from caffe_compat.errors import CaffeCompatWarning
from caffe_compat.formats.files import atomic_write
from caffe_compat.formats.images import write_picture

from ..bridging import BRIDGED, NONE
from ..datasets.layout import make_folder
from ..files.lists import ResultWriter, read_refined, read_results, refined_line
from ..limbs import PREDICTIONS, LimbEvidence, limb_evidence
from ..model import PoseMachine
from ..projector import POSE_3D
from ..skeleton import H36M16, LeftRightEvidence, left_right_suspect
from .footage import Block

__all__ = ["Checks", "Crops", "Footage", "FrameNumbers", "PoseFiles", "Poses", "Sink"]


@dataclass(frozen=True)
class Footage:
    """What was written: the folder, how many frames, and whether they were refined."""

    root: Path
    frames: int
    refined: bool

    def pose_mm(self, stage: str) -> np.ndarray:
        """(frames, 16, 3) of stage ``coarse`` or ``refined``, from its file; NaN in frames without a pose.

        Raises FileError if it is damaged.
        """
        if stage == "refined":
            flat = read_refined(self.root / "refined_mm.txt", absent=True)
        else:
            flat = read_results(self.root / "coarse_unnorm.csv", POSE_3D, absent=True)
        return flat.reshape(-1, len(H36M16), 3)

    def crop(self, number: int) -> Path:
        """The crop of frame ``number``, from 0."""
        return self.root / "crops" / f"{number:06d}.jpg"


class Sink(Protocol):
    """Takes blocks in their order."""

    def take(self, block: Block) -> None:
        """Use a block."""


class Crops:
    """``crops/<number>.jpg``."""

    def __init__(self, root: Path) -> None:
        self._footage = Footage(root, 0, False)
        make_folder(root / "crops")

    def take(self, block: Block) -> None:
        """Write its crops. Raises FileError."""
        for number, square in enumerate(block.crops, block.first):
            write_picture(self._footage.crop(number), square)

    def end(self, count: int) -> None:
        """Take away what a longer run left. Not before: the frames may come from that very folder."""
        while (stale := self._footage.crop(count)).exists():
            stale.unlink()
            count += 1


class PoseFiles(AbstractContextManager["PoseFiles"]):
    """The text files of poses, which appear when the block ends without an error.

    ``coarse_norm.csv`` (normalised); ``coarse_unnorm.csv`` and, of a network with a correction module,
    ``change_unnorm.csv`` (mm); ``refined_mm.txt`` if there are 2D poses; ``pose2d.csv`` (fractions of the crop's side):
    those 2D poses, else the projected ones. Values of a frame without a pose are ``nan``.

    ``frames.csv`` says what each frame's pose rests on, ``frame,rests_on,bridged,lacking,doubts``: its number from 0;
    ``seen``, ``bridged`` or ``none``; the names of the joints that were bridged in time, and of those that lack; and
    what speaks against the pose, as :mod:`.doubts` has it.
    """

    _NAMES = ("coarse_norm.csv", "coarse_unnorm.csv", "change_unnorm.csv", "pose2d.csv", "refined_mm.txt", "frames.csv")

    def __init__(self, root: Path, machine: PoseMachine, *, refined: bool) -> None:
        self._root, self._machine = root, machine
        self._stack = ExitStack()
        self._writers: dict[str, ResultWriter] = {}
        self._refined: BinaryIO | None = None
        self._frames: BinaryIO | None = None
        self._has_refined = refined

    def __enter__(self) -> PoseFiles:
        for name in self._NAMES:
            (self._root / name).unlink(missing_ok=True)  # what this run does not write must not stay beside it
        names = {"coarse_norm.csv": False, "coarse_unnorm.csv": True}
        if self._machine.has_correction:
            names |= {"change_unnorm.csv": True, "pose2d.csv": False}
        for name, indexed in names.items():
            self._writers[name] = self._stack.enter_context(ResultWriter(self._root / name, indexed=indexed))
        if self._has_refined:
            self._refined = self._stack.enter_context(atomic_write(self._root / "refined_mm.txt"))
        self._frames = self._stack.enter_context(atomic_write(self._root / "frames.csv"))
        self._frames.write(b"frame,rests_on,bridged,lacking,doubts\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, traceback)

    def take(self, block: Block) -> None:
        """Write its poses."""
        millimetres = self._machine.millimetres
        self._writers["coarse_norm.csv"].write(block.coarse)
        self._writers["coarse_unnorm.csv"].write(millimetres(block.coarse))
        if block.change is not None:
            self._writers["change_unnorm.csv"].write(millimetres(block.change))
        if (flat := _shown_2d(block)) is not None:
            self._writers["pose2d.csv"].write(flat)
        if self._refined is not None and block.refined is not None:
            self._refined.write("".join(map(refined_line, millimetres(block.refined))).encode())
        assert self._frames is not None
        self._frames.write("".join(_frame_lines(block)).encode())


def _frame_lines(block: Block) -> Iterator[str]:
    """The lines of ``frames.csv``."""
    for k, rests_on in enumerate(block.rests_on):
        names = ["", ""]
        if block.given is not None:
            seen, known = block.given.seen[k], block.given.known[k]
            for place, joints in enumerate((known & ~seen, ~known)):
                names[place] = " ".join(np.array(H36M16.joints)[joints])
        doubts = " ".join(block.doubts[k]) if block.doubts else ""
        yield f"{block.first + k},{rests_on},{','.join(names)},{doubts}\n"


class FrameNumbers:
    """Rising numbers of frames in words, of which the first few stretches are kept, however many there are.

    >>> numbers = FrameNumbers(2)
    >>> for number in (5, 6, 7, 9, 12, 20, 21):
    ...     numbers.add(number)
    >>> numbers.count, str(numbers)
    (7, '5-7, 9 and 2 more')
    """

    def __init__(self, most: int = 8) -> None:
        self.count = 0
        self._most, self._stretches = most, 0
        self._kept: list[tuple[int, int]] = []
        self._last = -2

    def add(self, number: int) -> None:
        """Count a number that is greater than all before."""
        goes_on = number == self._last + 1
        self.count, self._last = self.count + 1, number
        self._stretches += not goes_on
        if self._stretches <= self._most:
            first = self._kept.pop()[0] if goes_on else number
            self._kept.append((first, number))

    def __str__(self) -> str:
        said = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in self._kept)
        return said if self._stretches <= self._most else f"{said} and {self._stretches - self._most} more"


class Checks:
    """Signs that something about the footage, its 2D poses or the model's bounds is not as it should be."""

    def __init__(self, machine: PoseMachine) -> None:
        self._machine = machine
        self._frames, self._outside = 0, 0
        self._rests_on = {BRIDGED: FrameNumbers(), NONE: FrameNumbers()}
        self._doubtful, self._doubted = FrameNumbers(), dict[str, FrameNumbers]()
        self._sides, self._limbs = LeftRightEvidence(), LimbEvidence()

    def take(self, block: Block) -> None:
        """Look at its poses."""
        self._frames += len(block.coarse)
        for number, rests_on in enumerate(block.rests_on, block.first):
            if rests_on in self._rests_on:
                self._rests_on[rests_on].add(number)
        for number, doubts in enumerate(block.doubts, block.first):
            if doubts:
                self._doubtful.add(number)
            for doubt in doubts:
                self._doubted.setdefault(doubt, FrameNumbers(4)).add(number)
        if not block.posed:
            return
        self._outside += block.outside
        self._limbs += limb_evidence(block.coarse, self._machine.bounds)
        if block.pose2d is not None and block.projected is not None:
            given, projected = (pose.reshape(-1, len(H36M16), 2) for pose in (block.pose2d, block.projected))
            self._sides += left_right_suspect(given, H36M16, projected)

    def warn(self) -> None:
        """Say what was found, as CaffeCompatWarnings, with the evidence."""
        bridged, none = self._rests_on[BRIDGED], self._rests_on[NONE]
        if bridged.count:
            _warn(
                f"2D poses: {bridged.count} of {self._frames} frames have joints that were not seen, and rest on the "
                f"frames before and after: {bridged}"
            )
        if none.count:
            _warn(f"2D poses: {none.count} of {self._frames} frames have too few joints and get no pose: {none}")
        if self._doubted:
            signs = "; ".join(f"{doubt} in {numbers}" for doubt, numbers in self._doubted.items())
            _warn(
                f"the poses of {self._doubtful.count} of {self._frames} frames are doubtful: boxes or 2D poses are "
                f"wrong, or the model sees nothing that it knows: {signs}"
            )
        for reason in self._sides.reasons:
            _warn(f"2D poses: left and right may be exchanged: {reason}")
        if self._outside > self._frames / 2:
            _warn(
                f"2D poses: in {self._outside} of {self._frames} frames most joints lie outside the picture; are they "
                "of pictures of another size?"
            )
        if (implausible := self._limbs.reason(PREDICTIONS)) is not None:
            _warn(
                f"{self._machine.bounds.source} may not be right for this model, or the footage is nothing that it "
                f"knows: {implausible}"
            )


class Poses:
    """Keeps the poses of all frames, with all their digits."""

    def __init__(self, machine: PoseMachine) -> None:
        self._machine = machine
        self._coarse: list[np.ndarray] = []
        self._refined: list[np.ndarray] = []
        self._flat: list[np.ndarray] = []
        self._pixels: list[np.ndarray] = []
        self._rests_on: list[np.ndarray] = []

    def take(self, block: Block) -> None:
        """Keep its poses."""
        millimetres = self._machine.millimetres
        self._rests_on.append(block.rests_on)
        self._coarse.append(millimetres(block.coarse))
        if block.refined is not None:
            self._refined.append(millimetres(block.refined))
        if (flat := _shown_2d(block)) is not None:
            self._flat.append(np.asarray(flat, np.float64))
            if block.squares is not None:
                self._pixels.append(block.squares.pixels(self._flat[-1].reshape(-1, len(H36M16), 2)))

    @property
    def stages_mm(self) -> dict[str, np.ndarray]:
        """``coarse`` and, if there is one, ``refined``: (frames, 16, 3), mm."""
        found = {"coarse": self._coarse, "refined": self._refined}
        return {name: np.concatenate(parts).reshape(-1, len(H36M16), 3) for name, parts in found.items() if parts}

    @property
    def rests_on(self) -> np.ndarray:
        """(frames,) texts: ``seen``, ``bridged`` or ``none``, of which poses are NaN."""
        return np.concatenate(self._rests_on)

    @property
    def pose2d(self) -> np.ndarray | None:
        """(frames, 16, 2), fractions of the crop's side: the 2D poses given, else the projected ones, if any."""
        return np.concatenate(self._flat).reshape(-1, len(H36M16), 2) if self._flat else None

    @property
    def pose2d_pixels(self) -> np.ndarray | None:
        """(frames, 16, 2): the same in pixels of the pictures that the crops were cut from."""
        return np.concatenate(self._pixels) if self._pixels else None


def _shown_2d(block: Block) -> np.ndarray | None:
    """(n, 32): the 2D poses given, else the projected ones; None of a network without projector."""
    return block.projected if block.projected is None or block.pose2d is None else block.pose2d


def _warn(text: str) -> None:
    warnings.warn(text, CaffeCompatWarning, stacklevel=4)
