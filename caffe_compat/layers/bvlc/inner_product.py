"""Layers that multiply by a whole matrix: InnerProduct, and Embed, which picks rows of one."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params

__all__ = ["Embed", "InnerProduct", "rows_of"]


class InnerProduct(Layer):
    """x weight^T + bias on the axes from ``axis`` on, taken as one vector of K values.

    (lead..., K values) gives (lead..., O). ``weight`` is (O, K), or (K, O) if ``transpose``; ``bias`` is (O,).
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, axis: int, inputs: int, params: Params) -> None:
        super().__init__()
        self.axis = axis
        self.transpose = params.transpose if params.knows("transpose") else False
        shape = (inputs, params.num_output) if self.transpose else (params.num_output, inputs)
        self.blob("weight", shape, params.weight_filler)
        self.bias_blob((params.num_output,), params)

    def infer(self, *bottoms: Tensor) -> Tensor:
        x, rows = bottoms[0], self.weight.shape[1 if self.transpose else 0]
        return x.new_empty((*x.shape[: self.axis], rows))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(self.axis), self.weight.t() if self.transpose else self.weight, self.bias)


@layer("InnerProduct", bottoms=1, tops=1)
def inner_product(spec: LayerSpec) -> Layer:
    params = spec.params("inner_product_param")
    return InnerProduct(*rows_of(spec, params), params)


def rows_of(spec: LayerSpec, params: Params) -> tuple[int, int]:
    """The axis from which on the bottom's values are one row, and how many these are."""
    shape = spec.bottom_shapes[0]
    axis = spec.axis(params.axis, len(shape))
    if params.num_output < 1:
        spec.fail(f"num_output is {params.num_output}; it must be at least 1")
    return axis, math.prod(shape[axis:])


class Embed(Layer):
    """Row ``weight[x]`` for every (integer) value of the bottom, plus ``bias``.

    Any shape gives shape + (O,). ``weight`` is (K, O), ``bias`` (O,). No gradient reaches the bottom.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.blob("weight", (params.input_dim, params.num_output), params.weight_filler)
        self.bias_blob((params.num_output,), params)

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty((*bottoms[0].shape, self.weight.shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        rows = F.embedding(x.long(), self.weight)
        return rows if self.bias is None else rows + self.bias


@layer("Embed", bottoms=1, tops=1)
def embed(spec: LayerSpec) -> Layer:
    params = spec.params("embed_param")
    for name in ("num_output", "input_dim"):
        if getattr(params, name) < 1:
            spec.fail(f"{name} is {getattr(params, name)}; it must be at least 1")
    return Embed(params)
