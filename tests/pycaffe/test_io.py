"""caffe.io: messages, Transformer, and images as scikit-image gave them in Caffe's days."""

from __future__ import annotations

import sys
from io import BytesIO, StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from caffe_compat.errors import FileError, MissingExtraError, UsageError
from caffe_compat.pycaffe import io, proto

RNG = np.random.RandomState(0)


# Messages


def test_blobproto() -> None:
    array = RNG.randn(2, 3, 4).astype(np.float32)
    blob = io.array_to_blobproto(array, 2 * array)
    np.testing.assert_array_equal(io.blobproto_to_array(blob), array)
    np.testing.assert_array_equal(io.blobproto_to_array(blob, return_diff=True), 2 * array)
    old = proto.caffe_pb2.BlobProto(num=1, channels=2, height=3, width=1, data=range(6))
    np.testing.assert_array_equal(io.blobproto_to_array(old), np.arange(6).reshape(1, 2, 3, 1))
    double = proto.caffe_pb2.BlobProto(double_data=[1.5, 2.5])
    double.shape.dim.append(2)
    np.testing.assert_array_equal(io.blobproto_to_array(double), [1.5, 2.5])
    one = proto.caffe_pb2.BlobProto(data=[7])
    assert io.blobproto_to_array(one) == 7
    with pytest.raises(ValueError):
        io.blobproto_to_array(proto.caffe_pb2.BlobProto(data=[1, 2]))
    with pytest.raises(ValueError, match="its diff"):
        io.array_to_blobproto(array, array[0])


def test_a_mean_file_read_as_scripts_do(tmp_path: Path) -> None:
    mean = RNG.rand(1, 3, 4, 5).astype(np.float32)
    (tmp_path / "mean.binaryproto").write_bytes(io.array_to_blobproto(mean).SerializeToString())
    blob = proto.caffe_pb2.BlobProto()
    blob.ParseFromString((tmp_path / "mean.binaryproto").read_bytes())
    np.testing.assert_array_equal(io.blobproto_to_array(blob)[0], mean[0])


def test_blobprotovector() -> None:
    arrays = [RNG.rand(2, 3), RNG.rand(4)]
    text = io.arraylist_to_blobprotovector_str(arrays)
    for found, expected in zip(io.blobprotovector_str_to_arraylist(text), arrays, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_datum() -> None:
    pixels = RNG.randint(0, 256, (3, 4, 5)).astype(np.uint8)
    datum = io.array_to_datum(pixels, label=6)
    assert (datum.channels, datum.height, datum.width, datum.label) == (3, 4, 5, 6)
    assert len(datum.data) == 60
    np.testing.assert_array_equal(io.datum_to_array(datum), pixels)
    floats = io.array_to_datum(pixels / 7)
    assert not floats.HasField("label")
    assert not floats.data
    np.testing.assert_allclose(io.datum_to_array(floats), pixels / 7, rtol=1e-6)
    with pytest.raises(ValueError, match=r"\[3, 4\]"):
        io.array_to_datum(pixels[:, :, 0])
    datum.encoded = True
    with pytest.raises(UsageError, match="encoded"):
        io.datum_to_array(datum)


# Transformer


def transformer(shape: tuple[int, ...] = (2, 3, 4, 5)) -> io.Transformer:
    made = io.Transformer({"data": shape})
    made.set_transpose("data", (2, 0, 1))
    return made


def test_preprocess_in_caffes_order() -> None:
    t = transformer()
    t.set_channel_swap("data", (2, 1, 0))
    t.set_raw_scale("data", 255)
    t.set_mean("data", np.array([10.0, 20.0, 30.0]))
    t.set_input_scale("data", 0.5)
    image = RNG.rand(4, 5, 3).astype(np.float32)
    before = image.copy()
    out = t.preprocess("data", image)
    expected = (image.transpose(2, 0, 1)[::-1] * 255 - np.array([10, 20, 30]).reshape(3, 1, 1)) * 0.5
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, expected, rtol=1e-5)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_allclose(t.deprocess("data", out[np.newaxis]), image, rtol=1e-4, atol=1e-5)


def test_preprocess_resizes() -> None:
    image = RNG.rand(8, 10, 3).astype(np.float32)
    out = transformer().preprocess("data", image)
    np.testing.assert_array_equal(out, io.resize_image(image, (4, 5)).transpose(2, 0, 1))


def test_means() -> None:
    t = transformer()
    pixels = RNG.rand(3, 4, 5)
    t.set_mean("data", pixels)
    np.testing.assert_array_equal(t.mean["data"], pixels)
    large = RNG.rand(3, 8, 10)
    t.set_mean("data", large)
    np.testing.assert_array_equal(t.mean["data"], io.resize_image(large.transpose(1, 2, 0), (4, 5)).transpose(2, 0, 1))
    with pytest.raises(ValueError, match="channels incompatible"):
        t.set_mean("data", np.ones(4))
    with pytest.raises(ValueError, match="shape invalid"):
        t.set_mean("data", np.ones((1, 3, 4, 5)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.preprocess("dada", np.ones((4, 5, 3))), "dada is not one of the net inputs: data"),
        (lambda t: t.deprocess("dada", np.ones((3, 4, 5))), "dada"),
        (lambda t: t.set_raw_scale("dada", 2), "dada"),
        (lambda t: t.set_input_scale("dada", 2), "dada"),
        (lambda t: t.set_transpose("data", (1, 0)), "3 axes"),
        (lambda t: t.set_channel_swap("data", (1, 0)), "3 channels"),
    ],
)
def test_misuse_of_the_transformer(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(transformer())


# Images


def test_load_image(tmp_path: Path) -> None:
    pixels = RNG.randint(0, 256, (6, 5, 3)).astype(np.uint8)  # RGB
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, pixels[:, :, ::-1])
    image = io.load_image(path)
    assert image.dtype == np.float32
    assert image.flags.c_contiguous
    np.testing.assert_allclose(image, pixels / 255, rtol=1e-6)
    gray = io.load_image(path, color=False)
    assert gray.shape == (6, 5, 1)
    np.testing.assert_allclose(gray[:, :, 0], pixels @ [0.2125, 0.7154, 0.0721] / 255, rtol=1e-5)


def test_load_image_of_other_kinds(tmp_path: Path) -> None:
    path = str(tmp_path / "a.png")
    one = RNG.randint(0, 256, (6, 5)).astype(np.uint8)
    cv2.imwrite(path, one)
    np.testing.assert_allclose(io.load_image(path), np.repeat(one[:, :, None], 3, 2) / 255, rtol=1e-6)
    np.testing.assert_allclose(io.load_image(path, color=False)[:, :, 0], one / 255, rtol=1e-6)
    alpha = RNG.randint(0, 256, (6, 5, 4)).astype(np.uint8)
    cv2.imwrite(path, alpha)
    np.testing.assert_allclose(io.load_image(path), alpha[:, :, 2::-1] / 255, rtol=1e-6)
    deep = RNG.randint(0, 65536, (6, 5)).astype(np.uint16)
    cv2.imwrite(path, deep)
    np.testing.assert_allclose(io.load_image(path, color=False)[:, :, 0], deep / 65535, rtol=1e-6)


def test_load_image_from_an_open_file(tmp_path: Path) -> None:
    image = RNG.randint(0, 256, (6, 5, 3)).astype(np.uint8)
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), image)
    with path.open("rb") as file:
        np.testing.assert_allclose(io.load_image(file), image[:, :, ::-1] / 255, rtol=1e-6)
    np.testing.assert_array_equal(io.load_image(BytesIO(path.read_bytes())), io.load_image(path))
    with pytest.raises(FileError, match=r"the image: is a file of text; .* io\.BytesIO"):
        io.load_image(StringIO("GIF89a"))  # type: ignore[arg-type]


def test_bad_images(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(FileError, match=r"a\.png") as caught:
        io.load_image(path)
    assert isinstance(caught.value, OSError)  # which scripts catch to go on with the next image
    with pytest.raises(OSError, match="a folder"):
        io.load_image(tmp_path)
    for content in (b"", b"no image at all"):
        path.write_bytes(content)
        with pytest.raises(FileError, match="no image"):
            io.load_image(path)
    # A header that claims 60,000 x 60,000 pixels.
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (60000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0")
    with pytest.raises(FileError, match="60000 x 60000 pixels"):
        io.load_image(path)


def test_resize_shrinks_without_smoothing() -> None:
    """Half the size: each pixel is the mean of four. A quarter: of the middle four of sixteen."""
    image = RNG.rand(8, 12, 3)
    half = image.reshape(4, 2, 6, 2, 3).mean((1, 3))
    np.testing.assert_allclose(io.resize_image(image, (4, 6)), half, rtol=1e-5)
    middle = image.reshape(2, 4, 3, 4, 3)[:, 1:3, :, 1:3].mean((1, 3))
    np.testing.assert_allclose(io.resize_image(image, (2, 3)), middle, rtol=1e-5)


def test_resize_enlarges_towards_the_smallest_value_at_the_border() -> None:
    image = np.array([[[4.0], [8.0]]])
    out = io.resize_image(image, (1, 4))
    # Centres at -0.25, 0.25, 0.75, 1.25; beyond the border lies 4.
    np.testing.assert_allclose(out[0, :, 0], [4, 5, 7, 7], rtol=1e-6)


def test_resize_of_constants_other_channels_and_orders() -> None:
    assert (io.resize_image(np.full((3, 4, 3), 0.7), (7, 9)) == np.float32(0.7)).all()
    many = RNG.rand(4, 6, 5)
    out = io.resize_image(many, (7, 11))
    assert out.shape == (7, 11, 5)
    np.testing.assert_allclose(out[[0, 0, -1], [0, -1, -1]], many[[0, 0, -1], [0, -1, -1]], rtol=1e-5)
    nearest = io.resize_image(many[:, :, :3], (8, 12), interp_order=0)
    np.testing.assert_allclose(nearest, many[:, :, :3].repeat(2, 0).repeat(2, 1), rtol=1e-6)
    same = io.resize_image(many[:, :, :1], (4, 6))
    np.testing.assert_allclose(same, many[:, :, :1], rtol=1e-6)
    assert same.dtype == np.float32


def test_oversample() -> None:
    images = RNG.rand(2, 7, 8, 3)
    crops = io.oversample(images, (4, 5))
    assert crops.shape == (20, 4, 5, 3)
    assert crops.dtype == np.float32
    image = images[1].astype(np.float32)
    for k, (y, x) in enumerate([(0, 0), (0, 3), (3, 0), (3, 3), (1, 1)]):
        np.testing.assert_array_equal(crops[10 + k], image[y : y + 4, x : x + 5])
        np.testing.assert_array_equal(crops[15 + k], crops[10 + k][:, ::-1])
    with pytest.raises(UsageError, match="8 x 5"):
        io.oversample(images, (8, 5))


def test_the_resize_that_scripts_borrow_from_scikit_image() -> None:
    rows = np.array([0, 255], np.uint8)
    image = np.stack([rows, rows, rows], 1)[..., None].repeat(2, 2)  # (2, 3, 2)
    out = io.resize(image, (4, 3))
    assert out.shape == (4, 3, 2)
    assert out.dtype == np.float64
    np.testing.assert_allclose(out[:, 0, 0], [0, 0.25, 0.75, 0.75])  # darker towards the black beyond the border
    np.testing.assert_allclose(io.resize(image, (4, 3), mode="edge")[:, 1, 1], [0, 0.25, 0.75, 1])
    np.testing.assert_allclose(io.resize(image, (4, 3), order=0, preserve_range=True)[:, 2, 0], [0, 0, 255, 255])
    np.testing.assert_allclose(io.resize(np.array([[0.5], [1.0]]), (4, 1, 1))[:, 0, 0], [0.5, 0.625, 0.875, 0.75])
    np.testing.assert_allclose(io.resize(np.array([[0.5], [1.0]]), (4, 1), clip=False)[0], 0.375)
    assert io.resize(np.ones((4, 6, 3)), (3, 8, 8)).shape == (3, 8, 8)  # whatever it is good for
    grey = np.random.RandomState(0).rand(9, 7, 1)
    np.testing.assert_allclose(io.resize(grey, (5, 4, 1)), io.resize_image(grey, (5, 4)), atol=0.1)
    with pytest.raises(UsageError, match="mode 'mirror'"):
        io.resize(grey, (5, 4), mode="mirror")
    np.testing.assert_array_equal(io.resize_image(grey, (5, 4, 1)), io.resize_image(grey, (5, 4)))
    with pytest.raises(UsageError, match="1 channels cannot become"):
        io.resize_image(grey, (5, 4, 3))
    with pytest.raises(UsageError, match="too few axes"):
        io.resize(grey, (5,))


def test_scikit_image_by_way_of_caffe_io(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.io", None)
    with pytest.raises(MissingExtraError, match="pip install scikit-image"):
        io.skimage.img_as_float(1)
    package = ModuleType("skimage")
    monkeypatch.setitem(sys.modules, "skimage", package)
    monkeypatch.setitem(sys.modules, "skimage.io", ModuleType("skimage.io"))
    assert io.skimage is package
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        io.nothing  # noqa: B018
