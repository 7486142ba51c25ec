"""A million rows of 4,096 values through shards to one file, and the memory that it took.

    python scripts/million_rows.py FOLDER [--rows 1000000] [--values 4096] [--dtype float16]

Rows are generated, not extracted: what is measured is how shards are kept and put together. For a while FOLDER holds
all rows twice, 16 GB for a million rows of float16; what was written is read back in part, compared, and removed.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet

from caffe_compat.extraction.outputs import Layout, write_output
from caffe_compat.extraction.shards import Shard, ShardStore

PER_SHARD = 1024


def rows_of(number: int, count: int, values: int, dtype: np.dtype) -> np.ndarray:
    """Shard ``number``: (rows, values), another one for each number, cheaply made."""
    first = number * PER_SHARD
    rows = np.arange(first, min(first + PER_SHARD, count), dtype=np.float32)[:, np.newaxis]
    return (rows % 977 + np.arange(values, dtype=np.float32) / values).astype(dtype)


def peak() -> float:
    """The most memory that this process had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--values", type=int, default=4096)
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float16")
    arguments = parser.parse_args()
    count, values, dtype = arguments.rows, arguments.values, np.dtype(arguments.dtype)
    path = str(arguments.folder / "rows.parquet")
    shards = -(-count // PER_SHARD)
    before, start = peak(), time.perf_counter()
    store = ShardStore(f"{path}.parts", {"rows": count, "values": values, "dtype": str(dtype)})
    try:
        for number in range(shards):
            made = rows_of(number, count, values, dtype)
            ids = np.arange(number * PER_SHARD, number * PER_SHARD + len(made))
            store.add(number, Shard(ids, {"fc7": made}))
        kept = time.perf_counter()
        names = [f"images/{row:09d}.jpg" for row in range(count)]
        layout = Layout({"fc7": (values,)}, dtype, names, count, max(map(len, names)))
        write_output(path, layout, lambda: (store.read(number, ["fc7"]) for number in range(shards)))
        done = time.perf_counter()
        most = peak()
        file = pyarrow.parquet.ParquetFile(path)
        assert file.metadata.num_rows == count
        for number in (0, shards // 2, shards - 1):
            table = file.read_row_group(number)
            found = table["fc7"].combine_chunks().values.to_numpy().reshape(-1, values)
            assert np.array_equal(found, rows_of(number, count, values, dtype))
            assert table["id"][0].as_py() == names[number * PER_SHARD]
        size = os.path.getsize(path) / 1e9
    finally:
        store.remove()
        Path(path).unlink(missing_ok=True)
    print(f"{count} rows of {values} values ({dtype}), {size:.2f} GB of parquet")
    print(f"shards in {kept - start:.0f} s, the file in {done - kept:.0f} s")
    print(f"peak memory {most:.0f} MB, of which {before:.0f} MB before anything was done")
    print("ok" if most < 1000 else "MISS: 1000 MB were the target")


if __name__ == "__main__":
    main()
