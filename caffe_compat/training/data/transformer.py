"""Caffe's DataTransformer: crop, mirror, subtract a mean, scale."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

import numpy as np
import torch

from ...errors import FileError
from ...formats.images import Mode, opencv
from ...formats.weights import read_binaryproto
from .order import draw
from .source import Empty, Setup, Values

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
    ) -> Values:
        """Transform a batch, each image as soon as it is there, while it is in the processor's cache.

        Args:
            images: (H, W, C) each, uint8 or float32; what becomes of them must have one size.
            positions: what the random draws of each image depend on.
            empty: makes the memory for the result.
            refuse: raises what is wrong with one image of the batch, naming its place.

        Returns:
            (N, C, H, W) values; the mean and the scale are still to be applied, to the whole batch at once.
        """
        values = torch.empty(0)
        for i, (image, position) in enumerate(zip(images, positions, strict=True)):
            try:
                shape = self.output_shape(*image.shape)
                dtype = torch.uint8 if image.dtype == np.uint8 and self.mean is None else torch.float32
                if i == 0:
                    values = empty((len(positions), *shape), dtype)
                elif dtype.is_floating_point and not values.is_floating_point():
                    values = values.float()  # a database may mix pixels and floating-point data
                if shape != tuple(values.shape[1:]):
                    raise FileError(
                        f"has shape {list(shape)} (C, H, W), the batch's first image {list(values.shape[1:])}; "
                        "give new_height and new_width, or a crop_size"
                    )
                self._cut(image, position, values[i].numpy())
            except FileError as error:
                refuse(i, error)
        return Values(values, self._means(values.shape[1]), self.scale)

    def _cut(self, image: np.ndarray, position: int, out: np.ndarray) -> None:
        """Crop, mirror and take the mean file off one image, into ``out`` (C, H, W)."""
        height, width, channels = image.shape
        self._means(channels)
        flip, down, right = draw(self._draws, position)[:3] if self._draws else (0, 0, 0)
        mirrored = self.mirror and flip % 2 == 1
        mean = self.mean
        if mean is not None and mean.shape != (channels, height, width):
            raise FileError(
                f"has shape {[channels, height, width]} (C, H, W), the mean file {self._mean_name} has "
                f"{list(mean.shape)}"
            )
        if self.crop_size:
            size = self.crop_size
            top, left = (height - size) // 2, (width - size) // 2
            if self._random_crop:
                top, left = down % (height - size + 1), right % (width - size + 1)
            image = image[top : top + size, left : left + size]
            mean = mean[:, top : top + size, left : left + size] if mean is not None else None
        if image.dtype == out.dtype == np.uint8 and channels >= 3 and image.strides[2] == 1:
            cv2 = opencv()  # whose vector code is much faster than a strided copy
            cv2.split(cv2.flip(image, 1) if mirrored else image, list(out))
            return
        planes = image.transpose(2, 0, 1)
        np.copyto(out, planes[:, :, ::-1] if mirrored else planes)
        if mean is not None:
            out -= mean[:, :, ::-1] if mirrored else mean

    def _means(self, channels: int) -> tuple[float, ...]:
        """The mean value of each channel, or none."""
        if len(self.mean_values) not in (0, 1, channels):
            self._fail(f"has {len(self.mean_values)} mean_value entries for images of {channels} channels")
        return self.mean_values * channels if len(self.mean_values) == 1 else self.mean_values


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
