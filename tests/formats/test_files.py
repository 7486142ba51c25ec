"""Checksums in the background; files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from caffe_compat.errors import FileError
from caffe_compat.formats.files import Checksum, atomic_write, sha256_of, staged_files


def test_a_checksum_is_that_of_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 5000 + b"end")  # more than one piece, and a part of one
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    checksum = Checksum(path)
    assert checksum.path == str(path)
    assert checksum.hexdigest() == expected == sha256_of(path)
    assert checksum.hexdigest() == expected


def test_a_file_that_cannot_be_read_is_told_when_asked(tmp_path: Path) -> None:
    checksum = Checksum(tmp_path / "missing")
    with pytest.raises(FileError, match="missing"):
        checksum.hexdigest()


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path) as handle:
            handle.write(b"half of the ne")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    assert _names(tmp_path) == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="no process can be killed in the midst of Python's writing there")
def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "file"
    script = (
        "import sys, time\nfrom caffe_compat.formats.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as f:\n"
        " f.write(b'half'); f.flush(); print('writing', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        # One that lives keeps its file.
        with atomic_write(path) as handle:
            handle.write(b"whole")
        assert len(_names(tmp_path)) == 2
        writer.send_signal(signal.SIGKILL)
    left = [name for name in _names(tmp_path) if name != "file"]
    assert len(left) == 1
    (tmp_path / ".file.mine.tmp").touch()  # named by someone else
    (tmp_path / ".file.txt.0123456789ab.tmp").touch()  # of another file
    with atomic_write(path) as handle:
        handle.write(b"again")
    assert path.read_bytes() == b"again"
    assert _names(tmp_path) == [".file.mine.tmp", ".file.txt.0123456789ab.tmp", "file"]


def test_writers_of_one_name_do_not_take_each_others_files(tmp_path: Path) -> None:
    path, failures = tmp_path / "file", list[BaseException]()

    def write(value: bytes) -> None:
        try:
            for _ in range(100):
                with atomic_write(path) as handle:
                    handle.write(value * 1000)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(bytes([k]),)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(set(path.read_bytes())) == 1
    assert _names(tmp_path) == ["file"]


def test_staged_files_take_their_places_together(tmp_path: Path) -> None:
    path = tmp_path / "model.txt"
    path.write_text("old")
    left = tmp_path / ".model.txt.0123456789ab.tmp"
    left.mkdir()
    (left / "of a killed writer").touch()

    def write(fail: bool) -> None:
        with staged_files(path) as stage:
            assert os.path.basename(stage) == "model.txt"
            Path(stage).write_text("new")
            Path(stage).with_name("more.txt").write_text("more")
            with staged_files(path) as other:  # another writer leaves this one's folder alone
                Path(other).write_text("other")
            if fail:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write(fail=True)
    assert (path.read_text(), _names(tmp_path)) == ("other", ["model.txt"])
    write(fail=False)
    assert (path.read_text(), _names(tmp_path)) == ("new", ["model.txt", "more.txt"])


def test_nothing_is_staged_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no folder"), staged_files(tmp_path / "none" / "file"):
        raise AssertionError
    with pytest.raises(FileError, match="cannot be written"), staged_files(tmp_path / "file"):
        pass  # nobody wrote it
    assert _names(tmp_path) == []
