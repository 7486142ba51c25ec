"""The official CDF files of Human3.6M, read by cdflib; run by :func:`caffe_compat.formats.guarded.guarded`."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from caffe_compat.errors import FileError
from caffe_compat.extras import require

__all__ = ["read_pose"]

# What cdflib raises for files that are cut short or damaged.
_DAMAGE = (
    *(OSError, EOFError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RuntimeError),
    *(struct.error, zlib.error),
)


def read_pose(path: str) -> np.ndarray:
    """The variable ``Pose`` as float64, of any shape.

    Raises:
        FileError: there is none, or the file is damaged. MissingExtraError: cdflib is not installed.
    """
    cdflib = require("cdflib", "h36m")
    try:
        content = cdflib.CDF(path)
        # cdflib looks through as many variables as a file says that it has: for hours, if the count is damaged.
        if max(getattr(content, f"_num_{kind}variable", 0) for kind in "rz") > 1000:
            raise ValueError("more than 1000 variables")
        with np.errstate(all="ignore"):
            return np.asarray(content.varget("Pose"), np.float64)
    except _DAMAGE as error:
        raise FileError(f"no variable Pose can be read: {type(error).__name__}: {error}", path=path) from error
