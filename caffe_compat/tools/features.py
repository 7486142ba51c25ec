"""Blobs of a net over its own data, row by row in databases, as Caffe's ``extract_features`` writes them.

For images in a folder, and for more than fits one run, there is :mod:`caffe_compat.extraction`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch

from ..errors import UsageError, located
from ..formats.database_writing import COMMIT_EVERY, new_database
from ..formats.databases import Backend
from ..training.data.datum import feature_datum
from ..training.session import opened_net

__all__ = ["features_to_databases"]


def features_to_databases(
    model: str | os.PathLike[str],
    weights: str | os.PathLike[str],
    databases: Mapping[str, str],
    batches: int,
    *,
    backend: Backend = "LMDB",
    device: torch.device | str = "cpu",
    workers: int | None = None,
    warn: Callable[[str], None] = lambda text: None,
    on_open: Callable[[str], None] = lambda path: None,
    on_progress: Callable[[str, int], None] = lambda blob, count: None,
) -> None:
    """Run ``batches`` batches of the net's data and write each row of each blob: ten digits, and a Datum of floats.

    Args:
        model: a prototxt with data layers; file names in it start from the working directory.
        databases: blob name -> the new database that its rows go to.
        on_open: told the name of each database. on_progress: told every thousandth count of a blob's rows, and the
            last.

    Raises:
        UsageError: a blob that the net does not have, or with more axes than a Datum. CaffeCompatError: what cannot be
            read, built or written.
    """
    if batches < 1:
        raise UsageError(f"{batches} mini-batches: at least 1 was expected")
    with ExitStack() as stack:
        net, feed = stack.enter_context(
            opened_net(os.fspath(model), [os.fspath(weights)], device=device, workers=workers, warn=warn)
        )
        net.program.wanted(list(databases))  # an unknown blob is told before anything is written
        writers = {}
        for blob, path in databases.items():
            on_open(path)
            writers[blob] = stack.enter_context(new_database(path, backend))
        for index in range(batches):
            net.randomness.iteration = index
            rows = net.run(feed(index), blobs=list(databases))
            for blob, writer in writers.items():
                # A blob without axes is one row, as Caffe's num() of it says.
                for row in rows[blob].float().cpu().numpy() if rows[blob].dim() else [rows[blob].float().cpu().numpy()]:
                    with located(place=f"blob {blob!r}"):
                        writer.put(b"%010d" % writer.count, feature_datum(row))
                    if writer.count % COMMIT_EVERY == 0:
                        on_progress(blob, writer.count)
        for blob, writer in writers.items():
            on_progress(blob, writer.count)
