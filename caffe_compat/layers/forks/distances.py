"""How rows or maps compare with one another: InnerDistance, Pairwise and Gram.

Source: happynear/caffe-windows, ``src/caffe/layers/inner_distance_layer.cpp``, ``pairwise_layer.cpp`` and
``gram_layer.cpp``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..autograd import Context
from ..bvlc.loss import class_labels
from ..precision import widened

__all__ = ["Gram", "InnerDistance", "Pairwise"]

_WINDOWS, _WU = "happynear/caffe-windows", "GuohongWu/caffe-windows"
_MASTER, _BNKANG = "happynear/caffe-windows@master", "bnkang/caffe-windows-for-fr"


class _UnevenSlopes(torch.autograd.Function):
    """Distances as they are, with what the forks hand back for absolute differences of rows and centres.

    A row's value above a centre's takes the gradient that arrives, as it should; one below takes -1 instead of its
    negative, for the forks' macro lacks a pair of brackets. So does a centre's; ``learns`` are the pairs that it learns
    from.
    """

    @staticmethod
    def forward(ctx: Context, distances: Tensor, rows: Tensor, centres: Tensor, learns: Tensor) -> Tensor:
        ctx.save_for_backward(rows, centres, learns)
        return distances.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> tuple[None, Tensor, Tensor, None]:
        rows, centres, learns = ctx.saved_tensors
        above, below = rows[:, None] > centres, rows[:, None] < centres
        arriving = gradient[:, :, None]
        by_row = torch.where(above, arriving, 0) - below.to(gradient.dtype)
        by_centre = torch.where(below, arriving, 0) - above.to(gradient.dtype)
        return None, by_row.sum(1), (by_centre * learns[:, :, None]).sum(0), None


class InnerDistance(Layer):
    """Squared distances of rows from centres, (N, ..., centres); with ``absolute`` sums of absolute differences.

    Bottoms: x, flattened from ``axis`` on; the centres (rows of a blob without one), and labels if ``own_only``: then
    only the centre of its own class learns from an example.

    Args:
        normalized: every pass first makes the centres 1 long, of the blob only.
        as_caffe: the forks' gradient, which for absolute differences is not the derivative.
    """

    weight: nn.Parameter

    def __init__(self, axis: int, *, absolute: bool, own_only: bool, normalized: bool, as_caffe: bool) -> None:
        super().__init__()
        self.axis = axis
        self.absolute = absolute
        self.own_only = own_only
        self.normalized = normalized
        self.as_caffe = as_caffe

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        if self.normalized:
            with torch.no_grad():
                self.weight.div_((self.weight.square().sum(1, keepdim=True) + 1e-6).sqrt())
        rows = widened(x).flatten(self.axis).flatten(0, -2)
        # A copy of the blob, for the next pass may change it before the gradient of this one is asked for.
        centres = widened(more[0].flatten(1) if more else self.weight.clone())
        learns = torch.ones(1, 1, device=x.device)
        if self.own_only:
            index = class_labels(more[1].flatten(), len(centres), None, self.layer_name)[0][:, None]
            learns = (torch.arange(len(centres), device=x.device) == index).to(rows.dtype)
        if self.absolute and self.as_caffe:
            fixed = self._distances(rows.detach(), centres.detach())
            top = _UnevenSlopes.apply(fixed, rows, centres, learns.expand(len(rows), len(centres)))
        elif self.own_only and self.as_caffe:
            # Rows learn from all centres, a centre from its own rows.
            mine = self._distances(rows.detach(), centres) * learns
            top = self._distances(rows, centres.detach()) + (mine - mine.detach())
        else:
            top = self._distances(rows, centres)
        return top.reshape(*x.shape[: self.axis], -1).to(x.dtype)

    def _distances(self, rows: Tensor, centres: Tensor) -> Tensor:
        if self.absolute:
            return torch.cdist(rows, centres, p=1)
        return torch.cdist(rows, centres, compute_mode="donot_use_mm_for_euclid_dist").square()


@layer("InnerDistance", bottoms=(1, 3), tops=1, dialects=(_WINDOWS, _WU, "imistyrain/ssd"), unforced=(2,))
def inner_distance(spec: LayerSpec) -> Layer:
    params, count = spec.params("inner_distance_param"), len(spec.bottoms)
    params.ignore("bias_term", "bias_filler")  # which the forks do not read
    shape = spec.bottom_shapes[0]
    axis = spec.axis(params.axis, len(shape))
    if axis == 0:
        spec.fail("axis 0 leaves no rows; 1 was expected")
    if params.transpose:
        spec.fail("transpose: true is not supported: the forks then take the blob for one that is not transposed")
    if params.distance_type not in ("L1", "L2"):
        spec.fail(f"distance_type {params.distance_type!r} must be L1 or L2")
    if params.update_center_only != (count == 3):
        spec.fail(
            f"has {count} bottoms and update_center_only: {str(params.update_center_only).lower()}; with it, rows, "
            "centres and labels were expected, and no labels without it"
        )
    inputs = math.prod(shape[axis:])
    module = InnerDistance(
        axis,
        absolute=params.distance_type == "L1",
        own_only=params.update_center_only,
        normalized=params.normalize if count == 1 else False,
        as_caffe=spec.gradients == "caffe",
    )
    if count > 1:
        params.ignore("num_output", "weight_filler", "normalize")  # of a blob
        spec.shaped(1, "centres > 0", inputs, ones=True)
    else:
        if params.num_output < 1:
            spec.fail(f"num_output is {params.num_output}; the number of centres was expected")
        module.blob("weight", (params.num_output, inputs), params.weight_filler)
    if count == 3:
        spec.as_many(2, shape[:axis], "a label for each row")
    return module


class Pairwise(Layer):
    """Every row of a (M, C) with every one of b (N, C): their sum, product or maximum, (M, N, C).

    Args:
        operation: ``SUM``, ``PROD`` or ``MAX``. coefficients: of a and b in a sum.
    """

    def __init__(self, operation: str, coefficients: tuple[float, ...]) -> None:
        super().__init__()
        self.operation = operation
        self.coefficients = coefficients

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = a.flatten(1)[:, None], b.flatten(1)[None]
        if self.operation == "PROD":
            return a * b
        if self.operation == "MAX":
            return torch.where(a > b, a, b)  # of equal values, the second has the gradient
        return self.coefficients[0] * a + self.coefficients[1] * b


@layer("Pairwise", bottoms=2, tops=1, dialects=(_WINDOWS, _WU))
def pairwise(spec: LayerSpec) -> Layer:
    params = spec.params("pairwise_param")
    channels = spec.shaped(0, "rows", "channels", ones=True)[1]
    spec.shaped(1, "rows", channels, ones=True)
    return Pairwise(params.operation, _coefficients(spec, params))


def _coefficients(spec: LayerSpec, params: Params) -> tuple[float, ...]:
    given = tuple(params.coeff)
    if given and (len(given) != 2 or params.operation != "SUM"):
        spec.fail(f"coeff {list(given)} was given for {params.operation}; two are for SUM, and others have none")
    return given or (1.0, 1.0)


class Gram(Layer):
    """Products of a map's channels, (N, C, C, 1): x x^T by the number of channels and pixels.

    bnkang/caffe-windows-for-fr hands back only the half of the gradient from rows, the diagonal twice (``halved``).
    """

    def __init__(self, *, halved: bool = False) -> None:
        super().__init__()
        self.halved = halved

    def forward(self, x: Tensor) -> Tensor:
        maps = widened(x).flatten(2)
        other = maps
        if self.halved:
            other = maps.detach()
        top = maps @ other.transpose(1, 2) / (maps.shape[1] * maps.shape[2])
        if self.halved:
            # The diagonal's gradient once more.
            more = (maps * other).sum(2) / (maps.shape[1] * maps.shape[2])
            top = top + torch.diag_embed(more - more.detach())
        return top[..., None].to(x.dtype)


@layer("Gram", bottoms=1, tops=1, dialects=(_WINDOWS, _MASTER, _WU))
def gram(spec: LayerSpec) -> Layer:
    spec.images(pixels=True)
    return Gram()


@layer("Gram", bottoms=1, tops=1, dialects=(_BNKANG,), verified=False)
def gram_of_bnkang(spec: LayerSpec) -> Layer:
    spec.images(pixels=True)
    return Gram(halved=spec.gradients == "caffe")
