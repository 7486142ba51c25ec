"""Parity with the coarse predictions that the authors publish, for those who have no recorded outputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from caffe_compat.errors import UsageError
from caffe_compat.parity.compare import CaseResult, compare
from caffe_compat.parity.record import parity_record
from caffe_compat.parity.tolerance import NET_TOLERANCE, Tolerance

from ..files.folders import ResultFolder
from ..files.lists import read_results
from ..model import PoseMachine
from ..projector import POSE_3D
from .coarse_files import predict_list

__all__ = ["verify_released"]

# Millimetres are differences of large normalised values: the tolerance of those, over a range of two metres.
_MM_TOLERANCE = Tolerance(NET_TOLERANCE.absolute * 2000, NET_TOLERANCE.relative)


def verify_released(
    machine: PoseMachine,
    lists: Callable[[int], Path],
    images: str | os.PathLike[str],
    released: str | os.PathLike[str],
    *,
    actions: Iterable[int] = (1,),
    frames: int = 200,
    window: int = 5,
    progress: Callable[[int, int, int], None] | None = None,
) -> list[CaseResult]:
    """Predict the first frames of some actions and compare with ``result<k>_norm.csv`` of a folder.

    Where the network has a correction module, ``result<k>_change_unnorm.csv`` has to agree, too. If everything does,
    ``machine.parity`` holds the record, else None.

    Args:
        lists, images: the frames that the predictions were made of, as for :func:`.coarse_files.predict_actions`.
        frames: of each action, at most. Frames of an incomplete last window are left out: the original drops them.
        window: the batch that the predictions were made with.
        progress: called with action, frames done and frames in all.

    Raises:
        UsageError: nothing to compare. FileError: a list, a picture or a result is missing or damaged.
    """
    folder, results = ResultFolder(Path(released)), []
    wanted = list(actions)
    if not wanted or min(frames, window) < 1:
        raise UsageError("an action, a frame and a window of a frame at least are needed")
    for action in wanted:
        theirs = read_results(folder.normalised(action), machine.values)
        corrected = read_results(folder.change_mm(action), POSE_3D) if machine.has_correction else None
        count = min(frames, len(theirs), len(theirs if corrected is None else corrected)) // window * window
        if not count:
            raise UsageError(f"{folder.normalised(action)} has less than a window of {window} frames")
        poses: list[np.ndarray] = []
        changes: list[np.ndarray] = []
        done = 0
        for lines, pose, change in predict_list(machine, lists(action), images, window=window):
            poses.append(pose)
            if change is not None:
                changes.append(change)
            done += len(lines)
            if progress is not None:
                progress(action, min(done, count), count)
            if done >= count:
                break
        result = CaseResult(f"action {action}")
        result.blobs.append(
            compare(
                f"action_{action}/{machine.pose_blob}", np.concatenate(poses)[:count], theirs[:count], NET_TOLERANCE
            )
        )
        if corrected is not None:
            ours = machine.millimetres(np.concatenate(changes)[:count])
            result.blobs.append(compare(f"action_{action}/change", ours, corrected[:count], _MM_TOLERANCE))
        results.append(result)
    machine.reset_state()
    machine.parity = None
    if all(result.passed for result in results):
        named = ",".join(map(str, wanted))
        machine.parity = parity_record(
            folder.normalised(wanted[0]), f"actions {named}, window {window}", results, machine.device
        )
    return results
