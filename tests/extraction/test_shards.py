"""The folder of what is done: whole, checked, and one process's."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
from pathlib import Path

import numpy as np
import pytest

from caffe_compat.errors import FileError, UsageError
from caffe_compat.extraction.shards import BadRow, Shard, ShardStore

JOB: dict[str, str | int] = {"version": 1, "net": "a"}


def shard(first: int) -> Shard:
    values = np.random.RandomState(first).standard_normal((3, 2, 5)).astype(np.float32)
    return Shard(np.array([first, first + 1, first + 3]), {"a/b": values}, (BadRow(first + 2, "x\ty", "is gone"),))


def test_what_is_added_is_found(tmp_path: Path) -> None:
    folder = str(tmp_path / "parts")
    with ShardStore(folder, JOB) as store:
        store.add(4, shard(40))
        store.add(1, shard(10))
    with ShardStore(folder, JOB) as store:
        assert store.done == {1, 4}
        assert [bad.row for bad in store.bad()] == [12, 42]
        found, expected = store.read(4, ["a/b"]), shard(40)
        np.testing.assert_array_equal(found.rows, expected.rows)
        np.testing.assert_array_equal(found.arrays["a/b"], expected.arrays["a/b"])
        assert found.bad == expected.bad
        store.remove()
    assert not Path(folder).exists()


def test_what_is_damaged_is_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    with ShardStore(str(folder), JOB) as store:
        for number in range(4):
            store.add(number, shard(number))
    data = bytearray((folder / "00000001.npz").read_bytes())
    data[-100] ^= 1
    (folder / "00000001.npz").write_bytes(data)
    (folder / "00000002.npz").unlink()
    lines = (folder / "done.jsonl").read_bytes()
    (folder / "done.jsonl").write_bytes(lines[:-3])
    with ShardStore(str(folder), JOB) as store:
        assert store.done == {0}
        store.add(3, shard(3))
    with ShardStore(str(folder), JOB) as store:
        assert store.done == {0, 3}


def test_folders_of_others(tmp_path: Path) -> None:
    ShardStore(str(tmp_path / "parts"), JOB).close()
    with pytest.raises(UsageError, match=r"parts: was begun with another net \(a, now b\)"):
        ShardStore(str(tmp_path / "parts"), {**JOB, "net": "b"})
    (tmp_path / "parts" / "job.json").write_text("{")
    with pytest.raises(FileError, match="is damaged"):
        ShardStore(str(tmp_path / "parts"), JOB)
    (tmp_path / "parts" / "job.json").unlink()
    with pytest.raises(UsageError, match=r"its job\.json is missing"):
        ShardStore(str(tmp_path / "parts"), JOB)


def begin(folder: str, sender: multiprocessing.connection.Connection) -> None:
    try:
        ShardStore(folder, JOB)
    except UsageError as error:
        sender.send(str(error))
    else:
        sender.send("")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    folder = str(tmp_path / "parts")
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def told() -> str:
        process = multiprocessing.get_context("fork").Process(target=begin, args=(folder, sender))
        process.start()
        process.join()
        return str(receiver.recv())

    with ShardStore(folder, JOB):
        assert "another process is at work on it" in told()
    assert told() == ""
