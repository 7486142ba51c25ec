"""Data sets as people have them, made into lists, bounds and square pictures: what ``hpm prepare`` does.

Each data set has a function of its own. Files are named as in :class:`hpm.datasets.layout.TrainingFolder`, and several
data sets may share a folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from caffe_compat.errors import UsageError

from ..datasets.bodies import MEAN_LENGTHS
from ..datasets.detections import read_detections
from ..datasets.human36m import find_reader, read_baseline, read_cdf, read_fetch, read_videopose
from ..datasets.kth_football import KthPrepared, prepare_kth
from ..datasets.layout import TrainingFolder
from ..datasets.mpii import MpiiPrepared, prepare_mpii
from ..datasets.prepare import Prepared, PrepareOptions, prepare_human36m
from ..datasets.synthetic import SyntheticOptions, write
from ..datasets.views import LeaveOut, View
from ..scaling import REFINEMENT_BOUNDS, read_limbs
from ..skeleton import Skeleton, skeleton
from .bounds import GivenBounds, given_bounds

__all__ = ["FORMATS", "Human36MPrepared", "human36m", "kth", "mpii", "synthetic"]

MADE_UP = SyntheticOptions()
"""A data set that trains the small network that ships."""

_Path = str | os.PathLike[str]
Format = Literal["auto", "videopose", "cdf", "fetch", "baseline"]

FORMATS: tuple[Format, ...] = ("auto", "videopose", "cdf", "fetch", "baseline")
"""Human3.6M as people have it: VideoPose3D's npz, the official CDF files, h36m-fetch, 3d-pose-baseline."""


@dataclass(frozen=True)
class Human36MPrepared:
    """What :func:`human36m` made.

    Example:
        >>> prepared = human36m("data_3d_h36m.npz", "again")
        >>> prepared.format, prepared.done.train, prepared.done.missing[:2]
        ('videopose', 12, ('Directions', 'Discussion'))
    """

    format: str
    """What the source was read as, of :data:`FORMATS`."""
    done: Prepared
    unused: tuple[str, ...] = ()
    """Names to be left out that no view had."""


def human36m(
    source: _Path,
    out: _Path,
    *,
    format: Format = "auto",
    protocol: int = 1,
    pose2d: _Path | None = None,
    pose2d_order: str | Skeleton | None = None,
    videos: _Path | None = None,
    every: int = 5,
    image_size: int = 368,
    margin: float = 0.125,
    bounds: GivenBounds = None,
    limbs: _Path | np.ndarray | None = None,
    scale_test: bool = True,
    leave_out: Iterable[str] = (),
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Human36MPrepared:
    """Human3.6M from ``source``, an npz file or the folder of the subjects, to lists, bounds and crops below ``out``.

    Crops of views that are done are kept when the same is prepared again.

    Args:
        protocol: 1 or 3; both may lie in one folder.
        pose2d: a detector's 2D poses, which become the lists that the refinement reads as ``hourglass``; see
            :func:`hpm.datasets.detections.read_detections`. pose2d_order: of those that do not tell their order.
        videos: the folder with ``S1/Videos/*.mp4``, to cut pictures from.
        every, image_size, margin, scale_test: see :class:`hpm.datasets.prepare.PrepareOptions`; pixels, and room about
            the joints as a part of the crop's box.
        bounds, limbs: of another preparation, such as the weights' own: a max-min CSV, and 16 bone lengths in mm or
            their file; None takes both from the training frames.
        leave_out: views such as ``S11_Directions_54138969``, performances such as ``S11_Directions_1``, or subjects.
        progress: told what is done, how many views of it, and of how many (None while nobody knows).

    Raises:
        UsageError, FileError: see :func:`hpm.datasets.prepare.prepare_human36m` and the readers.

    Warns:
        CaffeCompatWarning: left and right seem exchanged, a video is another's, or bounds of another joint order.

    Example:
        >>> prepared = human36m("data_3d_h36m.npz", "prepared")
        >>> prepared.done.train, prepared.done.test, prepared.done.folder.train_list.name
        (12, 12, '16skel_train_2d3d_clip.txt')
    """
    kind = find_reader(source) if format == "auto" else format
    if pose2d is None and pose2d_order is not None:
        raise UsageError(f"--pose2d-order {_order_name(pose2d_order)} without --pose2d")
    if kind == "fetch" and pose2d is not None:
        raise UsageError("h36m-fetch numbers takes in its own way, so that no detections can be told to be theirs")
    if kind == "fetch" and videos is not None:
        raise UsageError("h36m-fetch has pictures of its own; --videos would be ignored")
    left_out = LeaveOut(leave_out)
    views: Callable[[], Iterable[View]] = {
        "videopose": partial(read_videopose, source, videos=videos, leave_out=left_out),
        "cdf": partial(read_cdf, source, videos=videos, leave_out=left_out),
        "baseline": partial(read_baseline, source, videos=videos, leave_out=left_out),
        "fetch": partial(read_fetch, source, leave_out=left_out),
    }[kind]
    order = skeleton(pose2d_order) if isinstance(pose2d_order, str) else pose2d_order
    options = PrepareOptions(
        protocol=protocol,
        every=every,
        image_size=image_size,
        margin=margin,
        scale_test=scale_test,
        bounds=given_bounds(bounds),
        limbs=_limbs(limbs),
        detections=None if pose2d is None else read_detections(pose2d, order),
    )
    return Human36MPrepared(kind, prepare_human36m(views, out, options, progress), left_out.unused)


def mpii(
    annotation: _Path,
    images: _Path,
    out: _Path,
    *,
    image_size: int = 368,
    margin: float = 0.125,
    progress: Callable[[int, int], None] | None = None,
) -> MpiiPrepared:
    """MPII Human Pose from ``mpii_human_pose_v1_u12_1.mat`` or a json, and the folder of its pictures.

    Args:
        image_size: side of the crops, pixels. margin: room about the joints, as a part of the crop's box.
        progress: told how many persons of how many are done.

    Raises:
        UsageError, FileError: see :func:`hpm.datasets.mpii.prepare_mpii`.

    Example:
        >>> done = mpii("train.json", "mpii", "prepared")
        >>> done.persons, done.folder.mpii_list.as_posix()
        (1, 'prepared/MPII/annotation/train_h36m.txt')
    """
    return prepare_mpii(annotation, images, out, image_size, margin, progress)


def kth(
    folder: _Path,
    out: _Path,
    *,
    image_size: int = 368,
    margin: float = 0.125,
    bounds: GivenBounds = None,
    limbs: _Path | np.ndarray | None = None,
    keep_proportions: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> KthPrepared:
    """KTH Multiview Football II from ``positions2d.txt``, ``positions3d.txt``, ``cameras.txt`` and the pictures there.

    Args:
        bounds: of the weights that will be tested; None for the released model's.
        limbs: bone lengths of the weights' labels, 16 values in mm or their file; None for Human3.6M's means.
        keep_proportions: bring positions to mm by one factor, not bone by bone.
        image_size, margin, progress: as for :func:`mpii`, of pictures.

    Raises:
        UsageError, FileError: see :func:`hpm.datasets.kth_football.prepare_kth`.

    Example:
        >>> done = kth("football", "cameras")
        >>> [path.name for path in done.lists], done.frames
        (['camera1.txt', 'camera2.txt', 'camera3.txt'], 2)
    """
    lengths, by = _limbs(limbs), given_bounds(bounds) or REFINEMENT_BOUNDS
    return prepare_kth(
        folder,
        out,
        by,
        MEAN_LENGTHS if lengths is None else lengths,
        image_size,
        margin,
        keep_proportions=keep_proportions,
        progress=progress,
    )


def synthetic(
    out: _Path,
    options: SyntheticOptions = MADE_UP,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> TrainingFolder:
    """A made-up data set: articulated bodies that move, seen by four cameras.

    Args:
        options: how large, and of what; see :class:`hpm.datasets.synthetic.SyntheticOptions`.
        progress: told how many pictures of how many are written.

    Raises:
        UsageError, FileError: see :func:`hpm.datasets.synthetic.write`.

    Example:
        >>> few = SyntheticOptions(takes=1, frames=2, run=2, test_frames=1, singles=1, actions=("Sitting",))
        >>> folder = synthetic("made_up", few)
        >>> len(folder.train_list.read_text().splitlines())  # 5 subjects, 4 cameras, 2 frames
        40
    """
    return write(options, out, progress)


def _limbs(given: _Path | np.ndarray | None) -> np.ndarray | None:
    return given if given is None or isinstance(given, np.ndarray) else read_limbs(given)


def _order_name(order: str | Skeleton) -> str:
    return order if isinstance(order, str) else order.name
