"""What caffe_rtpose, the first OpenPose, puts behind its network: ImResize merges scales, Nms finds peaks, Maximum one.

All are as the fork computes them on a GPU; its CPU code is another thing and unused. None has a gradient there;
ImResize has the true one here.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...network.registry import Layer, LayerSpec, layer
from ..precision import widened

__all__ = ["REACH", "ImResize", "Maximum", "Nms"]

_FORK = "CMU-Perceptual-Computing-Lab/caffe_rtpose"
# A peak's place is a mean over the cells up to so many away from it.
REACH = 3


class ImResize(Layer):
    """The mean of maps (N, C, H, W), each of them cropped around its centre, in another size: (1, C, H', W').

    The image of map n was ``start`` - n ``gap`` times as large as the input and padded to that size, hence the crop.
    Values between cells come from a cubic (a = -1/2), with the cells at the edge repeated.

    Args:
        size: height and width of the top; None takes those of the bottom times ``factor``.
    """

    def __init__(self, size: tuple[int, int] | None, factor: float, start: float, gap: float) -> None:
        super().__init__()
        self.size = size
        self.factor = factor
        self.start = start
        self.gap = gap

    def top_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Height and width for those of the bottom."""
        return self.size or tuple(int(np.float32(n) * np.float32(self.factor)) for n in size)

    def crop(self, size: int, image: int) -> int:
        """How many cells of the map of ``image`` lie before those that count, along an axis with ``size``."""
        reduced = np.float32(1) - np.float32(self.start) + np.float32(image) * np.float32(self.gap)
        return math.floor(np.float32(size // 2) * reduced)

    def infer(self, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        return x.new_empty(1, x.shape[1], *self.top_size(tuple(x.shape[2:])))

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.top_size(tuple(x.shape[2:]))
        y = widened(x)
        total = y.new_zeros(())
        for image, maps in enumerate(y):
            rows = self._weights(y, y.shape[2], height, self.crop(y.shape[2], image))
            columns = self._weights(y, y.shape[3], width, self.crop(y.shape[3], image))
            total = total + rows @ maps @ columns.T
        return (total / len(x))[None].to(x.dtype)

    @staticmethod
    def _weights(x: Tensor, before: int, after: int, crop: int) -> Tensor:
        """(after, before): what each cell counts for each place of the top."""
        inner = before - 2 * crop
        offset = after / inner / 2 - 0.5
        place = (torch.arange(after, device=x.device, dtype=x.dtype) - offset) * (inner / after)
        # Not below the first cell: before its centre, the cubic goes on beyond it.
        cell = (place + 1e-5).trunc().clamp_min(0)
        t = place - cell
        parts = (
            ((-0.5 * t + 1) * t - 0.5) * t,
            (1.5 * t - 2.5) * t * t + 1,
            ((-1.5 * t + 2) * t + 0.5) * t,
            (0.5 * t - 0.5) * t * t,
        )
        weights = x.new_zeros(after, before)
        for shift, part in zip((-1, 0, 1, 2), parts, strict=True):
            at = (cell.long() + shift).clamp(0, inner - 1) + crop
            weights = weights + functional.one_hot(at, before) * part[:, None]
        return weights


@layer("ImResize", bottoms=1, tops=1, dialects=(_FORK,))
def im_resize(spec: LayerSpec) -> Layer:
    shape, params = spec.images(filled=True), spec.params("imresize_param")
    size = None
    if params.factor == 0:
        size = (params.target_spatial_height, params.target_spatial_width)
    else:
        # The factor wins over a size.
        params.ignore("target_spatial_height", "target_spatial_width")
    module = ImResize(size, params.factor, params.start_scale, params.scale_gap)
    if min(module.top_size(shape[2:])) < 1:
        spec.fail(f"the top would be {list(module.top_size(shape[2:]))}; height and width must be at least 1")
    for image in range(shape[0]):
        if any(not 0 <= 2 * module.crop(n, image) < n for n in shape[2:]):
            spec.fail(
                f"start_scale {params.start_scale:g} and scale_gap {params.scale_gap:g} leave nothing of, or more than "
                f"map {image} of the bottom {list(shape)}"
            )
    return module


class Nms(Layer):
    """Peaks of ``parts`` heat maps: (N, parts, peaks + 1, 3) as x, y, score, behind a row that begins with a count.

    A peak is above ``threshold`` and its eight neighbours, and not at the edge. Going through the rows, the first
    ``peaks`` are listed, the count is of all; unused rows are 0. Place: mean of the cells around it, up to three
    away, weighted by their values as far as positive. As in the fork, that leaves out row and column 0 and, for the
    width is taken for the height, rows from the width on; where the map is wider than high it reads on into the next
    channel's, and zeros behind the last. As there, too, images follow each other as if they had no other maps: with
    more maps than ``parts``, those of image n begin at map n ``parts`` of all.
    """

    def __init__(self, threshold: float, parts: int, peaks: int) -> None:
        super().__init__()
        self.threshold = threshold
        self.parts = parts
        self.peaks = peaks

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(bottoms[0].shape[0], self.parts, self.peaks + 1, 3)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        y = widened(x.flatten(0, 1))
        height, width = y.shape[1:]
        maps = y[: len(x) * self.parts]
        inner = maps[:, 1:-1, 1:-1]
        peak = inner > self.threshold
        for down, right in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
            peak = peak & (inner > maps[:, 1 + down : height - 1 + down, 1 + right : width - 1 + right])
        peak = functional.pad(peak, (1, 1, 1, 1)).flatten(1)
        number = peak.long().cumsum(1)
        part, at = torch.where(peak & (number <= self.peaks))
        reach = torch.arange(-REACH, REACH + 1, device=y.device)
        rows = (at // width)[:, None, None] + reach[:, None]
        columns = (at % width)[:, None, None] + reach
        counted = (rows > 0) & (rows < width) & (columns > 0) & (columns < width)
        place = part[:, None, None] * (height * width) + rows * width + columns
        values = functional.pad(y.flatten(), (0, REACH * width))[torch.where(counted, place, 0)]
        values = torch.where(counted & (values > 0), values, 0)
        total = values.sum((1, 2))
        centre = [(values * places).sum((1, 2)) / total for places in (columns, rows)]
        top = y.new_zeros(len(maps), self.peaks + 1, 3)
        top[:, 0, 0] = number[:, -1].to(y.dtype)
        top[part, number[part, at]] = torch.stack([*centre, maps.flatten(1)[part, at]], 1)
        return top.unflatten(0, (-1, self.parts)).to(x.dtype)


@layer("Nms", bottoms=1, tops=1, dialects=(_FORK,))
def nms(spec: LayerSpec) -> Layer:
    params = spec.params("nms_param")
    params.ignore("num_peak")  # which the fork does not read
    if min(params.num_parts, params.max_peaks) < 1:
        spec.fail(f"num_parts {params.num_parts} and max_peaks {params.max_peaks} must be at least 1")
    spec.shaped(0, "images > 0", f"maps >= {params.num_parts}", "height >= 3", "width >= 3")
    return Nms(params.threshold, params.num_parts, params.max_peaks)


class Maximum(Layer):
    """Column, row and value of the largest value of each map (N, C, H, W): (N, C, 1, 3); of equal values the first."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        value, cell = x.flatten(2).max(2)
        width = x.shape[3]
        return torch.stack([(cell % width).to(x.dtype), (cell // width).to(x.dtype), value], 2)[:, :, None]


@layer("Maximum", bottoms=1, tops=1, dialects=(_FORK,), verified=False)
def maximum(spec: LayerSpec) -> Layer:
    spec.images(0, filled=True)
    return Maximum()
