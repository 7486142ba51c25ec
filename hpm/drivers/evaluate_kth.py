"""KTH Multiview Football II as ``hpm prepare kth`` leaves it: its lists, and the percentage of correct parts.

A part is correct if its two ends are off by half of its length or less on average (:func:`.metrics.pcp`), and ``all``
is the mean of four kinds of parts: so the public evaluation in ``mv3dpose`` counts, after Burenius et al., CVPR 2013.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from caffe_compat.errors import CaffeCompatError, UsageError

from ..files.folders import CAMERAS, KthFolder
from ..files.lists import check_lengths, read_list
from ..metrics import PCP_PARTS, pcp
from ..scaling import Bounds, denormalise
from ..skeleton import H36M16, KTH14, convert
from .evaluate_actions import STAGES, read_stage

__all__ = ["PcpTable", "evaluate_pcp"]

_COLUMNS = (*PCP_PARTS, "all")


@dataclass
class PcpTable:
    """Rows of (camera, stage, frames, share of correct parts by name), and what could not be evaluated."""

    rows: list[tuple[int, str, int, dict[str, float]]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def to_csv(self) -> str:
        """One line per row, a header first; shares 0 to 1."""
        lines = [",".join(("camera", "stage", "frames", *_COLUMNS))]
        lines += [f"{c},{s},{n},{','.join(f'{parts[k]:.6g}' for k in _COLUMNS)}" for c, s, n, parts in self.rows]
        return "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """Everything; shares 0 to 1."""
        rows = [{"camera": c, "stage": s, "frames": n, "pcp": parts} for c, s, n, parts in self.rows]
        return json.dumps({"rows": rows, "problems": self.problems}, indent=1) + "\n"

    def to_markdown(self) -> str:
        """A table in percent and, below it, what could not be evaluated."""
        header = ("camera", "stage", "frames", *(f"{name} (%)" for name in _COLUMNS))
        lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        for camera, stage, frames, parts in self.rows:
            cells = (str(camera), stage, str(frames), *(f"{100 * parts[name]:.1f}" for name in _COLUMNS))
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join([*lines, "", *(f"- {problem}" for problem in self.problems)]).rstrip() + "\n"


def evaluate_pcp(
    data: KthFolder,
    coarse: str | os.PathLike[str] | None,
    refined: str | os.PathLike[str] | None,
    *,
    bounds: Bounds,
    cameras: Iterable[int] = CAMERAS,
    allow_short: bool = False,
) -> PcpTable:
    """The percentage of correct parts of each camera's results; what is missing is named and the rest goes on.

    Args:
        coarse, refined: folders of results as for :func:`.evaluate_actions.evaluate_actions`.
        bounds: what the labels are normalised by.

    Raises:
        UsageError: neither folder is given.
    """
    if coarse is None and refined is None:
        raise UsageError("nothing to evaluate: give a folder of coarse results, of refined results, or both")
    table = PcpTable()
    for camera in cameras:
        try:
            labels = read_list(data.ground_truth(camera), need_3d=True)
        except CaffeCompatError as error:
            table.problems.append(f"camera {camera}: {error}")
            continue
        assert labels.pose3d is not None
        truth = denormalise(labels.pose3d, bounds)
        for stage in STAGES:
            try:
                found = read_stage(stage, coarse, refined, camera, bounds)
                if found is None:
                    continue
                path, pose = found
                counts = {str(path): len(pose), str(data.ground_truth(camera)): len(truth)}
                check_lengths(counts, str(path), allow_short=allow_short)
                both = pose, truth[: len(pose)].reshape(pose.shape)
                ours, theirs = (convert(poses, H36M16, KTH14) for poses in both)
                table.rows.append((camera, stage, len(pose), pcp(ours, theirs)))
            except CaffeCompatError as error:
                table.problems.append(f"camera {camera}, {stage}: {error}")
    return table
