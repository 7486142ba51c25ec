"""Human3.6M's views as lists, bounds and square crops that the networks train on and are tested with.

The crop is not known of the original; here it is the square about the joints in the picture with a margin (see
:func:`.cameras.square_crops`). Test labels get the training limbs too unless asked otherwise: whether the authors' did
is unknown, and the bone lengths in their lists tell (:func:`hpm.scaling.bone_variation`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caffe_compat.errors import FileError, UsageError
from caffe_compat.extras import require

from ..annotations import ACTIONS, format_list_line, protocol
from ..scaling import Bounds, bone_lengths, bounds_of, centre_on_root, normalise, scale_limbs
from .cameras import Crop, square_crops
from .layout import TrainingFolder, make_folder, write_both_bounds, write_lines
from .views import View

__all__ = ["PrepareOptions", "Prepared", "crop_picture", "prepare_human36m"]


@dataclass(frozen=True, eq=False)
class PrepareOptions:
    """How to prepare.

    Attributes:
        protocol: 1 or 3.
        every: frames kept, one in so many.
        image_size: side of the crops in pixels. margin: see :func:`.cameras.square_crops`.
        scale_test: give test labels the training limbs, too.
        bounds, limbs: of another preparation, such as the one that weights were trained with: maxima and minima, and
            bone lengths (16,) in mm. None takes them from the training frames.
        leave_out: names of views to leave out (subject_action_take_camera), such as those of damaged videos.
    """

    protocol: int = 1
    every: int = 5
    image_size: int = 368
    margin: float = 0.125
    scale_test: bool = True
    bounds: Bounds | None = None
    limbs: np.ndarray | None = None
    leave_out: Collection[str] = ()

    def __post_init__(self) -> None:
        protocol(self.protocol)
        if self.every < 1 or self.image_size < 1 or self.margin < 0:
            raise UsageError("every and image_size are 1 or more, margin is 0 or more")


@dataclass(frozen=True, eq=False)
class Prepared:
    """What was written.

    Attributes:
        train, test: frames. pictures: crops written; 0 says that the lists name pictures that are not there.
        limbs: bone lengths (16,) that labels were scaled to, mm. bounds: that labels were normalised with.
        missing: actions without a test frame. outside: the greatest distance of a label beyond 0 to 1.
    """

    folder: TrainingFolder
    train: int
    test: int
    pictures: int
    limbs: np.ndarray
    bounds: Bounds
    missing: tuple[str, ...]
    outside: float


def prepare_human36m(
    views: Callable[[], Iterable[View]],
    out: str | os.PathLike[str],
    options: PrepareOptions = PrepareOptions(),
    progress: Callable[[str], None] | None = None,
) -> Prepared:
    """Write lists, bounds and, where views have pictures, their crops below ``out``.

    Args:
        views: starts a reader of :mod:`.human36m`; it is read twice: for limbs and bounds, then to write.
        progress: told the name of each view that is written.

    Raises:
        UsageError: no frames to train on, and no bounds or limbs given. FileError: something cannot be read or written.
    """
    folder = TrainingFolder(Path(out))
    plan = protocol(options.protocol)
    train_on, test_on = plan.train, plan.test

    def wanted() -> Iterable[View]:
        for view in views():
            if view.subject in (*train_on, *test_on) and view.name not in options.leave_out:
                yield view.every(options.every)

    limbs = _mean_limbs(wanted, train_on) if options.limbs is None else options.limbs
    bounds = _bounds(wanted, train_on, limbs) if options.bounds is None else options.bounds
    lines: dict[str, list[str]] = {"train": [], **{action: [] for action in ACTIONS.values()}}
    pictures, outside = 0, 0.0
    for view in wanted():
        if progress is not None:
            progress(view.name)
        tests = view.subject in test_on
        crops = square_crops(view.points, options.margin).whole()
        pose = centre_on_root(view.pose)
        labels = normalise(scale_limbs(pose, limbs) if options.scale_test or not tests else pose, bounds)
        if len(labels):
            outside = max(outside, float(-labels.min()), float(labels.max() - 1))
        fractions = crops.fractions(view.points)
        paths = [f"images/{view.name}/{number:06d}.jpg" for number in view.numbers]
        lines[view.action if tests else "train"] += [
            format_list_line(path, p.ravel(), q.ravel(), int(k > 0))
            for k, (path, p, q) in enumerate(zip(paths, fractions, labels, strict=True))
        ]
        pictures += _write_crops(folder.h36m, paths, view, crops, options.image_size)
    write_both_bounds(folder, bounds)
    train, tested = lines.pop("train"), [line for action in ACTIONS.values() for line in lines[action]]
    for path, entries in (
        (folder.train_list, train),
        (folder.test_list, tested),
        *((folder.test_data(options.protocol).ground_truth(k), lines[action]) for k, action in ACTIONS.items()),
    ):
        if entries:
            write_lines(path, entries)
    missing = tuple(action for action in ACTIONS.values() if not lines[action])
    return Prepared(folder, len(train), len(tested), pictures, limbs, bounds, missing, outside)


def _mean_limbs(views: Callable[[], Iterable[View]], subjects: Collection[str]) -> np.ndarray:
    total, count = np.zeros(16), 0
    for view in views():
        if view.subject in subjects:
            total += bone_lengths(view.pose).sum(0)
            count += len(view.pose)
    if count == 0:
        raise UsageError(f"no frames of {', '.join(subjects)} to take limb lengths from; give limbs and bounds")
    return total / count


def _bounds(views: Callable[[], Iterable[View]], subjects: Collection[str], limbs: np.ndarray) -> Bounds:
    extremes = []
    for view in views():
        if view.subject in subjects and len(view.pose):
            labels = scale_limbs(centre_on_root(view.pose), limbs)
            extremes += [labels.min(0), labels.max(0)]
    if not extremes:
        raise UsageError(f"no frames of {', '.join(subjects)} to take bounds from; give them")
    return bounds_of(np.stack(extremes), "the training labels")


# Pictures


def crop_picture(picture: np.ndarray, corner: np.ndarray, side: int, size: int) -> np.ndarray:
    """The square of ``picture`` (height, width, 3) at ``corner`` (x, y), scaled to ``size``; black beyond the edges."""
    cv2 = require("cv2", "images")
    height, width = picture.shape[:2]
    x, y = (int(v) for v in corner)
    square = np.zeros((side, side, 3), np.uint8)
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
    if left < right and top < bottom:
        square[top - y : bottom - y, left - x : right - x] = picture[top:bottom, left:right]
    way = cv2.INTER_AREA if size < side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (size, size), interpolation=way))


def _write_crops(place: Path, paths: list[str], view: View, crops: Crop, size: int) -> int:
    if view.images is None or not paths:
        return 0
    cv2 = require("cv2", "images")
    make_folder((place / paths[0]).parent)
    pictures = view.images(view.numbers.tolist())
    for path, corner, side, picture in zip(paths, crops.corner, crops.side, pictures, strict=True):
        if not cv2.imwrite(str(place / path), crop_picture(picture, corner, int(side), size)):
            raise FileError("the picture cannot be written", path=str(place / path))
    return len(paths)
