"""Numbers as a C++ stream prints them, for layers whose text files other programs read byte for byte.

``std::ostream`` with its default flags prints a float as ``printf`` does with ``%g``: six significant digits, no
trailing zeros, an exponent of at least two digits. Python's ``%g`` is the same but for a NaN with its sign bit set.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["cxx_number", "cxx_rows"]


def cxx_number(value: float) -> str:
    """``value`` as ``std::cout << value`` prints it.

    >>> cxx_number(684.71875), cxx_number(3e-7), cxx_number(1e6)
    ('684.719', '3e-07', '1e+06')
    """
    if math.isnan(value):
        return "-nan" if math.copysign(1.0, value) < 0 else "nan"
    return f"{value:g}"


def cxx_rows(values: np.ndarray, separator: str) -> list[str]:
    """Each row of a (rows, columns) array as one string, its values printed as C++ does and joined by ``separator``.

    >>> cxx_rows(np.array([[1, 0.5], [2e-5, 1e7]]), ",")
    ['1,0.5', '2e-05,1e+07']
    """
    rows, columns = values.shape
    if rows == 0:
        return []
    if np.any(np.isnan(values) & np.signbit(values)):
        return [separator.join(map(cxx_number, row)) for row in values.tolist()]
    # One formatting operation for the whole array; a line break parts the rows, as no number contains one.
    template = "\n".join([separator.replace("%", "%%").join(["%g"] * columns)] * rows)
    return (template % tuple(values.ravel().tolist())).split("\n")
