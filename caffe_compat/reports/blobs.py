"""What is in stored arrays: shapes, ranges, and values that are no numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..formats.blob_proto import BlobView
from ..formats.weights import WeightsFile
from ..network.registry import Shape
from ..schema import load_schema
from ..schema.enums import enum_of

__all__ = [
    "BlobRow",
    "WeightsInspection",
    "WeightsRow",
    "array_row",
    "blob_row",
    "blob_warnings",
    "row_warnings",
    "weights_rows",
]


@dataclass(frozen=True)
class BlobRow:
    """One stored array.

    Attributes:
        minimum, maximum: of its finite values; None if there are none. not_finite: how many are NaN or infinite.
        has_diff: whether the file stores a gradient beside it.
        problem: what is wrong with it; empty if nothing is.
    """

    shape: Shape
    dtype: str
    count: int
    minimum: float | None
    maximum: float | None
    not_finite: int
    has_diff: bool = False
    problem: str = ""


@dataclass(frozen=True)
class WeightsRow:
    """One layer of a weights file. ``type`` is empty where the file does not say (HDF5)."""

    name: str
    type: str
    blobs: tuple[BlobRow, ...]

    @property
    def parameters(self) -> int:
        """How many numbers its blobs hold."""
        return sum(blob.count for blob in self.blobs)


@dataclass(frozen=True)
class WeightsInspection:
    """The blobs of a weights file or ``.pt``: layers that have none are left out; ``layers_in_file`` counts all."""

    layers_in_file: int
    layers: tuple[WeightsRow, ...]
    parameters: int
    bytes: int


def weights_rows(weights: WeightsFile) -> WeightsInspection:
    """The layers of an open file that have blobs. The file's pages are given back blob by blob."""
    rows = []
    stored = 0
    for record in weights.layers:
        if not record.blobs:
            continue
        blobs = []
        for blob in record.blobs:
            blobs.append(blob_row(blob))
            stored += blob.data.nbytes
            weights.release(blob)
        rows.append(WeightsRow(record.name, _type_name(record.type), tuple(blobs)))
    return WeightsInspection(len(weights.layers), tuple(rows), sum(row.parameters for row in rows), stored)


def _type_name(kind: str | int | None) -> str:
    """A V1 file has the number of its enum of types in place of a name."""
    if not isinstance(kind, int):
        return kind or ""
    known = enum_of(load_schema().message("V1LayerParameter")(), "type").values_by_number.get(kind)
    return known.name if known else f"V1 type {kind}"


def blob_row(blob: BlobView) -> BlobRow:
    """A blob of a file."""
    if blob.is_empty:
        return BlobRow(
            blob.shape, blob.data.dtype.name, 0, None, None, 0, problem="declares its shape and holds no values"
        )
    return array_row(blob.data, blob.shape, blob.diff is not None)


def array_row(data: np.ndarray, shape: Shape, has_diff: bool = False) -> BlobRow:
    """An array of any shape, said to have ``shape``."""
    low = high = None
    bad = 0
    if data.size:
        low, high = float(data.min()), float(data.max())  # NaN if any value is
        if not (math.isfinite(low) and math.isfinite(high)):
            finite = data[np.isfinite(data)]
            bad = data.size - finite.size
            low, high = (float(finite.min()), float(finite.max())) if finite.size else (None, None)
    problem = f"{bad} of {data.size} values are not finite (NaN or infinity)" if bad else ""
    return BlobRow(shape, data.dtype.name, data.size, low, high, bad, has_diff, problem)


def blob_warnings(what: str, blob: BlobRow) -> tuple[str, ...]:
    """What is wrong with a blob, which is called ``what``, in words; nothing if nothing is."""
    return (f"{what}: {blob.problem}",) if blob.problem else ()


def row_warnings(row: WeightsRow) -> Iterator[str]:
    """What is wrong with the blobs of a layer, in words."""
    for i, blob in enumerate(row.blobs):
        yield from blob_warnings(f"layer {row.name!r}, blob {i}", blob)
