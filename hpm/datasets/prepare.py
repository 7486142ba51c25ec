"""Human3.6M's views as lists, bounds and square crops that the networks train on and are tested with.

The crop is not known of the original; here it is the square about the joints in the picture with a margin (see
:func:`.cameras.square_crops`). Test labels get the training limbs too unless asked otherwise: whether the authors' did
is unknown, and the bone lengths in their lists tell (:func:`hpm.scaling.bone_variation`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from caffe_compat.errors import CaffeCompatWarning, UsageError, located

from ..files.folders import ACTIONS, CAMERAS, KthFolder, protocol
from ..files.lists import format_list_line
from ..scaling import (
    Bounds,
    bone_lengths,
    bounds_of,
    centre_on_root,
    normalise,
    scale_limbs,
    write_limbs,
)
from ..skeleton import H36M16, LeftRightEvidence, left_right_suspect
from .cameras import square_crops
from .crops import cut_otherwise, write_view
from .detections import Detections, with_detections
from .layout import ListFiles, TrainingFolder, check_shared, image_line, make_folder, remove_lists, write_both_bounds
from .views import View

__all__ = ["BoneStatistics", "PrepareOptions", "Prepared", "prepare_human36m"]

_JOINTS = len(H36M16)


@dataclass(frozen=True, eq=False)
class PrepareOptions:
    """How to prepare.

    Attributes:
        protocol: 1 or 3.
        every: frames kept, one in so many of the video's.
        image_size: side of the crops in pixels. margin: see :func:`.cameras.square_crops`.
        scale_test: give test labels the training limbs, too.
        bounds, limbs: of another preparation, such as the one that weights were trained with: maxima and minima, and
            bone lengths (16,) in mm. None takes them from the training frames.
        detections: 2D poses of a detector, which become the lists that the refinement reads as ``hourglass``.
    """

    protocol: int = 1
    every: int = 5
    image_size: int = 368
    margin: float = 0.125
    scale_test: bool = True
    bounds: Bounds | None = None
    limbs: np.ndarray | None = None
    detections: Detections | None = None

    def __post_init__(self) -> None:
        protocol(self.protocol)
        if self.every < 1 or self.image_size < 1 or not 0 <= self.margin < np.inf:
            raise UsageError("every and image_size are 1 or more, margin is 0 or more")
        if self.limbs is not None and self.limbs.shape != (_JOINTS,):
            raise UsageError(f"limbs of shape {self.limbs.shape}; {_JOINTS} lengths were expected")
        if self.detections is not None and self.protocol != 1:
            raise UsageError("2D poses of a detector have their place in protocol 1 only")


@dataclass
class BoneStatistics:
    """Lengths of each joint's bone to its parent, summed up over frames."""

    frames: int = 0
    total: np.ndarray = field(default_factory=lambda: np.zeros(_JOINTS))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(_JOINTS))

    def add(self, pose_mm: np.ndarray) -> None:
        """Take in poses (frames, 16, 3)."""
        lengths = bone_lengths(pose_mm)
        self.frames += len(lengths)
        self.total += lengths.sum(0)
        self.squares += np.square(lengths).sum(0)

    @property
    def mean(self) -> np.ndarray:
        """(16,), mm; 0 of the hip, which has no bone."""
        return self.total / max(self.frames, 1)

    @property
    def variation(self) -> float:
        """The greatest standard deviation over mean of a bone's length, as :func:`hpm.scaling.bone_variation`."""
        spread = np.sqrt(np.maximum(self.squares / max(self.frames, 1) - self.mean**2, 0))
        return float(np.divide(spread, self.mean, out=np.zeros(_JOINTS), where=self.mean > 0).max())


@dataclass(frozen=True, eq=False)
class Prepared:
    """What was written.

    Attributes:
        train, test: frames. pictures: crops that are there; 0 says that the lists name pictures that are not.
        kept: those of them that an earlier run had cut.
        limbs: bone lengths (16,) that labels were scaled to, mm. bounds: that labels were normalised with.
        train_bones, test_bones: of the poses as they were read. label_bones: of the test labels as they were written.
        missing: actions without a test frame. absent: subjects without a frame, and performances that a subject lacks.
        sampled: views whose frames are a choice already, which was taken whole.
        stale: lists of an earlier run that this one had no frames for.
        outside: the greatest distance of a label beyond 0 to 1.
        scaled_to: what ``limbs`` are, in words.
    """

    folder: TrainingFolder
    train: int
    test: int
    pictures: int
    kept: int
    limbs: np.ndarray
    bounds: Bounds
    train_bones: BoneStatistics
    test_bones: BoneStatistics
    label_bones: BoneStatistics
    missing: tuple[str, ...]
    absent: tuple[str, ...]
    sampled: int
    stale: tuple[Path, ...]
    outside: float
    scaled_to: str


def prepare_human36m(
    views: Callable[[], Iterable[View]],
    out: str | os.PathLike[str],
    options: PrepareOptions = PrepareOptions(),
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Prepared:
    """Write lists, bounds, limb lengths and, where views have pictures, their crops below ``out``.

    Lists, bounds and limb lengths appear when everything is done. Crops appear as they are cut, and those of a view
    that is done are kept when the same is prepared again. Lists of an earlier run go when the first of their pictures
    is replaced, so that no list ever tells of other pictures than those that are there. Of the other protocol in the
    same folder nothing is replaced.

    Args:
        views: starts a reader of :mod:`.human36m`; it is read twice: for limbs and bounds, then to write.
        progress: told what is done, how many views of it, and of how many (None while nobody knows).

    Raises:
        UsageError: no frames to train on, and no bounds or limbs given; or ``out`` holds lists that would stay and
            refer to other bounds, limbs or crops. FileError: something cannot be read or written.

    Warns:
        CaffeCompatWarning: left and right seem exchanged, with the evidence.
    """
    folder, plan = TrainingFolder(Path(out), options.protocol), protocol(options.protocol)

    def wanted() -> Iterator[View]:
        for view in views():
            if view.subject in (*plan.train, *plan.test):
                yield view.every(options.every)

    survey = _survey(wanted(), options.every, plan.train, progress)
    limbs = survey.train_bones.mean if options.limbs is None else options.limbs
    if options.limbs is None and not survey.train_bones.frames:
        raise UsageError(f"no frames of {', '.join(plan.train)} to take limb lengths from; give limbs and bounds")
    bounds = _bounds(survey.poses, plan.train, limbs) if options.bounds is None else options.bounds
    survey.poses.clear()
    for whose, staying in (
        (f"protocol {folder.other.protocol}", folder.other.pose_lists),
        ("a made-up data set", [folder.runs_list]),
        ("KTH Multiview Football II", map(KthFolder(folder.root).ground_truth, CAMERAS)),
    ):
        check_shared(folder, staying, whose, bounds, limbs)

    tested = wanted() if options.detections is None else with_detections(wanted(), options.detections, plan.test)
    writer = _Writer(folder, options, plan.test, limbs, bounds)
    with writer.lists.files:
        for number, view in enumerate(tested):
            if progress is not None:
                progress("views", number, survey.views)
            writer.write(view)
        if progress is not None:
            progress("views", survey.views, survey.views)
        writer.lists.finish()
        write_both_bounds(folder, bounds)
        make_folder(folder.limbs.parent)
        write_limbs(folder.limbs, limbs)
    counts, lists = writer.counts, writer.lists
    train = counts.pop("train")
    missing = tuple(action for action, frames in counts.items() if not frames)
    return Prepared(
        folder=folder,
        train=train,
        test=sum(counts.values()),
        pictures=writer.pictures,
        kept=writer.kept,
        limbs=limbs,
        bounds=bounds,
        train_bones=survey.train_bones,
        test_bones=survey.test_bones,
        label_bones=writer.label_bones,
        missing=missing,
        absent=survey.absent((*plan.train, *plan.test)),
        sampled=survey.sampled,
        stale=tuple(path for path in lists.possible() if path.exists() and path not in lists.files.paths),
        outside=writer.outside,
        scaled_to="the training means" if options.limbs is None else "the given ones",
    )


# Limbs and bounds


@dataclass
class _Survey:
    """What a first look at all views found."""

    views: int = 0
    sampled: int = 0
    train_bones: BoneStatistics = field(default_factory=BoneStatistics)
    test_bones: BoneStatistics = field(default_factory=BoneStatistics)
    poses: list[tuple[str, np.ndarray]] = field(default_factory=list)
    """Views' names and hip-centred training poses, mm: all sampled frames of the real data set are 120 MB."""
    performances: dict[str, set[str]] = field(default_factory=dict)

    def absent(self, subjects: Iterable[str]) -> tuple[str, ...]:
        """Subjects that have no view, and actions that a subject lacks."""
        found: list[str] = []
        for subject in subjects:
            has = self.performances.get(subject, set())
            lacks = [action for action in ACTIONS.values() if action not in has]
            found += [f"{subject} {action}" for action in lacks] if has else [subject]
        return tuple(found)


def _survey(
    views: Iterable[View],
    every: int,
    train_on: Collection[str],
    progress: Callable[[str, int, int | None], None] | None,
) -> _Survey:
    found, evidence = _Survey(), dict[str, LeftRightEvidence]()
    for view in views:
        found.views += 1
        found.sampled += bool((np.diff(view.numbers) != every).any())
        if not len(view.pose):
            continue
        found.performances.setdefault(view.subject, set()).add(view.action)
        (found.train_bones if view.subject in train_on else found.test_bones).add(view.pose)
        if view.subject in train_on:
            found.poses.append((view.name, centre_on_root(view.pose)))
        evidence[view.subject] = evidence.get(view.subject, LeftRightEvidence()) + left_right_suspect(view.pose, H36M16)
        if progress is not None:
            progress("limbs and bounds", found.views, None)
    for subject, signs in evidence.items():
        for reason in signs.reasons:
            warnings.warn(
                f"{subject}: left and right may be exchanged, or an axis mirrored: {reason}",
                CaffeCompatWarning,
                stacklevel=2,
            )
    return found


def _bounds(poses: list[tuple[str, np.ndarray]], subjects: Collection[str], limbs: np.ndarray) -> Bounds:
    extremes = []
    for name, pose in poses:
        labels = _scaled(name, pose, limbs)
        extremes += [labels.min(0), labels.max(0)]
    if not extremes:
        raise UsageError(f"no frames of {', '.join(subjects)} to take bounds from; give them")
    return bounds_of(np.stack(extremes), "the training labels")


def _scaled(name: str, pose: np.ndarray, limbs: np.ndarray) -> np.ndarray:
    with located(path=name):
        return scale_limbs(pose, limbs)


# Lists


class _Writer:
    """Writes views, and counts what it writes; see :class:`Prepared`."""

    def __init__(
        self, folder: TrainingFolder, options: PrepareOptions, tests: Collection[str], limbs: np.ndarray, bounds: Bounds
    ) -> None:
        self.lists = _Lists(folder)
        self.counts = dict.fromkeys(("train", *ACTIONS.values()), 0)
        self.label_bones = BoneStatistics()
        self.outside, self.pictures, self.kept = 0.0, 0, 0
        self._folder, self._options, self._tests = folder, options, tests
        self._limbs, self._bounds = limbs, bounds

    def write(self, view: View) -> None:
        """The crops of a view, and its lines in the lists."""
        options, tests = self._options, view.subject in self._tests
        crops = square_crops(view.points16, options.margin).whole()
        pose = centre_on_root(view.pose)
        labels_mm = _scaled(view.name, pose, self._limbs) if options.scale_test or not tests else pose
        if tests:
            self.label_bones.add(labels_mm)
        labels = normalise(labels_mm, self._bounds)
        if len(labels):
            self.outside = max(self.outside, float(-labels.min()), float(labels.max() - 1))
        paths = [f"images/{view.name}/{frame:06d}.jpg" for frame in view.numbers]
        if cut_otherwise(self._folder.h36m, paths, view, crops, options.image_size):
            self.lists.part_from_pictures(view)
        found = write_view(self._folder.h36m, paths, view, crops, options.image_size)
        self.kept += found.kept
        self.pictures += found.pictures
        self.counts[view.action if tests else "train"] += len(paths)
        self.lists.add(view, tests, paths, crops.fractions, labels)


class _Lists:
    """The lists of a preparation."""

    def __init__(self, folder: TrainingFolder) -> None:
        self.files = ListFiles()
        self._folder, self._data = folder, folder.test_data()
        self._singles: list[tuple[str, np.ndarray, np.ndarray]] = []

    def possible(self) -> list[Path]:
        """All that there could be."""
        detected = [self._data.pose2d(k, "hourglass") for k in ACTIONS] if self._data.protocol == 1 else []
        return [*self._folder.pose_lists, self._folder.images_list, *detected]

    def part_from_pictures(self, view: View) -> None:
        """A view's pictures are there, cut otherwise, and will be replaced: so the lists that name them go first.

        Raises:
            UsageError: the other protocol's lists name them too, or there is nothing to cut new ones from.
        """
        other = self._folder.other
        named = any(path.exists() for path in other.pose_lists)
        if named or view.images is None:
            why = f"lists of protocol {other.protocol} name them" if named else "there is nothing to cut new ones from"
            raise UsageError(
                f"{self._folder.h36m} holds pictures of {view.name} that are cut otherwise, and {why}; give the "
                "--image-size, --margin and --every that those were made with, or another folder"
            )
        remove_lists(self.possible())

    def add(
        self,
        view: View,
        tests: bool,
        paths: list[str],
        fractions: Callable[[np.ndarray], np.ndarray],
        labels: np.ndarray,
    ) -> None:
        """Lines of a view's frames. ``fractions`` makes pixels fractions of the crops' sides."""
        lines = [
            format_list_line(path, p, q, int(k > 0))
            for k, (path, p, q) in enumerate(zip(paths, fractions(view.points16).reshape(-1, 32), labels, strict=True))
        ]
        if not tests:
            self.files.add(self._folder.train_list, lines)
            self._singles.append((view.name, view.numbers, fractions(view.points).astype(np.float32)))
            return
        number = next(k for k, name in ACTIONS.items() if name == view.action)
        self.files.add(self._data.ground_truth(number), lines)
        if view.detected is not None:
            found = fractions(view.detected).reshape(-1, 32)
            detected = [format_list_line(path, p, None, None) for path, p in zip(paths, found, strict=True)]
            self.files.add(self._data.pose2d(number, "hourglass"), detected)

    def finish(self) -> None:
        """The lists that are made of others."""
        for number in ACTIONS:
            self.files.append(self._data.ground_truth(number), self._folder.test_list)
        order = [(k, f) for k, (_, numbers, _) in enumerate(self._singles) for f in range(len(numbers))]
        shuffled = np.random.default_rng(0).permutation(len(order))
        for at in range(0, len(shuffled), 4096):
            chosen = [order[i] for i in shuffled[at : at + 4096]]
            names = [f"images/{self._singles[k][0]}/{self._singles[k][1][f]:06d}.jpg" for k, f in chosen]
            points = [self._singles[k][2][f] for k, f in chosen]
            self.files.add(self._folder.images_list, map(image_line, names, points))
