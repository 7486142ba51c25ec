"""The script that shows the whole pose chain on the model that ships."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hpm.files.lists import read_refined, read_results
from hpm.projector import POSE_3D

SCRIPT = Path(__file__).parents[3] / "scripts" / "pose_tour.sh"
ACTIONS = (2, 8, 13)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a POSIX shell script")


def _tour(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(SCRIPT), folder.name],
        env={**os.environ, "HPM_BIN": command},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_tour_ends_with_tables_a_picture_and_a_page(tmp_path: Path) -> None:
    out = tmp_path / "tour"
    done = _tour(out, f"{sys.executable} -m hpm")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 passed" in done.stdout
    for mode in ("faithful", "independent"):
        means = re.findall(
            r"^\| mean of 3 actions \| (\w+) \| 120 \| ([\d.]+) \|", (out / f"errors_{mode}.md").read_text(), re.M
        )
        coarse, change, refined = (float(value) for _, value in means)
        assert [stage for stage, _ in means] == ["coarse", "change", "refined"]
        assert refined < min(change, coarse)
        assert f"| mean of 3 actions | refined | 120 | {refined} |" in done.stdout
    for action in ACTIONS:
        assert read_results(out / "coarse" / f"result{action}_norm.csv", POSE_3D).shape == (40, 48)
        assert read_refined(out / "refined_faithful" / f"refine3d_{action}.txt").shape == (40, 48)
    assert (out / "side_by_side.mp4").read_bytes()[4:8] == b"ftyp"
    assert (out / "walking.png").read_bytes().startswith(b"\x89PNG")
    assert "<canvas" in (out / "walking.html").read_text()


def test_an_error_stops_the_tour(tmp_path: Path) -> None:
    done = _tour(tmp_path / "tour", "false")
    assert done.returncode == 1
    assert done.stdout.count("==") == 1


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tour").mkdir()
    (tmp_path / "tour" / "mine.txt").write_text("kept")
    assert _tour(tmp_path / "tour", "true").returncode == 2
    assert (tmp_path / "tour" / "mine.txt").read_text() == "kept"
