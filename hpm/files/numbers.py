"""Numbers as the original's files hold them: what a reader of a file finds is not quite what was computed.

| file | written as by | digits | millimetres |
|---|---|---|---|
| ``result<k>_norm.csv``, ``coarse_norm.csv``, ``pose2d.csv`` | C++ streams, of single precision | 6 | |
| ``result<k>_unnorm.csv``, ``result<k>_change_unnorm.csv`` | C++ streams, of single precision | 6 | the layers' |
| ``coarse_unnorm.csv``, ``change_unnorm.csv`` | C++ streams, of single precision | 6 | exact |
| ``refine3d_<k>.txt``, ``refined_mm.txt`` | Python 2's ``str``, of double precision | 12 | exact |
| ``<rate>mpjp_<k>.txt`` | Python 2's ``str``, of double precision | 12 | of exact poses |

Millimetres are computed from normalised poses in double precision (:func:`hpm.scaling.denormalise`: exact), but for the
files that the original's networks write: those have what its layers compute, in single precision and with a range of
the hip of their own (:func:`hpm.scaling.denormalise_as_layers`).
"""

from __future__ import annotations

import numpy as np

__all__ = ["as_in_results", "as_refined", "python2_number"]


def python2_number(value: float) -> str:
    """``value`` as ``str`` of Python 2 prints it, which the original's refinement uses: 12 significant digits.

    >>> python2_number(0.00015), python2_number(1 / 3), python2_number(2)
    ('0.00015', '0.333333333333', '2.0')
    """
    # "nan", of a frame without a pose, has one of these letters, too.
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
