"""The stored outputs are what they were when they were recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caffe_compat.formats.files import sha256_of

REFERENCE = Path(__file__).parents[2] / "reference_outputs"
MANIFEST = json.loads((REFERENCE / "manifest.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", MANIFEST)
def test_stored_file_is_unchanged(name: str) -> None:
    assert sha256_of(REFERENCE / name) == MANIFEST[name]


def test_every_stored_file_is_listed() -> None:
    found = {p.relative_to(REFERENCE).as_posix() for p in REFERENCE.rglob("*") if p.is_file()}
    assert found - {"manifest.json", "README.md"} == MANIFEST.keys()
