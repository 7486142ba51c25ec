"""Inner products with a margin for one's own class: LargeMarginInnerProduct, MarginInnerProduct and LabelSpecificAdd.

Source: wy1iu/LargeMargin_Softmax_Loss and wy1iu/sphereface,
``src/caffe/layers/largemargin_inner_product_layer.cpp`` and
``margin_inner_product_layer.cpp`` (Liu et al., 2016 and 2017); happynear/caffe-windows, ``label_specific_add.cpp``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..autograd import Context
from ..bvlc.loss import class_labels
from ..precision import widened

__all__ = ["LabelSpecificAdd", "LargeMarginInnerProduct", "MarginInnerProduct"]

_WINDOWS, _WU, _PRIV = "happynear/caffe-windows", "GuohongWu/caffe-windows", "soeaver/py-RFCN-priv"

# What is added to the product of two lengths that is divided by.
_LEAST_LENGTH = 1e-9


def _double(cos: Tensor) -> tuple[Tensor, Tensor]:
    return 2 * cos.sign() * cos.square() - 1, 4 * cos.sign() * cos


def _triple(cos: Tensor) -> tuple[Tensor, Tensor]:
    side = (cos.abs() - 0.5).sign()
    return side * (4 * cos**3 - 3 * cos) + cos.sign() * (1 + side) - 2, side * (12 * cos.square() - 3)


def _quadruple(cos: Tensor) -> tuple[Tensor, Tensor]:
    square, sign = cos.square(), cos.sign()
    side = sign * (2 * square - 1).sign()
    return side * (8 * square.square() - 8 * square + 1) + 2 * sign + side - 3, side * (32 * cos**3 - 16 * cos)


# By how often the angle is taken: cos(m a), going on downwards where the cosine would rise again, and its slope.
_CURVES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "DOUBLE": _double,
    "TRIPLE": _triple,
    "QUADRUPLE": _quadruple,
}


class _Annealed(Layer):
    """Inner products x w, where that with one's own class is moved towards |x| |w| cos(m a); a is the angle of x and w.

    Bottoms: x (N, ...), labels, and with ``given`` the weights (classes, K). Tops: scores, and how much the plain inner
    product counts against the moved one, base (1 + gamma pass)^-power, at least ``least``; passes are counted from one
    after ``iteration``, in both phases.
    """

    counts = ("passes",)
    weight: nn.Parameter

    def __init__(self, params: Params, axis: int, inputs: int, *, tops: int, given: bool = False) -> None:
        super().__init__()
        self.axis = axis
        self.curve = _CURVES.get(params.type)
        self.base, self.gamma, self.power, self.least = params.base, params.gamma, params.power, params.lambda_min
        self.first = self.passes = params.iteration
        self.with_share = tops > 1
        if not given:
            self.blob("weight", (params.num_output, inputs), params.weight_filler)

    def reset_state(self) -> None:
        self.passes = self.first

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = bottoms[0]
        weight = bottoms[2] if len(bottoms) == 3 else self.weight
        top = x.new_empty(*x.shape[: self.axis], weight.shape[0])
        return (top, x.new_empty(1)) if self.with_share else top

    def share(self) -> float:
        """Of the plain product, at the pass that begins with this call."""
        self.passes += 1
        return max(self.base * (1 + self.gamma * self.passes) ** -self.power, self.least)

    def tops(self, scores: Tensor, x: Tensor, share: float) -> Tensor | tuple[Tensor, Tensor]:
        """What the layer gives for ``scores`` (N, classes)."""
        top = scores.reshape(*x.shape[: self.axis], -1).to(x.dtype)
        return (top, x.new_tensor([share])) if self.with_share else top


class LargeMarginInnerProduct(_Annealed):
    """See :class:`_Annealed`; the gradient is the derivative."""

    def forward(self, x: Tensor, labels: Tensor, *given: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        share = self.share()
        rows, weight = (
            widened(x).flatten(self.axis).flatten(0, -2),
            widened(given[0].flatten(1) if given else self.weight),
        )
        scores = rows @ weight.T
        if self.curve is not None:
            index = class_labels(labels.flatten(), len(weight), None, self.layer_name)[0][:, None]
            own = scores.gather(1, index)
            lengths = torch.linalg.vector_norm(rows, dim=1) * torch.linalg.vector_norm(weight, dim=1)[index[:, 0]]
            lengths = lengths[:, None] + _LEAST_LENGTH
            moved = lengths * self.curve(own / lengths)[0]
            scores = scores.scatter(1, index, (moved + share * own) / (1 + share))
        return self.tops(scores, x, share)


@layer(
    "LargeMarginInnerProduct",
    bottoms=(2, 3),
    tops=(1, 2),
    dialects=("wy1iu/LargeMargin_Softmax_Loss", _WINDOWS, _WU, _PRIV),
    unforced=(1,),
)
def large_margin_inner_product(spec: LayerSpec) -> Layer:
    params = spec.params("largemargin_inner_product_param")
    axis, inputs = _checked(spec, params)
    given = len(spec.bottoms) == 3
    if given:
        params.ignore("num_output", "weight_filler")
        spec.shaped(2, "classes > 0", inputs, ones=True)
    return LargeMarginInnerProduct(params, axis, inputs, tops=len(spec.tops), given=given)


class _MarginGradients(torch.autograd.Function):
    """Scores as they are; to x and the weights goes what the fork says.

    To the weights, as if the scores were plain products. To x, each score's gradient times ``by_weight`` of its weight,
    and of its own class's times ``by_x`` of x itself.
    """

    @staticmethod
    def forward(
        ctx: Context, scores: Tensor, x: Tensor, weight: Tensor, by_weight: Tensor, by_x: Tensor, index: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, weight, by_weight, by_x, index)
        return scores.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> tuple[Any, ...]:
        x, weight, by_weight, by_x, index = ctx.saved_tensors
        own = gradient.gather(1, index) * by_x
        return None, (gradient * by_weight) @ weight + own * x, gradient.T @ x, None, None, None


class MarginInnerProduct(_Annealed):
    """See :class:`_Annealed`; every pass first makes the weights of each class 1 long.

    The fork learns the weights as those of a plain inner product, and the direction of the moved score by x at length
    1 (the squares of its two factors add up to 1).

    Args:
        as_caffe: the fork's gradient; else the derivative, through the lengths too.
    """

    def __init__(self, params: Params, axis: int, inputs: int, *, tops: int, as_caffe: bool) -> None:
        super().__init__(params, axis, inputs, tops=tops)
        self.as_caffe = as_caffe

    def forward(self, x: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        share = self.share()
        with torch.no_grad():
            self.weight.div_(torch.linalg.vector_norm(self.weight, dim=1, keepdim=True))
        # A copy, for the next pass changes the blob, maybe before the gradient of this one is asked for.
        rows, weight = widened(x).flatten(self.axis).flatten(0, -2), widened(self.weight).clone()
        if not self.as_caffe:
            weight = weight / torch.linalg.vector_norm(weight, dim=1, keepdim=True)
        index = class_labels(labels.flatten(), len(weight), None, self.layer_name)[0][:, None]
        with torch.set_grad_enabled(not self.as_caffe and torch.is_grad_enabled()):
            scores = rows @ weight.T
            by_weight, by_x = torch.ones_like(scores), torch.zeros_like(index, dtype=scores.dtype)
            if self.curve is not None:
                length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
                own = scores.gather(1, index)
                cos = own / length
                value, slope = self.curve(cos)
                scores = scores.scatter(1, index, (length * value + share * own) / (1 + share))
                radial = -(cos * slope - value) / length
                size = (slope.square() + radial.square()).sqrt()
                by_weight = by_weight.scatter(1, index, (slope / size + share) / (1 + share))
                by_x = radial / size / (1 + share)
        if self.as_caffe:
            scores = _MarginGradients.apply(scores, rows, weight, by_weight, by_x, index)
        return self.tops(scores, x, share)


@layer(
    "MarginInnerProduct",
    bottoms=2,
    tops=(1, 2),
    dialects=("wy1iu/sphereface", _WINDOWS, _WU, _PRIV),
    unforced=(1,),
)
def margin_inner_product(spec: LayerSpec) -> Layer:
    params = spec.params("margin_inner_product_param")
    axis, inputs = _checked(spec, params)
    return MarginInnerProduct(params, axis, inputs, tops=len(spec.tops), as_caffe=spec.gradients == "caffe")


def _checked(spec: LayerSpec, params: Params) -> tuple[int, int]:
    """The axis from which on values are inputs, and how many inputs there are."""
    shape = spec.bottom_shapes[0]
    axis = spec.axis(params.axis, len(shape))
    if axis == 0:
        spec.fail("axis 0 leaves no examples; 1 was expected")
    spec.as_many(1, shape[:axis], "a label for each example")
    if len(spec.bottoms) == 2 and params.num_output < 1:
        spec.fail(f"num_output is {params.num_output}; the number of classes was expected")
    return axis, math.prod(shape[axis:])


class LabelSpecificAdd(Layer):
    """In training, the score of one's own class plus a bias, where it is above the bias's negative.

    Bottoms: scores (N, ...), labels. A second top has the bias, which may be annealed from pass to pass: base +
    (1 + gamma passes)^power - 1, from ``least`` to ``most``. The gradient passes as it is.
    """

    counts = ("passes",)

    def __init__(self, bias: float, *, tops: int = 1, annealed: tuple[float, ...] = (), passes: int = 0) -> None:
        super().__init__()
        self.bias = bias
        self.with_bias = tops > 1
        self.annealed = annealed
        self.first = self.passes = passes

    def reset_state(self) -> None:
        self.passes = self.first

    def forward(self, x: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        bias = 0.0
        top = x
        if self.training:
            bias = self.bias
            if self.annealed:
                base, gamma, power, least, most = self.annealed
                bias = min(max(base + (1 + gamma * self.passes) ** power - 1, least), most)
                self.passes += not x.is_meta
            rows = x.reshape(x.shape[0], -1)
            index = class_labels(labels.flatten()[: len(rows)], rows.shape[1], None, self.layer_name)[0][:, None]
            raised = (rows.gather(1, index) > -bias).to(x.dtype) * bias
            top = (rows + torch.zeros_like(rows).scatter(1, index, raised)).reshape(x.shape)
        return (top, x.new_tensor([bias])) if self.with_bias else top


@layer(
    "LabelSpecificAdd",
    bottoms=2,
    tops=(1, 2),
    dialects=(_WINDOWS, _WU, "imistyrain/ssd", "yuqj1991/caffe_train"),
    unforced=(1,),
)
def label_specific_add(spec: LayerSpec) -> Layer:
    params = _added(spec)
    annealed: tuple[float, ...] = ()
    if params.has("bias_base"):
        params.ignore("bias")
        annealed = (params.bias_base, params.bias_gamma, params.bias_power, params.bias_min, params.bias_max)
        return LabelSpecificAdd(0, tops=len(spec.tops), annealed=annealed, passes=params.iteration)
    params.ignore("bias_gamma", "bias_power", "bias_min", "bias_max", "iteration")  # of an annealed bias
    return LabelSpecificAdd(params.bias, tops=len(spec.tops))


@layer("LabelSpecificAdd", bottoms=2, tops=1, dialects=("openvinotoolkit/training_toolbox_caffe",), unforced=(1,))
def label_specific_add_of_openvino(spec: LayerSpec) -> Layer:
    """This fork takes the size of the bias away."""
    return LabelSpecificAdd(-abs(_added(spec).bias))


def _added(spec: LayerSpec) -> Params:
    params = spec.params("label_specific_add_param")
    params.ignore("transform_test")  # which the forks heed in training alone
    examples, *_ = spec.shaped(0, "examples > 0", ...)
    spec.vector(1, examples)
    return params
