"""How positions in one blob of a :class:`NetSpec` lie in another, and the Crop layer that aligns the two.

A map (axis, scale, shift) takes position x of one blob to ``scale * x + shift`` of another, along the spatial axes from
``axis`` on; axis None stands for layers that work alike on all axes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .net_spec import Function, Top
from .net_spec import layers as L

__all__ = [
    "PASS_THROUGH_LAYERS",
    "AxisMismatchException",
    "UndefinedMapException",
    "compose",
    "conv_params",
    "coord_map",
    "coord_map_from_to",
    "crop",
    "crop_params",
    "inverse",
]

CoordMap = tuple[Any, Any, Any]

# Layers that work alike at every position; scripts add types of their own.
PASS_THROUGH_LAYERS = [
    *("AbsVal", "BNLL", "BatchNorm", "Bias", "Dropout", "ELU", "Eltwise", "Exp", "LRN", "Log", "MVN", "PReLU"),
    *("Power", "ReLU", "Scale", "Sigmoid", "Split", "TanH", "Threshold"),
]
_LEGACY = ("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w")
_IDENTITY: CoordMap = (None, 1, 0)


class UndefinedMapException(Exception):
    """The layer does not keep positions."""


class AxisMismatchException(Exception):
    """Two maps along different axes."""


def conv_params(fn: Function) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """axis, stride, extent of the kernel, and padding of a layer that slides a window."""
    given = fn.params.get("convolution_param", fn.params)
    legacy = [name for name in _LEGACY if name in given]
    assert not legacy, (
        f"{fn.type_name}: {', '.join(legacy)} is not supported in cropping; give one value or a list instead"
    )

    def values(name: str, default: Any = None) -> np.ndarray:
        return np.array(given[name] if default is None else given.get(name, default), ndmin=1)

    extent = (values("kernel_size") - 1) * values("dilation", 1) + 1
    return given.get("axis", 1), values("stride", 1), extent, values("pad", 0)


def crop_params(fn: Function) -> tuple[int, np.ndarray]:
    """axis and offset of a Crop layer."""
    given = fn.params.get("crop_param", fn.params)
    return given.get("axis", 2), np.array(given.get("offset", 0), ndmin=1)


def coord_map(fn: Function) -> CoordMap:
    """The map of one layer, from its bottom to its top.

    Raises:
        UndefinedMapException: the layer does not keep positions.
    """
    if fn.type_name in PASS_THROUGH_LAYERS:
        return _IDENTITY
    if fn.type_name in ("Convolution", "Pooling", "Im2col"):
        axis, stride, extent, pad = conv_params(fn)
        return axis, 1 / stride, (pad - (extent - 1) / 2) / stride
    if fn.type_name == "Deconvolution":
        axis, stride, extent, pad = conv_params(fn)
        return axis, stride, (extent - 1) / 2 - pad
    if fn.type_name == "Crop":
        axis, offset = crop_params(fn)
        return axis - 1, 1, -offset  # the axis of a Crop is the first that it cuts, elsewhere it is the one before
    raise UndefinedMapException(f"{fn.type_name} does not keep positions")


def compose(base_map: CoordMap, next_map: CoordMap) -> CoordMap:
    """``next_map`` first, then ``base_map``.

    Raises:
        AxisMismatchException: they are along different axes.
    """
    base_axis, base_scale, base_shift = base_map
    next_axis, next_scale, next_shift = next_map
    if base_axis is not None and next_axis is not None and base_axis != next_axis:
        raise AxisMismatchException(f"axis {base_axis} and axis {next_axis}")
    axis = next_axis if base_axis is None else base_axis
    return axis, base_scale * next_scale, base_scale * next_shift + base_shift


def inverse(coord_map: CoordMap) -> CoordMap:
    """The map back."""
    axis, scale, shift = coord_map
    return axis, 1 / scale, -shift / scale


def _maps_to_ancestors(top: Top) -> dict[Top, CoordMap]:
    """From every blob that ``top`` is computed from at known positions: the map to ``top``, nearest blobs first."""
    maps: dict[Top, CoordMap] = {top: _IDENTITY}
    waiting = [top]
    while waiting:
        current = waiting.pop(0)
        # The second bottom of a Crop only gives a size.
        bottoms = current.fn.inputs[:1] if current.fn.type_name == "Crop" else current.fn.inputs
        for bottom in bottoms:
            try:
                found = compose(maps[current], coord_map(current.fn))
            except UndefinedMapException:
                continue
            if bottom not in maps:
                waiting.append(bottom)
            maps[bottom] = found
    return maps


def coord_map_from_to(top_from: Top, top_to: Top) -> CoordMap:
    """The map from positions of ``top_from`` to positions of ``top_to``, through a blob that both come from.

    Raises:
        RuntimeError: there is no such blob.
    """
    to_from = _maps_to_ancestors(top_from)
    for ancestor, to_map in _maps_to_ancestors(top_to).items():
        if ancestor in to_from:
            return compose(to_map, inverse(to_from[ancestor]))
    raise RuntimeError("Could not compute map between tops; are they connected by spatial layers?")


def crop(top_from: Top, top_to: Top) -> Top:
    """A Crop layer that cuts ``top_from`` to lie over ``top_to``.

    Raises:
        AssertionError: they differ in scale, or ``top_from`` does not cover ``top_to`` at whole positions.
    """
    axis, scale, shift = coord_map_from_to(top_from, top_to)
    assert np.all(scale == 1), f"scale mismatch on crop (a = {scale})"
    assert np.all(shift <= 0), f"cannot crop negative offset (b = {shift})"
    assert np.all(np.round(shift) == shift), f"cannot crop noninteger offset (b = {shift})"
    offset = [int(value) for value in np.atleast_1d(-np.round(shift))]
    top: Top = L.Crop(top_from, top_to, crop_param=dict(axis=axis + 1, offset=offset))  # noqa: C408
    return top
