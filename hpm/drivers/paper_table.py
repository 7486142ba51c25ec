"""An evaluation as papers print it: a row for each method, a column for each action, and their mean.

Rows of other papers come from a file and are marked as published: nobody computed them here, and what they were
computed on is for their papers to tell.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from caffe_compat.errors import FileError, UsageError
from caffe_compat.formats.files import read_file
from caffe_compat.formats.sniff import decode_text

from ..files.folders import ACTIONS
from .evaluate_actions import STAGES, UNITS, Evaluation

__all__ = ["PaperTable", "paper_table", "read_published"]

_SHORT = {
    1: "Direct.",
    2: "Discuss",
    3: "Eating",
    4: "Greet",
    5: "Phone",
    6: "Pose",
    7: "Purch.",
    8: "Sitting",
    9: "SittingD.",
    10: "Smoke",
    11: "Photo",
    12: "Wait",
    13: "Walk",
    14: "WalkD.",
    15: "WalkT.",
}
"""The actions as the papers' tables head their columns."""

_LATEX = str.maketrans(
    {**{sign: f"\\{sign}" for sign in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\~{}", "^": r"\^{}"}
)


@dataclass(frozen=True)
class PaperTable:
    """Rows of one measure by action."""

    measure: str
    rows: tuple[tuple[str, Mapping[int, float]], ...]
    """What a row is called, and its value for each action that it has."""
    notes: tuple[str, ...] = ()
    """What is to be said below: what is missing, each once."""

    @property
    def header(self) -> list[str]:
        """Of the columns."""
        unit = UNITS[self.measure]
        return [f"{self.measure.upper().replace('_', '-')} ({unit})", *_SHORT.values(), "Avg."]

    def _cells(self, missing: str, digits: int | None) -> list[list[str]]:
        """Of each row: its name, a value an action, and their mean; that only if there are all."""
        found = []
        for name, values in self.rows:
            numbers = [values.get(action) for action in ACTIONS]
            mean = float(np.mean(list(values.values()))) if len(values) == len(ACTIONS) else None
            cells = [missing if v is None else _text(v, digits) for v in (*numbers, mean)]
            found.append([name, *cells])
        return found

    def _digits(self) -> int:
        return 1 if UNITS[self.measure].startswith("mm") else 3

    def to_markdown(self) -> str:
        """The table, with what is missing below it."""
        rows = [self.header, ["---", *["---:"] * (len(ACTIONS) + 1)], *self._cells("-", self._digits())]
        lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)]).rstrip() + "\n"

    def to_latex(self) -> str:
        """A ``tabular`` with the lines of booktabs; what is missing are comments."""
        rows = self._cells("--", self._digits())
        body = [" & ".join(cell.translate(_LATEX) for cell in row) + r" \\" for row in (self.header, *rows)]
        columns = "l" + "r" * (len(ACTIONS) + 1)
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule"]
        notes = [f"% {' '.join(note.split())}" for note in self.notes]
        return "\n".join([*lines, r"\end{tabular}", *notes]) + "\n"

    def to_csv(self) -> str:
        """A line a row, all digits, a header first; what is missing is empty."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.header, *self._cells("", None)])
        return text.getvalue()


def paper_table(
    evaluation: Evaluation, measure: str = "mpjpe", published: Sequence[tuple[str, Mapping[int, float]]] = ()
) -> PaperTable:
    """One measure of an evaluation as papers print it.

    Args:
        published: rows of other papers; see :func:`read_published`.

    Raises:
        UsageError: another measure.
    """
    if measure not in UNITS:
        raise UsageError(f"measure {measure!r}; there are {', '.join(UNITS)}")
    rows = [(f"{name} (as published)", values) for name, values in published]
    for stage in STAGES:
        values = {int(r.action.split()[0]): float(getattr(r, measure)) for r in evaluation.rows if r.stage == stage}
        if values:
            rows.append((stage, values))
    return PaperTable(measure, tuple(rows), tuple(evaluation.problems))


def read_published(path: str | os.PathLike[str]) -> list[tuple[str, dict[int, float]]]:
    """Rows of other papers, of a CSV: a name and a value for each of the 15 actions, in their order, empty if missing.

    A mean at the end is left out: it is computed. Raises FileError.
    """
    name = os.fspath(path)
    rows = []
    for number, row in enumerate(csv.reader(decode_text(read_file(path), name).splitlines()), 1):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if len(cells) not in (len(ACTIONS) + 1, len(ACTIONS) + 2):
            found = f"{len(cells)} cells; a name and {len(ACTIONS)} values were expected"
            raise FileError(found, path=name, line=number)
        try:
            values = {k: float(cell) for k, cell in zip(ACTIONS, cells[1:], strict=False) if cell}
        except ValueError as error:
            if number == 1:
                continue  # a header
            raise FileError(str(error), path=name, line=number) from error
        if not np.isfinite(list(values.values())).all():
            raise FileError("a value that is not finite", path=name, line=number)
        rows.append((cells[0], values))
    if not rows:
        raise FileError("holds no row; a name and 15 values were expected", path=name)
    return rows


def _text(value: float, digits: int | None) -> str:
    return repr(value) if digits is None else f"{value:.{digits}f}"
