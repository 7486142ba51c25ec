"""What kind of file is this, by its first bytes; text in the encodings that people save it in."""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from caffe_compat import cli
from caffe_compat.errors import FileError, PrototxtError, UsageError
from caffe_compat.formats import limits
from caffe_compat.formats.files import read_file
from caffe_compat.formats.limits import WHOLE_FILE, Limit
from caffe_compat.formats.sniff import FileKind, decode_text, is_checkpoint, is_text, kind_of, kind_of_head, refusal
from caffe_compat.formats.weights import read_weights
from caffe_compat.schema.prototxt import read_message, read_text

NET = 'name: "n" # 网络\nlayer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }\n'
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


KINDS = {
    FileKind.EMPTY: [b""],
    FileKind.TEXT: [NET.encode(), b"caf\xe9", b"\xef\xbb\xbfname: 'n'", b"1", b"a" * 5000],
    FileKind.UTF16: [NET.encode("utf-16"), b"\xfe\xff\0a", 'name: "n"'.encode("utf-16-le"), b"\0n\0a\0m\0e\0:\0 \0x"],
    FileKind.WEB_PAGE: [b"<!DOCTYPE html><html></html>", b"\n  <html>"],
    FileKind.LFS_POINTER: [LFS.encode()],
    FileKind.ZIP: [b"PK\x03\x04\x14\0"],
    FileKind.NPY: [npy()],
    FileKind.PICKLE: [pickle.dumps([np.zeros(2)], protocol) for protocol in range(6)],
    FileKind.TAR: [b"\0" * 257 + b"ustar\0"],
    FileKind.FOREIGN: [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"\x1f\x8b\x08"],
    FileKind.BINARY: [b"\x0a\x03net", b"\0", b"\0\0\0\0\0\0\0\0", b"\xff\xfe\0\0a\0\0\0", b"a\0b\x01c\0d\0e\0f\0g\0"],
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_kinds(kind: FileKind, tmp_path: Path) -> None:
    path = tmp_path / "misleading.prototxt"
    for content in KINDS[kind]:
        path.write_bytes(content)
        assert kind_of(path) is kind, content[:20]
        assert kind_of_head(content[:4096]) is kind
        assert is_checkpoint(path) == (kind is FileKind.ZIP)


@pytest.mark.parametrize("block", [0, 512, 2048])
def test_hdf5_may_begin_behind_a_block_of_the_users(block: int, tmp_path: Path) -> None:
    path = tmp_path / "a"
    h5py.File(path, "w", userblock_size=block).close()
    if block:
        with path.open("r+b") as file:
            file.write(b"some words of text")
    assert kind_of(path) is FileKind.HDF5
    assert not is_text(path)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="a folder, not a file"):
        kind_of(tmp_path)
    with pytest.raises(FileError, match="No such file"):
        is_text(tmp_path / "missing")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with mark", "utf-16-be with mark"])
def test_a_prototxt_in_every_encoding(encoding: str, tmp_path: Path) -> None:
    name, _, mark = encoding.partition(" ")
    path = tmp_path / "net.prototxt"
    path.write_bytes((("\ufeff" if mark else "") + NET.replace("\n", "\r\n")).encode(name))
    assert is_text(path)
    assert read_message(path).message.layer[0].input_param.shape[0].dim == [1, 2]


def test_utf_16_that_is_not_read() -> None:
    with pytest.raises(FileError, match=r"n.prototxt: looks like text in UTF-16 without a byte order mark; save it as"):
        decode_text(NET.encode("utf-16-le"), "n.prototxt")
    with pytest.raises(FileError, match=r"n.prototxt: is damaged text in UTF-16 \(.*\); save it as UTF-8"):
        decode_text(NET.encode("utf-16")[:-1], "n.prototxt")
    assert decode_text(NET.encode("utf-16")[:-1], replace=True).startswith(NET[:-1])


@pytest.mark.parametrize("command", ["inspect", "convert", "convert with a prototxt", "upgrade", "run"])
def test_a_pointer_of_git_lfs_gets_the_same_words_everywhere(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pointer, net, out = tmp_path / "lfs.caffemodel", tmp_path / "net.prototxt", tmp_path / "out.pt"
    pointer.write_text(LFS)
    net.write_text(NET)
    arguments = {
        "inspect": ["inspect", pointer],
        "convert": ["convert", pointer, "-o", out],
        "convert with a prototxt": ["convert", net, pointer, "-o", out],
        "upgrade": ["upgrade", pointer, out],
        "run": ["run", pointer, "--input", "x=x.npy"],
    }[command]
    with pytest.raises(SystemExit) as leaving:
        cli.main([str(argument) for argument in arguments])
    assert leaving.value.code == 2
    expected = f"{pointer}: looks like a git-LFS pointer, not the file it stands for; run `git lfs pull`"
    assert capsys.readouterr().err.startswith(f"caffe-compat: error: {expected}")
    assert not out.exists()


def test_other_kinds_in_the_place_of_a_prototxt(tmp_path: Path) -> None:
    path = tmp_path / "n.prototxt"
    for content, message in (
        (b"<html>404</html>", "a web page; fetch the file itself"),
        (npy(), "a numpy .npy file. Wanted: a prototxt"),
        (b"\x89PNG\r\n\x1a\n\0", "a PNG image"),
    ):
        path.write_bytes(content)
        with pytest.raises(FileError, match=f"looks like {message}"):
            read_text(path)
    assert refusal(NET.encode(), "a .caffemodel").startswith("looks like text; a .prototxt goes where")
    path.write_text(NET)
    with pytest.raises(FileError, match="looks like text"):
        read_weights(path)


def test_every_limit_is_documented(reference: Path) -> None:
    table = (reference.parent / "docs" / "security.md").read_text()
    known = {limit.variable: limit.default for limit in vars(limits).values() if isinstance(limit, Limit)}
    documented = re.findall(r"^\| `(CAFFE_COMPAT_MAX_\w+)` \| .* \| 2\^(\d+) \|$", table, re.MULTILINE)
    assert {name: 2 ** int(power) for name, power in documented} == known


def test_files_that_are_read_whole_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, limit = tmp_path / "a.txt", Limit("CAFFE_COMPAT_TEST_BYTES", 10)
    path.write_bytes(b"x" * 11)
    with pytest.raises(FileError, match=r"a.txt: the file takes 11 bytes, .* 10; .* CAFFE_COMPAT_TEST_BYTES"):
        read_file(path, limit)
    monkeypatch.setenv("CAFFE_COMPAT_TEST_BYTES", "11")
    assert read_file(path, limit) == b"x" * 11
    for value in ("0", "-1", "1.5", "many", "9" * 30):
        monkeypatch.setenv("CAFFE_COMPAT_TEST_BYTES", value)
        with pytest.raises(UsageError, match=r"CAFFE_COMPAT_TEST_BYTES=.*: a number of bytes was expected"):
            read_file(path, limit)
    with path.open("wb") as file:
        file.truncate(WHOLE_FILE.default + 1)  # a hole, which takes no room
    with pytest.raises(FileError, match="CAFFE_COMPAT_MAX_FILE_BYTES"):
        read_file(path)


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"name: 'a\0b'\n", (1, 9)),
        (b"# " + b"x" * 5000 + b"\nname: \0'b'\n", (2, 7)),
        ("# é\n# é\0".encode(), (2, 4)),
    ],
)
def test_text_with_a_nul_byte_is_told_where(data: bytes, place: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(data)
    assert kind_of(path) is FileKind.TEXT
    with pytest.raises(PrototxtError, match="a NUL byte, which no text has; delete it") as caught:
        read_text(path)
    assert (caught.value.line, caught.value.column) == place


def test_messages_and_zeros_are_no_text() -> None:
    assert kind_of_head(b"\0" * 100) is FileKind.BINARY
    assert kind_of_head(b"\x08\x02\x12\x20" + b"\0" * 32) is FileKind.BINARY
