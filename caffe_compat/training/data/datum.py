"""Datum, the message that a database of Caffe's holds: an image with its label, or features.

What is set, and set explicitly, is what Caffe's own programs set, so that the bytes are theirs, too.
"""

from __future__ import annotations

import numpy as np

from ...errors import FileError, UsageError
from ...formats.images import Mode
from ...schema import load_schema
from ...schema.messages import Datum
from .images import decode_image

__all__ = ["encoded_datum", "feature_datum", "image_of", "raw_datum"]


def image_of(datum: Datum, mode: Mode) -> np.ndarray:
    """The pixels of a datum: (H, W, C), uint8 or float32. Raw ones are stored as planes.

    Raises:
        FileError: they cannot be decoded, or are not as many as the datum says.
    """
    if datum.encoded:
        return decode_image(datum.data, mode)
    shape = (datum.channels, datum.height, datum.width)
    planes = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    if min(shape) < 1 or planes.size != shape[0] * shape[1] * shape[2]:
        raise FileError(f"has {planes.size} values for channels, height and width {list(shape)}")
    return planes.reshape(shape).transpose(1, 2, 0)


def raw_datum(image: np.ndarray, label: int) -> bytes:
    """The bytes of an image (H, W, C), uint8, as ``CVMatToDatum`` stores it: plane after plane."""
    height, width, channels = image.shape
    datum = _new()
    datum.channels, datum.height, datum.width = channels, height, width
    datum.data = image.transpose(2, 0, 1).tobytes()
    datum.label = label
    datum.encoded = False
    return datum.SerializeToString()


def encoded_datum(data: bytes, label: int) -> bytes:
    """The bytes of an image that stays in its file's form. Caffe notes no size with it."""
    datum = _new()
    datum.data, datum.label, datum.encoded = data, label, True
    return datum.SerializeToString()


def feature_datum(values: np.ndarray) -> bytes:
    """The bytes of one row of a blob, as ``extract_features`` stores it.

    Args:
        values: the row without the axis of the batch, of at most three axes (channels, height, width).

    Raises:
        UsageError: more axes; Caffe has no name for them and stops.
    """
    if values.ndim > 3:
        raise UsageError(f"a row has {values.ndim} axes; a Datum has channels, height and width")
    datum = _new()
    datum.channels, datum.height, datum.width = (*values.shape, 1, 1, 1)[:3]
    datum.float_data.extend(values.astype(np.float32).ravel().tolist())
    return datum.SerializeToString()


def _new() -> Datum:
    datum: Datum = load_schema().message("Datum")()
    return datum
