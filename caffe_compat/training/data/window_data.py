"""WindowData: windows cut out of images and warped to one size (R-CNN's training data)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
import torch

from ...errors import FileError
from ...formats.images import opencv
from ...network.registry import Shape
from .images import read_image
from .lists import read_lines
from .order import draw
from .source import Empty, Setup, Source, Values
from .transformer import read_mean

__all__ = ["WindowData"]


@dataclass(frozen=True)
class _Window:
    image: int
    label: int
    box: tuple[int, int, int, int]  # x1, y1, x2, y2, the last column and row included
    line: int


@dataclass
class _Windows:
    """A window file: the images with their numbers of channels, and the windows of objects and of background."""

    images: list[str] = field(default_factory=list)
    channels: int = 0
    objects: list[_Window] = field(default_factory=list)
    background: list[_Window] = field(default_factory=list)


@dataclass(frozen=True)
class _Warp:
    """Where the pixels of a window come from and go to.

    Attributes:
        box: x1, y1, x2, y2 within the image. size: (width, height) that it is resized to.
        left, top: empty columns and rows before it in the crop.
    """

    box: tuple[int, int, int, int]
    size: tuple[int, int]
    left: int
    top: int


class WindowData(Source):
    """Every batch is a fresh random sample: background windows first, then ``fg_fraction`` of it objects.

    ``crop_size``, ``mirror`` and the mean come from transform_param, ``scale`` from window_data_param, as in Caffe.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        params = setup.params("window_data_param")
        transform = setup.params("transform_param")
        setup.check_tops(2, 2)
        self.batch_size = setup.batch_size(params)
        self.scale = float(params.scale)
        self.context_pad = int(params.context_pad)
        self.square = params.crop_mode == "square"
        self.objects_per_batch = int(np.float32(self.batch_size) * np.float32(params.fg_fraction))
        if not 0 <= self.objects_per_batch <= self.batch_size:
            setup.fail(f"fg_fraction is {params.fg_fraction:g}; a number from 0 to 1 is needed")
        params.ignore("cache_images")  # whether encoded images stay in memory; the system's file cache does that
        setup.ignore_moved(params, ("mean_file", "crop_size", "mirror"))
        self.crop_size = int(transform.crop_size)
        self.mirror = bool(transform.mirror)
        if self.crop_size <= 2 * self.context_pad:
            setup.fail(f"crop_size {self.crop_size} (transform_param) must exceed twice context_pad {self.context_pad}")
        if transform.has("scale"):
            setup.note("transform_param.scale has no effect, as in Caffe; window_data_param.scale has")
        transform.ignore("force_color", "force_gray")  # always read in colour
        self._folder, self._root_folder = setup.folder, params.root_folder
        self._path = setup.folder.locate(params.source, self.name)
        self.windows = _read_windows(self._path, float(params.fg_threshold), float(params.bg_threshold))
        for kind, found in (("object", self.windows.objects), ("background", self.windows.background)):
            if not found:
                raise FileError(f"holds no {kind} windows under the thresholds of layer {self.name!r}", path=self._path)
        mean_file = transform.mean_file if transform.has("mean_file") else ""
        self._mean = self._read_mean(setup, mean_file, transform.mean_value)
        self._draws = setup.stream("windows")
        self._rank, self._world_size = setup.rank, setup.world_size

    def _read_mean(self, setup: Setup, file: str, values: tuple[float, ...]) -> np.ndarray | None:
        """What to subtract, as (C, crop_size, crop_size) float32, or None."""
        channels, size = self.windows.channels, self.crop_size
        if not file:
            if values and len(values) not in (1, channels):
                setup.fail(f"has {len(values)} mean_value entries for {channels} channels; one, or one for each")
            whole = np.array(values or (0,), np.float32).reshape(-1, 1, 1)
            return np.broadcast_to(whole, (channels, size, size)) if values else None
        if values:
            setup.fail("transform_param has both mean_file and mean_value; Caffe takes one")
        path = setup.folder.locate(file, self.name)
        mean = read_mean(path)
        start = (mean.shape[2] - size) // 2  # Caffe takes the columns' offset for the rows too
        if mean.shape[0] != channels or start < 0 or start + size > mean.shape[1]:
            raise FileError(
                f"the mean image, {list(mean.shape)} (C, H, W), does not cover crops of {[channels, size, size]}",
                path=path,
            )
        return mean[:, start : start + size, start : start + size]

    def shapes(self) -> dict[str, Shape]:
        data = (self.batch_size, self.windows.channels, self.crop_size, self.crop_size)
        return dict(zip(self.tops, (data, (self.batch_size,)), strict=True))

    def read(self, index: int, empty: Empty) -> dict[str, Values]:
        data, labels = (empty(shape, torch.float32) for shape in self.shapes().values())
        data.zero_()
        first = (index * self._world_size + self._rank) * self.batch_size
        for i in range(self.batch_size):
            pick, flip = draw(self._draws, first + i)[:2]
            is_object = i >= self.batch_size - self.objects_per_batch
            windows = self.windows.objects if is_object else self.windows.background
            window = windows[pick % len(windows)]
            self._cut(window, self.mirror and flip % 2 == 1, data[i].numpy())
            labels[i] = window.label
        return dict(zip(self.tops, (Values(data), Values(labels)), strict=True))

    def _cut(self, window: _Window, mirrored: bool, out: np.ndarray) -> None:
        """Put a window into ``out``, (C, crop_size, crop_size) of zeros."""
        path = self._folder.locate(self._root_folder + self.windows.images[window.image], self.name)
        try:
            image = read_image(path, color=True)
        except FileError as error:
            self._refuse(window, f"{path}: {error.detail}")
        if image.shape[2] != self.windows.channels:
            self._refuse(window, f"{path} has {image.shape[2]} channels, the file says {self.windows.channels}")
        height, width = image.shape[:2]
        warp = _warp(window.box, height, width, self.crop_size, self.context_pad, self.square, mirrored)
        x1, y1, x2, y2 = warp.box
        if not (0 <= x1 <= x2 < width and 0 <= y1 <= y2 < height) or min(warp.size) < 1:
            self._refuse(window, f"the window {list(window.box)} does not lie in {path} ({width} x {height})")
        cut = opencv().resize(image[y1 : y2 + 1, x1 : x2 + 1], warp.size)
        pixels = (cut[:, ::-1] if mirrored else cut).astype(np.float32).transpose(2, 0, 1)
        rows, columns = slice(warp.top, warp.top + warp.size[1]), slice(warp.left, warp.left + warp.size[0])
        if self._mean is not None:
            pixels = pixels - self._mean[:, rows, columns]
        out[:, rows, columns] = pixels * np.float32(self.scale)

    def _refuse(self, window: _Window, message: str) -> NoReturn:
        raise FileError(message, path=self._path, line=window.line)


def _warp(
    box: tuple[int, int, int, int], height: int, width: int, crop: int, pad: int, square: bool, mirrored: bool
) -> _Warp:
    """Grow a box by its context, clip it to the image, and say how large the rest is and where it lies in the crop.

    The arithmetic is that of Caffe's WindowDataLayer, in float32 with halves rounded away from zero.
    """
    if not pad and not square:
        return _Warp(box, (crop, crop), 0, 0)
    f = np.float32
    x1, y1, x2, y2 = box
    grow = f(crop) / f(crop - 2 * pad)
    half_width, half_height = f((x2 - x1 + 1) / 2.0), f((y2 - y1 + 1) / 2.0)
    center_x, center_y = f(x1) + half_width, f(y1) + half_height
    if square:
        half_width = half_height = max(half_width, half_height)
    x1, x2 = _round(center_x - half_width * grow), _round(center_x + half_width * grow)
    y1, y2 = _round(center_y - half_height * grow), _round(center_y + half_height * grow)
    scale_x, scale_y = f(crop) / f(x2 - x1 + 1), f(crop) / f(y2 - y1 + 1)
    left, top = max(0, -x1), max(0, -y1)
    right, bottom = max(0, x2 - width + 1), max(0, y2 - height + 1)
    x1, y1, x2, y2 = x1 + left, y1 + top, x2 - right, y2 - bottom
    pad_left, pad_top = _round(f(right if mirrored else left) * scale_x), _round(f(top) * scale_y)
    new_width = min(_round(f(x2 - x1 + 1) * scale_x), crop - pad_left)
    new_height = min(_round(f(y2 - y1 + 1) * scale_y), crop - pad_top)
    return _Warp((x1, y1, x2, y2), (new_width, new_height), pad_left, pad_top)


def _round(value: np.floating) -> int:
    """C's round()."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), float(value)))


def _read_windows(path: str, object_threshold: float, background_threshold: float) -> _Windows:
    """Parse a window file: for every image ``# index``, path, channels, height, width, number of windows, and a line
    ``class overlap x1 y1 x2 y2`` for each.

    Raises:
        FileError: with the line.
    """
    lines = iter(read_lines(path))
    windows = _Windows()
    last = 0
    for last, line in lines:
        try:
            mark, index = line.split()
            if mark != b"#" or int(index) != len(windows.images):
                raise ValueError(f"'# {len(windows.images)}' was expected, for images count from 0 in order")
            windows.images.append(os.fsdecode(next(lines)[1]))
            last, (channels, _, _, count) = _numbers(lines, 4)
            if windows.channels not in (0, channels):
                raise ValueError(f"{channels} channels after images of {windows.channels}")
            windows.channels = channels
            for _ in range(count):
                last, text = next(lines)
                words = text.split()
                label, overlap = _whole(words[0]), float(words[1])
                x1, y1, x2, y2 = map(_whole, words[2:])
                box = (x1, y1, x2, y2)
                if overlap >= object_threshold:
                    if label < 1:
                        raise ValueError(f"an object (overlap {overlap:g}) has class {label}; classes count from 1")
                    windows.objects.append(_Window(len(windows.images) - 1, label, box, last))
                elif overlap < background_threshold:
                    windows.background.append(_Window(len(windows.images) - 1, 0, box, last))
        except (ValueError, IndexError) as error:
            raise FileError(str(error), path=path, line=last) from error
        except StopIteration:
            raise FileError("the file ends within an image's entry", path=path, line=last) from None
    return windows


def _whole(word: bytes) -> int:
    """A whole number as Caffe's ``int`` holds it. Raises ValueError."""
    number = int(word)
    if not -(2**31) <= number < 2**31:
        raise ValueError(f"{number} is larger than Caffe's whole numbers are")
    return number


def _numbers(lines: Iterator[tuple[int, bytes]], count: int) -> tuple[int, list[int]]:
    """The next ``count`` whole numbers, which may share a line, and the number of the last line."""
    numbers: list[int] = []
    line = 0
    while len(numbers) < count:
        line, text = next(lines)
        numbers += map(_whole, text.split())
    if len(numbers) > count:
        raise ValueError(f"{count} numbers were expected (channels, height, width, windows)")
    return line, numbers
