"""Coarse poses of whole actions: lists of frames in, the original's CSV files out.

An action's files appear when it is finished, together with a small record of what they were made from. Started again,
an action whose record still holds is kept and any other is done from its beginning. The record knows the list, the
weights and the settings; pictures that changed behind the same names go unnoticed.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caffe_compat.errors import CaffeCompatError, CaffeCompatWarning, UsageError
from caffe_compat.formats.files import sha256_of
from caffe_compat.training.data.images import read_image

from ..datasets.layout import make_folder
from ..files.action_records import Finished, kept, write_record
from ..files.folders import ACTIONS, DataFolder, ResultFolder, known_actions
from ..files.lists import PoseList, ResultWriter, stream_list
from ..limbs import LABELS, LimbEvidence, limb_evidence
from ..model import PoseMachine
from ..projector import POSE_3D
from .bounds import GivenBounds, Tell, choose_bounds, warn
from .models import find_data, load

__all__ = ["CoarseSummary", "coarse_files", "predict_actions", "predict_list"]

# Frames that are read ahead while the network works: enough to keep the readers busy, few enough for memory.
_BLOCK = 60


@dataclass
class CoarseSummary:
    """What became of every action that was asked for."""

    done: list[Finished] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)


def coarse_files(
    model: str | os.PathLike[str],
    data: DataFolder | str | os.PathLike[str],
    save: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    actions: Iterable[int] | None = None,
    window: int = 5,
    readers: int = 4,
    optimize: bool = False,
    bounds: GivenBounds = None,
    pose_blob: str | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int, int], None] | None = None,
    tell: Tell = warn,
) -> CoarseSummary:
    """Predict the poses of a data folder's lists from files to files: what ``hpm coarse`` does.

    Args:
        model, weights, pose_blob: see :func:`.models.load`.
        data: the folder with the lists, by its path (Human3.6M, protocol I), or a :class:`.folders.DataFolder` or
            :class:`.folders.KthFolder`.
        save: the folder to write to, made if missing.
        images: the folder that the lists' paths are relative to; None for the data folder's own.
        actions: their numbers, or those of cameras; None for all.
        window, readers, progress: see :func:`predict_actions`.
        optimize: convolutions in their inference form: faster, and other rounding.
        bounds: what the poses of a 3D network refer to; see :func:`.bounds.choose_bounds`.
        tell: told which bounds were assumed.

    Raises:
        UsageError: no such folder, an action that there is not, bounds for a 2D network, or that differ from the
            model's own. CaffeCompatError: see :func:`.models.load`.

    Warns:
        CaffeCompatWarning: bounds that do not fit each other, or the labels of a list, with the evidence; a window that
            the model did not learn with.

    Example:
        >>> summary = coarse_files("mask3d.pt", "data", "coarse", actions=[13])
        >>> [(done.action, done.frames) for done in summary.done], summary.problems
        ([(13, 40)], {})
    """
    folder = find_data(data)
    machine = load(model, weights, pose_blob=pose_blob).to(device)
    if optimize:
        machine.optimize()
    if machine.values == POSE_3D:
        machine.bounds = choose_bounds(bounds, folder, os.fspath(model), machine.known_bounds, tell).poses
        machine.tell_of_window(window)
    elif bounds is not None:
        raise UsageError(f"{os.fspath(model)} gives 2D poses, which have no --bounds")
    return predict_actions(
        machine,
        folder.ground_truth,
        images or folder.pictures,
        save,
        window=window,
        actions=folder.actions if actions is None else actions,
        readers=readers,
        progress=progress,
    )


def predict_actions(
    machine: PoseMachine,
    lists: Callable[[int], Path],
    images: str | os.PathLike[str],
    save: str | os.PathLike[str],
    *,
    window: int = 5,
    actions: Iterable[int] = ACTIONS,
    readers: int = 4,
    progress: Callable[[int, int, int], None] | None = None,
) -> CoarseSummary:
    """Predict actions from lists to files; one that cannot be done is named in the summary and the rest goes on.

    A 3D network writes ``result<k>_norm.csv``, ``result<k>_unnorm.csv`` and, with a correction module,
    ``result<k>_change_unnorm.csv``; a 2D one writes ``result<k>_norm.csv`` with 32 values. Every frame of a list gets a
    line, those of a last incomplete window too.

    Args:
        lists: the list of an action, such as ``DataFolder.ground_truth``.
        images: the folder that the lists' paths are relative to.
        save: the folder to write to, made if missing.
        window: see :meth:`.model.PoseMachine.predict`.
        readers: threads that read pictures.
        progress: called with action, frames done and frames in all.

    Warns:
        CaffeCompatWarning: the bounds of the model do not fit the labels of a list, with the evidence.

    Raises:
        UsageError: an action other than 1 to 15, or a window of no frames.
        FileError: the folder to write to cannot be made.
    """
    wanted = known_actions(actions)
    if window < 1:
        raise UsageError(f"window {window}; 1 frame or more was expected")
    results = ResultFolder(Path(save))
    make_folder(results.root)
    summary, fixed = CoarseSummary(), {"window": window, "model": _fingerprint(machine)}
    for action in wanted:
        try:
            summary.done.append(
                _one(machine, action, lists(action), Path(images), results, fixed, window, readers, progress)
            )
        except CaffeCompatError as error:
            summary.problems[action] = str(error)
    return summary


def predict_list(
    machine: PoseMachine, path: str | os.PathLike[str], images: str | os.PathLike[str], *, window: int, readers: int = 4
) -> Iterator[tuple[PoseList, np.ndarray, np.ndarray | None]]:
    """A list block by block: its lines, the poses (n, 48 or 32) and the corrected poses (n, 48) or None, normalised.

    Raises:
        FileError: see :func:`.annotations.stream_list`; a picture is missing or damaged.
    """
    machine.reset_state()
    height, width = machine.image_size
    # Whole windows, so that a block's end cuts none.
    block = max(1, _BLOCK // window) * window

    def read(name: str) -> np.ndarray:
        return read_image(str(Path(images) / name), color=True, height=height, width=width)

    with ThreadPoolExecutor(max(1, readers)) as pool:
        waiting = None
        for lines in stream_list(path, block=block):
            # Pictures of the next block are read while the network works on this one.
            coming = (lines, [pool.submit(read, name) for name in lines.paths])
            if waiting is not None:
                yield _predicted(machine, *waiting, window)
            waiting = coming
        if waiting is not None:
            yield _predicted(machine, *waiting, window)


def _predicted(
    machine: PoseMachine, lines: PoseList, pictures: list[Any], window: int
) -> tuple[PoseList, np.ndarray, np.ndarray | None]:
    result = machine.predict([picture.result() for picture in pictures], lines.clip, window)
    return lines, result.pose, result.change


def _one(
    machine: PoseMachine,
    action: int,
    path: Path,
    images: Path,
    results: ResultFolder,
    fixed: dict[str, Any],
    window: int,
    readers: int,
    progress: Callable[[int, int, int], None] | None,
) -> Finished:
    made_from = {**fixed, "list": sha256_of(path), "images": str(images.resolve())}
    outputs = [results.normalised(action)]
    if machine.values == POSE_3D:
        outputs.append(results.coarse_mm(action))
        if machine.has_correction:
            outputs.append(results.change_mm(action))
    record = results.root / f"result{action}.json"
    if (earlier := kept(record, Finished, made_from, outputs)) is not None:
        return earlier
    # Counted, and every line checked, before any work.
    frames = sum(len(lines) for lines in stream_list(path))
    done, limbs = 0, LimbEvidence()
    with ExitStack() as stack:
        writers = [stack.enter_context(ResultWriter(out, indexed=k > 0)) for k, out in enumerate(outputs)]
        for lines, pose, change in predict_list(machine, path, images, window=window, readers=readers):
            columns = [pose]
            if machine.values == POSE_3D:
                columns += [machine.millimetres_as_layers(x) for x in (pose, change) if x is not None]
                if lines.pose3d is not None:
                    limbs += limb_evidence(lines.pose3d, machine.bounds)
            for writer, values in zip(writers, columns, strict=True):
                writer.write(values)
            done += len(lines)
            if progress is not None:
                progress(action, done, frames)
    if (reason := limbs.reason(LABELS)) is not None:
        warnings.warn(
            f"action {action}: {machine.bounds.source} may not be right for {path}: {reason}",
            CaffeCompatWarning,
            stacklevel=3,
        )
    finished = Finished(action, frames, kept=False)
    write_record(record, finished, made_from, outputs)
    return finished


def _fingerprint(machine: PoseMachine) -> str:
    digest = hashlib.sha256(f"{machine.pose_blob} {machine.image_size} {machine.optimized}".encode())
    digest.update(machine.fingerprint().encode())
    for values in (machine.bounds.maximum, machine.bounds.minimum):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
