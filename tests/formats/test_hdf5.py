"""The one reader of HDF5, and every reader built on it: nothing outside the file is opened, nothing of it hurts."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from caffe_compat.errors import FileError
from caffe_compat.formats.hdf5 import (
    attribute,
    check_array,
    find,
    member,
    members,
    names_in,
    open_hdf5,
    read_array,
    read_text,
    view_array,
)
from caffe_compat.formats.hdf5_writing import create_hdf5
from caffe_compat.formats.limits import ARRAYS
from caffe_compat.formats.weights import read_solverstate, read_weights
from caffe_compat.formats.wire import Source
from caffe_compat.parity.cases import run_cases
from hpm.datasets.human36m import read_h5

X = np.arange(12, dtype=np.float32).reshape(4, 3)
SECRET = b"4.0 a secret, four bytes of which make a number"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.h5"


# What lies in a file and what does not


def test_members_and_links(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"], file["g/y"] = X, X
        file["type"] = np.dtype("f4")
        file["soft"], file["relative"] = h5py.SoftLink("/g/y"), h5py.SoftLink("g/y")
        file["g/up"] = h5py.SoftLink("/relative")
        file["nowhere"], file["round"] = h5py.SoftLink("/none/y"), h5py.SoftLink("/round")
        file["out"] = h5py.ExternalLink("other.h5", "/x")
        file["to_out"] = h5py.SoftLink("/out")
    with open_hdf5(path) as file:
        assert list(members(file)) == ["g", "x"]
        assert set(names_in(file)) == {"g", "x", "type", "soft", "relative", "nowhere", "round", "out", "to_out"}
        for name in ("x", "g/y", "/g/y", "g//./y", "soft", "relative", "g/up"):
            found = find(file, name)
            assert found is not None
            np.testing.assert_array_equal(read_array(found), X)
        for name in ("nothing", "g/nothing", "x/y", "nowhere", "type"):
            assert find(file, name) is None
        for name in ("out", "to_out", "out/x"):
            with pytest.raises(FileError, match=r"a\.h5: /out is a link to another file, which is not opened"):
                find(file, name)
        with pytest.raises(FileError, match="/round is one of too many links"):
            find(file, "round")
        for name, message in (
            ("none", "missing"),
            ("soft", "a link to another place, which is not followed"),
            ("out", "a link to another place, which is not followed"),
            ("type", "a datatype, neither a group nor a data set"),
        ):
            with pytest.raises(FileError, match=f"a.h5: /{name} is {message}"):
                member(file, name)


def test_what_is_no_file(path: Path) -> None:
    for content, message in ((b"", "is no HDF5 file"), (b"text", "is no HDF5 file")):
        path.write_bytes(content)
        with pytest.raises(FileError, match=rf"a\.h5: {message}"), open_hdf5(path):
            pass
    with h5py.File(path, "w") as file:
        file["x"] = X
    path.write_bytes(path.read_bytes()[:800])
    with pytest.raises(FileError, match=r"a\.h5: cannot be read as HDF5: .*truncated"), open_hdf5(path):
        pass


def test_a_file_that_another_program_writes(path: Path) -> None:
    """With a lock it is refused, without it is read."""
    with h5py.File(path, "w") as file:
        file["x"] = X
    code = f"""
from caffe_compat.errors import FileError
from caffe_compat.formats.hdf5 import open_hdf5
with open_hdf5({str(path)!r}, locking=False) as file:
    print(list(file))
try:
    with open_hdf5({str(path)!r}):
        pass
except FileError as error:
    print(error)
"""
    with h5py.File(path, "r+"):  # a lock is another process's concern
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[0] == "['x']"
    assert f"{path}: cannot be read as HDF5: " in done.stdout
    assert "lock" in done.stdout


# Attributes


def test_attributes(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["text"], file.attrs["bytes"] = "é\n", np.bytes_(b"ab\xff")
        file.attrs["number"], file.attrs["row"], file.attrs["flag"] = 3, [1.5, 2.5], True
        file.attrs["texts"] = ["a", "b"]
        file.attrs["nothing"], file.attrs["link"] = h5py.Empty("f4"), file.ref
        file.attrs["record"] = np.zeros(2, [("a", "f4")])
    with open_hdf5(path) as file:
        assert attribute(file, "text") == "é\n"
        assert attribute(file, "bytes") == "ab\\xff"
        assert (attribute(file, "number"), attribute(file, "flag")) == (3, True)
        assert attribute(file, "row").tolist() == [1.5, 2.5]
        assert list(attribute(file, "texts")) == ["a", "b"]
        assert (attribute(file, "none"), attribute(file, "none", 5)) == (None, 5)
        for name in ("nothing", "link", "record"):
            with pytest.raises(FileError, match=rf"a\.h5: / has an attribute {name} of .*; numbers or text"):
                attribute(file, name)


def heap_without_end(path: Path, size: int, lengths: int = 8) -> None:
    """Text in a file whose last object in the heap says it is so many bytes long."""
    plist = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    plist.set_sizes(lengths, lengths)
    with h5py.File(h5py.h5f.create(os.fsencode(path), h5py.h5f.ACC_TRUNC, plist)) as file:
        file.attrs["text"], file["text"], file["x"] = "some words", "other words", X
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL")
    code, header = ("<HH4xQ", 16) if lengths == 8 else ("<HH4xI", 16)
    at = heap + 16
    while struct.unpack_from(code, data, at)[0] != 0:
        length = struct.unpack_from(code, data, at)[2]
        at += header + -(-length // 8) * 8
    struct.pack_into(code, data, at, 0, 0, size)
    path.write_bytes(data)


@pytest.mark.parametrize(("size", "lengths"), [(0, 8), (8, 8), (2**64 - 8, 8), (2**63, 8), (0, 4), (2**32 - 8, 4)])
def test_a_heap_of_text_without_end(size: int, lengths: int, path: Path) -> None:
    """HDF5 itself goes round in it for ever."""
    heap_without_end(path, size, lengths)
    with open_hdf5(path) as file:
        np.testing.assert_array_equal(read_array(member(file, "x")), X)
        for ask in (lambda: attribute(file, "text"), lambda: read_text(member(file, "text"))):
            with pytest.raises(FileError, match=r"a\.h5: is a damaged HDF5 file: its strings at byte \d+ have no end"):
                ask()


@pytest.mark.parametrize("lengths", [4, 8])
def test_text_in_a_sound_heap(lengths: int, path: Path) -> None:
    plist = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    plist.set_sizes(lengths, lengths)
    plist.set_userblock(512)
    with h5py.File(h5py.h5f.create(os.fsencode(path), h5py.h5f.ACC_TRUNC, plist)) as file:
        for k in range(300):
            file.attrs[f"{k}"] = "x" * k
            file[f"t{k}"] = "GCOL" + "y" * k
    with open_hdf5(path) as file:
        assert all(attribute(file, f"{k}") == "x" * k for k in range(300))
        assert all(read_text(member(file, f"t{k}")) == "GCOL" + "y" * k for k in range(300))


# Arrays


@pytest.mark.parametrize("dtype", ["f2", "<f4", ">f8", "u1", "i8"])
@pytest.mark.parametrize("options", [{}, {"chunks": (2, 2)}, {"chunks": (4, 3), "compression": "gzip"}])
def test_arrays(dtype: str, options: dict[str, Any], path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=X.astype(dtype), **options)
    with open_hdf5(path) as file:
        found = member(file, "x")
        assert check_array(found) == (4, 3)
        np.testing.assert_array_equal(read_array(found), X)
        assert read_array(found).dtype == np.dtype(dtype)
        if np.dtype(dtype).kind == "f":
            view, span = view_array(found, Source(path), inflation=64)
            np.testing.assert_array_equal(view, X)
            mapped = not options and dtype in ("f2", "<f4")
            assert (span != (0, 0), view.flags.writeable) == (mapped, False)


def test_arrays_of_which_parts_were_never_written(path: Path) -> None:
    """They are zeros, as in HDF5; weights have none."""
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (4, 3), "f4")
        file.create_dataset("y", (4, 3), "f4", chunks=(1, 3))[0] = 1
    with open_hdf5(path) as file:
        assert read_array(member(file, "x")).sum() == 0
        assert read_array(member(file, "y")).sum() == 3
        for name in "xy":
            with pytest.raises(FileError, match=f"data set /{name} of shape .* declares"):
                view_array(member(file, name), Source(path), inflation=64)


def test_compressed_arrays_have_a_limit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deflate makes a thousand bytes of one; so what a file holds bounds it, and then the limit does."""
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (3000, 3000), "f4", chunks=(3000, 3000), compression="gzip")[:] = 0
        file.create_dataset("y", (3000, 3000), "f4", chunks=(300, 300), compression="gzip")[0] = 1
    with open_hdf5(path) as file:
        assert not read_array(member(file, "x")).any()
        with pytest.raises(FileError, match=r"data set /y of shape .* declares 36000000 bytes but stores"):
            read_array(member(file, "y"))
        monkeypatch.setenv(ARRAYS.variable, "30000000")
        with pytest.raises(FileError, match=r"a\.h5: data set /x of shape .* takes 36,000,000 bytes.*MAX_ARRAY_BYTES"):
            read_array(member(file, "x"))


# Every reader, and files that name others


def external_storage(group: h5py.Group, name: str, secret: Path) -> None:
    group.create_dataset(name, (4, 3), "u1" if name == "iter" else "f4", external=[(str(secret), 0, 48)])


def external_link(group: h5py.Group, name: str, secret: Path) -> None:
    group[name] = h5py.ExternalLink("secret.h5", "/x")


def soft_link_to_an_external_one(group: h5py.Group, name: str, secret: Path) -> None:
    group["hop"] = h5py.ExternalLink("secret.h5", "/x")
    group[name] = h5py.SoftLink("hop")


def virtual(group: h5py.Group, name: str, secret: Path) -> None:
    layout = h5py.VirtualLayout((4, 3), "f4")
    layout[:] = h5py.VirtualSource(str(secret.parent / "secret.h5"), "x", (4, 3))
    group.create_virtual_dataset(name, layout)


NET = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 } } }'


def hdf5_data(path: Path) -> Any:
    from tests.training.data.helpers import source_of

    (path.parent / "list.txt").write_text(path.name)
    layer = 'layer { name: "d" type: "HDF5Data" top: "data" hdf5_data_param { source: "list.txt" batch_size: 2 } }'
    return source_of(layer, path.parent).batch(0)


def cases(path: Path) -> Any:
    (result,) = run_cases(path)
    if result.unsupported:
        raise FileError(result.unsupported)
    return result.passed or None


READERS: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "HDF5Data": (hdf5_data, "/", "data"),
    "Human3.6M": (lambda path: read_h5(path, "pose/3d"), "pose", "3d"),
    "weights": (read_weights, "data/fc", "0"),
    "solver state": (read_solverstate, "history", "0"),
    "cases": (cases, "c/bottom", "x"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("make", [external_storage, external_link, soft_link_to_an_external_one, virtual])
def test_no_reader_opens_another_file(
    reader: str, make: Callable[[h5py.Group, str, Path], None], path: Path, tmp_path: Path
) -> None:
    read, group, name = READERS[reader]
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = X
    with h5py.File(path, "w") as file:
        make(file.require_group(group), name, secret)
        file["iter"], file["current_step"] = 1, 0
        if reader == "cases":
            del file["iter"], file["current_step"]
            file["c"].attrs["prototxt"] = NET
    files = [secret, tmp_path / "secret.h5"]
    for each in files:
        os.utime(each, (1, 2))  # a read would change the first
    if reader == "cases" and make in (external_link, soft_link_to_an_external_one):
        # A case is what lies in the file; a link is no part of it.
        (result,) = run_cases(path)
        assert (result.blobs, result.unsupported) == ([], "")
    else:
        with pytest.raises(FileError, match=r"in other files|another (file|place)"):
            read(path)
    assert [each.stat().st_atime for each in files] == [1, 1]


@pytest.mark.parametrize("reader", [name for name in READERS if name != "solver state"])
def test_every_reader_names_what_it_cannot_read(reader: str, path: Path) -> None:
    read, group, name = READERS[reader]
    for value in ("text", ["a", "b"], np.zeros(2, complex), np.zeros(2, [("a", "f4")]), h5py.Empty("f4")):
        with h5py.File(path, "w") as file:
            file.require_group(group)[name] = value
            if reader == "cases":
                file["c"].attrs["prototxt"] = NET
        with pytest.raises(FileError, match=r"a\.h5: .*data set"):
            read(path)


# Writing


def test_a_file_is_written_whole_or_not_at_all(path: Path) -> None:
    with create_hdf5(path) as file:
        file["x"] = X
    before = path.read_bytes()

    def write_half() -> None:
        with create_hdf5(path) as file:
            file["x"] = X + 1
            raise ValueError("no more")

    with pytest.raises(FileError, match=r"a\.h5: cannot be written: no more"):
        write_half()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["a.h5"]
