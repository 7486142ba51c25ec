"""The original's text files, and errors that name file and line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_compat.errors import FileError, UsageError
from caffe_compat.formats.hdf5 import open_hdf5
from hpm.files.folders import ACTIONS, PROTOCOLS, DataFolder, ResultFolder
from hpm.files.lists import (
    ResultWriter,
    check_lengths,
    count_lines,
    format_list_line,
    read_errors,
    read_list,
    read_refined,
    read_results,
    refined_line,
    stream_list,
    write_list,
)
from hpm.files.numbers import python2_number


def test_lists_that_the_original_trained_on(reference: Path) -> None:
    h36m = read_list(reference / "train_data" / "h36m_list.txt", need_3d=True)
    assert len(h36m) == 12
    assert h36m.paths[0] == "h36m/f00.jpg"
    assert h36m.pose2d.shape == (12, 32)
    assert h36m.pose2d[0, :2].tolist() == [0.156546, 0.416870]
    assert h36m.pose3d is not None
    assert h36m.pose3d.shape == (12, 48)
    assert h36m.clip is not None
    assert set(h36m.clip) <= {0, 1}
    mpii = read_list(reference / "train_data" / "mpii_list.txt")
    assert len(mpii) == 10
    assert mpii.pose3d is None
    assert mpii.clip is not None
    assert mpii.pose2d[0, -1] == 0.532597


def test_result_files_that_the_original_wrote(reference: Path, tmp_path: Path) -> None:
    """Read, and written again: the same bytes, as six digits survive a round trip."""
    with open_hdf5(reference / "hpm_test_phase.h5") as file:
        group = file["template_16_merge"]
        for kind in ("norm", "unnorm", "change_unnorm"):
            text = str(group.attrs[f"file:template_16_merge_{kind}.csv"])
            path = tmp_path / f"{kind}.csv"
            path.write_text(text)
            values = read_results(path, 48)
            assert values.shape == (text.count("\n"), 48)
            with ResultWriter(tmp_path / "again.csv", indexed=kind != "norm") as writer:
                writer.write(values[:1])
                writer.write(values[1:])
            assert (tmp_path / "again.csv").read_text() == text


def test_list_round_trip(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    pose2d, pose3d = random.rand(5, 32), random.rand(5, 48)
    lines = [format_list_line(f"S9/walk 1/{k}.jpg", pose2d[k], pose3d[k], int(k != 0)) for k in range(5)]
    write_list(tmp_path / "test1.txt", lines)
    read = read_list(tmp_path / "test1.txt", need_3d=True)
    assert read.paths[3] == "S9/walk 1/3.jpg"
    np.testing.assert_allclose(read.pose2d, pose2d, atol=5.1e-7)
    assert read.pose3d is not None
    np.testing.assert_allclose(read.pose3d, pose3d, atol=5.1e-7)
    assert read.clip is not None
    assert read.clip.tolist() == [0, 1, 1, 1, 1]
    write_list(tmp_path / "square2d.txt", [format_list_line("a.jpg", pose2d[0], None, None)])
    hourglass = read_list(tmp_path / "square2d.txt")
    assert hourglass.pose3d is None
    assert hourglass.clip is None
    blocks = list(stream_list(tmp_path / "test1.txt", block=2))
    assert [len(block) for block in blocks] == [2, 2, 1]
    assert blocks[2].paths == ["S9/walk 1/4.jpg"]


@pytest.mark.parametrize("clip", [True, False])
def test_lists_of_3d_poses_alone(clip: bool, tmp_path: Path) -> None:
    """As the original's evaluation reads them: 48 values, and perhaps a clip."""
    pose3d = np.random.RandomState(0).rand(4, 48).round(6)
    rows = [[*row, *([int(k > 0)] if clip else [])] for k, row in enumerate(pose3d.tolist())]
    path = tmp_path / "test2.txt"
    path.write_text("".join(f"S9/sit 1/{k}.png {','.join(map(str, row))}\n" for k, row in enumerate(rows)))
    for need_3d in (True, False):
        read = read_list(path, need_3d=need_3d)
        assert read.pose3d is not None
        np.testing.assert_array_equal(read.pose3d, pose3d)
        assert (None if read.clip is None else read.clip.tolist()) == ([0, 1, 1, 1] if clip else None)
        assert read.points is None
        with pytest.raises(UsageError, match=r"^S9/sit 1/0\.png: 2D poses are needed; the list .* 3D poses alone$"):
            _ = read.pose2d


def _line(count: int, clip: str = "1") -> str:
    return "a.jpg " + ",".join(["0.5"] * count + [clip]) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_line(80) + _line(79), "line 2: 80 numbers after the path; the 81 of the lines above were expected"),
        (_line(40), "line 1: 41 numbers after the path; 48 or 49 or 80 or 81 were expected"),
        (_line(32), "line 1: 33 numbers after the path; 48 or 49 or 80 or 81 were expected"),
        (_line(80) * 2 + _line(80).replace("0.5", "nan", 1), "line 3: value 1 is nan, no finite number"),
        (_line(80).replace("0.5,0.5", "0.5,x", 1), "line 1: value 2 is 'x', no number"),
        (_line(80, "2"), "line 1: clip 2; it is 0"),
        ("0.5,0.5\n", "line 1: a path, a space and numbers"),
        (_line(80) + "\n" + _line(80), "line 2: it is empty"),
        ("", "is empty; a line per frame"),
        ("\r\n \n", "is empty; a line per frame"),
        ("\n" + _line(80), "line 1: it is empty"),
        ("\xff\xfe", "line 1: no UTF-8"),
    ],
)
def test_bad_lists(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "test3.txt"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(FileError, match=message) as caught:
        read_list(path, need_3d=True)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("before", "end", "after"),
    [("", "\n", ""), ("", "\r\n", ""), ("\ufeff", "\r\n", "\r\n \r\n"), ("", "\n", "\n" * 5000), ("", "\n", "\t")],
)
def test_marks_and_line_ends_of_editors(before: str, end: str, after: str, tmp_path: Path) -> None:
    """What Windows puts before a text and at the end of its lines, and blank lines after the last."""
    lines, results = tmp_path / "test3.txt", tmp_path / "result3_norm.csv"
    lines.write_bytes((before + _line(80).replace("\n", end) * 3 + after).encode())
    results.write_bytes((before + ("," + "2.5," * 47 + "0" + end) * 3 + after).encode())
    found = read_list(lines)
    assert found.paths == ["a.jpg"] * 3
    assert found.clip is not None
    assert found.clip.tolist() == [1, 1, 1]
    assert read_results(results, 48).shape == (3, 48)
    assert count_lines(lines) == count_lines(results) == 3


def test_lines_are_counted_across_blocks_and_without_a_last_end(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_bytes(b"x" * ((1 << 20) - 1) + b"\n" + b"\n" * (1 << 20) + b"y")
    assert count_lines(path) == (1 << 20) + 2
    path.write_bytes(b"")
    assert count_lines(path) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1" + ",2.5" * 48 + "\n2" + ",2.5" * 47, "line 2: 47 values; 48 were expected"),
        (",2.5" * 47 + ",inf", "line 1: value 48 is inf"),
        ("0.25" + ",2.5" * 48, "line 1: an index or nothing was expected before the first comma, found '0.25'"),
        ("7", "line 1: an index or nothing"),
    ],
)
def test_bad_results(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(FileError, match=message):
        read_results(tmp_path / "r.csv", 48)


def test_missing_file() -> None:
    with pytest.raises(FileError, match="nowhere"):
        read_results("nowhere.csv", 48)


def test_a_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    def write_and_fail() -> None:
        with ResultWriter(tmp_path / "r.csv", indexed=True) as writer:
            writer.write(np.zeros((1, 48)))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_refined_files(tmp_path: Path) -> None:
    values = np.random.RandomState(0).uniform(-900, 900, (3, 48))
    values[0, 0] = 12.0
    (tmp_path / "refine3d_1.txt").write_text("".join(map(refined_line, values)))
    assert (tmp_path / "refine3d_1.txt").read_text().startswith("12.0,")
    np.testing.assert_allclose(read_refined(tmp_path / "refine3d_1.txt"), values, rtol=1e-11)
    (tmp_path / "e.txt").write_text("1.5 2.25 3.0\n4.0 5.0 6.0\n")
    assert read_errors(tmp_path / "e.txt").tolist() == [[1.5, 2.25, 3], [4, 5, 6]]
    (tmp_path / "e.txt").write_text("1.5 2.25\n")
    with pytest.raises(FileError, match="line 1: 2 values; 3 were expected"):
        read_errors(tmp_path / "e.txt")


def test_numbers_as_python_2_prints_them() -> None:
    numbers = [0.1 + 0.2, 1e-5, 123456789012345.0, -3.0, 1e16, 96.67751471]
    assert [python2_number(v) for v in numbers] == ["0.3", "1e-05", "1.23456789012e+14", "-3.0", "1e+16", "96.67751471"]


def test_layout() -> None:
    data = DataFolder(Path("/d"), 1)
    assert data.ground_truth(7) == Path("/d/gt/test/test7.txt")
    assert data.pose2d(7, "ours") == Path("/d/ours_2d/bilstm2d-p1-800000/result7_norm.csv")
    assert data.pose2d(7, "hourglass") == Path("/d/hg2dh36m/test7_square2d.txt")
    assert data.pose2d(7, "gt") == data.ground_truth(7)
    third = DataFolder(Path("/d"), 3)
    assert third.ground_truth(7) == Path("/d/gt/test_p3/test7.txt")
    assert third.pose2d(7, "ours") == Path("/d/ours_2d/bilstm2d-p3-800000/result7_norm.csv")
    with pytest.raises(UsageError, match="hourglass predictions exist for protocol 1 only"):
        third.pose2d(7, "hourglass")
    with pytest.raises(UsageError, match="protocol 2; there are 1 and 3"):
        DataFolder(Path("/d"), 2)
    with pytest.raises(UsageError, match="there are ours, hourglass and gt"):
        data.pose2d(7, "theirs")
    results = ResultFolder(Path("/r"))
    assert results.normalised(3).name == "result3_norm.csv"
    assert results.coarse_mm(3).name == "result3_unnorm.csv"
    assert results.change_mm(3).name == "result3_change_unnorm.csv"
    assert results.refined_mm(3).name == "refine3d_3.txt"
    assert results.errors_mm(3, 0.00015).name == "0.00015mpjp_3.txt"


def test_actions_and_protocols() -> None:
    assert list(ACTIONS) == list(range(1, 16))
    assert (ACTIONS[1], ACTIONS[11], ACTIONS[15]) == ("Directions", "Photo", "WalkTogether")
    assert PROTOCOLS[1].test == ("S9", "S11")
    assert PROTOCOLS[3].train == ("S1", "S5", "S6", "S7", "S8", "S9")


def test_lengths() -> None:
    check_lengths({"a": 3, "b": 3})
    with pytest.raises(UsageError, match="different numbers of frames: a has 3, b has 5"):
        check_lengths({"a": 3, "b": 5})
    # Results may be shorter where that is allowed, and the error says so where it would help.
    for counts in ({"a": 3, "b": 5}, {"a": 3, "b": 4, "c": 5}):
        check_lengths(counts, "a", allow_short=True)
        with pytest.raises(UsageError, match=r"a has 3, b .*an incomplete last batch: --allow-short"):
            check_lengths(counts, "a")
        with pytest.raises(UsageError, match=r"b has \d(, c has 5)?$"):
            check_lengths(counts, "b", allow_short=True)
