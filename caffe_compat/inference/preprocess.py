"""How pixels become input, as Caffe's data layers do it: decode, resize, crop, subtract the mean, then scale.

The rules are those of BVLC Caffe's ``DataTransformer`` in the TEST phase: OpenCV decodes (blue, green, red) and resizes
(bilinear), the crop is taken from the centre (offsets rounded down), the mean is subtracted before the scale applies.
A mean image as large as the image before the crop is read at the crop's offset; pycaffe's ``Transformer`` takes one of
the crop's size, and so does this. Mirroring, which Caffe does at random in both phases, is no part of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..errors import FileError, UsageError
from ..formats.arrays import read_npy
from ..formats.images import opencv, read_picture
from ..formats.limits import PICTURE
from ..formats.weights import read_binaryproto
from ..network.registry import Shape
from ..schema.messages import TransformationParameter

__all__ = ["Preprocess", "decode_image", "load_input"]

_ORDERS = ("bgr", "rgb", "gray")
_EXAMPLE = "order=bgr,mean=104:117:123,scale=0.017,resize=256x256,crop=224"


@dataclass(frozen=True, eq=False)
class Preprocess:
    """``(crop(resize(pixels)) - mean) * scale``, in float32.

    Attributes:
        channel_order: ``"bgr"`` as OpenCV decodes and most Caffe models expect, ``"rgb"``, or ``"gray"`` (one channel).
        mean: one value, or one per channel in ``channel_order``, in units of pixels (0 to 255); None for none.
        mean_image: (C, H, W) in ``channel_order``, as large as the image before or after the crop; None for none.
        scale: factor applied after the mean is subtracted.
        resize: (height, width) before the crop; None leaves the image as it is.
        crop: (height, width) cut from the centre; None leaves it whole.

    Raises:
        UsageError: numbers that make no sense.
    """

    channel_order: Literal["bgr", "rgb", "gray"] = "bgr"
    mean: tuple[float, ...] | None = None
    mean_image: np.ndarray | None = None
    scale: float = 1.0
    resize: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.channel_order not in _ORDERS:
            raise UsageError(f"channel order {self.channel_order!r}: one of {', '.join(_ORDERS)} was expected")
        channels = self.channels
        if self.mean is not None and self.mean_image is not None:
            raise UsageError("mean values and a mean image exclude each other, as in Caffe")
        if self.mean is not None and len(self.mean) not in (1, channels):
            raise UsageError(f"{len(self.mean)} mean values for {channels} channels; one, or one for each, expected")
        if self.mean_image is not None and (self.mean_image.ndim != 3 or self.mean_image.shape[0] != channels):
            raise UsageError(
                f"a mean image of shape {list(self.mean_image.shape)}; ({channels}, height, width) was expected"
            )
        if not math.isfinite(self.scale) or not all(map(math.isfinite, self.mean or ())):
            raise UsageError("mean and scale must be finite numbers")
        for what, size in (("resize", self.resize), ("crop", self.crop)):
            most = PICTURE.bytes // 3
            if size is not None and (len(size) != 2 or min(size) < 1 or math.prod(size) > most):
                raise UsageError(f"{what} {size}: a height and a width from 1 to {most} pixels were expected")

    @property
    def channels(self) -> int:
        """How many channels come out."""
        return 1 if self.channel_order == "gray" else 3

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Input for one image.

        Args:
            pixels: uint8 (H, W, C) in ``channel_order``, see :func:`decode_image`.

        Returns:
            float32 (C, H', W').

        Raises:
            UsageError: the crop or the mean image does not fit.
        """
        pixels = self._resized(pixels)
        full = pixels.shape[:2]
        top, left, size = self._window(full)
        out = pixels[top : top + size[0], left : left + size[1]].transpose(2, 0, 1).astype(np.float32)
        if self.mean is not None:
            out -= np.asarray(self.mean, np.float32).reshape(-1, 1, 1)
        elif self.mean_image is not None:
            out -= self._mean_at(full, size, top, left)
        out *= np.float32(self.scale)
        return np.ascontiguousarray(out)

    def geometry(self, pixels: np.ndarray) -> np.ndarray:
        """The pixels (H, W, C) of an image, resized and cut, before any arithmetic: (H', W', C), of the same type.

        Raises:
            UsageError: the crop does not fit.
        """
        pixels = self._resized(pixels)
        top, left, size = self._window(pixels.shape[:2])
        return pixels[top : top + size[0], left : left + size[1]]

    def _resized(self, pixels: np.ndarray) -> np.ndarray:
        if self.resize is None or pixels.shape[:2] == self.resize:
            return pixels
        cv2 = opencv()
        # cv2 wants (width, height), and drops a single channel.
        pixels = cv2.resize(pixels, self.resize[::-1], interpolation=cv2.INTER_LINEAR)
        return pixels.reshape(*self.resize, -1)

    def _window(self, full: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
        """Top, left and size of what the crop leaves of an image of size ``full``."""
        if self.crop is None:
            return 0, 0, full
        if self.crop[0] > full[0] or self.crop[1] > full[1]:
            raise UsageError(f"a crop of {_size(self.crop)} does not fit into an image of {_size(full)}")
        return (full[0] - self.crop[0]) // 2, (full[1] - self.crop[1]) // 2, self.crop

    def _mean_at(self, full: tuple[int, ...], size: tuple[int, ...], top: int, left: int) -> np.ndarray:
        mean = self.mean_image
        assert mean is not None
        if mean.shape[1:] == full:
            mean = mean[:, top : top + size[0], left : left + size[1]]
        elif mean.shape[1:] != size:
            before = f" ({_size(full)} before the crop)" if size != full else ""
            raise UsageError(
                f"the mean image is {_size(mean.shape[1:])}, the image {_size(size)}{before}; "
                f"resize={_size(mean.shape[1:])} would fit, or pass mean values per channel"
            )
        return mean.astype(np.float32, copy=False)

    # Where it comes from

    @classmethod
    def from_text(cls, text: str) -> Preprocess:
        """Read ``order=bgr,mean=104:117:123,scale=0.017,resize=256x256,crop=224``; every part may be left out.

        ``mean`` is a number, one per channel with ``:`` between, or the path of a ``.binaryproto`` or ``.npy`` file: a
        mean image (C, H, W) or one value per channel. ``resize`` and ``crop`` are HEIGHTxWIDTH, or one number for both.

        Raises:
            UsageError: a part that is unknown, given twice or malformed. FileError: the mean cannot be read.
        """
        given: dict[str, Any] = {}
        for part in text.split(","):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or not value or key not in ("order", "mean", "scale", "resize", "crop"):
                raise UsageError(
                    f"--preprocess: {part.strip()!r} is none of order=, mean=, scale=, resize=, crop=; e.g. {_EXAMPLE}"
                )
            if key in given:
                raise UsageError(f"--preprocess: {key} is given twice")
            given[key] = value
        order = given.get("order", "bgr").lower()
        if order not in _ORDERS:
            raise UsageError(f"--preprocess: order={order}: one of {', '.join(_ORDERS)} was expected")
        mean, mean_image = _parse_mean(given["mean"]) if "mean" in given else (None, None)
        return cls(
            channel_order=order,
            mean=mean,
            mean_image=mean_image,
            scale=_parse_number(given["scale"], "scale") if "scale" in given else 1.0,
            resize=_parse_size(given["resize"], "resize") if "resize" in given else None,
            crop=_parse_size(given["crop"], "crop") if "crop" in given else None,
        )

    @classmethod
    def from_transform_param(
        cls,
        message: TransformationParameter,
        *,
        resize: tuple[int, int] | None = None,
        mean_image: np.ndarray | None = None,
    ) -> Preprocess | None:
        """What a data layer's ``TransformationParameter`` says.

        Args:
            resize: ``new_height`` and ``new_width`` of an ImageData layer.
            mean_image: the contents of ``mean_file``, which this does not open.

        Returns:
            None if the message alone does not tell: it names a mean image that was not given, or sets a field that only
            a fork has.

        Raises:
            UsageError: values that Caffe refuses too.
        """
        ours = ("scale", "mirror", "crop_size", "mean_file", "mean_value", "force_color", "force_gray")
        if any(descriptor.name not in ours for descriptor, _ in message.ListFields()):
            return None
        if message.HasField("mean_file") and mean_image is None:
            return None
        if message.force_color and message.force_gray:
            raise UsageError("transform_param: force_color and force_gray exclude each other")
        crop = message.crop_size
        return cls(
            channel_order="gray" if message.force_gray else "bgr",
            mean=tuple(message.mean_value) or None,
            mean_image=mean_image if message.HasField("mean_file") else None,
            scale=message.scale,
            resize=resize,
            crop=(crop, crop) if crop else None,
        )

    # The .pt

    def to_record(self) -> dict[str, Any]:
        """Plain data for a ``.pt``: numbers, strings, lists, and a tensor for a mean image."""
        return {
            "channel_order": self.channel_order,
            "mean": None if self.mean is None else [float(value) for value in self.mean],
            "mean_image": None if self.mean_image is None else torch.from_numpy(np.array(self.mean_image, np.float32)),
            "scale": float(self.scale),
            "resize": None if self.resize is None else list(self.resize),
            "crop": None if self.crop is None else list(self.crop),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Preprocess:
        """The inverse of :meth:`to_record`.

        Raises:
            UsageError: something is missing, too many, or of another kind.
        """
        fields = ("channel_order", "mean", "mean_image", "scale", "resize", "crop")
        try:
            if set(record) != set(fields):
                raise ValueError(f"entries {', '.join(sorted(map(str, record)))}; {', '.join(fields)} were expected")
            return cls(
                channel_order=record["channel_order"],
                mean=None if record["mean"] is None else tuple(float(value) for value in record["mean"]),
                mean_image=_array_of(record["mean_image"]),
                scale=float(record["scale"]),
                resize=_pair(record["resize"]),
                crop=_pair(record["crop"]),
            )
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UsageError(f"the record of the preprocessing is damaged: {error}") from error


def _array_of(tensor: Any) -> np.ndarray | None:
    if tensor is None:
        return None
    plain = type(tensor) is torch.Tensor and tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not plain or tensor.dtype != torch.float32:
        raise TypeError("mean_image is no tensor of float32")
    if not tensor.is_contiguous():  # nor is one with a value for many pixels
        raise ValueError("the values of mean_image overlap or have gaps")
    array: np.ndarray = tensor.numpy()
    return array


def _pair(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    height, width = value
    return int(height), int(width)


def _parse_number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--preprocess: {what}={text}: a number was expected") from None


def _parse_size(text: str, what: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,9})(?:x(\d{1,9}))?", text)
    if found is None:
        raise UsageError(f"--preprocess: {what}={text}: HEIGHTxWIDTH, or one number for both, was expected")
    return int(found[1]), int(found[2] or found[1])


def _parse_mean(text: str) -> tuple[tuple[float, ...] | None, np.ndarray | None]:
    """Mean values, or a mean image."""
    if text.endswith((".binaryproto", ".npy")):
        mean = _read_mean(text)
        return (tuple(mean.ravel().tolist()), None) if math.prod(mean.shape[1:]) == 1 else (None, mean)
    if re.search(r"[^\d.:eE+\-]", text):
        raise UsageError(
            f"--preprocess: mean={text}: a number, one per channel (104:117:123), a .binaryproto or an .npy expected"
        )
    return tuple(_parse_number(value, "mean") for value in text.split(":")), None


def _read_mean(path: str) -> np.ndarray:
    """(C,) or (C, H, W) from a file."""
    mean = read_binaryproto(path) if path.endswith(".binaryproto") else read_npy(path)
    if mean.ndim == 4 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim not in (1, 3) or mean.size == 0:
        raise FileError(f"a mean has shape (C,) or (C, H, W); found {list(mean.shape)}", path=path)
    if not np.isfinite(mean).all():
        raise FileError("holds values that are not finite (NaN or infinity)", path=path)
    return mean.astype(np.float32)


# Inputs from files


def load_input(path: str | Path, shape: Shape, preprocess: Preprocess | None = None) -> np.ndarray:
    """What to give a net for the input of ``shape``: an image brought into form, or a ``.npy`` array as it is.

    Args:
        shape: of the net's input; the batch (the first axis) may differ. An image becomes a batch of 1.
        preprocess: how the pixels of an image become input. There is no default: models differ, and a wrong guess shows
            nowhere. Unused for ``.npy``.

    Returns:
        float32.

    Raises:
        FileError: the file cannot be read or is none of the formats; an image has too many pixels.
        UsageError: what comes out does not fit ``shape``, or an image comes without ``preprocess``.
        MissingExtraError: an image needs OpenCV.
    """
    name = str(path)
    if name.endswith(".npy"):
        array = np.array(read_npy(name), np.float32)
        if array.ndim != len(shape) or array.shape[1:] != shape[1:]:
            raise UsageError(f"has shape {list(array.shape)}, the net takes {list(shape)}", path=name)
        return array
    if name.endswith(".npz"):
        raise UsageError("an .npz holds arrays by name; give the one that is meant as an .npy", path=name)
    if preprocess is None:
        raise UsageError(
            f"say how pixels become input: --preprocess {_EXAMPLE} (order=bgr alone gives raw pixels, 0 to 255)",
            path=name,
        )
    if len(shape) != 4:
        raise UsageError(
            f"the net's input has shape {list(shape)}; an image fits (N, C, H, W), pass an .npy", path=name
        )
    if shape[1] != preprocess.channels:
        order = "order=gray" if shape[1] == 1 else "order=bgr or order=rgb"
        hint = order if shape[1] in (1, 3) else "an .npy file"
        found = f"order={preprocess.channel_order} gives {preprocess.channels} channels"
        raise UsageError(f"{found}, the net takes {shape[1]}; pass {hint}", path=name)
    out = preprocess.apply(decode_image(name, preprocess.channel_order))
    if out.shape[1:] != tuple(shape[2:]):
        wanted = _size(shape[2:])
        found = _size(out.shape[1:])
        raise UsageError(f"becomes {found}, the net takes {wanted}; pass resize={wanted} or crop={wanted}", path=name)
    return out[np.newaxis]


def decode_image(path: str | Path, channel_order: str = "bgr") -> np.ndarray:
    """The pixels of an image file: uint8 (H, W, C), turned as its EXIF data say.

    Raises:
        FileError: no image of the formats known, too many pixels, truncated or damaged.
        MissingExtraError: OpenCV is not installed.
    """
    pixels = read_picture(path, "gray" if channel_order == "gray" else "color")
    return pixels[:, :, ::-1] if channel_order == "rgb" else pixels


def _size(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))
