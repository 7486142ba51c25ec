"""What FlowNet 2's DataAugmentation does to the colours of pictures, given its coefficients.

Source: lmb-freiburg/flownet2 (commit b92e198b5), ``data_augmentation_layer.cu``. Values lie between 0 and a largest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Axes", "axes_of", "changed_along_axes", "changed_colours", "shadowed"]

# Lengths and extents up to this are taken for none.
_NONE = 1e-2

Coefficients = Mapping[str, Tensor]
"""By name, (N, 1, 1) each."""


def changed_colours(x: Tensor, c: Coefficients, largest: float) -> Tensor:
    """Each channel of (N, 3, H, W) by a factor, which keeps the brightness; then gamma, brightness and contrast."""
    factors = torch.stack([c["color1"], c["color2"], c["color3"]], 1)
    y = x * factors
    y = (y * (x.sum(1, keepdim=True) / (y.sum(1, keepdim=True) + 0.01))).clamp(0, 1)
    y = y.pow(c["gamma"][:, None]) + c["brightness"][:, None]
    return (0.5 + (y - 0.5) * c["contrast"][:, None]).clamp(0, largest)


@dataclass(frozen=True, eq=False)
class Axes:
    """Three axes of the colours, and how far pictures reach along each.

    Attributes:
        vectors: (3, 3), an axis in each row. mean: (3,), of the colours. extent: (3,), the largest coordinate on each.
    """

    vectors: Tensor
    mean: Tensor
    extent: Tensor


def axes_of(x: Tensor, vectors: Tensor) -> Axes:
    """The axes, of all pictures (N, 3, H, W) together."""
    extent = torch.einsum("kc,nchw->knhw", vectors, x).abs().flatten(1).amax(1)
    return Axes(vectors, x.mean((0, 2, 3)), extent)


def changed_along_axes(x: Tensor, c: Coefficients, axes: Axes, largest: float) -> Tensor:
    """Colours of (N, 3, H, W) changed by their coordinates: lightness, saturation and hue if the axes stand for these.

    Each coordinate, from the mean on, gets a power, a term and a factor; then, from zero on, the first one again, and
    the length of the other two, which are turned; then the length of all three.
    """
    there = axes.extent > _NONE
    scale = torch.where(there, axes.extent, 1)
    mean = axes.vectors @ axes.mean / scale
    coordinates = torch.einsum("kc,nchw->nkhw", axes.vectors, x - axes.mean[:, None, None])
    one, two, three = (
        _if(there[k], _bent(y / scale[k], c, f"nomean{k}"), y) + mean[k] for k, y in enumerate(coordinates.unbind(1))
    )
    one = _if(there[0], _bent(one, c, "withmean0"), one)
    length = (two.square() + three.square()).sqrt()
    saturation = length.pow(c["pow_withmean1"]) + c["add_withmean1"]
    saturation = saturation.clamp_min(0) * c["mult_withmean1"]
    cos, sin = c["col_angle"].cos(), c["col_angle"].sin()
    two, three = cos * two - sin * three, sin * two + cos * three
    one, two, three = (_if(there[k], y * axes.extent[k], y) for k, y in enumerate((one, two, three)))
    reach = axes.extent.square().sum().sqrt()
    before = (one.square() + two.square() + three.square()).sqrt() / reach
    ratio = torch.where(length > _NONE, saturation / length, 1)
    y = torch.stack([one, two * ratio, three * ratio], 1)
    light = (before.pow(c["lmult_pow"]) + c["lmult_add"]).clamp_min(0) * c["lmult_mult"] * reach
    now = torch.linalg.vector_norm(y, dim=1)
    longer = torch.minimum(y * torch.where(now > _NONE, light / now, 1)[:, None], axes.extent[:, None, None])
    y = torch.where((now > _NONE)[:, None] & (reach > _NONE), longer, y)
    return torch.einsum("kc,nkhw->nchw", axes.vectors, y).clamp(max=largest).clamp_min(0)


def _bent(x: Tensor, c: Coefficients, name: str) -> Tensor:
    """A power of the size, with the sign that was; a term; a factor."""
    return (x.abs().pow(c[f"pow_{name}"]).copysign(x) + c[f"add_{name}"]) * c[f"mult_{name}"]


def _if(condition: Tensor, this: Tensor, that: Tensor) -> Tensor:
    return torch.where(condition, this, that)


def shadowed(x: Tensor, c: Coefficients, largest: float) -> Tensor:
    """(N, C, H, W), darker beyond a line ``shadow_distance`` from the middle, at right angles to ``shadow_angle``."""
    height, width = x.shape[2:]
    right = torch.arange(width, device=x.device) - width // 2
    below = (torch.arange(height, device=x.device) - height // 2)[:, None]
    beyond = right * c["shadow_angle"].cos() + below * c["shadow_angle"].sin() - c["shadow_distance"] > 0
    return (x - torch.where(beyond, c["shadow_strength"], 0)[:, None]).clamp(0, largest)
