"""The npz files of data sets, in which dictionaries of arrays lie as pickles."""

from __future__ import annotations

import os
from typing import Any

from caffe_compat.formats import arrays

from .pickles import safe_load

__all__ = ["read_npz"]


def read_npz(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Every array of an npz file by name; an array of objects is read as ``safe_load`` reads a pickle.

    Raises:
        FileError: no npz, damaged, too large, or an array of objects that are not plain values.
    """
    return arrays.read_npz(path, lambda data, name: safe_load(data, path=name))
