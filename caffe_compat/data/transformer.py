"""Caffe's DataTransformer: crop, mirror, subtract a mean, scale."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from ..errors import FileError
from ..weights import read_binaryproto
from .images import Mode, opencv
from .order import draw
from .source import Empty, Setup

__all__ = ["DataTransformer"]


class DataTransformer:
    """Images to a blob, as ``transform_param`` says: ``(pixel - mean) * scale`` of a crop, mirrored or not.

    The crop is the centre in phase TEST and random in TRAIN; ``mirror`` flips half of the images, at random, in both
    phases. Subtraction comes before scaling, each rounded to float32 as in Caffe.

    Attributes:
        decode_mode: how an encoded datum is decoded (force_color, force_gray).
    """

    def __init__(self, setup: Setup) -> None:
        params = setup.params("transform_param")
        self._fail = setup.fail
        self.scale: float = params.scale
        self.crop_size: int = params.crop_size
        self.mirror: bool = params.mirror
        self.decode_mode: Mode = "color" if params.force_color else "gray" if params.force_gray else "native"
        if params.force_color and params.force_gray:
            setup.fail("transform_param has both force_color and force_gray; Caffe takes one")
        self.mean_values: tuple[float, ...] = params.mean_value
        self.mean: np.ndarray | None = None
        self._mean_name: str = params.mean_file
        if params.has("mean_file"):
            if self.mean_values:
                setup.fail("transform_param has both mean_file and mean_value; Caffe takes one")
            self.mean = read_mean(setup.folder.locate(params.mean_file, setup.name))
        self._random_crop = setup.phase == "TRAIN" and self.crop_size > 0
        self._draws = setup.stream("transform") if self.mirror or self._random_crop else 0
        self._means: dict[int, Tensor] = {}
        self._linear_forms: dict[int, _LinearForm] = {}
        self._planes = np.empty((0, 0, 0), np.uint8)

    def output_shape(self, height: int, width: int, channels: int) -> tuple[int, int, int]:
        """(C, H, W) of what an image of (height, width, channels) becomes."""
        if not self.crop_size:
            return channels, height, width
        if min(height, width) < self.crop_size:
            raise FileError(f"is {width} x {height}, too small for crop_size {self.crop_size}")
        return channels, self.crop_size, self.crop_size

    def __call__(
        self,
        images: Iterable[np.ndarray],
        positions: Sequence[int],
        empty: Empty,
        refuse: Callable[[int, FileError], NoReturn],
    ) -> Tensor:
        """Transform a batch, each image as soon as it is there, while it is in the processor's cache.

        Args:
            images: (H, W, C) each, uint8 or float32; what becomes of them must have one size.
            positions: what the random draws of each image depend on.
            empty: makes the result.
            refuse: raises what is wrong with one image of the batch, naming its place.

        Returns:
            (N, C, H, W) float32.
        """
        blob = torch.empty(0)
        for i, (image, position) in enumerate(zip(images, positions, strict=True)):
            try:
                shape = self.output_shape(*image.shape)
                if i == 0:
                    blob = empty((len(positions), *shape))
                if shape != tuple(blob.shape[1:]):
                    raise FileError(
                        f"has shape {list(shape)} (C, H, W), the batch's first image {list(blob.shape[1:])}; "
                        "give new_height and new_width, or a crop_size"
                    )
                self._transform(image, position, blob[i])
            except FileError as error:
                refuse(i, error)
        return blob

    def _transform(self, image: np.ndarray, position: int, out: Tensor) -> None:
        height, width, channels = image.shape
        flip, down, right = draw(self._draws, position)[:3] if self._draws else (0, 0, 0)
        mirrored = self.mirror and flip % 2 == 1
        mean = self._mean_of(height, width, channels)
        if self.crop_size:
            size = self.crop_size
            top, left = (height - size) // 2, (width - size) // 2
            if self._random_crop:
                top, left = down % (height - size + 1), right % (width - size + 1)
            image = image[top : top + size, left : left + size]
            if self.mean is not None and mean is not None:
                mean = mean[:, top : top + size, left : left + size]
        if image.dtype == np.uint8 and channels >= 3 and image.strides[2] == 1 and self.mean is None:
            self._fill_fast(image, mirrored, out.numpy())
            return
        planes = image.transpose(2, 0, 1)
        np.copyto(out.numpy(), planes[:, :, ::-1] if mirrored else planes)
        if mean is not None:
            out.sub_(mean.flip(-1) if mirrored and self.mean is not None else mean)
        if self.scale != 1:
            out.mul_(self.scale)

    def _fill_fast(self, image: np.ndarray, mirrored: bool, out: np.ndarray) -> None:
        """The same for an image as OpenCV decodes it, by OpenCV's vector code: much faster than strided copies."""
        height, width, channels = image.shape
        cv2 = opencv()
        if self._planes.shape != (channels, height, width):
            self._planes = np.empty((channels, height, width), np.uint8)
        cv2.split(cv2.flip(image, 1) if mirrored else image, list(self._planes))
        linear = self._linear_form(channels)
        if len(set(linear.offsets)) == 1:
            _linear(self._planes.reshape(-1, width), linear.factor, linear.offsets[0], out.reshape(-1, width))
        else:
            for plane, offset, target in zip(self._planes, linear.offsets, out, strict=True):
                _linear(plane, linear.factor, offset, target)
        if linear.scale != 1:
            np.multiply(out, np.float32(linear.scale), out=out)

    def _mean_of(self, height: int, width: int, channels: int) -> Tensor | None:
        """What to subtract: (C, H, W) of the mean file, (C, 1, 1) of the mean values, or None."""
        if self.mean is None and not self.mean_values:
            return None
        if self.mean is not None and self.mean.shape != (channels, height, width):
            raise FileError(
                f"has shape {[channels, height, width]} (C, H, W), the mean file {self._mean_name} has "
                f"{list(self.mean.shape)}"
            )
        if channels not in self._means:
            if self.mean is not None:
                self._means[channels] = torch.from_numpy(self.mean)
            else:
                if len(self.mean_values) not in (1, channels):
                    self._fail(f"has {len(self.mean_values)} mean_value entries for images of {channels} channels")
                values = self.mean_values * channels if len(self.mean_values) == 1 else self.mean_values
                self._means[channels] = torch.tensor(values).view(channels, 1, 1)
        return self._means[channels]

    def _linear_form(self, channels: int) -> _LinearForm:
        """``(pixel - mean) * scale`` in one step where that is exact, as for the usual powers of two, else in two."""
        if channels not in self._linear_forms:
            mean = self._mean_of(0, 0, channels)
            means = np.zeros(channels, np.float32) if mean is None else mean.numpy().ravel()
            scale = np.float32(self.scale)
            pixels = np.arange(511, dtype=np.uint16).astype(np.uint8)[
                np.newaxis
            ]  # odd: scalar and vector code both run
            form = _LinearForm(self.scale, tuple(float(-m * scale) for m in means), 1.0)
            for m, offset in zip(means, form.offsets, strict=True):
                result = _linear(pixels, form.factor, offset, np.empty(pixels.shape, np.float32))
                if not np.array_equal(result, (pixels.astype(np.float32) - m) * scale):
                    form = _LinearForm(1.0, tuple(float(-m) for m in means), self.scale)
                    break
            self._linear_forms[channels] = form
        return self._linear_forms[channels]


@dataclass(frozen=True)
class _LinearForm:
    """``(pixel * factor + offset) * scale`` with an offset for each channel."""

    factor: float
    offsets: tuple[float, ...]
    scale: float


def _linear(plane: np.ndarray, factor: float, offset: float, out: np.ndarray) -> np.ndarray:
    """``plane * factor + offset`` into ``out``, (H, W) float32."""
    cv2 = opencv()
    result: np.ndarray = cv2.addWeighted(plane, factor, plane, 0, offset, dst=out, dtype=cv2.CV_32F)
    return result


def read_mean(path: str) -> np.ndarray:
    """A mean image as (C, H, W) float32.

    Raises:
        FileError: it is no binaryproto of one image.
    """
    mean = np.asarray(read_binaryproto(path), np.float32)
    while mean.ndim > 3 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim != 3:
        raise FileError(f"is no mean image: shape {list(mean.shape)}, not (1, channels, height, width)", path=path)
    return np.ascontiguousarray(mean)
