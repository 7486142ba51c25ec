"""InnerProduct of caffe-windows and those that took it over: weights made 1 long, or weights that are a bottom."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..bvlc.inner_product import inner_product
from ..exporting import is_exporting
from ..precision import widened

__all__ = ["InnerProductOfBottoms", "NormalizedInnerProduct"]

_FORKS = (
    "happynear/caffe-windows",
    "GuohongWu/caffe-windows",
    "imistyrain/ssd",
    "openvinotoolkit/training_toolbox_caffe",
)
# What the forks' CPU code adds to a squared length; their GPU code adds 1e-12.
_EPS = 1e-6


class NormalizedInnerProduct(Layer):
    """x weight^T + bias, as InnerProduct's, but every pass first makes each row of the blob ``weight`` 1 long.

    The forks' gradient takes the row for what it then is; ``as_caffe=False`` gives the derivative through its length.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, axis: int, inputs: int, params: Params, *, as_caffe: bool) -> None:
        super().__init__()
        self.axis = axis
        self.as_caffe = as_caffe
        self.blob("weight", (params.num_output, inputs), params.weight_filler)
        self.bias_blob((params.num_output,), params)

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty((*bottoms[0].shape[: self.axis], self.weight.shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        lengths = (self.weight.detach().square().sum(1, keepdim=True) + _EPS).sqrt()
        if is_exporting():  # a program's weights stay what they are
            weight = widened(self.weight / lengths)
        else:
            with torch.no_grad():
                self.weight.div_(lengths)
            # A copy, for the next pass changes the blob, maybe before the gradient of this one is asked for.
            weight = widened(self.weight).clone()
        if not self.as_caffe:
            length = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
            weight = weight / length * length.detach()  # of the same value, with the derivative through the length
        bias = None if self.bias is None else widened(self.bias)
        return F.linear(widened(x).flatten(self.axis), weight, bias).to(x.dtype)


class InnerProductOfBottoms(Layer):
    """x weight^T + bias with the second bottom (O, ...) as weight and the third (O), if there is one, as bias.

    From one pass to the next, the forks add up what arrives at the second bottom, as nobody clears it. That is not
    followed.
    """

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
        return F.linear(x.flatten(self.axis), weight.flatten(1), *(b.flatten() for b in bias))


@layer("InnerProduct", bottoms=(1, 3), tops=1, dialects=_FORKS)
def inner_product_of_forks(spec: LayerSpec) -> nn.Module:
    params, count = spec.params("inner_product_param"), len(spec.bottoms)
    normalized = params.normalize
    if count == 1 and not normalized:
        return inner_product(spec)
    if params.transpose:
        spec.fail("transpose is not supported beside normalize or a bottom with the weights: the forks mix up the axes")
    shape = spec.bottom_shapes[0]
    axis = spec.axis(params.axis, len(shape))
    inputs = math.prod(shape[axis:])
    if count == 1:
        if params.num_output < 1:
            spec.fail(f"num_output is {params.num_output}; it must be at least 1")
        spec.note("InnerProduct with normalize was never compared with outputs of a fork, only built from its source")
        return NormalizedInnerProduct(axis, inputs, params, as_caffe=spec.gradients == "caffe")
    if params.bias_term != (count == 3):
        spec.fail(
            f"has {count} bottoms and bias_term: {str(params.bias_term).lower()}; weights as a second bottom go with "
            "the bias as a third, or with bias_term: false"
        )
    rows = spec.shaped(1, "outputs > 0", ...)
    spec.as_many(1, (rows[0], inputs), "a row of weights for each output")
    if count == 3:
        spec.as_many(2, (rows[0],), "a bias for each output")
    params.ignore("num_output", "weight_filler", "bias_filler", "normalize")  # of blobs
    spec.note(
        "InnerProduct with weights of a bottom was never compared with outputs of a fork, only built from its source"
    )
    return InnerProductOfBottoms(axis)
