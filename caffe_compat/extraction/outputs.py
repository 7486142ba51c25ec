"""What shards become: one file (or an LMDB) with the rows of all of them in order, and which image each is of.

| ending | what is in it |
|---|---|
| .h5 | data sets ``blob/<name>`` (n, ...), ``row`` (n,) and ``id`` (n,), strings in UTF-8 |
| .parquet | columns ``row``, ``id`` and one for each blob, lists of its values; the field's metadata have their shape |
| .npy | (n, ...) of one blob; the ids in ``<file>.ids.txt``, a row's number, a tab and its id a line |
| .lmdb | of one blob, as Caffe's ``extract_features`` writes: ten digits, the row, and a Datum; the ids as for .npy |
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..display import shown
from ..errors import UsageError, located
from ..extras import require
from ..formats.arrays import write_npy
from ..formats.database_writing import new_database
from ..formats.files import atomic_write
from ..formats.hdf5_writing import create_hdf5
from ..training.data.datum import feature_datum
from .shards import Shard

__all__ = ["Layout", "check_output", "write_output"]


@dataclass(frozen=True)
class Layout:
    """What is written.

    Attributes:
        blobs: name -> shape of a row. dtype: of the values. ids: of all rows, also of those that are left out.
            count: how many rows there are. widest: bytes of the longest id.
    """

    blobs: Mapping[str, tuple[int, ...]]
    dtype: np.dtype
    ids: Sequence[str]
    count: int
    widest: int


Pieces = Callable[[], Iterable[Shard]]


def check_output(path: str, blobs: Sequence[str], dtype: np.dtype) -> None:
    """Refuse what cannot be written, before anything is computed.

    Raises:
        UsageError: an ending that is none of ours, or several blobs where one is possible. MissingExtraError.
    """
    ending = os.path.splitext(path)[1]
    if ending not in _WRITERS:
        raise UsageError(f"-o {path}: a name that ends in {', '.join(_WRITERS)} was expected")
    if ending in (".npy", ".lmdb") and len(blobs) > 1:
        raise UsageError(
            f"-o {path}: {ending} holds one blob, {len(blobs)} were asked for; .h5 and .parquet hold several"
        )
    if ending == ".lmdb" and dtype != np.float32:
        raise UsageError(f"-o {path}: a Datum holds float32, not {dtype}")
    if ending == ".parquet":
        require("pyarrow.parquet", "parquet")
        if {"row", "id"} & set(blobs):
            raise UsageError(f"-o {path}: a blob cannot be called row or id in a .parquet")
    if ending == ".lmdb":
        require("lmdb", "lmdb")


def write_output(path: str, layout: Layout, pieces: Pieces) -> None:
    """Write the rows of ``pieces`` in their order. Raises FileError."""
    _WRITERS[os.path.splitext(path)[1]](path, layout, pieces)


def _write_h5(path: str, layout: Layout, pieces: Pieces) -> None:
    with create_hdf5(path) as file:
        row = file.create_dataset("row", (layout.count,), np.int64)
        names = file.create_dataset("id", (layout.count,), f"S{max(1, layout.widest)}")
        sets = {
            blob: file.create_dataset(f"blob/{blob}", (layout.count, *shape), layout.dtype)
            for blob, shape in layout.blobs.items()
        }
        at = 0
        for piece in pieces():
            end = at + len(piece.rows)
            row[at:end] = piece.rows
            names[at:end] = np.array([layout.ids[i].encode("utf-8", "backslashreplace") for i in piece.rows], "S")
            for blob, values in sets.items():
                values[at:end] = piece.arrays[blob]
            at = end


def _write_parquet(path: str, layout: Layout, pieces: Pieces) -> None:
    arrow: Any = require("pyarrow", "parquet")
    parquet: Any = require("pyarrow.parquet", "parquet")
    kind = arrow.from_numpy_dtype(layout.dtype)
    fields = [arrow.field("row", arrow.int64()), arrow.field("id", arrow.string())]
    for blob, shape in layout.blobs.items():
        size = int(np.prod(shape, dtype=np.int64))
        metadata = {"shape": ",".join(map(str, shape))}
        fields.append(arrow.field(blob, arrow.list_(kind, size), metadata=metadata))
    schema = arrow.schema(fields)
    with (
        atomic_write(path) as file,
        # Values of features hardly repeat: looking for those that do would take memory and gain nothing.
        parquet.ParquetWriter(file, schema, use_dictionary=False, compression="none", write_statistics=False) as writer,
    ):
        for piece in pieces():
            ids = [layout.ids[i].encode("utf-8", "backslashreplace").decode() for i in piece.rows]
            columns = [arrow.array(piece.rows), arrow.array(ids, arrow.string())]
            for field in fields[2:]:
                flat = np.ascontiguousarray(piece.arrays[field.name], layout.dtype).reshape(-1)
                columns.append(arrow.FixedSizeListArray.from_arrays(arrow.array(flat), type=field.type))
            if len(piece.rows):
                writer.write_table(arrow.Table.from_arrays(columns, schema=schema), row_group_size=len(piece.rows))


def _write_npy(path: str, layout: Layout, pieces: Pieces) -> None:
    ((blob, shape),) = layout.blobs.items()
    _write_ids(path, layout, pieces)
    with located(path=path), atomic_write(path) as file:
        write_npy(file, (layout.count, *shape), layout.dtype, (piece.arrays[blob] for piece in pieces()))


def _write_lmdb(path: str, layout: Layout, pieces: Pieces) -> None:
    ((blob, _),) = layout.blobs.items()
    _write_ids(path, layout, pieces)
    with new_database(path, "LMDB") as writer:
        for row, values in _rows(blob, pieces):
            writer.put(b"%010d" % row, feature_datum(values))


def _rows(blob: str, pieces: Pieces) -> Iterator[tuple[int, np.ndarray]]:
    for piece in pieces():
        yield from zip(piece.rows.tolist(), piece.arrays[blob], strict=True)


def _write_ids(path: str, layout: Layout, pieces: Pieces) -> None:
    with atomic_write(f"{path}.ids.txt") as file:
        for piece in pieces():
            file.write("".join(f"{i}\t{shown(layout.ids[i])}\n" for i in piece.rows).encode())


_WRITERS: dict[str, Callable[[str, Layout, Pieces], None]] = {
    ".h5": _write_h5,
    ".parquet": _write_parquet,
    ".npy": _write_npy,
    ".lmdb": _write_lmdb,
}
