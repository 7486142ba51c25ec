"""Write reference_outputs/manifest.json: the checksum of every stored file."""

from __future__ import annotations

import json
from pathlib import Path

from caffe_compat.formats.files import sha256_of

FOLDER = Path(__file__).parent.parent / "reference_outputs"


def checksums() -> dict[str, str]:
    """sha256 by path below the folder."""
    files = (p for p in FOLDER.rglob("*") if p.is_file() and p.name not in ("manifest.json", "README.md"))
    return {path.relative_to(FOLDER).as_posix(): sha256_of(path) for path in sorted(files)}


if __name__ == "__main__":
    (FOLDER / "manifest.json").write_text(json.dumps(checksums(), indent=1) + "\n", encoding="utf-8")
