"""Checksums in the background."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from caffe_compat.errors import FileError
from caffe_compat.files import Checksum, sha256_of


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
