"""Errors per action of the coarse, the corrected and the refined poses, as tables.

The original's ``eval_h36m.m`` prints the MPJPE of the coarse and of the corrected pose per action, and their mean over
the actions, each action counting the same; so do these tables, with more measures and the refined pose.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

import numpy as np

from caffe_compat.errors import CaffeCompatError, CaffeCompatWarning, UsageError

from ..files.folders import ACTIONS, DataFolder, ResultFolder, known_actions, protocol
from ..files.lists import check_lengths, read_list, read_refined, read_results
from ..limbs import LABELS, limb_evidence
from ..metrics import acceleration_error, auc, mpjpe, mpjpe_per_joint, mpjve, n_mpjpe, p_mpjpe, pck
from ..projector import POSE_3D
from ..scaling import REFINEMENT_BOUNDS, Bounds, bone_variation, centre_on_root, denormalise
from ..skeleton import H36M16, left_right_suspect

__all__ = ["ROOTS", "STAGES", "UNITS", "Evaluation", "Root", "Row", "evaluate_actions", "measure", "read_stage"]

STAGES = ("coarse", "change", "refined")

UNITS = {
    "mpjpe": "mm",
    "p_mpjpe": "mm",
    "n_mpjpe": "mm",
    "mpjve": "mm/frame",
    "pck": "share in 150 mm",
    "auc": "share",
    "accel": "mm/frame²",
}
"""The measures, and what they are in."""

Root = Literal["as-is", "aligned", "left-out"]
ROOTS: tuple[Root, ...] = ("as-is", "aligned", "left-out")
"""Poses as they are, the original's way; moved so that hips lie on each other; and then without counting the hip."""


@dataclass(frozen=True)
class Row:
    """The errors of one stage of one action; see ``metrics`` for what each is."""

    action: str
    stage: str
    frames: int
    mpjpe: float
    p_mpjpe: float
    n_mpjpe: float
    mpjve: float
    pck: float
    auc: float
    accel: float
    joints: tuple[float, ...] = ()
    """MPJPE of each joint that counts, mm, in the order of H36M16."""


@dataclass
class Evaluation:
    """A table per action and stage."""

    protocol: int
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What could not be evaluated, and why."""
    label_bone_variation: float | None = None
    """The greatest variation of a bone's length in the labels (standard deviation over mean), within an action.

    Labels scaled to fixed limb lengths show about 0; whether the authors' test labels were scaled is not known.
    """

    def averages(self) -> list[Row]:
        """Per stage, the mean over its actions, each counting the same; frames are summed up."""
        means = []
        for stage in STAGES:
            rows = [row for row in self.rows if row.stage == stage]
            if rows:
                errors = {name: float(np.mean([getattr(row, name) for row in rows])) for name in UNITS}
                label = f"mean of {len(rows)} action{'s' * (len(rows) != 1)}"
                joints = tuple(np.mean([row.joints for row in rows], 0).tolist())
                means.append(Row(label, stage, sum(row.frames for row in rows), **errors, joints=joints))
        return means

    def to_csv(self) -> str:
        """One line per row and average, a header first."""
        names = [f.name for f in fields(Row) if f.name != "joints"]
        lines = [",".join(names)]
        for row in [*self.rows, *self.averages()]:
            lines.append(",".join(_text(getattr(row, name)) for name in names))
        return "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """Everything; a velocity that cannot be computed is null."""

        def plain(row: Row) -> dict[str, object]:
            return {key: None if value != value else value for key, value in asdict(row).items()}

        content = {
            "protocol": self.protocol,
            "test_subjects": list(protocol(self.protocol).test),
            "units": UNITS,
            "rows": [plain(row) for row in self.rows],
            "averages": [plain(row) for row in self.averages()],
            "label_bone_variation": self.label_bone_variation,
            "problems": self.problems,
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """A table and, below it, what could not be evaluated."""
        header = ["action", "stage", "frames"] + [
            f"{name.upper().replace('_', '-')} ({u})" for name, u in UNITS.items()
        ]
        lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        for row in [*self.rows, *self.averages()]:
            errors = [f"{getattr(row, name):.{1 if unit.startswith('mm') else 3}f}" for name, unit in UNITS.items()]
            lines.append("| " + " | ".join([row.action, row.stage, str(row.frames), *errors]) + " |")
        subjects = " and ".join(protocol(self.protocol).test)
        lines += ["", f"Protocol {self.protocol}: test subjects {subjects}."]
        if self.label_bone_variation is not None:
            lines.append(f"Bone lengths of the labels vary by up to {self.label_bone_variation:.2%} within an action.")
        return "\n".join(lines + [f"- {problem}" for problem in self.problems]) + "\n"


def measure(
    action: str,
    stage: str,
    pose_mm: np.ndarray,
    truth_mm: np.ndarray,
    starts: np.ndarray | None = None,
    root: Root = "as-is",
) -> Row:
    """All errors of poses (frames, 16, 3) in mm; ``root`` is of :data:`ROOTS`."""
    if root != "as-is":
        pose_mm, truth_mm = centre_on_root(pose_mm), centre_on_root(truth_mm)
    if root == "left-out":
        pose_mm, truth_mm = (np.delete(pose, H36M16.root, axis=1) for pose in (pose_mm, truth_mm))
    return Row(
        action,
        stage,
        len(pose_mm),
        mpjpe(pose_mm, truth_mm),
        p_mpjpe(pose_mm, truth_mm),
        n_mpjpe(pose_mm, truth_mm),
        mpjve(pose_mm, truth_mm, starts),
        pck(pose_mm, truth_mm),
        auc(pose_mm, truth_mm),
        acceleration_error(pose_mm, truth_mm, starts),
        tuple(mpjpe_per_joint(pose_mm, truth_mm).tolist()),
    )


def evaluate_actions(
    data: DataFolder,
    coarse: str | os.PathLike[str] | None = None,
    refined: str | os.PathLike[str] | None = None,
    *,
    bounds: Bounds = REFINEMENT_BOUNDS,
    actions: Iterable[int] = ACTIONS,
    allow_short: bool = False,
    root: Root = "as-is",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate the results in two folders against the labels; what is missing or broken is named and the rest goes on.

    Args:
        coarse: the folder of ``result<k>_unnorm.csv`` (or only ``_norm.csv``) and ``result<k>_change_unnorm.csv``.
        refined: the folder of ``refine3d_<k>.txt``.
        bounds: what the labels are normalised by.
        allow_short: results may have fewer frames than the labels, whose rest is left out.
        root: which part the hip has in the errors; see :data:`ROOTS`.
        progress: called with actions done and actions in all.

    Warns:
        CaffeCompatWarning: left and right of a result seem exchanged, or bounds not those of the labels, with the
            evidence.

    Raises:
        UsageError: neither folder is given, an action other than 1 to 15, or another ``root``.
    """
    if coarse is None and refined is None:
        raise UsageError("nothing to evaluate: give a folder of coarse results, of refined results, or both")
    if root not in ROOTS:
        raise UsageError(f"root {root!r}; there are {', '.join(ROOTS)}")
    evaluation = Evaluation(data.protocol)
    wanted = known_actions(actions)
    for number, action in enumerate(wanted):
        if progress is not None:
            progress(number, len(wanted))
        name = f"{action} {ACTIONS[action]}"
        try:
            labels = read_list(data.ground_truth(action), need_3d=True)
        except CaffeCompatError as error:
            evaluation.problems.append(f"action {name}: {error}")
            continue
        assert labels.pose3d is not None
        truth_mm = denormalise(labels.pose3d, bounds).reshape(-1, len(H36M16), 3)
        varies = float(bone_variation(truth_mm).max())
        evaluation.label_bone_variation = max(varies, evaluation.label_bone_variation or 0.0)
        if (reason := limb_evidence(labels.pose3d, bounds).reason(LABELS)) is not None:
            warnings.warn(
                f"action {name}: {bounds.source} may not be right for {data.ground_truth(action)}: {reason}",
                CaffeCompatWarning,
                stacklevel=2,
            )
        starts = None if labels.clip is None else labels.clip == 0
        if not any_result(coarse, refined, action):
            evaluation.problems.append(f"action {name}: no results")
            continue
        for stage in STAGES:
            try:
                found = read_stage(stage, coarse, refined, action, bounds)
                if found is None:
                    continue
                path, pose_mm = found
                n = len(pose_mm)
                counts = {str(path): n, str(data.ground_truth(action)): len(truth_mm)}
                check_lengths(counts, str(path), allow_short=allow_short)
                row = measure(name, stage, pose_mm, truth_mm[:n], None if starts is None else starts[:n], root)
                evaluation.rows.append(row)
                for reason in left_right_suspect(pose_mm, H36M16, truth_mm[:n]).reasons:
                    warnings.warn(
                        f"action {name}: left and right may be exchanged: {path}: {reason}",
                        CaffeCompatWarning,
                        stacklevel=2,
                    )
            except CaffeCompatError as error:
                evaluation.problems.append(f"action {name}, {stage}: {error}")
    if progress is not None:
        progress(len(wanted), len(wanted))
    return evaluation


def any_result(coarse: str | os.PathLike[str] | None, refined: str | os.PathLike[str] | None, action: int) -> bool:
    """Whether the folders hold any file of an action: else one line says so, not one for each of its stages."""
    paths = []
    if coarse is not None:
        files = ResultFolder(Path(coarse))
        paths += [files.coarse_mm(action), files.normalised(action), files.change_mm(action)]
    if refined is not None:
        paths.append(ResultFolder(Path(refined)).refined_mm(action))
    return any(path.exists() for path in paths)


def read_stage(
    stage: str,
    coarse: str | os.PathLike[str] | None,
    refined: str | os.PathLike[str] | None,
    action: int,
    bounds: Bounds,
) -> tuple[Path, np.ndarray] | None:
    """A stage's file and its poses (frames, 16, 3), mm; None if no folder was given for it.

    Coarse poses in mm are by the bounds of the network that made them; only where that file is missing, normalised ones
    are taken to refer to ``bounds``, the labels'. Raises FileError.
    """
    folder = refined if stage == "refined" else coarse
    if folder is None:
        return None
    files = ResultFolder(Path(folder))
    if stage == "refined":
        path = files.refined_mm(action)
        pose = read_refined(path)
    elif stage == "change":
        path = files.change_mm(action)
        pose = read_results(path, POSE_3D)
    elif files.coarse_mm(action).exists() or not files.normalised(action).exists():
        path = files.coarse_mm(action)
        pose = read_results(path, POSE_3D)
    else:
        path = files.normalised(action)
        pose = denormalise(read_results(path, POSE_3D), bounds)
    return path, pose.reshape(-1, len(H36M16), 3)


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
