"""The original's pickle of the correction module and projector: 12 arrays."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np

from caffe_compat.errors import FileError
from caffe_compat.formats.files import atomic_write, read_file
from caffe_compat.formats.sniff import FileKind, kind_of

from ..projector import LAYERS, Projector
from .pickles import safe_load

__all__ = ["is_pickle", "read_projector_pickle", "write_projector_pickle"]


def is_pickle(path: str | os.PathLike[str]) -> bool:
    """Whether a file is named .pkl, or begins as pickles of arrays do. Raises FileError."""
    return kind_of(path) is FileKind.PICKLE or Path(path).suffix.lower() == ".pkl"


def read_projector_pickle(path: str | os.PathLike[str]) -> Projector:
    """The correction module and projector of the original's pickle: 12 arrays, weight transposed and bias per layer.

    Raises:
        FileError: no pickle of plain arrays, or other arrays than these.
        WeightsError: arrays whose shapes do not fit.
    """
    name = os.fspath(path)
    arrays = safe_load(read_file(path), path=name)
    if not isinstance(arrays, (list, tuple)) or len(arrays) != 2 * len(LAYERS):
        found = f"{len(arrays)} values" if isinstance(arrays, (list, tuple)) else f"a {type(arrays).__name__}"
        raise FileError(f"holds {found}; 12 arrays were expected: weight and bias of {', '.join(LAYERS)}", path=name)
    for k, array in enumerate(arrays):
        place = f"value {k + 1} ({LAYERS[k // 2]} {'weight' if k % 2 == 0 else 'bias'})"
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            raise FileError(f"{place} is a {type(array).__name__}; an array of floats was expected", path=name)
        if not np.isfinite(array).all():
            raise FileError(f"{place} has values that are not finite", path=name)
    return Projector.from_arrays([np.asarray(array, np.float32) for array in arrays])


def write_projector_pickle(path: str | os.PathLike[str], projector: Projector) -> None:
    """Write the 12 float32 arrays as a pickle that Python 2 with its numpy reads, as the original does, and Python 3.

    Written by hand: today's numpy names a module in its pickles that numpy did not have then. Raises FileError.
    """
    parts = [b"\x80\x02](", *(_pickled(array.astype("<f4")) for array in projector.arrays()), b"e."]
    with atomic_write(path) as handle:
        handle.write(b"".join(parts))


def _pickled(array: np.ndarray) -> bytes:
    """The instructions of protocol 2 that push a float32 array, as numpy 1 wrote them.

    Bytes are a text that is encoded, as Python 3 writes them in this protocol: Python 3 takes the ``str`` of Python 2
    for a text, and Python 2 gets a ``str`` by either way.
    """
    shape = b"(" + b"".join(b"J" + struct.pack("<i", size) for size in array.shape) + b"t"
    raw = array.tobytes()
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    text = raw.decode("latin1").encode("utf-8")
    content = b"c_codecs\nencode\nX" + struct.pack("<I", len(text)) + text + b"X\x06\x00\x00\x00latin1\x86R"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"
