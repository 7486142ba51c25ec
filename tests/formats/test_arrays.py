"""The one reader of .npy and .npz files: equal to numpy's, and one error for whatever else is in them."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from caffe_compat.errors import FileError
from caffe_compat.formats.arrays import read_npy, read_npz, write_npz
from caffe_compat.formats.limits import ARRAYS

ARRAYS_OF_ALL_KINDS = {
    "f4": np.arange(24, dtype="<f4").reshape(2, 3, 4),
    "f8, Fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "f2, big-endian": np.arange(4, dtype=">f2"),
    "i8": np.array(-5),
    "u1": np.arange(3, dtype="u1"),
    "bool": np.array([True, False]),
    "empty": np.empty((0, 3), "f4"),
}


class Runs:
    """Unpickled, it runs a command."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("echo ran",)


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode("latin-1") + data


def header(shape: str = "(2, 3)", descr: str = "'<f4'", fortran: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


# Headers that lie, of 24 bytes of data.
LIES = {
    "nothing": b"",
    "no header": b"\x93NUMPY\x01\x00",
    "too many": npy(header("(1000000000000,)"), bytes(24)),
    "far too many": npy(header("(4294967296, 4294967296, 4294967296)"), bytes(24)),
    "one too many": npy(header("(7,)"), bytes(24)),
    "negative": npy(header("(-2, 3)"), bytes(24)),
    "no shape": npy(header("'x'"), bytes(24)),
    "many axes": npy(header(f"({'1, ' * 40})"), bytes(24)),
    "objects": npy(header("(3,)", "'|O'"), pickle.dumps([Runs(), 1, 2])),
    "a record": npy(header("(3,)", "[('a', '<f4'), ('b', '<i4')]"), bytes(24)),
    "unknown type": npy(header(descr="'<f3'"), bytes(24)),
    "version": npy(header(), bytes(24), b"\x09\x00"),
    "brackets": npy("(" * 9000),
    "no end": npy("{'descr': '<f4', 'shape': (3L, "),
    "code": npy("__import__('os').system('echo ran')"),
    "no text": npy("\xff\xfe"),
    "a pickle": pickle.dumps([Runs()]),
}


@pytest.mark.parametrize("kind", ARRAYS_OF_ALL_KINDS)
def test_npy(kind: str, tmp_path: Path) -> None:
    array, path = ARRAYS_OF_ALL_KINDS[kind], tmp_path / "a.npy"
    np.save(path, array)
    found = read_npy(path)
    assert (found.dtype, found.shape, found.flags.writeable) == (array.dtype, array.shape, False)
    np.testing.assert_array_equal(found, array)


def test_npy_is_mapped(tmp_path: Path) -> None:
    """An array costs nothing until its values are read."""
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        file.write(npy(header(f"({2**38},)", "'<f4'")))
        file.truncate(2**41)  # two terabytes of a hole
    found = read_npy(path)
    assert (found.size, found[-1]) == (2**38, 0)


@pytest.mark.parametrize("kind", [*LIES, "text", "complex", "npz"])
def test_npy_that_is_none(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.npy"
    if kind in LIES:
        path.write_bytes(LIES[kind])
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, a=np.zeros(3))
    else:
        np.save(path, np.array(["a"]) if kind == "text" else np.zeros(3, complex))
    with pytest.raises(FileError, match=r"a\.npy: (is no \.npy array: .|an \.npy array of numbers was expected)"):
        read_npy(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(save: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    arrays = {**ARRAYS_OF_ALL_KINDS, "text": np.array(["a", "bc"]), "complex": np.array([1j])}
    save(path, **arrays)
    found = read_npz(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("kind", LIES)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_that_are_no_arrays(kind: str, method: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x.npy", LIES[kind])
    with pytest.raises(FileError, match=r"a\.npz: x\.npy: no npy array: ."):
        read_npz(path)
    assert capfd.readouterr() == ("", "")


def test_objects_are_read_by_whoever_asks(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.array({"a": 1}))
    assert read_npz(path, lambda data, name: json.loads(b'{"from": "pickle"}'))["x"] == {"from": "pickle"}
    np.savez(path, x=np.array([1, 2], object))
    with pytest.raises(FileError, match=r"a\.npz: x\.npy: says that its shape is \(2,\), and holds \(\)"):
        read_npz(path, lambda data, name: None)


def archive_of(tmp_path: Path, method: int = zipfile.ZIP_STORED, count: int = 1, values: int = 10) -> Path:
    path = tmp_path / "a.npz"
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(values))
    with zipfile.ZipFile(path, "w", method) as archive:
        for k in range(count):
            archive.writestr(f"x{k}.npy", buffer.getvalue())
    return path


def test_archives_that_lie(tmp_path: Path) -> None:
    path = archive_of(tmp_path)
    good = path.read_bytes()
    central = good.index(b"PK\x01\x02")

    def patched(at: int, code: str, value: int) -> bytes:
        changed = bytearray(good)
        struct.pack_into(code, changed, at, value)
        return bytes(changed)

    for content, message in (
        (b"", "no npz file"),
        (b"no zip", "no npz file"),
        (good[:-5], "no npz file"),
        (good[:100] + b"\xff" + good[101:], "no npz file, or a damaged one: Bad CRC"),
        (patched(central + 10, "<H", 99), "is packed by a method that numpy does not write"),
        (patched(central + 10, "<H", 12), "is packed by a method that numpy does not write"),
        (patched(central + 8, "<H", 1), "encrypted"),
        (patched(central + 20, "<I", 2**31), "declares more bytes than it holds"),
        (patched(central + 24, "<I", 2**31), "declares more bytes than it holds"),
    ):
        path.write_bytes(content)
        with pytest.raises(FileError, match=message):
            read_npz(path)
    with zipfile.ZipFile(path, "w") as archive:
        for _ in range(2):
            with pytest.warns(UserWarning, match="Duplicate") if archive.infolist() else np.errstate():
                archive.writestr("x.npy", LIES["one too many"].replace(b"(7,)", b"(6,)"))
    with pytest.raises(FileError, match="has two arrays named 'x'"):
        read_npz(path)


def test_what_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive_of(tmp_path, zipfile.ZIP_DEFLATED, count=3, values=100_000)
    assert path.stat().st_size < 10_000
    assert len(read_npz(path)) == 3
    monkeypatch.setenv(ARRAYS.variable, "2000000")
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(FileError, match=r"a.npz: all its arrays unpacked takes 2,400,384 bytes.*MAX_ARRAY_BYTES"):
        read_npz(path)


# Writing


def test_written_npz_is_numpys(tmp_path: Path) -> None:
    arrays = {"file": np.arange(3.0), "a/b": np.array(1), "name": np.asfortranarray(np.eye(2)), "..x": np.zeros(1)}
    with (tmp_path / "a.npz").open("wb") as file:
        write_npz(file, arrays)
    with np.load(tmp_path / "a.npz") as found:
        assert set(found.files) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "..", r"..\x", r"\x", "C:/x", "a\0b"])
def test_names_that_would_leave_the_folder_when_unpacked(name: str, tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as file, pytest.raises(FileError, match="cannot hold an array named"):
        write_npz(file, {name: np.zeros(1)})
    assert (tmp_path / "a.npz").stat().st_size == 0
