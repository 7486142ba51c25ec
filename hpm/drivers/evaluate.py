"""Results of all actions, or cameras, against the labels of a data folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import overload

from ..files.folders import DataFolder, KthFolder
from .bounds import GivenBounds, Tell, label_bounds, warn
from .evaluate_actions import Evaluation, Root, evaluate_actions
from .evaluate_kth import PcpTable, evaluate_pcp
from .models import find_data

__all__ = ["evaluate"]

_Path = str | os.PathLike[str]


@overload
def evaluate(
    data: KthFolder,
    coarse: _Path | None = None,
    refined: _Path | None = None,
    *,
    bounds: GivenBounds = None,
    actions: Iterable[int] | None = None,
    allow_short: bool = False,
    root: Root = "as-is",
    progress: Callable[[int, int], None] | None = None,
    tell: Tell = warn,
) -> PcpTable: ...
@overload
def evaluate(
    data: DataFolder | _Path,
    coarse: _Path | None = None,
    refined: _Path | None = None,
    *,
    bounds: GivenBounds = None,
    actions: Iterable[int] | None = None,
    allow_short: bool = False,
    root: Root = "as-is",
    progress: Callable[[int, int], None] | None = None,
    tell: Tell = warn,
) -> Evaluation | PcpTable: ...
def evaluate(
    data: DataFolder | _Path,
    coarse: _Path | None = None,
    refined: _Path | None = None,
    *,
    bounds: GivenBounds = None,
    actions: Iterable[int] | None = None,
    allow_short: bool = False,
    root: Root = "as-is",
    progress: Callable[[int, int], None] | None = None,
    tell: Tell = warn,
) -> Evaluation | PcpTable:
    """Errors of the coarse, the corrected and the refined poses in two folders: what ``hpm evaluate`` shows.

    Args:
        data: a data folder of Human3.6M by its path (protocol I), or a :class:`.folders.DataFolder`; or a
            :class:`.folders.KthFolder`, which has the percentage of correct parts instead.
        coarse: the folder of ``result<k>_unnorm.csv`` (or only ``_norm.csv``) and ``result<k>_change_unnorm.csv``.
        refined: the folder of ``refine3d_<k>.txt``.
        bounds: what the labels are normalised by; None for those of the folder, or else the released model's.
        actions: their numbers, or those of cameras; None for all.
        allow_short: results may have fewer frames than the labels, whose rest is left out.
        root: of Human3.6M: which part the hip has in the errors; see :data:`.evaluate_actions.ROOTS`.
        progress: called with actions done and actions in all.
        tell: told which bounds were assumed.

    Returns:
        Rows of errors (mm; shares 0 to 1), and what could not be evaluated in ``problems``.

    Raises:
        UsageError: no such folder, nothing to evaluate, or an action that there is not.
        FileError: bounds that cannot be read.

    Warns:
        CaffeCompatWarning: left and right of a result seem exchanged, or bounds not those of the labels, with the
            evidence.

    Example:
        >>> table = evaluate("data", "coarse", "refined", actions=[13])
        >>> [(row.stage, round(row.mpjpe, 1)) for row in table.rows], table.problems
        ([('coarse', 45.5), ('change', 44.8), ('refined', 42.7)], [])
    """
    folder = find_data(data)
    chosen, wanted = label_bounds(bounds, folder, tell), folder.actions if actions is None else actions
    if isinstance(folder, KthFolder):
        return evaluate_pcp(folder, coarse, refined, bounds=chosen, cameras=wanted, allow_short=allow_short)
    return evaluate_actions(
        folder, coarse, refined, bounds=chosen, actions=wanted, allow_short=allow_short, root=root, progress=progress
    )
