"""DataTransformer against the formula written out, pixel by pixel in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_compat.errors import FileError, LayerError
from caffe_compat.formats.weights import write_binaryproto
from tests.training.data.helpers import image_data, image_list, source_of


def planes(image: np.ndarray) -> np.ndarray:
    return image.transpose(2, 0, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("transform", "mean", "scale"),
    [
        ("", (0, 0, 0), 1),
        ("mean_value: 104.5 mean_value: 117.25 mean_value: 123.1", (104.5, 117.25, 123.1), 1),
        ("mean_value: 128 scale: 0.00390625", (128, 128, 128), 0.00390625),
        ("mean_value: 103.939 scale: 0.017", (103.939,) * 3, 0.017),
        ("scale: 0.3", (0, 0, 0), 0.3),
        ("scale: 0", (0, 0, 0), 0),
    ],
)
def test_subtraction_then_scale_in_float32(
    transform: str, mean: tuple[float, ...], scale: float, tmp_path: Path
) -> None:
    images = image_list(tmp_path, 2, height=37, width=41)
    batch = source_of(image_data("batch_size: 2", transform), tmp_path).batch(0)["data"].numpy()
    offset = np.array(mean, np.float32).reshape(3, 1, 1)
    for got, image in zip(batch, images, strict=True):
        np.testing.assert_array_equal(got, (planes(image) - offset) * np.float32(scale))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (40, 1), (3, 2)])
def test_the_smallest_images(height: int, width: int, tmp_path: Path) -> None:
    (image,) = image_list(tmp_path, 1, height=height, width=width)
    for transform, mean, scale in (("", 0, 1), ("mean_value: 3.7 scale: 0.3", 3.7, 0.3)):
        got = source_of(image_data(transform=transform), tmp_path).batch(0)["data"][0].numpy()
        np.testing.assert_array_equal(got, (planes(image) - np.float32(mean)) * np.float32(scale))


def test_centre_crop_with_a_mean_file(tmp_path: Path) -> None:
    (image,) = image_list(tmp_path, 1)
    mean = np.random.RandomState(7).uniform(0, 255, (1, 3, 6, 9)).astype(np.float32)
    write_binaryproto(tmp_path / "mean.binaryproto", mean)
    source = source_of(image_data(transform='crop_size: 4 mean_file: "mean.binaryproto" scale: 0.5'), tmp_path)
    expected = ((planes(image) - mean[0]) * np.float32(0.5))[:, 1:5, 2:6]
    np.testing.assert_array_equal(source.batch(0)["data"][0].numpy(), expected)
    assert source.shapes()["data"] == (1, 3, 4, 4)


@pytest.mark.parametrize("color", ["true", "false"])
def test_random_crop_and_mirror_are_cuts_of_the_image(color: str, tmp_path: Path) -> None:
    image_list(tmp_path, 1)
    mean = np.random.RandomState(7).uniform(0, 255, (3 if color == "true" else 1, 6, 9)).astype(np.float32)
    write_binaryproto(tmp_path / "mean.binaryproto", mean)
    whole = source_of(image_data(f"is_color: {color}"), tmp_path).batch(0)["data"][0].numpy() - mean
    settings = image_data(
        f"batch_size: 200 is_color: {color}", 'crop_size: 5 mirror: true mean_file: "mean.binaryproto"'
    )
    batch = source_of(settings, tmp_path, "TRAIN").batch(3)["data"].numpy()
    cuts = {
        (top, left, flip): whole[:, top : top + 5, left : left + 5][:, :, :: -1 if flip else 1]
        for top in range(2)
        for left in range(5)
        for flip in (False, True)
    }
    seen = [next(key for key, cut in cuts.items() if np.array_equal(cut, one)) for one in batch]
    assert set(seen) == set(cuts)  # every offset and both directions occur
    assert 70 < sum(flip for _, _, flip in seen) < 130


def test_the_test_phase_mirrors_but_crops_the_centre(tmp_path: Path) -> None:
    (image,) = image_list(tmp_path, 1)
    batch = source_of(image_data("batch_size: 40", "crop_size: 4 mirror: true"), tmp_path).batch(0)["data"].numpy()
    centre = planes(image)[:, 1:5, 2:6]
    flips = [np.array_equal(one, centre[:, :, ::-1]) for one in batch]
    assert all(flip or np.array_equal(one, centre) for flip, one in zip(flips, batch, strict=True))
    assert 5 < sum(flips) < 35


def test_images_of_many_sizes_need_a_crop(tmp_path: Path) -> None:
    import cv2

    for i, (height, width) in enumerate([(6, 9), (8, 7)]):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((height, width, 3), i, np.uint8))
    (tmp_path / "list.txt").write_text("0.png 0\n1.png 1\n")
    assert source_of(image_data("batch_size: 2", "crop_size: 5"), tmp_path).batch(0)["data"].shape == (2, 3, 5, 5)
    with pytest.raises(
        FileError, match=r"list.txt: line 2: image .*1.png has shape \[3, 8, 7\].*first image \[3, 6, 9\]"
    ):
        source_of(image_data("batch_size: 2"), tmp_path).batch(0)
    # batch by batch the size may change, as in Caffe
    one = source_of(image_data(), tmp_path)
    assert [tuple(one.batch(k)["data"].shape) for k in (0, 1)] == [(1, 3, 6, 9), (1, 3, 8, 7)]


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ('mean_file: "m" mean_value: 1', "both mean_file and mean_value"),
        ("force_color: true force_gray: true", "both force_color and force_gray"),
        ("mean_value: 1 mean_value: 2", "2 mean_value entries for images of 3 channels"),
    ],
)
def test_contradictions(transform: str, message: str, tmp_path: Path) -> None:
    image_list(tmp_path, 1)
    with pytest.raises(LayerError, match=message):
        source_of(image_data(transform=transform), tmp_path).batch(0)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    image_list(tmp_path, 1)
    write_binaryproto(tmp_path / "mean", np.zeros((1, 3, 7, 9), np.float32))
    with pytest.raises(FileError, match=r"line 1: image .*0.png has shape \[3, 6, 9\].*mean file mean has \[3, 7, 9\]"):
        source_of(image_data(transform='mean_file: "mean"'), tmp_path).batch(0)
    with pytest.raises(FileError, match=r"line 1: image .*0.png is 9 x 6, too small for crop_size 7"):
        source_of(image_data(transform="crop_size: 7"), tmp_path).batch(0)
    write_binaryproto(tmp_path / "flat", np.zeros((7,), np.float32))
    with pytest.raises(FileError, match=r"flat: is no mean image: shape \[7\]"):
        source_of(image_data(transform='mean_file: "flat"'), tmp_path)


def test_a_forks_transform_is_not_ignored(tmp_path: Path) -> None:
    image_list(tmp_path, 1)
    with pytest.raises(LayerError, match=r"transform_param.*stride.*not supported"):
        source_of(image_data(transform="stride: 8"), tmp_path, dialect="bvlc")
