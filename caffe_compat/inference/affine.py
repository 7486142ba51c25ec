"""Scaling and shifting: which layers do no more than that, as numbers that can be put together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..layers.bvlc.activation import Power
from ..layers.bvlc.batch_norm import BatchNorm
from ..layers.bvlc.dropout import Dropout
from ..layers.bvlc.scale import Bias, Scale
from ..layers.forks.nvidia import NvidiaBatchNorm

__all__ = ["Affine", "AffineMap", "affine_map", "exact"]


@dataclass(frozen=True)
class AffineMap:
    """scale * x + shift: float64, on the CPU, with the axes of x, of size 1 where they do not vary."""

    scale: Tensor
    shift: Tensor

    def then(self, other: AffineMap) -> AffineMap:
        """This, and ``other`` of the result."""
        return AffineMap(self.scale * other.scale, self.shift * other.scale + other.shift)

    def module(self, device: torch.device, dtype: torch.dtype) -> Affine:
        """What computes it, rounded once."""
        return Affine(self.scale.to(dtype).to(device), self.shift.to(dtype).to(device))


class Affine(nn.Module):
    """scale * x + shift, both broadcast against x."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale)


def affine_map(module: nn.Module, rank: int) -> AffineMap | None:
    """What ``module`` does to its only bottom, of ``rank`` axes; None if that is no scaling and shifting.

    Layers are recognised by their exact class: one that a user wrote, or derived, may compute something else.
    """

    def along(blob: Tensor, trailing: int) -> Tensor:
        return exact(blob).reshape((1,) * (rank - blob.dim() - trailing) + tuple(blob.shape) + (1,) * trailing)

    if (type(module) is BatchNorm or type(module) is NvidiaBatchNorm) and module.use_global_stats is not False:
        factor = exact(module.divisor())
        factor = torch.where(factor == 0, factor, 1 / factor)
        scale = (exact(module.variance) * factor + module.eps).rsqrt()
        found = AffineMap(along(scale, rank - 2), along(-exact(module.mean) * factor * scale, rank - 2))
        if module.weight is None or module.bias is None:
            return found
        return found.then(AffineMap(along(module.weight, rank - 2), along(module.bias, rank - 2)))
    if type(module) is Scale:
        scale = along(module.weight, module.trailing)
        return AffineMap(scale, torch.zeros_like(scale) if module.bias is None else along(module.bias, module.trailing))
    if type(module) is Bias:
        shift = along(module.bias, module.trailing)
        return AffineMap(torch.ones_like(shift), shift)
    if type(module) is Power and module.power == 1 and module.scale != 0:
        return AffineMap(along(torch.tensor(module.scale), 0), along(torch.tensor(module.shift), 0))
    if type(module) is Dropout and not module.scale_train:
        return AffineMap(along(torch.tensor(1 - module.ratio), 0), along(torch.tensor(0.0), 0))
    return None


def exact(blob: Tensor) -> Tensor:
    """The values of ``blob`` in float64, on the CPU."""
    return blob.detach().to("cpu", torch.float64)
