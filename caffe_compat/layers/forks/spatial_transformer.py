"""SpatialTransformer: maps moved, turned and scaled as another part of the network says."""

from __future__ import annotations

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ..precision import widened
from .flow import interpolated

__all__ = ["SpatialTransformer"]

_NAMES = ("theta_1_1", "theta_1_2", "theta_1_3", "theta_2_1", "theta_2_2", "theta_2_3")


class SpatialTransformer(Layer):
    """Values of a map (N, C, H, W) at affinely transformed places, between cells bilinear: (N, C, H', W').

    The second bottom has, for each image, the numbers of the 2 x 3 matrix, row after row, that ``fixed`` leaves open.
    It takes (row, column, 1) of the top to (row, column) of the bottom, both from -1 to just below 1. Off the map there
    are zeros.

    Args:
        size: H', W'. fixed: the six numbers, None where the bottom has them. backward: whether the map gets a gradient.
    """

    def __init__(self, size: tuple[int, int], fixed: tuple[float | None, ...], *, backward: bool) -> None:
        super().__init__()
        self.size = size
        self.fixed = fixed
        self.backward = backward

    def infer(self, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        return x.new_empty(*x.shape[:2], *self.size)

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        given = iter(widened(theta).flatten(1).unbind(1)) if None in self.fixed else iter(())
        first = widened(theta).new_zeros(len(theta))
        numbers = [next(given) if value is None else first + value for value in self.fixed]
        matrix = torch.stack(numbers, 1).reshape(-1, 2, 3)
        # In double precision first, as the forks: at the identity, places then lie on the cells, and not beside them,
        # and the gradient of what lies between two cells is another than that of what lies between the next two.
        rows, columns = (
            (torch.arange(n, dtype=torch.float64) / n * 2 - 1).to(x.device, matrix.dtype) for n in self.size
        )
        height, width = self.size
        places = torch.stack(
            [
                rows[:, None].expand(height, width),
                columns.expand(height, width),
                torch.ones_like(rows[:, None] * columns),
            ]
        )
        row, column = torch.einsum("nij,jhw->inhw", matrix, places)
        y = widened(x if self.backward else x.detach())
        top = interpolated(y, (column + 1) / 2 * x.shape[3], (row + 1) / 2 * x.shape[2], hold=False)
        return top.to(x.dtype)


@layer(
    "SpatialTransformer",
    bottoms=2,
    tops=1,
    dialects=("daerduoCarey/SpatialTransformerLayer", "dlunion/CC4.0"),
)
def spatial_transformer(spec: LayerSpec) -> Layer:
    params, shape = spec.params("st_param"), spec.images()
    if params.transform_type != "affine" or params.sampler_type != "bilinear":
        spec.fail(
            f"transform_type {params.transform_type!r} and sampler_type {params.sampler_type!r} are not supported; the "
            "fork has affine and bilinear"
        )
    fixed = tuple(params.get(name, None) for name in _NAMES)
    spec.rows(1, f"images = {shape[0]}", f"numbers = {fixed.count(None)}")
    size = (params.get("output_H", shape[2]), params.get("output_W", shape[3]))
    if min(size) < 1:
        spec.fail(f"output_H {size[0]} and output_W {size[1]} must be at least 1")
    return SpatialTransformer(size, fixed, backward=params.to_compute_dU)
