"""Disks that take no more, and folders that take nothing: one line that says so, nothing partial, old files stay."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import caffe_compat
import converters
from caffe_compat import CaffeNet
from caffe_compat.cli.caffe_log import CaffeLog
from caffe_compat.errors import FileError
from caffe_compat.formats.arrays import write_npz
from caffe_compat.formats.database_writing import new_database
from caffe_compat.formats.databases import Backend
from caffe_compat.formats.files import atomic_write, staged_folder
from caffe_compat.formats.hdf5_writing import RowFile, create_hdf5
from caffe_compat.formats.images import write_picture
from converters.registry import targets
from hpm.files.exports import Motion, export_poses
from hpm.scaling import Bounds, write_bounds
from tests.full_disk import files_of_at_most
from tests.networks import filled, input_layer, ip

# More than a file of any kind takes for its header.
NET = input_layer("x", 2, 40) + ip("fc", "x", "y", 50)
SMALL = 2000
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
Write = Callable[[Path], object]


def write_arrays(path: Path) -> None:
    with atomic_write(path) as file:
        write_npz(file, {"a": NOISE})


def write_tables(path: Path) -> None:
    with create_hdf5(path) as file:
        file["a"] = NOISE


def write_rows(path: Path) -> None:
    with RowFile(path) as rows:
        for _ in range(3):
            rows.write({"data": NOISE})


def write_poses(path: Path) -> None:
    export_poses(np.random.default_rng(0).normal(0, 100, (50, 16, 3)), path, Motion(25, "refined"))


def write_bounds_of_millimetres(path: Path) -> None:
    write_bounds(path, Bounds(np.arange(48) + np.pi * 100, -np.arange(48) - np.pi, "made up"))


WRITERS: dict[str, Write] = {
    "a.npz": write_arrays,
    "a.h5": write_tables,
    "rows.h5": write_rows,
    "a.png": lambda path: write_picture(path, NOISE),
    "poses.npy": write_poses,
    "poses.json": write_poses,
    "poses.bvh": write_poses,
}


@pytest.fixture(scope="module")
def net() -> CaffeNet:
    return filled(NET)


def refused(write: Write, path: Path, *, old: bool = True) -> FileError:
    """The error of a write for which the disk has no room; what was there before is there as it was."""
    if old:
        path.write_text("old")
    with files_of_at_most(SMALL), pytest.raises(FileError) as raised:
        write(path)
    assert os.listdir(path.parent) == [path.name] * old
    if old:
        assert path.read_text() == "old"
    assert len(str(raised.value).splitlines()) == 1
    assert ".tmp" not in str(raised.value)
    return raised.value


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk(name: str, tmp_path: Path) -> None:
    error = refused(WRITERS[name], tmp_path / name, old=name != "rows.h5")  # which replaces only its own kind
    assert str(error).startswith(f"{tmp_path / name}: cannot be written")
    assert "File too large" in error.detail


def test_a_pt_on_a_full_disk(net: CaffeNet, tmp_path: Path) -> None:
    error = refused(lambda path: caffe_compat.save(net, path), tmp_path / "net.pt")
    assert error.detail == "cannot be written: File too large"


# The first program that torch makes takes it seconds.
SLOW = {"pt2": pytest.mark.slow}


@pytest.mark.parametrize("format", [pytest.param(t.name, marks=SLOW.get(t.name, ())) for t in targets()])
def test_an_exporter_on_a_full_disk(format: str, net: CaffeNet, tmp_path: Path) -> None:
    """Those that torch writes ended the process once."""
    target = next(target for target in targets() if target.name == format)
    for package in target.needs:
        pytest.importorskip(package)
    error = refused(lambda path: converters.export(net, path, format), tmp_path / f"net{target.suffix}")
    assert error.detail == "cannot be written: File too large"


@pytest.mark.parametrize(("backend", "library"), [("LMDB", "lmdb"), ("LEVELDB", "plyvel")])
def test_a_database_on_a_full_disk(backend: Backend, library: str, tmp_path: Path) -> None:
    pytest.importorskip(library)

    def write(path: Path) -> None:
        with new_database(str(path), backend) as database:
            database.put(b"0", bytes(10**6))

    error = refused(write, tmp_path / "db", old=False)
    assert str(error).startswith(f"{tmp_path / 'db'}: the database cannot be written: ")


def test_a_log_on_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A training outlives its log, and says that it does."""
    with CaffeLog(folder=str(tmp_path)) as log:
        with files_of_at_most(SMALL):
            for number in range(100):
                log.line(f"line {number}")
        log.line("the end")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 102
    (told,) = [line for line in lines if "the log is not written any further: File too large" in line]
    assert str(tmp_path) in told
    (tmp_path / "new").mkdir()
    with files_of_at_most(10), pytest.raises(FileError, match="the log cannot be written: File too large"):
        CaffeLog(folder=str(tmp_path / "new"))
    assert os.listdir(tmp_path / "new") == []


@pytest.fixture
def forbidden(tmp_path: Path) -> Path:
    """A folder in which nothing can be made: one without permission, or one of the system's for those who may all."""
    tmp_path.chmod(0o555)
    return Path("/proc/self") if os.access(tmp_path, os.W_OK) else tmp_path


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_takes_nothing(name: str, forbidden: Path) -> None:
    with pytest.raises(FileError, match="cannot be written") as raised:
        WRITERS[name](forbidden / name)
    assert str(raised.value).startswith(f"{forbidden / name}: ")
    assert not (forbidden / name).exists()


def test_a_model_in_a_folder_that_takes_nothing(net: CaffeNet, forbidden: Path) -> None:
    for name in ("net.pt", "net.safetensors", "net.caffemodel"):
        with pytest.raises(FileError, match=f"{name}: cannot be written: "):
            caffe_compat.save(net, forbidden / name) if name == "net.pt" else converters.export(net, forbidden / name)
    with pytest.raises(FileError, match="the log cannot be written: "):
        CaffeLog(folder=str(forbidden))


def test_what_fails_below_a_staged_folder_is_told_by_its_own_place(tmp_path: Path) -> None:
    def fail() -> None:
        with staged_folder(tmp_path / "new") as stage, atomic_write(Path(stage) / "a" / "b"):
            pass

    with pytest.raises(FileError) as raised:
        fail()
    assert raised.value.path == str(tmp_path / "new" / "a" / "b")
    assert os.listdir(tmp_path) == []


def test_no_file_is_larger_after_all(tmp_path: Path) -> None:
    """The disk of these tests is full for as long as it is said to be."""
    with files_of_at_most(10), pytest.raises(OSError, match="File too large"):
        (tmp_path / "a").write_bytes(bytes(11))
    torch.save(torch.zeros(1000), tmp_path / "b")
