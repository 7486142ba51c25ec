"""Refinement of whole actions, from the original's files to the original's files.

An action's files appear when it is finished, together with a small record of what they were made from. Started again,
an action whose record still holds is kept and any other is done from its beginning, so a run that was killed loses no
line and writes none twice. Memory does not grow with the number of frames.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caffe_compat.errors import CaffeCompatError, CaffeCompatWarning, UsageError
from caffe_compat.formats.files import atomic_write, sha256_of

from ..datasets.layout import make_folder
from ..files.action_records import Finished, kept, made_otherwise, outdated, write_record
from ..files.checkpoint_extras import bounds_in
from ..files.folders import ACTIONS, DataFolder, ResultFolder, known_actions
from ..files.lists import check_lengths, count_lines, refined_line, stream_list, stream_results
from ..files.numbers import python2_number
from ..limbs import LABELS, LimbEvidence, limb_evidence
from ..metrics import mpjpe_per_frame
from ..parity_gate import beside, read_projector
from ..projector import POSE_2D, POSE_3D, RELU_SCALE, project
from ..refine import ORIGINAL, Refiner, RefineSettings
from ..scaling import Bounds, denormalise
from ..skeleton import H36M16, LeftRightEvidence, left_right_suspect
from .bounds import GivenBounds, Tell, choose_bounds, warn
from .models import find_data

__all__ = ["ActionRefined", "RefineSummary", "refine_actions", "refine_files"]


@dataclass(frozen=True)
class ActionRefined(Finished):
    """One finished action; errors are MPJPE in mm."""

    coarse_mm: float
    change_mm: float
    refined_mm: float
    discarded: int
    """Frames whose refined pose went too far and was replaced by the corrected one."""
    suspicions: tuple[str, ...] = ()
    """Signs that left and right are exchanged in an input, or that bounds do not fit it."""


@dataclass
class RefineSummary:
    """What became of every action that was asked for."""

    done: list[ActionRefined] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)


def refine_files(
    model: str | os.PathLike[str],
    data: DataFolder | str | os.PathLike[str],
    save: str | os.PathLike[str],
    *,
    coarse: str | os.PathLike[str] | None = None,
    pose2d: str = "ours",
    settings: RefineSettings = ORIGINAL,
    verified_by: str | os.PathLike[str] | None = None,
    allow_unverified: bool = False,
    bounds: GivenBounds = None,
    actions: Iterable[int] | None = None,
    allow_short: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int, int], None] | None = None,
    tell: Tell = warn,
) -> RefineSummary:
    """Refine the coarse poses of a data folder from files to files: what ``hpm refine`` does.

    Args:
        model, verified_by, allow_unverified: a verified ``.pt``, or a pickle of 12 arrays; see
            :func:`hpm.parity_gate.read_projector`.
        data: the folder with labels and 2D poses, by its path (Human3.6M, protocol I), or a
            :class:`.folders.DataFolder` or :class:`.folders.KthFolder`.
        save: the folder to write to, made if missing.
        coarse: the folder of ``result<k>_norm.csv``; None for the authors' own in the data folder.
        bounds: what the coarse poses refer to; see :func:`.bounds.choose_bounds`.
        actions: their numbers, or those of cameras; None for all.
        pose2d, allow_short, progress: see :func:`refine_actions`.
        settings: how; the defaults are the original's, :data:`hpm.refine.PAPER` is the paper's variant.
        dtype: torch.float32, the original's, or torch.float64.
        tell: told which bounds were assumed.

    Raises:
        ParityError: the model was not shown to give the original's numbers.
        UsageError: no such folder, an action or a source of 2D poses that there is not, bounds that differ from the
            model's own. FileError, WeightsError: a file of the model cannot be read.

    Warns:
        CaffeCompatWarning: left and right seem exchanged, or bounds not those of the labels, with the evidence.

    Example:
        >>> summary = refine_files("mask3d.pt", "data", "refined", coarse="coarse", pose2d="gt", actions=[13])
        >>> [(done.action, round(done.coarse_mm, 1), round(done.refined_mm, 1)) for done in summary.done]
        [(13, 45.5, 42.7)]
    """
    folder = find_data(data)
    projector = read_projector(model, verified_by=verified_by, allow_unverified=allow_unverified)
    # A pickle holds no bounds; the .pt with the same arrays may.
    judge = verified_by if verified_by is not None or allow_unverified else beside(model)
    own = bounds_in(model if judge is None else judge)
    chosen = choose_bounds(bounds, folder, os.fspath(model), own, tell)
    refiner = Refiner(projector, settings, bounds=chosen.poses or chosen.labels, device=device, dtype=dtype)
    return refine_actions(
        refiner,
        folder,
        folder.coarse if coarse is None else coarse,
        save,
        pose2d=pose2d,
        label_bounds=chosen.labels,
        actions=folder.actions if actions is None else actions,
        allow_short=allow_short,
        progress=progress,
    )


def refine_actions(
    refiner: Refiner,
    data: DataFolder,
    coarse: str | os.PathLike[str],
    save: str | os.PathLike[str],
    *,
    pose2d: str = "ours",
    label_bounds: Bounds | None = None,
    actions: Iterable[int] = ACTIONS,
    allow_short: bool = False,
    progress: Callable[[int, int, int], None] | None = None,
) -> RefineSummary:
    """Refine actions from files to files; one that cannot be done is named in the summary and the rest goes on.

    Args:
        data: where labels and 2D poses lie.
        coarse: the folder of ``result<k>_norm.csv``.
        save: the folder to write to, made if missing.
        pose2d: ``ours``, ``hourglass`` or ``gt``.
        label_bounds: what the labels are normalised by; None says by what the poses are, the refiner's.
        allow_short: labels and 2D poses may have more frames than the coarse poses; the rest is left out. The authors'
            coarse files lack the last incomplete batch of each action.
        progress: called with action, frames done and frames in all.

    Warns:
        CaffeCompatWarning: left and right seem exchanged, or bounds not those of the labels, with the evidence; or
        files of other actions were taken away, which an earlier run refined with other options.

    Raises:
        UsageError: a source of 2D poses that does not exist, or an action other than 1 to 15.
        FileError: the folder to write to cannot be made.
    """
    summary = RefineSummary()
    folder, results = ResultFolder(Path(coarse)), ResultFolder(Path(save))
    make_folder(results.root)
    wanted = known_actions(actions)
    by = refiner.bounds if label_bounds is None else label_bounds
    fixed = {
        "settings": asdict(refiner.settings),
        "dtype": str(refiner.dtype),
        "weights": _fingerprint(refiner, by),
        "2D poses": pose2d,
    }
    if gone := _tidied(results, [action for action in data.actions if action not in wanted], fixed):
        warnings.warn(
            f"took away the files of {data.kind} {', '.join(map(str, gone))} in {results.root}: they were refined with "
            "other options or another model than now, and would be taken for this run's",
            CaffeCompatWarning,
            stacklevel=2,
        )
    for action in wanted:
        inputs = _Inputs(folder.normalised(action), data.pose2d(action, pose2d), data.ground_truth(action), pose2d)
        outputs = results.refined_mm(action), results.errors_mm(action, refiner.settings.learning_rate)
        try:
            done = _one(refiner, by, action, inputs, outputs, results, fixed, allow_short, progress)
        except CaffeCompatError as error:
            summary.problems[action] = str(error)
            continue
        summary.done.append(done)
        for reason in done.suspicions:
            warnings.warn(f"action {action}: {reason}", CaffeCompatWarning, stacklevel=2)
    return summary


def _tidied(results: ResultFolder, others: Iterable[int], fixed: dict[str, Any]) -> list[int]:
    """Take away what a run with other options refined of other actions, if it is as that run left it; of which."""
    gone = []
    for action in others:
        record = results.refined_record(action)
        if made_otherwise(record, fixed):
            stale = outdated(record)
            for path in (*stale, record):
                path.unlink(missing_ok=True)
            gone += [action] if stale else []
    return gone


@dataclass(frozen=True)
class _Inputs:
    coarse: Path
    pose2d: Path
    truth: Path
    kind: str

    def frames(self, allow_short: bool) -> int:
        """How many frames to refine, counted before any work."""
        paths = {self.coarse, self.pose2d, self.truth}
        missing = sorted(str(path) for path in paths if not path.exists())
        if missing:
            raise UsageError(f"missing: {', '.join(missing)}")
        counts = {str(path): count_lines(path) for path in (self.coarse, self.pose2d, self.truth)}
        check_lengths(counts, str(self.coarse), allow_short=allow_short)
        return counts[str(self.coarse)]

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(coarse (n, 48), 2D (n, 32), true 3D (n, 48)), normalised, block by block."""
        coarse = stream_results(self.coarse, POSE_3D)
        truth = stream_list(self.truth, need_3d=True)
        if self.kind == "ours":
            points: Iterator[np.ndarray] = stream_results(self.pose2d, POSE_2D)
        else:
            points = (part.pose2d for part in stream_list(self.pose2d))
        # Blocks are equally long; after the coarse poses' last there may be more of the others.
        for x, y, labels in zip(coarse, points, truth, strict=False):
            assert labels.pose3d is not None
            yield x, y[: len(x)], labels.pose3d[: len(x)]


def _one(
    refiner: Refiner,
    label_bounds: Bounds,
    action: int,
    inputs: _Inputs,
    outputs: tuple[Path, Path],
    results: ResultFolder,
    fixed: dict[str, Any],
    allow_short: bool,
    progress: Callable[[int, int, int], None] | None,
) -> ActionRefined:
    frames = inputs.frames(allow_short)
    files = {str(path): sha256_of(path) for path in (inputs.coarse, inputs.pose2d, inputs.truth)}
    made_from = {**fixed, "inputs": files, "frames": frames}
    record = results.refined_record(action)
    if (earlier := kept(record, ActionRefined, made_from, outputs)) is not None:
        return earlier
    for stale in outdated(record, outputs):
        stale.unlink(missing_ok=True)
    refiner.reset()
    totals, discarded, finished = np.zeros(3), 0, 0
    evidence_2d, evidence_3d, limbs = LeftRightEvidence(), LeftRightEvidence(), LimbEvidence()
    with ExitStack() as stack:
        poses, errors = (stack.enter_context(atomic_write(path)) for path in outputs)
        for coarse, pose2d, truth in inputs.blocks():
            refined = refiner.refine(coarse, pose2d)
            truth_mm = _millimetres(label_bounds, truth)
            stages = [_millimetres(refiner.bounds, pose) for pose in (coarse, refined.change, refined.pose)]
            rows = np.stack([mpjpe_per_frame(stage, truth_mm) for stage in stages], 1)
            poses.write("".join(refined_line(pose.ravel()) for pose in stages[2]).encode())
            errors.write("".join(" ".join(map(python2_number, row)) + "\n" for row in rows.tolist()).encode())
            totals += rows.sum(0)
            discarded += int(refined.discarded.sum())
            change = torch.as_tensor(refined.change).to(refiner.projector.change.bias)
            projected = project(refiner.projector, change, RELU_SCALE)
            evidence_2d += left_right_suspect(
                pose2d.reshape(-1, len(H36M16), 2), H36M16, projected.cpu().numpy().reshape(-1, len(H36M16), 2)
            )
            evidence_3d += left_right_suspect(stages[0], H36M16)
            limbs += limb_evidence(truth, label_bounds)
            finished += len(coarse)
            if progress is not None:
                progress(action, finished, frames)
    exchanged = "left and right may be exchanged: "
    suspicions = [f"{exchanged}{inputs.pose2d}: {reason}" for reason in evidence_2d.reasons]
    suspicions += [f"{exchanged}{inputs.coarse}: {reason}" for reason in evidence_3d.reasons]
    if (reason := limbs.reason(LABELS)) is not None:
        suspicions.append(f"{label_bounds.source} may not be right for {inputs.truth}: {reason}")
    before, changed, after = (totals / frames).tolist()
    done = ActionRefined(action, frames, False, before, changed, after, discarded, tuple(suspicions))
    write_record(record, done, made_from, outputs)
    return done


def _millimetres(bounds: Bounds, pose: np.ndarray) -> np.ndarray:
    """(n, 48) normalised as (n, 16, 3) mm, in double precision as the original has it."""
    return denormalise(np.asarray(pose, np.float64), bounds).reshape(-1, len(H36M16), 3)


def _fingerprint(refiner: Refiner, label_bounds: Bounds) -> str:
    digest = hashlib.sha256()
    bounds = [row for by in (refiner.bounds, label_bounds) for row in (by.maximum, by.minimum)]
    for array in (*refiner.projector.arrays(), *bounds):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
