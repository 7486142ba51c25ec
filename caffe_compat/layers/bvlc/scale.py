"""Scale and Bias: multiply by, and add, a blob that lies along some axes of the bottom."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...network.registry import Layer, LayerSpec, Shape, layer
from ...schema.params import Params

__all__ = ["Bias", "Scale", "along", "filler_or_constant", "scale", "scale_parts"]


def filler_or_constant(params: Params, value: float, field: str = "filler") -> Params:
    """The filler in ``field`` of ``params``; where the file sets none, one that fills with ``value``."""
    if params.has(field):
        return getattr(params, field)
    return Params(type(getattr(params.message, field))(type="constant", value=value), field)


def along(blob: Tensor, trailing: int) -> Tensor:
    """``blob`` with axes of size 1 behind, so that it broadcasts along the leading axes it names."""
    return blob.reshape(blob.shape + (1,) * trailing) if trailing else blob


class Scale(Layer):
    """x * scale (+ bias), where scale is the second bottom if there is one, else the blob ``weight``.

    Both lie along ``scale.ndim`` axes of the bottom, with ``trailing`` axes behind them.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, shape: Shape, trailing: int, filler: Params | None, bias_filler: Params | None) -> None:
        super().__init__()
        self.trailing = trailing
        if filler is not None:
            self.blob("weight", shape, filler)
        if bias_filler is not None:
            self.blob("bias", shape, bias_filler)
        else:
            self.register_parameter("bias", None)

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        y = torch.mul(x, along(self.weight if scale is None else scale, self.trailing))
        # In place in memory that nobody has seen yet: half the traffic of a second tensor.
        return y if self.bias is None else y.add_(along(self.bias, self.trailing))


@layer("Scale", bottoms=(1, 2), tops=1)
def scale(spec: LayerSpec) -> Layer:
    """The layer of a ``scale_param``, which forks add to."""
    return Scale(*scale_parts(spec))


def scale_parts(spec: LayerSpec) -> tuple[Shape, int, Params | None, Params | None]:
    """What a :class:`Scale` is made of."""
    params = spec.params("scale_param")
    shape, trailing = _blob_shape(spec, params)
    if len(spec.bottoms) == 2:
        # They describe a blob that the second bottom replaces.
        params.ignore("num_axes", "filler")
    if not params.bias_term:
        # It describes a blob that is not there.
        params.ignore("bias_filler")
    filler = filler_or_constant(params, 1.0) if len(spec.bottoms) == 1 else None
    return shape, trailing, filler, params.bias_filler if params.bias_term else None


class Bias(Layer):
    """x + bias, where bias is the second bottom if there is one, else the blob ``bias``."""

    bias: nn.Parameter

    def __init__(self, shape: Shape, trailing: int, filler: Params | None) -> None:
        super().__init__()
        self.trailing = trailing
        if filler is not None:
            self.blob("bias", shape, filler)

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return x + along(self.bias if bias is None else bias, self.trailing)


@layer("Bias", bottoms=(1, 2), tops=1)
def bias(spec: LayerSpec) -> Layer:
    params = spec.params("bias_param")
    shape, trailing = _blob_shape(spec, params)
    if len(spec.bottoms) == 2:
        # They describe a blob that the second bottom replaces.
        params.ignore("num_axes", "filler")
        return Bias(shape, trailing, None)
    return Bias(shape, trailing, params.filler)


def _blob_shape(spec: LayerSpec, params: Params) -> tuple[Shape, int]:
    """Shape of the blob (or second bottom) that is applied, and how many axes of the bottom come behind it."""
    bottom = spec.bottom_shapes[0]
    if len(spec.bottoms) == 2:
        shape = spec.bottom_shapes[1]
        # A scalar fits anywhere, whatever the axis.
        axis = spec.axis(params.axis, len(bottom)) if shape else 0 * params.axis
    else:
        axis = spec.axis(params.axis, len(bottom))
        if params.num_axes < -1:
            spec.fail(f"num_axes is {params.num_axes}; it must be -1 (all that follow), 0 or more")
        end = len(bottom) if params.num_axes == -1 else axis + params.num_axes
        if end > len(bottom):
            spec.fail(f"axis {axis} and num_axes {params.num_axes} reach past the bottom, whose shape is {bottom}")
        shape = bottom[axis:end]
    if bottom[axis : axis + len(shape)] != shape:
        spec.misfit(1, f"what {list(bottom)} has from axis {axis} on")
    return shape, len(bottom) - axis - len(shape) if shape else 0
