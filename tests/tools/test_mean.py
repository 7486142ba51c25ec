"""The mean image, to the bit what Caffe's loop over single floats gives."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_compat.errors import FileError
from caffe_compat.formats.database_writing import new_database
from caffe_compat.formats.weights import write_binaryproto
from caffe_compat.schema import load_schema
from caffe_compat.tools.mean import image_mean
from caffe_compat.training.data.datum import encoded_datum, feature_datum, raw_datum

FORMATS = Path(__file__).parents[2] / "reference_outputs" / "formats"


def write(path: Path, values: list[bytes]) -> Path:
    with new_database(str(path), "LMDB") as writer:
        for i, value in enumerate(values):
            writer.put(b"%08d" % i, value)
    return path


def looped(images: list[np.ndarray]) -> tuple[np.ndarray, list[float]]:
    """The mean and the means of its channels, (C, H, W) and (C,), float by float as the C++ program adds them."""
    total = [np.float32(0)] * images[0].size
    for image in images:
        total = [a + np.float32(b) for a, b in zip(total, image.ravel(), strict=True)]
    mean = np.array([value / np.float32(len(images)) for value in total], np.float32).reshape(images[0].shape)
    channels = []
    for plane in mean:
        added = np.float32(0)
        for value in plane.ravel():
            added += value
        channels.append(float(added / np.float32(plane.size)))
    return mean, channels


def test_to_the_bit(tmp_path: Path) -> None:
    images = [np.random.RandomState(i).randint(0, 256, (3, 5, 7)).astype(np.uint8) for i in range(9)]
    values = [raw_datum(image.transpose(1, 2, 0), i) for i, image in enumerate(images)]
    values[4] = encoded_datum(cv2.imencode(".png", images[4].transpose(1, 2, 0))[1].tobytes(), 4)
    started: list[bool] = []
    found = image_mean(write(tmp_path / "db", values), on_start=started.append)
    mean, channels = looped(images)
    np.testing.assert_array_equal(found.image[0], mean)
    assert list(found.channels) == channels
    assert (found.count, started) == (9, [False])


def test_values_that_are_no_bytes(tmp_path: Path) -> None:
    rows = [np.random.RandomState(i).standard_normal((2, 3, 4)).astype(np.float32) for i in range(5)]
    found = image_mean(write(tmp_path / "db", [feature_datum(row) for row in rows]))
    np.testing.assert_array_equal(found.image[0], looped(rows)[0])


def test_the_file_is_written_as_real_caffe_writes_it(tmp_path: Path) -> None:
    mean = image_mean(FORMATS / "datum_lmdb").image
    write_binaryproto(tmp_path / "mean.binaryproto", mean)
    data, recorded = (tmp_path / "mean.binaryproto").read_bytes(), (FORMATS / "mean.binaryproto").read_bytes()
    assert len(data) == len(recorded)
    assert data[:11] == recorded[:11]  # num, channels, height, width, and how many bytes of floats follow
    assert data[11:] == mean.astype("<f4").tobytes()


def test_what_is_refused(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    path = write(tmp_path / "a", [raw_datum(image, 0), raw_datum(image[:3], 0)])
    with pytest.raises(FileError, match=r"record 1 .*\[3, 3, 4\], the first image \[3, 4, 4\]"):
        image_mean(path)
    with pytest.raises(FileError, match="is no Datum"):
        image_mean(write(tmp_path / "b", [b"\xff\xff"]))
    short = load_schema().message("Datum")(channels=1, height=2, width=2, data=b"abc").SerializeToString()
    with pytest.raises(FileError, match="3 values for channels"):
        image_mean(write(tmp_path / "c", [short]))
    with pytest.raises(FileError, match="no such database"):
        image_mean(tmp_path / "gone")
