"""Caffe's DataTransformer: crop, mirror, subtract a mean, scale."""

from __future__ import annotations

from collections.abc import Sequence

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

    The crop is the centre in phase TEST and random in TRAIN; ``mirror`` flips every other image at random in both phases.
    Subtraction comes before scaling, each rounded to float32 as in Caffe.
    """

    def __init__(self, setup: Setup) -> None:
        params = setup.params("transform_param")
        self._fail = setup.fail
        self.scale: float = params.scale
        self.crop_size: int = params.crop_size
        self.mirror: bool = params.mirror
        self.force_color: bool = params.force_color
        self.force_gray: bool = params.force_gray
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
        self._fused: dict[int, Tensor | None] = {}
        self._planes: list[np.ndarray] = []

    @property
    def decode_mode(self) -> Mode:
        """How an encoded datum is decoded."""
        if self.force_color and self.force_gray:
            self._fail("transform_param has both force_color and force_gray; Caffe takes one")
        return "color" if self.force_color else "gray" if self.force_gray else "native"

    def output_shape(self, height: int, width: int, channels: int) -> tuple[int, int, int]:
        """(C, H, W) of what an image of (height, width, channels) becomes."""
        if not self.crop_size:
            return channels, height, width
        if min(height, width) < self.crop_size:
            raise FileError(f"is {width} x {height}, too small for crop_size {self.crop_size}")
        return channels, self.crop_size, self.crop_size

    def __call__(self, images: Sequence[np.ndarray], positions: Sequence[int], empty: Empty) -> Tensor:
        """Transform a batch.

        Args:
            images: (H, W, C) each, uint8 or float32; the result must have one size.
            positions: what the random draws of each image depend on.
            empty: makes the result.

        Returns:
            (N, C, H, W) float32.

        Raises:
            FileError: one image does not fit; without a path. ``index`` on it tells which image.
        """
        blob: Tensor | None = None
        for i, (image, position) in enumerate(zip(images, positions, strict=True)):
            try:
                shape = self.output_shape(*image.shape)
                if blob is None:
                    blob = empty((len(images), *shape))
                if shape != tuple(blob.shape[1:]):
                    raise FileError(
                        f"has shape {list(shape)} (C, H, W), the batch's first image {list(blob.shape[1:])}; "
                        "give new_height and new_width, or a crop_size"
                    )
                self._transform(image, int(position), blob[i])
            except FileError as error:
                error.index = i  # type: ignore[attr-defined]
                raise
        assert blob is not None
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
        self._fill(image, mirrored, out)
        fused = self._fused_offset(channels) if image.dtype == np.uint8 else None
        if fused is not None:
            torch.add(fused, out, alpha=self.scale, out=out)
            return
        if mean is not None:
            out.sub_(mean.flip(-1) if mirrored and self.mean is not None else mean)
        if self.scale != 1:
            out.mul_(self.scale)

    def _fill(self, image: np.ndarray, mirrored: bool, out: Tensor) -> None:
        """Pixels to float32 planes. OpenCV's split and flip are many times faster than a strided copy."""
        height, width, channels = image.shape
        if image.dtype != np.uint8 or channels < 3 or image.strides[2] != 1:
            planes = image.transpose(2, 0, 1)
            out.copy_(torch.from_numpy(np.ascontiguousarray(planes[:, :, ::-1] if mirrored else planes)))
            return
        cv2 = opencv()
        if not self._planes or self._planes[0].base.shape != (channels, height, width):
            self._planes = list(np.empty((channels, height, width), np.uint8))
        cv2.split(cv2.flip(image, 1) if mirrored else image, self._planes)
        out.copy_(torch.from_numpy(self._planes[0].base))

    def _mean_of(self, height: int, width: int, channels: int) -> Tensor | None:
        """What to subtract: (C, H, W) of the mean file, (C, 1, 1) of the mean values, or None."""
        if self.mean is None and not self.mean_values:
            return None
        if self.mean is not None and self.mean.shape != (channels, height, width):
            raise FileError(
                f"has shape {[channels, height, width]} (C, H, W), the mean file {self._mean_name} {list(self.mean.shape)}"
            )
        if channels not in self._means:
            if self.mean is not None:
                self._means[channels] = torch.from_numpy(self.mean)
            else:
                if len(self.mean_values) not in (1, channels):
                    self._fail(f"has {len(self.mean_values)} mean_value entries for {channels} channels; one, or one for each")
                values = self.mean_values * channels if len(self.mean_values) == 1 else self.mean_values
                self._means[channels] = torch.tensor(values).view(channels, 1, 1)
        return self._means[channels]

    def _fused_offset(self, channels: int) -> Tensor | None:
        """(C, 1, 1) offsets b where ``scale * pixel + b`` equals ``(pixel - mean) * scale`` bit for bit for every pixel.

        So it is for the usual powers of two; one pass over the memory instead of two.
        """
        if channels not in self._fused:
            self._fused[channels] = None
            if self.mean is None and self.mean_values and self.scale != 1:
                mean = self._mean_of(0, 0, channels)
                assert mean is not None
                pixels = torch.arange(256.0).repeat(channels, 1, 2)[:, :, :-1]  # an odd count: no vector lane is left out
                offset = mean.mul(-self.scale)
                exact = pixels.sub(mean).mul(self.scale)
                if torch.equal(torch.add(offset, pixels, alpha=self.scale), exact):
                    self._fused[channels] = offset
        return self._fused[channels]


def read_mean(path: str) -> np.ndarray:
    """A mean image as (C, H, W) float32.

    Raises:
        FileError: it is no binaryproto of one image.
    """
    mean = np.asarray(read_binaryproto(path), np.float32)
    while mean.ndim > 3 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim != 3:
        raise FileError(f"is no mean image: its shape is {list(mean.shape)}, (1, channels, height, width) is needed", path=path)
    return np.ascontiguousarray(mean)
