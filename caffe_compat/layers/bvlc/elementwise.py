"""Layers that combine values of several bottoms, or along an axis: Eltwise, Reduction, ArgMax, Softmax."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ..autograd import Context
from ..precision import widened

__all__ = ["ArgMax", "EltwiseMax", "EltwiseProduct", "EltwiseSum", "Reduction", "Softmax"]


class EltwiseSum(Layer):
    """The sum of coefficient * bottom over bottoms of one shape."""

    def __init__(self, coefficients: Sequence[float]) -> None:
        super().__init__()
        self.coefficients = tuple(coefficients)

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, *bottoms: Tensor) -> Tensor:
        total = bottoms[0] if self.coefficients[0] == 1 else bottoms[0] * self.coefficients[0]
        for x, coefficient in zip(bottoms[1:], self.coefficients[1:], strict=True):
            total = torch.add(total, x, alpha=coefficient)
        return total


class EltwiseProduct(Layer):
    """The product of bottoms of one shape.

    With ``divides`` the gradient of a bottom is top / bottom, as Caffe computes it where ``stable_prod_grad`` is off:
    not a number where the bottom is 0.
    """

    def __init__(self, divides: bool) -> None:
        super().__init__()
        self.divides = divides

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, *bottoms: Tensor) -> Tensor:
        if self.divides:
            result: Tensor = _DividingProduct.apply(*bottoms)
            return result
        return _product(bottoms)


class EltwiseMax(Layer):
    """The largest of bottoms of one shape.

    The gradient goes to one bottom: on a tie to the second rather than the first, else to the earlier one.
    """

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, *bottoms: Tensor) -> Tensor:
        first, second, *others = bottoms
        top = torch.where(first > second, first, second)
        for x in others:
            top = torch.where(x > top, x, top)
        return top


# Forks whose networks scale a blob by the sum of that one alone.
_FLOW_FORKS = ("lmb-freiburg/flownet2", "liruoteng/FlowNet", "twhui/LiteFlowNet")


@layer("Eltwise", bottoms=(1, None), tops=1)
def eltwise(spec: LayerSpec) -> Layer:
    p = spec.params("eltwise_param")
    if len(spec.bottoms) == 1 and not (p.operation == "SUM" and set(spec.dialect.split("+")) & set(_FLOW_FORKS)):
        spec.fail("takes at least 2 bottoms, found 1")
    spec.alike()
    if p.coeff and len(p.coeff) != len(spec.bottoms):
        spec.fail(f"has {len(p.coeff)} coefficients for {len(spec.bottoms)} bottoms; none, or one each, was expected")
    operation, stable = p.operation, p.stable_prod_grad
    if operation == "SUM":
        return EltwiseSum(p.coeff or (1.0,) * len(spec.bottoms))
    if operation == "PROD":
        if p.coeff:
            spec.fail("has coefficients, which only operation SUM takes")
        return EltwiseProduct(divides=not stable and spec.gradients != "true")
    if operation != "MAX":
        spec.fail(f"operation {operation} is not supported; SUM, PROD and MAX are")
    return EltwiseMax()  # Caffe lets coefficients pass here, and does not use them


def _product(factors: Sequence[Tensor]) -> Tensor:
    product = factors[0]
    for x in factors[1:]:
        product = product * x
    return product


class _DividingProduct(torch.autograd.Function):
    """A product whose gradient divides the product by each factor."""

    @staticmethod
    def forward(*bottoms: Tensor) -> Tensor:
        return _product(bottoms)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(output, *inputs)

    @staticmethod
    def backward(ctx: Context, *top_diffs: Tensor) -> tuple[Tensor, ...]:
        top, *bottoms = ctx.saved_tensors
        return tuple(top / x * top_diffs[0] for x in bottoms)


class Reduction(Layer):
    """All axes from ``axis`` on reduced to one value: SUM, ASUM (of absolute values), SUMSQ (of squares) or MEAN."""

    def __init__(self, operation: str, axis: int, coefficient: float) -> None:
        super().__init__()
        self.operation = operation
        self.axis = axis
        self.coefficient = coefficient

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(bottoms[0].shape[: self.axis])

    def forward(self, x: Tensor) -> Tensor:
        axes, dtype = tuple(range(self.axis, x.dim())), x.dtype
        x = widened(x)
        if self.operation == "MEAN":
            y = x.mean(axes)
        elif self.operation == "ASUM":
            y = x.abs().sum(axes)
        elif self.operation == "SUMSQ":
            y = x.square().sum(axes)
        else:
            y = x.sum(axes)
        return (y if self.coefficient == 1 else y * self.coefficient).to(dtype)


@layer("Reduction", bottoms=1, tops=1)
def reduction(spec: LayerSpec) -> Layer:
    p = spec.params("reduction_param")
    if p.operation not in ("SUM", "ASUM", "SUMSQ", "MEAN"):
        spec.fail(f"operation {p.operation} is not supported; SUM, ASUM, SUMSQ and MEAN are")
    return Reduction(p.operation, spec.axis(p.axis, len(spec.bottom_shapes[0])), p.coeff)


class ArgMax(Layer):
    """Where the ``top_k`` largest values are, largest first; of equal values the later one comes first, as in Caffe.

    Without an axis, each item (N, ...) is searched as a whole and the top is (N, 1, top_k), or (N, 2, top_k) with the
    values behind the indices, with as many 1s appended as the bottom has axes beyond three. With an axis, that axis
    becomes ``top_k`` long and holds the indices, or the values. There is no gradient.

    Indices are float32 at least: half precision has no number 2049.
    """

    def __init__(self, top_k: int, with_values: bool, axis: int | None) -> None:
        super().__init__()
        self.top_k = top_k
        self.with_values = with_values
        self.axis = axis

    def infer(self, *bottoms: Tensor) -> Tensor:
        (x,) = bottoms
        dtype = (
            torch.promote_types(x.dtype, torch.float32) if not (self.with_values and self.axis is not None) else x.dtype
        )
        if self.axis is None:
            shape = (x.shape[0], 2 if self.with_values else 1, self.top_k, *[1] * (x.dim() - 3))
        else:
            shape = (*x.shape[: self.axis], self.top_k, *x.shape[self.axis + 1 :])
        return x.new_empty(shape, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach()
        if self.axis is not None:
            values, indices = self._largest(x, self.axis)
            return values if self.with_values else indices
        values, indices = self._largest(x.unsqueeze(-1).flatten(1), 1)
        top = torch.stack((indices, values.to(indices.dtype)), 1) if self.with_values else indices.unsqueeze(1)
        return top.reshape(*top.shape, *[1] * (x.dim() - 3))

    def _largest(self, x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        backwards = x.flip(axis)  # so that the first of equal values is the last one
        if self.top_k == 1:
            values, places = backwards.max(axis, keepdim=True)
        else:
            values, places = backwards.sort(dim=axis, descending=True, stable=True)
            values, places = values.narrow(axis, 0, self.top_k), places.narrow(axis, 0, self.top_k)
        indices = x.shape[axis] - 1 - places
        return values, indices.to(torch.promote_types(x.dtype, torch.float32))


@layer("ArgMax", bottoms=1, tops=1)
def arg_max(spec: LayerSpec) -> Layer:
    p = spec.params("argmax_param")
    shape = spec.shaped(0, "images", ...)
    axis = spec.axis(p.axis, len(shape)) if p.has("axis") else None
    candidates = torch.Size(shape[1:]).numel() if axis is None else shape[axis]
    if not 1 <= p.top_k <= candidates:
        spec.fail(f"top_k is {p.top_k}; 1 to {candidates}, the number of values searched, are possible")
    return ArgMax(p.top_k, p.out_max_val, axis)


class Softmax(Layer):
    """exp(x) over its sum along ``axis``."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x, self.axis)


@layer("Softmax", bottoms=1, tops=1)
def softmax(spec: LayerSpec) -> Layer:
    return Softmax(spec.axis(spec.params("softmax_param").axis, len(spec.bottom_shapes[0])))
