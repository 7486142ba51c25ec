"""Layers that move values without computing: joining, splitting, reshaping, cropping, repeating, selecting."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params

__all__ = ["BatchReindex", "Concat", "Crop", "Filter", "Flatten", "Reshape", "Silence", "Slice", "Split", "Tile"]


class Concat(Layer):
    """The bottoms one after the other along ``axis``."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def infer(self, *bottoms: Tensor) -> Tensor:
        shape = list(bottoms[0].shape)
        shape[self.axis] = sum(x.shape[self.axis] for x in bottoms)
        return bottoms[0].new_empty(shape)

    def forward(self, *bottoms: Tensor) -> Tensor:
        return torch.cat(bottoms, self.axis)


@layer("Concat", bottoms=(1, None), tops=1)
def concat(spec: LayerSpec) -> Layer:
    first = spec.bottom_shapes[0]
    axis = _axis_or_legacy_dim(spec, spec.params("concat_param"), "concat_dim", len(first))
    for index in range(len(spec.bottoms)):
        spec.shaped(index, *first[:axis], "any", *first[axis + 1 :])
    return Concat(axis)


class Slice(Layer):
    """Pieces of x along ``axis``: cut at the indices ``points``, or into ``count`` equal ones without points."""

    def __init__(self, axis: int, points: Sequence[int], count: int) -> None:
        super().__init__()
        self.axis = axis
        self.points = tuple(points)
        self.count = count

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        size = x.shape[self.axis]
        if not self.points:
            return x.split([size // self.count] * self.count, self.axis)
        ends = (*self.points, size)
        return x.split([end - start for start, end in zip((0, *self.points), ends, strict=True)], self.axis)


@layer("Slice", bottoms=1, tops=(1, None))
def slice_(spec: LayerSpec) -> Layer:
    p = spec.params("slice_param")
    shape = spec.bottom_shapes[0]
    axis = _axis_or_legacy_dim(spec, p, "slice_dim", len(shape))
    size, points, count = shape[axis], p.slice_point, len(spec.tops)
    if not points:
        if size % count:
            spec.fail(f"{size} values along axis {axis} cannot be divided evenly among {count} tops; give slice_point")
        return Slice(axis, (), count)
    if len(points) != count - 1:
        spec.fail(f"has {len(points)} slice points for {count} tops; {count - 1} were expected")
    if count > size:
        spec.fail(f"has {count} tops for {size} values along axis {axis} of shape {list(shape)}")
    if any(end <= start for start, end in zip((0, *points), points, strict=False)) or points[-1] > size:
        spec.fail(f"slice points {list(points)} must rise from above 0 to at most {size}, the size of axis {axis}")
    return Slice(axis, points, count)


class Split(Layer):
    """The bottom again and again; the gradients of the tops add up."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        # One view per top, so that each has a gradient of its own.
        return tuple(x.view_as(x) for _ in range(self.count))


@layer("Split", bottoms=1, tops=(1, None))
def split(spec: LayerSpec) -> Layer:
    return Split(len(spec.tops))


class Reshape(Layer):
    """Axes ``start`` to ``end`` (exclusive) replaced by ``dims``: 0 copies the bottom's size, -1 is what remains.

    A 0 at place i copies the bottom's axis ``start + i``, even beyond ``end``.
    """

    def __init__(self, start: int, end: int, dims: Sequence[int]) -> None:
        super().__init__()
        self.start = start
        self.end = end
        self.dims = tuple(dims)

    def top_shape(self, shape: Sequence[int]) -> list[int]:
        """The new shape for a bottom of ``shape``; a -1 is left as it is."""
        new = [shape[self.start + i] if dim == 0 else dim for i, dim in enumerate(self.dims)]
        return [*shape[: self.start], *new, *shape[self.end :]]

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(self.top_shape(x.shape))


@layer("Reshape", bottoms=1, tops=1)
def reshape(spec: LayerSpec) -> Layer:
    p = spec.params("reshape_param")
    shape, dims, rank = spec.bottom_shapes[0], p.shape.dim, len(spec.bottom_shapes[0])
    # Unlike elsewhere, -1 means behind the last axis.
    start = p.axis if p.axis >= 0 else rank + 1 + p.axis
    if not 0 <= start <= rank:
        spec.fail(f"axis {p.axis} is out of range for a bottom of {rank} axes (it may be {-rank - 1} to {rank})")
    end = rank if p.num_axes == -1 else start + p.num_axes
    if not start <= end <= rank:
        spec.fail(f"num_axes {p.num_axes} is out of range; from axis {start} on there are {rank - start} (-1 for all)")
    if any(dim < -1 for dim in dims) or dims.count(-1) > 1:
        spec.fail(f"shape {list(dims)} may hold sizes, 0 to copy, and at most one -1")
    if any(dim == 0 and start + i >= rank for i, dim in enumerate(dims)):
        spec.fail(f"shape {list(dims)} copies (0) an axis that shape {list(shape)} does not have from {start} on")
    module = Reshape(start, end, dims)
    top = module.top_shape(shape)
    total, known = math.prod(shape), math.prod(dim for dim in top if dim != -1)
    fits = known > 0 and total % known == 0 if -1 in top else known == total
    if not fits:
        spec.fail(f"{total} values of a bottom of shape {list(shape)} do not fit into shape {top}")
    return module


class Flatten(Layer):
    """Axes ``start`` to ``end`` (inclusive) made one; with ``end`` just before ``start``, a new axis of size 1."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__()
        self.start = start
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(self.start, self.end) if self.start <= self.end else x.unsqueeze(self.start)


@layer("Flatten", bottoms=1, tops=1)
def flatten(spec: LayerSpec) -> Layer:
    p = spec.params("flatten_param")
    rank = len(spec.bottom_shapes[0])
    start, end = spec.axis(p.axis, rank), spec.axis(p.end_axis, rank, "end_axis")
    if end < start - 1:
        spec.fail(f"end_axis {p.end_axis} lies before axis {p.axis} for {rank} axes")
    return Flatten(start, end)


class Crop(Layer):
    """The part of the first bottom that begins at ``offsets`` and has the second bottom's size, from ``axis`` on."""

    def __init__(self, axis: int, offsets: Sequence[int]) -> None:
        super().__init__()
        self.axis = axis
        self.offsets = tuple(offsets)

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        for axis, offset in enumerate(self.offsets, self.axis):
            x = x.narrow(axis, offset, reference.shape[axis])
        return x


@layer("Crop", bottoms=2, tops=1)
def crop(spec: LayerSpec) -> Layer:
    p = spec.params("crop_param")
    shape, reference = spec.bottom_shapes
    axis = spec.axis(p.axis, len(shape))
    cropped = len(shape) - axis
    offsets = p.offset or (0,)
    if len(offsets) not in (1, cropped):
        spec.fail(f"has {len(offsets)} offsets; one, or {cropped} (axis {axis} and those behind it), was expected")
    if len(reference) < len(shape):
        spec.misfit(1, f"a blob of at least the {len(shape)} axes of {spec.bottoms[0]!r}")
    if len(offsets) == 1:
        offsets = offsets * cropped
    for i, offset in enumerate(offsets, axis):
        if offset + reference[i] > shape[i]:
            spec.fail(f"cropping {reference[i]} values at offset {offset} leaves axis {i}, which has {shape[i]}")
    return Crop(axis, offsets)


class Tile(Layer):
    """x repeated ``tiles`` times along ``axis``, as a whole."""

    def __init__(self, axis: int, tiles: int) -> None:
        super().__init__()
        self.axis = axis
        self.tiles = tiles

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat([self.tiles if axis == self.axis else 1 for axis in range(x.dim())])


@layer("Tile", bottoms=1, tops=1)
def tile(spec: LayerSpec) -> Layer:
    p = spec.params("tile_param")
    if p.tiles <= 0:
        spec.fail(f"tiles is {p.tiles if p.has('tiles') else 'not set'}; a positive number is needed")
    return Tile(spec.axis(p.axis, len(spec.bottom_shapes[0])), p.tiles)


class Silence(Layer):
    """Uses its bottoms up, so that they are no outputs of the net."""

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return ()


@layer("Silence", bottoms=(1, None), tops=0)
def silence(spec: LayerSpec) -> Layer:
    return Silence()


class BatchReindex(Layer):
    """Items of x (N, ...) in the order, and as often, as ``index`` (M) names them: (M, ...)."""

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return x.index_select(0, index.to(torch.int64))


@layer("BatchReindex", bottoms=2, tops=1)
def batch_reindex(spec: LayerSpec) -> Layer:
    spec.shaped(0, "items", ...)
    spec.shaped(1, "indices")
    return BatchReindex()


class Filter(Layer):
    """Of every bottom but the last, the items whose value in the last one is not 0.

    How many those are depends on the values; for shapes all are counted, as Caffe does when it sets up.
    """

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        *items, selector = bottoms
        chosen = selector.flatten().nonzero().flatten()
        return tuple(x.index_select(0, chosen) for x in items)

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(x) for x in bottoms[:-1])


@layer("Filter", bottoms=(2, None), tops=(1, None))
def filter_(spec: LayerSpec) -> Layer:
    selector = len(spec.bottoms) - 1
    spec.one_top_each(selector)
    items = spec.vector(selector, "items")[0]
    for index in range(selector):
        spec.shaped(index, f"items = {items}", ...)
    return Filter()


def _axis_or_legacy_dim(spec: LayerSpec, p: Params, legacy: str, rank: int) -> int:
    """The axis that ``axis`` (which may be negative) or the old field ``legacy`` (which may not) names."""
    if not p.has(legacy):
        return spec.axis(p.axis, rank)
    if p.has("axis"):
        spec.fail(f"has both axis and {legacy}, which mean the same; keep axis")
    return spec.axis(getattr(p, legacy), rank, legacy)
