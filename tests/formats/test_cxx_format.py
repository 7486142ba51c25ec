from __future__ import annotations

import numpy as np
import pytest

from caffe_compat.formats.cxx_numbers import cxx_number, cxx_rows


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "-0"),
        (1.0, "1"),
        (684.71875, "684.719"),
        (123456.0, "123456"),
        (1234567.0, "1.23457e+06"),
        (999999.5, "1e+06"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (-3.2992704e-07, "-3.29927e-07"),
        (0.1 + 0.2, "0.3"),
        (1e100, "1e+100"),
        (1e-310, "1e-310"),
        (float("inf"), "inf"),
        (float("-inf"), "-inf"),
        (float("nan"), "nan"),
        (-float("nan"), "-nan"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert cxx_number(value) == text
    assert cxx_rows(np.array([[value]]), ",") == [text]


def test_rows_print_single_precision_as_it_is() -> None:
    values = np.array([[0.1, -2.5, 1e7], [3.0, 16777217.0, 1 / 3]], np.float32)
    assert cxx_rows(values, ", ") == ["0.1, -2.5, 1e+07", "3, 1.67772e+07, 0.333333"]


def test_rows_agree_with_numbers_one_by_one() -> None:
    rs = np.random.RandomState(0)
    values = rs.standard_normal((7, 5)) * 10.0 ** rs.randint(-12, 12, (7, 5))
    for table in (values, np.where(values > 1, -np.nan, values)):
        assert cxx_rows(table, "%") == ["%".join(cxx_number(v) for v in row) for row in table]


def test_no_rows() -> None:
    assert cxx_rows(np.zeros((0, 3)), ",") == []
