"""The table of ``hpm evaluate -o`` is of the kind that the file's name says, unless ``--format`` says another."""

from __future__ import annotations

from pathlib import Path

import pytest

import hpm.cli
from hpm.files.folders import DataFolder, ResultFolder
from hpm.files.lists import ResultWriter, read_list
from hpm.scaling import denormalise, read_bounds


@pytest.fixture
def command(reference: Path, tmp_path: Path) -> list[str]:
    """Evaluates the labels of an action as if they were its coarse and its corrected poses."""
    data = DataFolder(reference / "synthetic_pose" / "data")
    labels = read_list(data.ground_truth(13), need_3d=True).pose3d
    assert labels is not None
    millimetres, results = denormalise(labels, read_bounds(data.bounds)), ResultFolder(tmp_path)
    for path in (results.coarse_mm(13), results.change_mm(13)):
        with ResultWriter(path, indexed=True) as writer:
            writer.write(millimetres)
    return ["evaluate", "--data-dir", str(data.root), "--coarse-3d", str(tmp_path), "--actions", "13"]


def _status(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        hpm.cli.main(words)
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return code or 0


@pytest.mark.parametrize(
    ("layout", "name", "more", "start"),
    [
        ("paper", "t.tex", [], "\\begin{tabular}"),
        ("paper", "t.csv", [], "MPJPE (mm),Direct."),
        ("paper", "t.md", [], "| MPJPE (mm) | Direct."),
        ("paper", "table", [], "| MPJPE (mm) | Direct."),
        ("paper", "t.csv", ["--format", "latex"], "\\begin{tabular}"),
        ("h36m", "t.csv", [], "action,stage,frames"),
        ("h36m", "t.json", [], "{"),
        ("h36m", "t.txt", [], "| action | stage |"),
    ],
)
def test_the_ending_tells(
    layout: str, name: str, more: list[str], start: str, command: list[str], tmp_path: Path
) -> None:
    assert _status(*command, "--layout", layout, "-o", str(tmp_path / name), *more) == 0
    assert (tmp_path / name).read_text().startswith(start)


def test_a_kind_that_the_layout_has_not(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _status(*command, "-o", str(tmp_path / "t.tex")) == 2
    assert "t.tex: --layout h36m has markdown, csv, json" in capsys.readouterr().err
    assert not (tmp_path / "t.tex").exists()
    assert _status(*command, "--layout", "paper", "--format", "json") == 2
    assert "--format json: --layout paper has markdown, latex, csv" in capsys.readouterr().err
