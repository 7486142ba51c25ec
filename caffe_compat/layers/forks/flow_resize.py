"""Resample, Downsample and Accum of optical flow networks: maps in another size."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..precision import widened
from .flow import FLOWNETS
from .sized_map import Size, SizedMap

__all__ = ["Accum", "Downsample", "Resample"]


class Resample(SizedMap):
    """Maps (N, C, H, W) in another size: each value a weighted mean of those around its place, or the nearest.

    Where a map shrinks and ``antialias`` is set, weights spread over as many more cells. The gradient is the true one;
    the forks have none.

    Args:
        size: height and width; None takes those of the second bottom.
        kind: ``LINEAR`` (weights from a triangle), ``CUBIC`` (from a cubic with a = -1/2) or ``NEAREST``.
    """

    def __init__(self, size: Size | None, kind: str, *, antialias: bool) -> None:
        super().__init__(size)
        self.kind = kind
        self.antialias = antialias

    def forward(self, x: Tensor, *like: Tensor) -> Tensor:
        before, after = tuple(x.shape[2:]), self.top_size(x, *like)
        if self.kind == "NEAREST":
            rows, columns = (at.to(x.device) for at in _nearest_cells(before, after))
            return x[:, :, rows[:, None], columns]
        y = widened(x)
        places = _places(before, after, y.dtype)
        ratios = [n / m for n, m in zip(before, after, strict=True)]
        spread = ratios if self.antialias and max(ratios) > 1 else [1.0, 1.0]
        rows, columns = (self._weights(y, before[i], places[i].to(y.device), spread[i]) for i in (0, 1))
        return (rows @ y @ columns.T).to(x.dtype)

    def _weights(self, x: Tensor, before: int, place: Tensor, spread: float) -> Tensor:
        """(after, before): what each cell counts for each place, 1 in all, or 0 if no cell is near."""
        distance = ((place[:, None] - torch.arange(before, device=x.device)) / spread).abs()
        if self.kind == "CUBIC":
            near = distance * distance * (1.5 * distance - 2.5) + 1
            far = distance * (distance * (2.5 - 0.5 * distance) - 4) + 2
            weights = torch.where(distance <= 1, near, torch.where(distance < 2, far, 0))
        else:
            weights = (1 - distance).clamp_min(0)
        total = weights.sum(1, keepdim=True)
        return torch.where(total == 0, 0, weights / total)


def _places(before: Size, after: Size, dtype: torch.dtype) -> list[Tensor]:
    """For each axis: where the cells of a map of size ``after`` lie in one of size ``before``."""
    ratios = [n / m for n, m in zip(before, after, strict=True)]
    # The forks centre each axis by the ratio of the other one.
    return [torch.arange(after[i], dtype=dtype) * ratios[i] + ratios[1 - i] / 2 - 0.5 for i in (0, 1)]


def _nearest_cells(before: Size, after: Size) -> list[Tensor]:
    """For each axis: the cell nearest to each place, halves away from zero. It may lie off the map."""
    places = [place.double() for place in _places(before, after, torch.float32)]
    return [(place.sign() * (place.abs() + 0.5).floor()).long() for place in places]


@layer("Resample", bottoms=(1, 2), tops=1, dialects=FLOWNETS)
def resample(spec: LayerSpec) -> Layer:
    params = spec.params("resample_param")
    params.ignore("factor")  # which the forks do not read
    if params.type not in ("LINEAR", "CUBIC", "NEAREST"):
        spec.fail(f"type {params.type} is not supported; LINEAR, CUBIC and NEAREST are")
    size, kind = _map_size(spec, params, "height", "width"), params.type
    if kind == "NEAREST":
        params.ignore("antialias")  # which bears on means only
        _check_nearest(spec, size)
    return Resample(size, kind, antialias=params.antialias)


def _check_nearest(spec: LayerSpec, size: Size | None) -> None:
    before = spec.bottom_shapes[0][2:]
    after = size or spec.bottom_shapes[1][2:]
    cells = _nearest_cells(before, after)
    if any(at.min() < 0 or at.max() >= n for at, n in zip(cells, before, strict=True)):
        spec.fail(
            f"type NEAREST from {before[0]} x {before[1]} to {after[0]} x {after[1]} is not supported: the forks leave "
            "the map then, as they centre each axis by the ratio of the other one"
        )


class Downsample(SizedMap):
    """Maps (N, C, H, W) made smaller, corners staying corners: each value a mean by a triangle around its place.

    What is not a number does not count; where more than half as much weight falls on such values as on others, the
    result is none either. The gradient is that of the weighted mean; the forks have none.
    """

    def forward(self, x: Tensor, *like: Tensor) -> Tensor:
        size = self.top_size(x, *like)
        if tuple(x.shape[2:]) == size:
            return x.clone()
        y = widened(x)
        rows, columns = (self._weights(y, x.shape[2 + axis], size[axis]) for axis in (0, 1))
        valid = ~y.isnan()
        total = rows @ valid.to(y.dtype) @ columns.T
        missing = rows @ (~valid).to(y.dtype) @ columns.T
        top = rows @ torch.where(valid, y, 0) @ columns.T / total
        return torch.where(missing / total > 0.5, torch.nan, top).to(x.dtype)

    @staticmethod
    def _weights(x: Tensor, before: int, after: int) -> Tensor:
        step = (before - 1) / (after - 1) if after > 1 else math.inf
        place = torch.arange(after, device=x.device, dtype=x.dtype) * step
        cells = torch.arange(before, device=x.device)
        return (1 - (place[:, None] - cells).abs() / step).clamp_min(0)


@layer("Downsample", bottoms=(1, 2), tops=1, dialects=FLOWNETS)
def downsample(spec: LayerSpec) -> Layer:
    size = _map_size(spec, spec.params("downsample_param"), "top_height", "top_width")
    shape, top = spec.bottom_shapes[0], size or spec.bottom_shapes[1][2:]
    if shape[2:] != top and min(shape[2:]) < 2:
        spec.fail(f"a map of {shape[2]} x {shape[3]} cannot become one of {top[0]} x {top[1]}: corners need two cells")
    if shape[2:] != top and min(top) < 2:
        spec.warn(f"a map of {top[0]} x {top[1]} is not a number anywhere, as in the forks: corners need two cells")
    return Downsample(size)


class Accum(Layer):
    """Maps (N, C_i, H_i, W_i) in one size, corners staying corners, one after the other along the channels.

    Between cells the values are bilinear. The gradient is the derivative, as that of the forks is for maps that grow;
    they have one on a GPU alone.

    Args:
        size: height and width; None takes those of the last bottom, which is no map then.
    """

    def __init__(self, size: Size | None) -> None:
        super().__init__()
        self.size = size

    def forward(self, *maps: Tensor) -> Tensor:
        size = self.size or tuple(maps[-1].shape[2:])
        given = maps if self.size else maps[:-1]
        resized = [F.interpolate(widened(x), size, mode="bilinear", align_corners=True).to(x.dtype) for x in given]
        return torch.cat(resized, 1)


@layer("Accum", bottoms=(1, None), tops=1, dialects=(FLOWNETS[0], FLOWNETS[3]))
def accum(spec: LayerSpec) -> Layer:
    params, images = spec.params("accum_param"), spec.images(pixels=True)[0]
    shapes = [spec.shaped(i, images, "channels", "height > 0", "width > 0") for i in range(len(spec.bottoms))]
    largest = (max(shape[2] for shape in shapes), max(shape[3] for shape in shapes))
    if params.have_reference:
        if len(shapes) < 2:
            spec.fail("have_reference needs two bottoms, the last of which has the size")
        params.ignore("top_height", "top_width", "size_divisible_by")  # which are for none
        size, top = None, shapes[-1][2:]
    else:
        asked = (params.top_height, params.top_width)
        if params.has("size_divisible_by"):
            params.ignore("top_height", "top_width")
            if params.size_divisible_by < 1:
                spec.fail(f"size_divisible_by is {params.size_divisible_by}; it must be at least 1")
            asked = tuple(-(-n // params.size_divisible_by) * params.size_divisible_by for n in largest)
        # A size that is not larger both ways does not count.
        size = top = asked if asked[0] > largest[0] and asked[1] > largest[1] else largest
    if min(top) < 2:
        spec.fail(f"a map of {top[0]} x {top[1]} has no corners that could be kept; two cells each way are needed")
    return Accum(size)


def _map_size(spec: LayerSpec, params: Params, high: str, wide: str) -> Size | None:
    """Height and width in these fields, which must be positive; None with a second bottom, whose size counts."""
    for index in range(len(spec.bottoms)):
        spec.images(index, filled=True)
    if len(spec.bottoms) == 2:
        params.ignore(high, wide)
        return None
    size = (params.get(high, 0), params.get(wide, 0))
    if min(size) < 1:
        spec.fail(f"{high} {size[0]} and {wide} {size[1]} must be at least 1, or there must be a second bottom")
    return size
