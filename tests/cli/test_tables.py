"""Tables where they go to a file: whole, aligned, and nothing in them can forge a line."""

from __future__ import annotations

import pytest

from caffe_compat.cli.tables import print_table


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("conv\n\x1b[2J", "9"), ("\u5c42", "1,000"), ("x" * 500, "")]
    print_table(("layer", "parameters"), rows, right=("parameters",))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "layer" + " " * 495 + "  parameters",
        r"conv\n\x1b[2J" + " " * 487 + "           9",
        "\u5c42" + " " * 498 + "       1,000",  # as wide as two letters
        "x" * 500 + "  " + " " * 10,
    ]


def test_a_table_without_rows(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a", "b"), [])
    assert capsys.readouterr().out == "a  b\n"


def test_a_very_long_cell_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    """Else a name of a million letters makes each of thousands of rows as long."""
    print_table(("layer", "type"), [("a" * 1_000_000, "ReLU"), ("\x1b" * 1000, "Tanh")] + [("b", "ReLU")] * 100)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("a" * 500 + "...  ReLU")
    assert lines[2].startswith("\\x1b" * 125 + "...  Tanh")
    assert max(map(len, lines)) < 520
