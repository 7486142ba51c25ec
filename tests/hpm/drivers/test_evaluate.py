"""Tables per action and stage."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_compat.errors import CaffeCompatWarning, FileError, UsageError
from hpm.drivers.evaluate_actions import Row, evaluate_actions
from hpm.drivers.paper_table import paper_table, read_published
from hpm.files.folders import DataFolder, ResultFolder
from hpm.files.lists import ResultWriter, format_list_line, refined_line, write_list
from hpm.scaling import REFINEMENT_BOUNDS, denormalise, normalise
from hpm.skeleton import H36M16, swap_sides


def _action(root: Path, action: int, frames: int, errors: dict[str, float]) -> None:
    """Labels, and results that lie ``errors[stage]`` mm beside them in x at every joint but the hip."""
    random = np.random.RandomState(action)
    labels = random.uniform(0.1, 0.9, (frames, 48))
    labels[:, :3] = 0
    data, results = DataFolder(root), ResultFolder(root / "results")
    data.ground_truth(action).parent.mkdir(parents=True, exist_ok=True)
    results.root.mkdir(exist_ok=True)
    lines = [format_list_line(f"{k}.jpg", random.rand(32), labels[k], int(k not in (0, 3))) for k in range(frames)]
    write_list(data.ground_truth(action), lines)
    truth = denormalise(labels, REFINEMENT_BOUNDS)
    for stage, error in errors.items():
        moved = truth.reshape(-1, len(H36M16), 3).copy()
        moved[:, 1:, 0] += error
        flat = moved.reshape(-1, 48)
        if stage == "refined":
            results.refined_mm(action).write_text("".join(map(refined_line, flat)))
            continue
        path = {
            "coarse": results.coarse_mm(action),
            "change": results.change_mm(action),
            "normalised": results.normalised(action),
        }[stage]
        with ResultWriter(path, indexed=stage != "normalised") as writer:
            writer.write(normalise(flat, REFINEMENT_BOUNDS) if stage == "normalised" else flat)


def test_labels_without_2d_poses_are_enough(tmp_path: Path) -> None:
    _action(tmp_path, 2, 6, {"coarse": 64, "refined": 16})
    path = DataFolder(tmp_path).ground_truth(2)
    before = evaluate_actions(DataFolder(tmp_path), None, tmp_path / "results", actions=(2,))
    lines = [line.split(" ") for line in path.read_text().splitlines()]
    path.write_text("".join(f"{name} {','.join(values.split(',')[32:])}\n" for name, values in lines))
    after = evaluate_actions(DataFolder(tmp_path), None, tmp_path / "results", actions=(2,))
    assert after.rows == before.rows
    assert after.problems == []


def test_errors_per_action_and_their_mean(tmp_path: Path) -> None:
    _action(tmp_path, 1, 6, {"coarse": 64, "change": 32, "refined": 16})
    _action(tmp_path, 13, 9, {"normalised": 32, "change": 160, "refined": 16})
    table = evaluate_actions(DataFolder(tmp_path), tmp_path / "results", tmp_path / "results", actions=(1, 13))
    assert table.problems == []
    found = {(row.action, row.stage): row for row in table.rows}
    assert [row.action for row in table.rows[::3]] == ["1 Directions", "13 Walking"]
    for key, error in {
        ("1 Directions", "coarse"): 64,
        ("1 Directions", "change"): 32,
        ("1 Directions", "refined"): 16,
        ("13 Walking", "coarse"): 32,
        ("13 Walking", "change"): 160,
    }.items():
        # 15 of 16 joints are off; files keep six digits.
        assert found[key].mpjpe == pytest.approx(error * 15 / 16, abs=0.02)
        assert found[key].mpjve == pytest.approx(0, abs=0.02)
        assert found[key].pck == pytest.approx(1 if error <= 150 else 1 / 16)
    assert found["1 Directions", "coarse"].frames == 6
    assert 0 < found["1 Directions", "coarse"].p_mpjpe < 64
    coarse, change, refined = table.averages()
    assert (coarse.action, coarse.stage, coarse.frames) == ("mean of 2 actions", "coarse", 15)
    # Each action counts the same, whatever its frames.
    assert coarse.mpjpe == pytest.approx(48 * 15 / 16, abs=0.02)
    assert refined.mpjpe == pytest.approx(15, abs=0.02)
    assert change.mpjpe == pytest.approx(96 * 15 / 16, abs=0.02)


def test_missing_and_broken_files_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    _action(tmp_path, 1, 6, {"coarse": 64})
    _action(tmp_path, 2, 6, {"coarse": 64, "change": 1, "refined": 1})
    results = ResultFolder(tmp_path / "results")
    results.refined_mm(2).write_text("".join(results.refined_mm(2).read_text().splitlines(True)[:5]))
    results.change_mm(2).write_text("1,2,3\n")
    table = evaluate_actions(DataFolder(tmp_path), tmp_path / "results", tmp_path / "results", actions=(1, 2, 3))
    assert [(row.action, row.stage) for row in table.rows] == [("1 Directions", "coarse"), ("2 Discussion", "coarse")]
    problems = "\n".join(table.problems)
    assert "action 1 Directions, change: " in problems
    assert "result1_change_unnorm.csv: cannot be opened" in problems
    assert "result2_change_unnorm.csv: line 1: 2 values; 48 were expected" in problems
    assert "refine3d_2.txt has 5" in problems
    assert "test2.txt has 6" in problems
    assert "action 3 Eating: " in problems
    assert len(table.problems) == 5
    assert table.to_markdown().count("\n- action") == 5
    short = evaluate_actions(DataFolder(tmp_path), refined=tmp_path / "results", actions=[2], allow_short=True)
    assert [(row.stage, row.frames) for row in short.rows] == [("refined", 5)]
    with pytest.raises(UsageError, match="nothing to evaluate"):
        evaluate_actions(DataFolder(tmp_path))
    with pytest.raises(UsageError, match=r"action 16; Human3\.6M has actions 1 to 15"):
        evaluate_actions(DataFolder(tmp_path), tmp_path / "results", actions=[1, 16])


def test_formats_say_the_same(tmp_path: Path) -> None:
    _action(tmp_path, 1, 6, {"coarse": 64, "change": 32, "refined": 16})
    table = evaluate_actions(DataFolder(tmp_path), tmp_path / "results", tmp_path / "results", actions=[1])
    lines = list(csv.DictReader(io.StringIO(table.to_csv())))
    content = json.loads(table.to_json())
    markdown = [line.strip("| ").split(" | ") for line in table.to_markdown().splitlines() if line.startswith("| ")]
    assert len(lines) == len(content["rows"]) + len(content["averages"]) == len(markdown) - 1 == 6
    for line, row, cells in zip(lines, content["rows"] + content["averages"], markdown[1:], strict=True):
        assert line["stage"] == row["stage"] == cells[1]
        for k, name in enumerate(("mpjpe", "p_mpjpe", "n_mpjpe", "mpjve", "pck", "auc", "accel")):
            assert float(line[name]) == pytest.approx(row[name], rel=1e-5)
            assert float(cells[3 + k]) == pytest.approx(row[name], abs=0.051)
    assert content["test_subjects"] == ["S9", "S11"]
    assert "MPJPE (mm) | P-MPJPE (mm)" in table.to_markdown()
    # Random labels have bones of any length.
    assert content["label_bone_variation"] > 0.1


def test_the_table_of_a_paper(tmp_path: Path) -> None:
    _action(tmp_path, 1, 6, {"coarse": 64, "refined": 16})
    for action in range(2, 16):
        _action(tmp_path, action, 4, {"coarse": 32} if action == 13 else {"coarse": 32, "refined": 16})
    results = tmp_path / "results"
    results.joinpath("result8_unnorm.csv").unlink()
    results.joinpath("refine3d_8.txt").unlink()
    found = evaluate_actions(DataFolder(tmp_path), results, None)
    header = ",".join(["method", *(f"a{k}" for k in range(15))])
    row = ",".join(["A & B", "", *(str(50.5 + k) for k in range(14))])
    (tmp_path / "others.csv").write_text(f"{header}\n{row}\n")
    published = read_published(tmp_path / "others.csv")
    assert published == [("A & B", {k: 48.5 + k for k in range(2, 16)})]
    table = paper_table(found, "mpjpe", published)
    rows = list(csv.reader(io.StringIO(table.to_csv())))
    assert rows[0][0] == "MPJPE (mm)"
    assert (rows[0][1], rows[0][13], rows[0][16]) == ("Direct.", "Walk", "Avg.")
    assert [row[0] for row in rows[1:]] == ["A & B (as published)", "coarse"]
    assert float(rows[2][1]) == pytest.approx(60, abs=0.02)
    assert float(rows[2][13]) == pytest.approx(30, abs=0.02)
    # A mean over some of the actions is no mean.
    assert (rows[2][8], rows[2][16], rows[1][1], rows[1][16]) == ("", "", "", "")
    assert [note for note in table.notes if "Sitting:" in note] == ["action 8 Sitting: no results"]
    markdown = table.to_markdown().splitlines()
    assert markdown[3].split(" | ")[1] == "60.0"
    assert markdown[3].split(" | ")[8] == "-"
    latex = table.to_latex().splitlines()
    assert latex[0] == r"\begin{tabular}{lrrrrrrrrrrrrrrrr}"
    assert latex[4].startswith(r"A \& B (as published) & -- & 50.5 & ")
    assert latex[5].startswith("coarse & 60.0 & 30.0 & ")
    assert all(line.endswith(r" \\") for line in (latex[2], latex[4], latex[5]))
    with pytest.raises(UsageError, match="measure 'x'; there are mpjpe, "):
        paper_table(found, "x")
    for text, message in (("a,1,2\n", "line 1: 3 cells"), ("", "holds no row"), ("h" + ",1" * 14 + ",x\n" * 2, "x")):
        (tmp_path / "others.csv").write_text(text)
        with pytest.raises(FileError, match=message):
            read_published(tmp_path / "others.csv")


def test_a_mean_of_all_actions(tmp_path: Path) -> None:
    for action in range(1, 16):
        _action(tmp_path, action, 3, {"refined": 16 * (1 + action % 2)})
    table = paper_table(evaluate_actions(DataFolder(tmp_path), None, tmp_path / "results"))
    (row,) = list(csv.reader(io.StringIO(table.to_csv())))[1:]
    assert float(row[16]) == pytest.approx(np.mean([float(cell) for cell in row[1:16]]))
    assert float(row[16]) == pytest.approx(15 * (8 * 2 + 7) / 15, abs=0.02)


def test_what_part_the_hip_has(tmp_path: Path) -> None:
    """Poses that lie 32 mm aside with all joints, but the hip."""
    _action(tmp_path, 1, 5, {"refined": 32})

    def row(root: Any) -> Row:
        (found,) = evaluate_actions(DataFolder(tmp_path), None, tmp_path / "results", actions=[1], root=root).rows
        return found

    assert row("as-is").mpjpe == row("aligned").mpjpe == pytest.approx(30, abs=0.01)
    assert row("left-out").mpjpe == pytest.approx(32, abs=0.01)
    assert row("as-is").joints == pytest.approx([0, *[32] * 15], abs=0.01)
    assert row("left-out").joints == pytest.approx([32] * 15, abs=0.01)
    assert row("as-is").accel == pytest.approx(0, abs=0.01)
    with pytest.raises(UsageError, match="root 'hip'; there are as-is, aligned, left-out"):
        row("hip")


def test_one_frame_has_no_velocity(tmp_path: Path) -> None:
    _action(tmp_path, 1, 1, {"coarse": 64})
    table = evaluate_actions(DataFolder(tmp_path), tmp_path / "results", actions=[1])
    assert json.loads(table.to_json())["rows"][0]["mpjve"] is None
    assert "| nan |" in table.to_markdown()


def test_exchanged_sides_are_a_warning(tmp_path: Path) -> None:
    _action(tmp_path, 2, 12, {"coarse": 1, "refined": 1})
    refined = ResultFolder(tmp_path / "results").refined_mm(2)
    poses = np.loadtxt(refined, delimiter=",").reshape(12, 16, 3)
    refined.write_text("".join(map(refined_line, swap_sides(poses, H36M16).reshape(12, 48))))
    with pytest.warns(CaffeCompatWarning, match=r"refine3d_2.txt: in 12 of 12 frames the pose fits") as caught:
        evaluate_actions(DataFolder(tmp_path), tmp_path / "results", tmp_path / "results", actions=[2])
    assert not [warning for warning in caught if "result2_unnorm.csv" in str(warning.message)]


def test_progress_counts_the_actions(tmp_path: Path) -> None:
    _action(tmp_path, 3, 4, {"coarse": 1})
    shown: list[tuple[int, int]] = []
    evaluate_actions(
        DataFolder(tmp_path), tmp_path / "results", actions=[3, 5], progress=lambda done, n: shown.append((done, n))
    )
    assert shown == [(0, 2), (1, 2), (2, 2)]
