"""The two tables of a log."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from caffe_compat.errors import FileError
from caffe_compat.formats.log_tables import log_tables, read_log_tables, write_log_tables

LOG = """\
I0102 10:00:00.000000  7 solver.cpp:44] Iteration 5, loss = 9
I0102 10:00:01.000000  7 solver.cpp:289] Solving tiny
I0102 10:00:01.250000  7 solver.cpp:347] Iteration 0, Testing net (#0)
I0102 10:00:01.500000  7 solver.cpp:414]     Test net output #0: accuracy = 0.125
I0102 10:00:01.500000  7 solver.cpp:414]     Test net output #1: loss = 2.5 (* 1 = 2.5 loss)
I0102 10:00:02.000000  7 solver.cpp:239] Iteration 0 (0 iter/s, 0s/20 iters), loss = 2.75
I0102 10:00:02.000000  7 solver.cpp:258]     Train net output #0: loss = 2.75 (* 1 = 2.75 loss)
I0102 10:00:02.000000  7 sgd_solver.cpp:112] Iteration 0, lr = 0.01
I0102 10:00:04.000000  7 solver.cpp:239] Iteration 20 (9 iter/s, 2s/20 iters), loss = 1e-05
I0102 10:00:04.000000  7 solver.cpp:258]     Train net output #0: loss = 1e-05 (* 1 = 1e-05 loss)
I0102 10:00:04.000000  7 sgd_solver.cpp:112] Iteration 20, lr = 0.001
I0102 10:00:06.000000  7 solver.cpp:347] Iteration 40, Testing net (#0)
I0102 10:00:06.500000  7 solver.cpp:414]     Test net output #0: accuracy = 0.5
I0102 10:00:06.500000  7 solver.cpp:414]     Test net output #1: loss = -nan (* 1 = -nan loss)
I0102 10:00:07.000000  7 solver.cpp:239] Iteration 40 (9 iter/s, 2s/20 iters), loss = 0.5
I0102 10:00:07.000000  7 solver.cpp:258]     Train net output #0: loss = 0.5 (* 1 = 0.5 loss)
"""


def test_the_two_tables(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(LOG)
    written = write_log_tables(read_log_tables(tmp_path / "train.log"), "train.log", tmp_path)
    assert written == [str(tmp_path / "train.log.train"), str(tmp_path / "train.log.test")]
    # A row has the rate that was told before it; the first, that of the second.
    assert (tmp_path / "train.log.train").read_bytes() == (
        b"NumIters,Seconds,LearningRate,loss\r\n0.0,1.0,0.01,2.75\r\n20.0,3.0,0.01,1e-05\r\n40.0,6.0,0.001,0.5\r\n"
    )
    assert (tmp_path / "train.log.test").read_bytes() == (
        b"NumIters,Seconds,LearningRate,accuracy,loss\r\n0.0,0.5,0.001,0.125,2.5\r\n40.0,5.5,0.001,0.5,nan\r\n"
    )


def test_another_delimiter_and_a_table_without_rows(tmp_path: Path) -> None:
    only = "\n".join(line for line in LOG.splitlines() if "Test net" not in line)
    (path,) = write_log_tables(log_tables(only.splitlines()), "x", tmp_path, delimiter="\t")
    assert Path(path).read_text().startswith("NumIters\tSeconds\tLearningRate\tloss\n")
    assert not (tmp_path / "x.test").exists()


def test_one_row_is_kept() -> None:
    table = log_tables(LOG.splitlines()[:7])
    assert [row["loss"] for row in table.train] == [2.75]
    assert math.isnan(table.train[0]["LearningRate"])


def test_several_test_nets_share_their_first_row() -> None:
    lines = [
        "I0102 10:00:01.000000  7 solver.cpp:289] Solving tiny",
        *(
            f"I0102 10:00:0{i}.000000  7 solver.cpp:414] {text}"
            for i in (2, 3)
            for net in (0, 1)
            for text in (
                f"Iteration {i}, Testing net (#{net})",
                f"    Test net output #0: accuracy = 0.{i}{net}",
                f"    Test net output #1: loss = {i}{net}",
            )
        ),
    ]
    assert [row["loss"] for row in log_tables(lines).test] == [21, 30, 31]


def test_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("nothing\n")
    with pytest.raises(FileError, match="no output of a Caffe training"):
        read_log_tables(tmp_path / "a.log")
    late = LOG + "I0102 10:00:08.000000  7 solver.cpp:258]     Train net output #1: aux = 3\n"
    with pytest.raises(FileError, match="an output 'aux', which the first row has not"):
        write_log_tables(log_tables(late.splitlines()), "x", tmp_path)
