"""Pixels to input: every number computed by hand beside it."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from caffe_compat.errors import FileError, MissingExtraError, UsageError
from caffe_compat.extras import require
from caffe_compat.formats.weights import write_binaryproto
from caffe_compat.inference.preprocess import Preprocess, decode_image, load_input
from caffe_compat.schema import load_schema


def pixels(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (height, width, channels)).astype(np.uint8)


def write_png(path: Path, bgr: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), bgr)
    return path


# What is computed


def test_mean_is_subtracted_before_the_scale() -> None:
    image = pixels(4, 5)
    out = Preprocess(mean=(104.0, 117.0, 123.0), scale=0.5).apply(image)
    assert out.shape == (3, 4, 5)
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    for c, mean in enumerate((104.0, 117.0, 123.0)):
        for y in range(4):
            for x in range(5):
                assert out[c, y, x] == (float(image[y, x, c]) - mean) * 0.5


def test_one_mean_value_is_for_all_channels() -> None:
    image = pixels(2, 3)
    out = Preprocess(mean=(128.0,), scale=0.00390625).apply(image)
    np.testing.assert_array_equal(out, (image.transpose(2, 0, 1).astype(np.float32) - 128) * np.float32(0.00390625))


@pytest.mark.parametrize(
    ("size", "crop", "top", "left"),
    [((7, 10), (4, 5), 1, 2), ((6, 9), (6, 9), 0, 0), ((5, 8), (2, 3), 1, 2)],
)
def test_crop_is_central_with_offsets_rounded_down(
    size: tuple[int, int], crop: tuple[int, int], top: int, left: int
) -> None:
    image = pixels(*size)
    out = Preprocess(crop=crop).apply(image)
    np.testing.assert_array_equal(out, image[top : top + crop[0], left : left + crop[1]].transpose(2, 0, 1))


def test_mean_image_is_read_at_the_offset_of_the_crop() -> None:
    image = pixels(7, 10)
    mean = np.random.RandomState(1).uniform(0, 255, (3, 7, 10)).astype(np.float32)
    out = Preprocess(mean_image=mean, crop=(4, 5), scale=2.0).apply(image)
    expected = (image.transpose(2, 0, 1).astype(np.float32)[:, 1:5, 2:7] - mean[:, 1:5, 2:7]) * np.float32(2)
    np.testing.assert_array_equal(out, expected)


def test_mean_image_of_the_size_of_the_crop() -> None:
    image = pixels(7, 10)
    mean = np.random.RandomState(1).uniform(0, 255, (3, 4, 5)).astype(np.float32)
    out = Preprocess(mean_image=mean, crop=(4, 5)).apply(image)
    np.testing.assert_array_equal(out, image.transpose(2, 0, 1).astype(np.float32)[:, 1:5, 2:7] - mean)


def test_mean_image_of_another_size_is_refused() -> None:
    preprocess = Preprocess(mean_image=np.zeros((3, 6, 6), np.float32), crop=(4, 5))
    with pytest.raises(UsageError, match=r"mean image is 6x6, the image 4x5 \(7x10 before the crop\)"):
        preprocess.apply(pixels(7, 10))


def test_resize_is_opencvs_bilinear_and_comes_before_the_crop() -> None:
    image = pixels(5, 7)
    out = Preprocess(resize=(11, 13), crop=(6, 4)).apply(image)
    resized = cv2.resize(image, (13, 11), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(out, resized[2:8, 4:8].transpose(2, 0, 1))


def test_gray_keeps_its_channel_when_resized() -> None:
    assert Preprocess(channel_order="gray", resize=(4, 6), mean=(10.0,)).apply(pixels(3, 5, 1)).shape == (1, 4, 6)


def test_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(UsageError, match="crop of 6x2 does not fit into an image of 5x9"):
        Preprocess(crop=(6, 2)).apply(pixels(5, 9))


@pytest.mark.parametrize(
    "settings",
    [
        {"channel_order": "brg"},
        {"mean": (1.0, 2.0)},
        {"mean": (1.0,), "mean_image": np.zeros((3, 2, 2))},
        {"mean_image": np.zeros((1, 2, 2))},
        {"scale": float("nan")},
        {"crop": (0, 4)},
        {"resize": (1 << 20, 1 << 20)},
        {"channel_order": "gray", "mean": (1.0, 2.0, 3.0)},
    ],
)
def test_settings_that_make_no_sense(settings: dict) -> None:
    with pytest.raises(UsageError):
        Preprocess(**settings)


# The command line


def test_text() -> None:
    found = Preprocess.from_text("order=rgb,mean=104:117.5:-1e1,scale=0.017,resize=256x240,crop=224")
    assert found.to_record() == {
        "channel_order": "rgb",
        "mean": [104.0, 117.5, -10.0],
        "mean_image": None,
        "scale": 0.017,
        "resize": [256, 240],
        "crop": [224, 224],
    }
    assert Preprocess.from_text("order=bgr").to_record() == Preprocess().to_record()
    assert Preprocess.from_text("mean=0,scale=0").to_record() == Preprocess(mean=(0.0,), scale=0.0).to_record()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is none of order="),
        ("colour=bgr", "'colour=bgr' is none of order="),
        ("order=bgr,order=rgb", "order is given twice"),
        ("order=brg", "one of bgr, rgb, gray"),
        ("mean=1:2", "2 mean values for 3 channels"),
        ("mean=mean.png", "a .binaryproto or an .npy"),
        ("mean=1::2", "a number was expected"),
        ("scale=big", "scale=big: a number was expected"),
        ("crop=-3", "HEIGHTxWIDTH"),
        ("crop=0", "height and a width"),
        ("resize=2x3x4", "HEIGHTxWIDTH"),
    ],
)
def test_text_that_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        Preprocess.from_text(text)


def test_mean_files(tmp_path: Path) -> None:
    mean = np.random.RandomState(2).uniform(0, 255, (1, 3, 4, 5)).astype(np.float32)
    write_binaryproto(tmp_path / "mean.binaryproto", mean)
    np.save(tmp_path / "mean.npy", mean[0].astype(np.float64))
    np.save(tmp_path / "vector.npy", np.array([1.5, 2.5, 3.5]))
    for name in ("mean.binaryproto", "mean.npy"):
        found = Preprocess.from_text(f"mean={tmp_path / name}")
        assert found.mean is None
        np.testing.assert_array_equal(found.mean_image, mean[0])
    assert Preprocess.from_text(f"mean={tmp_path / 'vector.npy'}").mean == (1.5, 2.5, 3.5)
    np.save(tmp_path / "nan.npy", np.array([1.0, np.nan, 0.0]))
    with pytest.raises(FileError, match="not finite"):
        Preprocess.from_text(f"mean={tmp_path / 'nan.npy'}")
    with pytest.raises(FileError, match="cannot be opened"):
        Preprocess.from_text(f"mean={tmp_path / 'missing.npy'}")
    np.save(tmp_path / "flat.npy", np.zeros((4, 5)))
    with pytest.raises(FileError, match=r"found \[4, 5\]"):
        Preprocess.from_text(f"mean={tmp_path / 'flat.npy'}")


# A definition's transform_param


def transform_param(**fields: object) -> Any:
    return load_schema().message("TransformationParameter")(**fields)


def test_transform_param() -> None:
    found = Preprocess.from_transform_param(
        transform_param(scale=0.5, crop_size=227, mean_value=[104, 117, 123], mirror=True), resize=(256, 250)
    )
    assert found is not None
    assert found.to_record() == {
        "channel_order": "bgr",
        "mean": [104.0, 117.0, 123.0],
        "mean_image": None,
        "scale": 0.5,
        "resize": [256, 250],
        "crop": [227, 227],
    }
    gray = Preprocess.from_transform_param(transform_param(force_gray=True, scale=0.0))
    assert gray is not None
    assert (gray.channel_order, gray.scale, gray.mean, gray.crop) == ("gray", 0.0, None, None)


def test_transform_param_with_a_mean_file_needs_its_contents() -> None:
    message = transform_param(mean_file="mean.binaryproto")
    assert Preprocess.from_transform_param(message) is None
    mean = np.ones((3, 2, 4), np.float32)
    found = Preprocess.from_transform_param(message, mean_image=mean)
    assert found is not None
    assert found.mean_image is mean
    with pytest.raises(UsageError, match="exclude each other"):
        Preprocess.from_transform_param(transform_param(mean_file="m", mean_value=[1]), mean_image=mean)


# The .pt

MEAN = torch.zeros(3, 2, 2)


def test_record_survives_a_safe_pt(tmp_path: Path) -> None:
    image = pixels(7, 10)
    mean = np.random.RandomState(1).uniform(0, 255, (3, 7, 10)).astype(np.float32)
    before = Preprocess("rgb", mean_image=mean, scale=0.25, crop=(4, 5))
    torch.save(before.to_record(), tmp_path / "record.pt")
    after = Preprocess.from_record(torch.load(tmp_path / "record.pt", weights_only=True))
    np.testing.assert_array_equal(after.apply(image), before.apply(image))
    assert (after.channel_order, after.crop, after.resize, after.mean) == ("rgb", (4, 5), None, None)


@pytest.mark.parametrize(
    "change",
    [
        *({"scale": "x"}, {"mean": 3}, {"crop": [1]}, {"extra": 1}, {"channel_order": "x"}),
        *({"mean_image": image} for image in (1, MEAN.to("meta"), MEAN.to_sparse(), MEAN[..., :1].expand(3, 2, 2))),
    ],
)
def test_damaged_record(change: dict) -> None:
    with pytest.raises(UsageError):
        Preprocess.from_record({**Preprocess().to_record(), **change})


# Files


def test_image_becomes_a_batch_of_one(tmp_path: Path) -> None:
    bgr = pixels(5, 7)
    path = write_png(tmp_path / "a.png", bgr)
    shape = (10, 3, 5, 7)
    np.testing.assert_array_equal(load_input(path, shape, Preprocess())[0], bgr.transpose(2, 0, 1))
    np.testing.assert_array_equal(load_input(path, shape, Preprocess("rgb"))[0], bgr[:, :, ::-1].transpose(2, 0, 1))
    gray = load_input(path, (1, 1, 5, 7), Preprocess("gray"))
    np.testing.assert_array_equal(gray[0, 0], cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_GRAYSCALE))


def test_rgb_mean_is_in_the_order_of_the_channels(tmp_path: Path) -> None:
    bgr = pixels(2, 3)
    out = load_input(write_png(tmp_path / "a.png", bgr), (1, 3, 2, 3), Preprocess("rgb", mean=(1.0, 2.0, 3.0)))
    np.testing.assert_array_equal(out[0, 0], bgr[:, :, 2].astype(np.float32) - 1)
    np.testing.assert_array_equal(out[0, 2], bgr[:, :, 0].astype(np.float32) - 3)


def test_image_that_does_not_fit_the_net(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", pixels(5, 7))
    with pytest.raises(UsageError, match="--preprocess"):
        load_input(path, (1, 3, 5, 7))
    with pytest.raises(UsageError, match="becomes 5x7, the net takes 6x8; pass resize=6x8"):
        load_input(path, (1, 3, 6, 8), Preprocess())
    with pytest.raises(UsageError, match="gives 3 channels, the net takes 1; pass order=gray"):
        load_input(path, (1, 1, 5, 7), Preprocess())
    with pytest.raises(UsageError, match=r"\(N, C, H, W\)"):
        load_input(path, (1, 5), Preprocess())


def test_npy(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.int64).reshape(2, 3, 4)
    np.save(tmp_path / "x.npy", array)
    found = load_input(tmp_path / "x.npy", (5, 3, 4))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, array)
    with pytest.raises(UsageError, match=r"\[2, 3, 4\], the net takes \[2, 4, 3\]"):
        load_input(tmp_path / "x.npy", (2, 4, 3))
    with pytest.raises(UsageError, match=r"x.npz: an .npz holds arrays by name; give the one that is meant as an .npy"):
        load_input(tmp_path / "x.npz", (2, 3, 4))


def test_npy_that_lies_or_could_run_code(tmp_path: Path) -> None:
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "complex.npy", np.zeros(3, complex))
    (tmp_path / "empty.npy").write_bytes(b"")
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"
    header = header.ljust(117) + b"\n"
    (tmp_path / "huge.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    for name in ("object", "complex", "empty", "huge"):
        with pytest.raises(FileError):
            load_input(tmp_path / f"{name}.npy", (3,))
    with pytest.raises(FileError, match="cannot be opened"):
        load_input(tmp_path / "missing.npy", (3,))
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(FileError, match="a folder"):
        load_input(tmp_path / "folder.npy", (3,))


def test_damaged_images(tmp_path: Path) -> None:
    path = write_png(tmp_path / "cut.png", pixels(5, 7))
    path.write_bytes(path.read_bytes()[:-20])
    (tmp_path / "text.png").write_text("layer {}")
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(FileError, match="truncated PNG"):
        decode_image(tmp_path / "cut.png")
    for name in ("text.png", "empty.jpg"):
        with pytest.raises(FileError, match=f"{name}: .*no image"):
            decode_image(tmp_path / name)


def test_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r'pip install "caffe-compat\[images\]"'):
        require("cv2", "images")
