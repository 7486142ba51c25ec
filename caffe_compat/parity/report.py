"""What came out of a comparison with real Caffe: a verdict, a table, JSON, and the record for the model's file."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..display import shown
from ..errors import ParityError
from .compare import BlobResult, CaseResult
from .record import IEEE, ParityRecord, parity_record

__all__ = ["COLUMNS", "NUMBERS", "Report"]

COLUMNS = ("case", "blob", "count", "shape", "max abs", "max rel", "result")
NUMBERS = ("count", "max abs", "max rel")
"""The columns that are aligned to the right."""


@dataclass(frozen=True)
class Report:
    """A network, or several small ones, compared with recorded outputs of real Caffe.

    >>> import caffe_compat
    >>> tiny = "reference_outputs/tiny_mask3d/tiny_mask3d"
    >>> net = caffe_compat.load("reference_outputs/tiny_mask3d/deploy.prototxt", f"{tiny}.caffemodel")
    >>> report = caffe_compat.verify(net, f"{tiny}.h5")
    >>> report.ok, len(report.blobs), report.first_departing
    (True, 78, None)
    >>> report.worst.max_rel < 1e-5
    True

    Attributes:
        results: one :class:`~caffe_compat.parity.compare.CaseResult` for each batch of a reference, or for each case,
            with the arrays in execution order.
        reference, group: the file of recorded outputs and the part of it that was used.
        device, precision: where and how the network ran.
    """

    results: tuple[CaseResult, ...]
    reference: str = ""
    group: str = ""
    device: str = "cpu"
    precision: str = IEEE

    @property
    def ok(self) -> bool:
        """Whether there was something to compare and all of it is within tolerance."""
        return bool(self.results) and all(result.passed for result in self.results)

    @property
    def blobs(self) -> list[BlobResult]:
        """Every array that was compared, in execution order."""
        return [blob for result in self.results for blob in result.blobs]

    @property
    def first_departing(self) -> BlobResult | None:
        """The first array in execution order that is not within tolerance: what it is computed from is right."""
        return next((blob for blob in self.blobs if not blob.passed), None)

    @property
    def worst(self) -> BlobResult | None:
        """The array with the largest relative error; None if nothing was compared."""
        return max(self.blobs, key=lambda blob: blob.max_rel, default=None)

    def rows(
        self, *, every_blob: bool = True, only_failures: bool = False, most: int | None = None
    ) -> list[tuple[str, ...]]:
        """The cells of :meth:`table`, a row each, under :data:`COLUMNS`.

        Args:
            every_blob: else of each result what departs, or its worst array if nothing does.
            only_failures: leave out what is within tolerance.
            most: of all arrays, so many with the largest relative errors; None lists all.
        """
        largest = sorted(self.blobs, key=lambda blob: -blob.max_rel)[:most]
        chosen = {id(blob) for blob in largest}
        rows: list[tuple[str, ...]] = []
        for result in self.results:
            worst_one = [result.worst] if result.worst is not None else []
            listed = result.blobs if every_blob else [b for b in result.blobs if not b.passed] or worst_one
            rows += [
                _cells(result.name, blob)
                for blob in listed
                if id(blob) in chosen and not (only_failures and blob.passed)
            ]
            if result.unsupported:
                rows.append((result.name, "", "", "", "", "", f"FAIL: {result.unsupported}"))
            elif not result.blobs:
                rows.append((result.name, "", "", "", "", "", "FAIL: nothing to compare"))
        return rows

    def table(self, *, every_blob: bool = True, only_failures: bool = False, most: int | None = None) -> str:
        """What was compared, as text: a line for each array, and :meth:`summary`. Arguments as of :meth:`rows`."""
        rows = [COLUMNS, *self.rows(every_blob=every_blob, only_failures=only_failures, most=most)]
        return "\n".join([*_aligned([[shown(cell) for cell in row] for row in rows]), self.summary()])

    def summary(self) -> str:
        """One line: how many passed, how many arrays were compared, and the worst of them."""
        passed, worst = sum(result.passed for result in self.results), self.worst
        return shown(
            f"{passed} of {len(self.results)} passed, {len(self.blobs)} blobs compared"
            + (f", worst relative error {worst.max_rel:.1e} ({worst.name})" if worst else "")
        )

    def markdown(self, title: str, most: int = 10) -> str:
        """A section for the summary of a CI job: the verdict, and a table of what departs, the worst ``most`` of it."""
        lines = [f"### {_cell(title)}: {'equal' if self.ok else 'NOT equal'}", "", _cell(self.summary())]
        if self.first_departing is not None:
            lines.append(f"The first blob in execution order that departs is {_cell(self.first_departing.name)}.")
        rows = self.rows(every_blob=False, only_failures=not self.ok, most=most)
        rule = ["---:" if name in NUMBERS else "---" for name in COLUMNS]
        table = [COLUMNS, rule, *(tuple(map(_cell, row)) for row in rows)]
        return "\n".join([*lines, "", *(f"| {' | '.join(row)} |" for row in table), ""])

    def to_json(self) -> dict[str, object]:
        """What ``caffe-compat verify --json`` prints.

        Keys: ``cases`` and ``passed``, two counts; ``failed`` (``case``, ``blob``, ``max_abs``, ``max_rel`` and
        ``problem`` of each array that departs, with None for infinity); ``unsupported`` (``case`` and ``reason``).
        """
        return {
            "cases": len(self.results),
            "passed": sum(result.passed for result in self.results),
            "failed": [
                {
                    "case": result.name,
                    "blob": blob.name,
                    "max_abs": _finite(blob.max_abs),
                    "max_rel": _finite(blob.max_rel),
                    "problem": blob.problem,
                }
                for result in self.results
                for blob in result.blobs
                if not blob.passed
            ],
            "unsupported": [{"case": r.name, "reason": r.unsupported} for r in self.results if r.unsupported],
        }

    def record(self) -> ParityRecord:
        """The record for the file of the model that was compared.

        Raises:
            ParityError: something departed, or nothing was compared; its ``report`` is this one. FileError: the
                reference cannot be read any more.
        """
        try:
            return parity_record(self.reference, self.group, self.results, self.device, self.precision)
        except ParityError as error:
            error.report = self
            raise


def _cell(text: str) -> str:
    """Text that Markdown shows as it stands: names of files and blobs are nobody's markup."""
    return re.sub(r"([\\`*_\[\]<>|~#])", r"\\\1", shown(text))


def _cells(case: str, blob: BlobResult) -> tuple[str, ...]:
    state = ("pass" if blob.passed else "FAIL") + (f": {blob.problem}" if blob.problem else "")
    shape = "x".join(map(str, blob.shape)) or "scalar"
    return (case, blob.name, f"{blob.count:,}", shape, f"{blob.max_abs:.2e}", f"{blob.max_rel:.2e}", state)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if name in NUMBERS else cell.ljust(width)
            for name, cell, width in zip(COLUMNS, row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None
