"""The mean image of a database, as Caffe's ``compute_image_mean`` computes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError

from ..errors import FileError, located
from ..formats.databases import Backend, open_database
from ..schema import load_schema
from ..schema.messages import Datum
from ..training.data.datum import image_of

__all__ = ["ImageMean", "image_mean"]

_TELL_EVERY = 10000


@dataclass(frozen=True)
class ImageMean:
    """A mean.

    Attributes:
        image: (1, C, H, W), float32, in units of pixels; what :func:`~caffe_compat.formats.weights.write_binaryproto`
            writes as Caffe does. channels: the mean of each channel of it. count: of images.
    """

    image: np.ndarray
    channels: tuple[float, ...]
    count: int


def image_mean(
    database: str | os.PathLike[str],
    backend: Backend = "LMDB",
    on_start: Callable[[bool], None] = lambda encoded: None,
    on_progress: Callable[[int], None] = lambda count: None,
) -> ImageMean:
    """The mean of all images of a database, in float32 and in Caffe's order, so to the bit what Caffe computes.

    Args:
        on_start: told whether the first image is stored encoded.
        on_progress: told every ten-thousandth count of images, and the last.

    Raises:
        FileError: the database or an image cannot be read, or their sizes differ. MissingExtraError.
    """
    path = os.fspath(database)
    source = open_database(path, backend)
    message = load_schema().message("Datum")
    total: np.ndarray | None = None
    for i in range(len(source.keys)):
        with located(place=source.label(i), path=path):
            try:
                datum: Datum = message.FromString(source.get(i))
            except DecodeError as error:
                raise FileError(f"is no Datum: {error}") from error
            planes = image_of(datum, "native").transpose(2, 0, 1)
            if total is None:
                total = np.zeros(planes.shape, np.float32)
                on_start(datum.encoded)
            if planes.shape != total.shape:
                found, wanted = list(planes.shape), list(total.shape)
                raise FileError(f"has channels, height and width {found}, the first image {wanted}; resize them alike")
            total += planes
        if (i + 1) % _TELL_EVERY == 0:
            on_progress(i + 1)
    assert total is not None  # a database without records is refused
    count = len(source.keys)
    if count % _TELL_EVERY:
        on_progress(count)
    mean = total / np.float32(count)
    size = np.float32(mean.shape[1] * mean.shape[2])
    # Added up one by one, as Caffe does: numpy's own sum rounds otherwise.
    sums = (np.add.accumulate(plane.ravel(), dtype=np.float32)[-1] for plane in mean)
    return ImageMean(mean[np.newaxis], tuple(float(value / size) for value in sums), count)
