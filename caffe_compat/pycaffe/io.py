"""``caffe.io``: images as float RGB from 0 to 1, what nets take, and protobuf messages."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, BinaryIO

import numpy as np
from scipy import ndimage

from ..errors import FileError, MissingExtraError, UsageError
from ..formats.files import read_file
from ..formats.images import decode_picture
from ..formats.limits import PICTURE
from ..network.registry import Shape
from ..schema.messages import BlobProto, Datum
from .forks import OF_CLIPS, is_fork
from .proto import caffe_pb2

__all__ = [
    "ImageFileError",
    "Transformer",
    "array_to_blobproto",
    "array_to_datum",
    "arraylist_to_blobprotovector_str",
    "blobproto_to_array",
    "blobprotovector_str_to_arraylist",
    "caffe_pb2",
    "datum_to_array",
    "load_image",
    "oversample",
    "resize",
    "resize_image",
]

# Weights of red, green and blue in scikit-image's grey, which pycaffe's load_image(color=False) gives.
_LUMINANCE = np.array([0.2125, 0.7154, 0.0721])


def __getattr__(name: str) -> Any:
    """``caffe.io.skimage``, which Caffe's module imports and scripts borrow from there."""
    if name != "skimage":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import_module("skimage.io")
        return import_module("skimage")
    except ImportError as error:
        raise MissingExtraError(
            "caffe.io.skimage is scikit-image, which nothing else here needs; install it: pip install scikit-image"
        ) from error


# Messages


def blobproto_to_array(blob: BlobProto, return_diff: bool = False) -> np.ndarray:
    """The values (or with ``return_diff`` the gradients) of a ``BlobProto`` in its shape.

    Raises:
        ValueError: the message has no shape, or one for another number of values.
    """
    if return_diff:
        values = np.array(blob.double_diff if len(blob.double_diff) else blob.diff)
    else:
        values = np.array(blob.double_data if len(blob.double_data) else blob.data)
    if any(blob.HasField(name) for name in ("num", "channels", "height", "width")):
        return values.reshape(blob.num, blob.channels, blob.height, blob.width)
    return values.reshape(tuple(blob.shape.dim))


def array_to_blobproto(arr: np.ndarray, diff: np.ndarray | None = None) -> BlobProto:
    """A ``BlobProto`` of an array, and of its gradient if one is given.

    Raises:
        ValueError: they differ in shape.
    """
    if diff is not None and diff.shape != arr.shape:
        raise ValueError(f"the array has shape {list(arr.shape)}, its diff {list(diff.shape)}")
    blob: BlobProto = caffe_pb2.BlobProto()
    blob.shape.dim.extend(arr.shape)
    blob.data.extend(arr.astype(float).ravel())
    if diff is not None:
        blob.diff.extend(diff.astype(float).ravel())
    return blob


def arraylist_to_blobprotovector_str(arraylist: Sequence[np.ndarray]) -> bytes:
    """A serialized ``BlobProtoVector`` of arrays."""
    vector = caffe_pb2.BlobProtoVector()
    vector.blobs.extend(array_to_blobproto(arr) for arr in arraylist)
    serialized: bytes = vector.SerializeToString()
    return serialized


def blobprotovector_str_to_arraylist(str: bytes) -> list[np.ndarray]:
    """The arrays of a serialized ``BlobProtoVector``."""
    vector = caffe_pb2.BlobProtoVector()
    vector.ParseFromString(str)
    return [blobproto_to_array(blob) for blob in vector.blobs]


def array_to_datum(arr: np.ndarray, label: int | None = None) -> Datum:
    """A ``Datum`` of a (channels, height, width) array: bytes if it is uint8, else floats.

    Raises:
        ValueError: not three axes.
    """
    if arr.ndim != 3:
        raise ValueError(f"an array of (channels, height, width) was expected, found shape {list(arr.shape)}")
    datum: Datum = caffe_pb2.Datum()
    datum.channels, datum.height, datum.width = arr.shape
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(float).ravel())
    if label is not None:
        datum.label = label
    return datum


def datum_to_array(datum: Datum) -> np.ndarray:
    """The (channels, height, width) array of a ``Datum``: uint8, or float64; the label is ``datum.label``.

    Raises:
        UsageError: the datum holds an encoded image.
    """
    if datum.encoded:
        raise UsageError("the datum holds an encoded image (JPEG or PNG); decode datum.data with OpenCV")
    shape = (datum.channels, datum.height, datum.width)
    if len(datum.data):
        return np.frombuffer(datum.data, np.uint8).reshape(shape).copy()
    return np.array(datum.float_data, float).reshape(shape)


# What a net takes


class Transformer:
    """Turns images into what the inputs of a net take, and back.

    In this order: resize, transpose, reorder channels, times ``raw_scale``, minus ``mean``, times ``input_scale``.
    Under video-caffe, an input of five axes (N, channels, frames, height, width) takes a clip (H, W, channels, frames).

    Args:
        inputs: the shape of every input by name, (N, channels, height, width).
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]) -> None:
        self.inputs = inputs
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, np.ndarray] = {}
        self.input_scale: dict[str, float] = {}

    def _shape(self, in_: str) -> Shape:
        if in_ not in self.inputs:
            raise UsageError(f"{in_} is not one of the net inputs: {', '.join(self.inputs)}")
        return tuple(self.inputs[in_])

    def _takes_clips(self, in_: str) -> bool:
        return len(self._shape(in_)) == 5 and is_fork(OF_CLIPS)

    def preprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """An image (H, W, channels) as input ``in_`` takes it: (channels, height, width), float32."""
        clip = self._takes_clips(in_)
        size = self._shape(in_)[-2:] if clip else self._shape(in_)[2:]
        out = np.array(data, np.float32)
        if out.shape[:2] != size:
            out = (
                np.stack([resize_image(frame, size) for frame in np.moveaxis(out, 3, 0)], 3)
                if clip
                else (resize_image(out, size))
            )
        if in_ in self.transpose:
            out = out.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            out = out[list(self.channel_swap[in_])]
        if in_ in self.raw_scale:
            out = out * np.float32(self.raw_scale[in_])
        if in_ in self.mean:
            out = out - np.asarray(self.mean[in_], np.float32)
        if in_ in self.input_scale:
            out = out * np.float32(self.input_scale[in_])
        return out

    def deprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """The image that :meth:`preprocess` made ``data`` of, in the net's size."""
        self._shape(in_)
        out = np.array(data).squeeze()
        if in_ in self.input_scale:
            out = out / self.input_scale[in_]
        if in_ in self.mean:
            out = out + self.mean[in_]
        if in_ in self.raw_scale:
            out = out / self.raw_scale[in_]
        if in_ in self.channel_swap:
            out = out[np.argsort(self.channel_swap[in_])]
        if in_ in self.transpose:
            out = out.transpose(np.argsort(self.transpose[in_]))
        return out.astype(np.float32, copy=False)

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """The order of axes: (2, 0, 1) makes (channels, H, W) of (H, W, channels)."""
        if len(order) != len(self._shape(in_)) - 1:
            raise UsageError(
                f"transpose order {tuple(order)} for input {in_}: {len(self._shape(in_)) - 1} axes are needed"
            )
        self.transpose[in_] = order

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """The order of channels, which are the first axis by then: (2, 1, 0) makes BGR of RGB."""
        if len(order) != self._shape(in_)[1]:
            raise UsageError(f"channel swap {tuple(order)} for input {in_}, which has {self._shape(in_)[1]} channels")
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """A factor before the mean is subtracted: 255 for nets that take pixels from 0 to 255."""
        self._shape(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: np.ndarray) -> None:
        """What is subtracted: one number per channel, or an image (channels, H, W), resized if it must be.

        Raises:
            ValueError: neither fits the input.
        """
        shape = self._shape(in_)
        if mean.ndim == 1:
            if mean.shape[0] != shape[1]:
                raise ValueError(
                    f"Mean channels incompatible with input: {mean.shape[0]} for {in_} of {shape[1]} channels"
                )
            self.mean[in_] = mean[:, np.newaxis, np.newaxis]
            if self._takes_clips(in_):
                self.mean[in_] = self.mean[in_][:, np.newaxis]
            return
        image = mean[np.newaxis] if mean.ndim == 2 else mean
        if image.ndim != 3:
            raise ValueError(
                f"Mean shape invalid: {list(mean.shape)}; (channels,) or (channels, height, width) is needed"
            )
        if self._takes_clips(in_):  # one picture for every frame
            if image.shape[1:] != shape[-2:]:
                image = resize_image(image.transpose(1, 2, 0), shape[-2:]).transpose(2, 0, 1)
            self.mean[in_] = image[:, np.newaxis]
            return
        if image.shape != shape[1:]:
            image = resize_image(image.transpose(1, 2, 0), shape[2:]).transpose(2, 0, 1)
        self.mean[in_] = image

    def set_input_scale(self, in_: str, scale: float) -> None:
        """A factor after the mean is subtracted."""
        self._shape(in_)
        self.input_scale[in_] = scale


# Images


class ImageFileError(FileError, OSError):
    """An image that cannot be read; scripts that skip such images catch an ``IOError``."""


def load_image(filename: str | os.PathLike[str] | BinaryIO, color: bool = True) -> np.ndarray:
    """An image file as float32 from 0 to 1: (H, W, 3) in RGB, or (H, W, 1) without ``color``. Alpha is dropped.

    Args:
        filename: its name, or an open binary file, such as an ``io.BytesIO``.

    Raises:
        ImageFileError: it cannot be read or decoded, or is too large. MissingExtraError: OpenCV is not installed.
    """
    name, data = _read(filename)
    try:
        pixels = decode_picture(data, "native", name)
    except FileError as error:
        raise ImageFileError(error.detail, path=error.path) from error
    image = pixels.astype(np.float64)
    if pixels.dtype.kind == "u":
        image /= np.iinfo(pixels.dtype).max
    if image.shape[2] >= 3:
        image = image[:, :, 2::-1]  # OpenCV has BGR, and alpha last
        if not color:
            image = (image @ _LUMINANCE)[:, :, np.newaxis]
    elif color:
        image = np.repeat(image[:, :, :1], 3, axis=2)
    else:
        image = image[:, :, :1]
    return np.ascontiguousarray(image, np.float32)


def _read(file: str | os.PathLike[str] | BinaryIO) -> tuple[str, bytes]:
    """What to call a file, and what is in it."""
    if isinstance(file, (str, os.PathLike)):
        try:
            return os.fspath(file), read_file(file, PICTURE)
        except FileError as error:
            raise ImageFileError(error.detail, path=error.path) from error
    data = file.read()
    name = str(getattr(file, "name", "the image"))
    if not isinstance(data, (bytes, bytearray)):
        raise ImageFileError("is a file of text; open it as binary, or use io.BytesIO", path=name)
    return name, bytes(data)


def resize_image(im: np.ndarray, new_dims: Sequence[int] | np.ndarray, interp_order: int = 1) -> np.ndarray:
    """An image (H, W, channels) in another size, float32.

    With 1 or 3 channels it does what scikit-image's ``resize`` did in Caffe's days: pixels have their centres at
    halves, nothing is smoothed before shrinking, and beyond the border lies the image's smallest value, which
    enlarging shows at the border. Other channels go through SciPy's ``zoom``, whose corners stay in the corners.

    Args:
        new_dims: height and width; the number of channels may follow.
        interp_order: 0 nearest, 1 linear, up to 5 for splines.

    Raises:
        UsageError: another number of channels.
    """
    height, width, *channels = (int(n) for n in new_dims)
    if channels not in ([], [im.shape[-1]]):
        raise UsageError(f"resize_image: an image of {im.shape[-1]} channels cannot become {list(new_dims)}")
    if im.shape[-1] not in (1, 3):
        factors = (height / im.shape[0], width / im.shape[1], 1)
        zoomed: np.ndarray = ndimage.zoom(im, factors, order=interp_order)
        return zoomed.astype(np.float32)
    low = im.min()
    above = np.asarray(im - low, np.float64)
    if interp_order == 1:
        out = _linear(_linear(above, height, 0), width, 1)
    else:
        factors = (height / im.shape[0], width / im.shape[1], 1)
        out = ndimage.zoom(above, factors, order=interp_order, mode="grid-constant", grid_mode=True)
    return (out + low).astype(np.float32)


_MODES = {
    "constant": "grid-constant",
    "edge": "nearest",
    "symmetric": "reflect",
    "reflect": "mirror",
    "wrap": "grid-wrap",
}


def resize(
    image: np.ndarray,
    output_shape: Sequence[int],
    order: int = 1,
    mode: str = "constant",
    cval: float = 0,
    clip: bool = True,
    preserve_range: bool = False,
) -> np.ndarray:
    """scikit-image's ``resize`` as it was in Caffe's days, which scripts use by way of ``caffe.io``; float64.

    Pixels have their centres at halves and nothing is smoothed before shrinking.

    Args:
        output_shape: a length for every axis; that of the last may be left out, or one axis more be asked for.
        order: 0 nearest, 1 linear, up to 5 for splines.
        mode: what lies beyond the border: ``constant`` (``cval``), ``edge``, ``symmetric``, ``reflect`` or ``wrap``.
        clip: keep within the range of the image. preserve_range: leave integers as they are; else 0 to 1.

    Raises:
        UsageError: an unknown mode, or a shape with too few axes.
    """
    x = np.asarray(image)
    if mode not in _MODES:
        raise UsageError(f"resize: mode {mode!r}; it may be {', '.join(_MODES)}")
    scale = np.iinfo(x.dtype).max if x.dtype.kind in "iu" and not preserve_range else 1
    x = x.astype(np.float64) / scale
    shape = [int(n) for n in output_shape]
    if len(shape) == x.ndim - 1:
        shape.append(x.shape[-1])
    if len(shape) < x.ndim:
        raise UsageError(f"resize: an image of shape {list(x.shape)} cannot become {shape}: too few axes")
    x = x.reshape(x.shape + (1,) * (len(shape) - x.ndim))
    factors = np.divide(shape, x.shape)
    out: np.ndarray = ndimage.zoom(x, factors, order=order, mode=_MODES[mode], cval=cval, grid_mode=True)
    return np.clip(out, x.min(), x.max()) if clip else out


def _linear(x: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Linear interpolation along one axis, with zeros beyond the border."""
    length = x.shape[axis]
    if size == length:
        return x
    position = (np.arange(size) + 0.5) * (length / size) - 0.5
    lower = np.floor(position).astype(int)
    weight = (position - lower).reshape((-1,) + (1,) * (x.ndim - axis - 1))
    padded = np.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)])
    return padded.take(lower + 1, axis) * (1 - weight) + padded.take(np.minimum(lower + 2, length + 1), axis) * weight


def oversample(images: Sequence[np.ndarray] | np.ndarray, crop_dims: Sequence[int] | np.ndarray) -> np.ndarray:
    """Ten crops of each image: the four corners and the centre, then the same mirrored.

    Args:
        images: N arrays (H, W, channels) of one size. crop_dims: height and width of the crops.

    Returns:
        (10 N, height, width, channels), float32.

    Raises:
        UsageError: the crops are larger than the images.
    """
    height, width = (int(n) for n in crop_dims)
    rows, columns, channels = images[0].shape
    if height > rows or width > columns:
        raise UsageError(f"crops of {height} x {width} do not fit into images of {rows} x {columns}")
    corners = [(top, left) for top in (0, rows - height) for left in (0, columns - width)]
    corners.append((int(rows / 2.0 - height / 2.0), int(columns / 2.0 - width / 2.0)))
    crops = np.empty((10 * len(images), height, width, channels), np.float32)
    for i, image in enumerate(images):
        for k, (top, left) in enumerate(corners):
            crop = image[top : top + height, left : left + width]
            crops[10 * i + k], crops[10 * i + 5 + k] = crop, crop[:, ::-1]
    return crops
