"""The distribution: what it brings, and that it works where nothing else of the project is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_every_folder_of_modules_is_a_package() -> None:
    """Python imports from a folder without ``__init__.py``, too, but no distribution has it."""
    files = [path for name in ("caffe_compat", "converters", "hpm") for path in (ROOT / name).rglob("*.py")]
    folders = {path.parent for path in files if path.parent.name != "resources"}  # those are data
    assert [str(folder.relative_to(ROOT)) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "build.py"), "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1].endswith(".whl is complete")
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".whl", ".gz"]
