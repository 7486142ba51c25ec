"""Numbers as the original's files hold them: what a reader of a file finds is not quite what was computed.

| file | written by | significant digits |
|---|---|---|
| ``result<k>...csv`` and what has its format | C++ streams, of single precision | 6 |
| ``refine3d_<k>.txt``, ``<rate>mpjp_<k>.txt`` | Python 2's ``str``, of double precision | 12 |
"""

from __future__ import annotations

import numpy as np

__all__ = ["as_in_results", "as_refined", "python2_number"]


def python2_number(value: float) -> str:
    """``value`` as ``str`` of Python 2 prints it, which the original's refinement uses: 12 significant digits.

    >>> python2_number(0.00015), python2_number(1 / 3), python2_number(2)
    ('0.00015', '0.333333333333', '2.0')
    """
    text = f"{value:.12g}"
    return text if any(c in text for c in ".en") else text + ".0"


def as_in_results(values: np.ndarray) -> np.ndarray:
    """What a reader of a result CSV finds of ``values``, in double precision and the same shape.

    >>> as_in_results(np.array([1 / 3, 1234567.0])).tolist()
    [0.333333, 1234570.0]
    """
    return _rounded(np.asarray(values, np.float32), 6)


def as_refined(values: np.ndarray) -> np.ndarray:
    """What a reader of a file of refined poses finds of ``values``, in double precision and the same shape.

    >>> as_refined(np.array([1 / 3])).tolist()
    [0.333333333333]
    """
    return _rounded(np.asarray(values, np.float64), 12)


def _rounded(values: np.ndarray, digits: int) -> np.ndarray:
    # Decimal digits are what a text has: nothing else rounds to them in every case.
    return np.array([float(f"{value:.{digits}g}") for value in values.ravel().tolist()]).reshape(values.shape)
