"""Layers of MyCaffe, Caffe written anew in C#: what it made of BVLC's. Source: MyCaffe/MyCaffe, ``MyCaffe/layers``."""

from __future__ import annotations

import copy
import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ...network.registry import Layer, LayerSpec, layer
from ...schema.messages import FillerParameter
from ...schema.params import Params
from ..autograd import Context
from ..bvlc.inner_product import inner_product, rows_of
from ..bvlc.recurrent import lstm

__all__ = ["NoisyInnerProduct"]

_FORK = "MyCaffe/MyCaffe"


class _NoisyProduct(torch.autograd.Function):
    """x (weight + noise)^T, with MyCaffe's gradient: what reaches x comes through ``weight`` alone."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor, noise: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight + noise)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        by_weight = slope.flatten(0, -2).T @ x.flatten(0, -2)
        return slope @ weight, by_weight, by_weight


class NoisyInnerProduct(Layer):
    """In training x (weight + sigma_weight e)^T + bias + sigma_bias e'; in use what InnerProduct is.

    Each value of e and e' is drawn evenly between -1 and 1: MyCaffe's trainers draw when they want to, here every
    iteration does. Blobs ``weight`` (O, K), ``bias`` (O,), ``sigma_weight`` (O, K), ``sigma_bias`` (O,), the biases
    only if there are any. The first two start at what their fillers draw over sqrt(K), the others at ``sigma_init``
    over sqrt(K), or over sqrt(O) for the bias. ``as_caffe=False`` gives the derivative to x through weight and noise.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    sigma_weight: nn.Parameter
    sigma_bias: nn.Parameter | None

    def __init__(self, axis: int, inputs: int, params: Params, *, as_caffe: bool) -> None:
        super().__init__()
        self.axis = axis
        self.as_caffe = as_caffe
        outputs, part = params.num_output, 1 / math.sqrt(inputs)
        self.blob("weight", (outputs, inputs), _times(params.weight_filler, part, inputs))
        if params.bias_term:
            self.blob("bias", (outputs,), _times(params.bias_filler, part, 1))
        else:
            params.ignore("bias_filler")
            self.register_parameter("bias", None)
        self.blob("sigma_weight", (outputs, inputs), _constant(params.weight_filler, params.sigma_init * part))
        if params.bias_term:
            self.blob("sigma_bias", (outputs,), _constant(params.bias_filler, params.sigma_init / math.sqrt(outputs)))
        else:
            self.register_parameter("sigma_bias", None)

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty((*bottoms[0].shape[: self.axis], self.weight.shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(self.axis)
        if not self.training:
            return F.linear(x, self.weight, self.bias)
        generator = self.randomness.generator(self.layer_name, "cpu")
        noise = self.sigma_weight * _even(self.sigma_weight, generator)
        if self.as_caffe:
            y = _NoisyProduct.apply(x, self.weight, noise)
        else:
            y = F.linear(x, self.weight + noise)
        if self.bias is None or self.sigma_bias is None:
            return y
        return y + (self.bias + self.sigma_bias * _even(self.sigma_bias, generator))


def _even(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Even between -1 and 1."""
    return (2 * torch.rand(like.shape, generator=generator) - 1).to(like)


def _times(filler: Params, part: float, fan_in: int) -> Params:
    """What draws ``part`` times as much as ``filler``, of a blob of which each output has ``fan_in`` values."""
    message = cast("FillerParameter", copy.deepcopy(filler.message))
    filler.ignore(*(descriptor.name for descriptor, _ in message.ListFields()))  # read when it draws
    if message.type == "xavier":
        message.type, message.max = "uniform", math.sqrt(3 / fan_in)
        message.min = -message.max
    for name in ("value", "min", "max", "mean", "std"):
        setattr(message, name, part * getattr(message, name))
    return Params(message, "filler")


def _constant(filler: Params, value: float) -> Params:
    """What fills with ``value``; its message is of the class of ``filler``'s."""
    message = cast("FillerParameter", type(filler.message)())
    message.value = value
    return Params(message, "filler")


@layer("InnerProduct", bottoms=1, tops=1, dialects=(_FORK,))
def inner_product_of_mycaffe(spec: LayerSpec) -> nn.Module:
    params = spec.params("inner_product_param")
    params.ignore("output_contains_predictions")  # a mark for those who look for the output
    params.ignore("bias_grad_scale")  # multiplies the gradient, and divides it again
    if params.min_top_axes > len(spec.bottom_shapes[0][: params.axis]) + 1:
        spec.fail(f"min_top_axes: {params.min_top_axes} is not supported")
    if not params.enable_noise:
        params.ignore("sigma_init")
        return inner_product(spec)
    axis, inputs = rows_of(spec, params)
    if params.transpose:
        spec.fail("transpose is not supported beside enable_noise")
    for filler in (params.weight_filler, params.bias_filler):
        if filler.type not in ("constant", "uniform", "gaussian", "xavier"):
            spec.fail(f"filler {filler.type!r} is not supported beside enable_noise, which multiplies what it draws")
    spec.note("InnerProduct with noise was never compared with outputs of MyCaffe, only built from its source")
    return NoisyInnerProduct(axis, inputs, params, as_caffe=spec.gradients == "caffe")


@layer("Lstm", bottoms=(2, 5), tops=(1, 3), unforced=(1,), dialects=(_FORK,))
def lstm_of_mycaffe(spec: LayerSpec) -> nn.Module:
    """BVLC's LSTM: in MyCaffe the case of a type's name has no bearing."""
    params = spec.params("recurrent_param")
    if params.engine == "CUDNN":
        spec.fail("engine: CUDNN is not supported: its weights are one blob in an order of cuDNN's own")
    # Of cuDNN's layer alone.
    params.ignore("num_layers", "dropout_ratio", "dropout_seed", "bidirectional")
    params.ignore("cudnn_enable_tensor_cores", "use_cudnn_rnn8_if_supported")
    for name in ("batch_first", "auto_repeat_hidden_states_across_layers"):
        if getattr(params, name):
            spec.fail(f"{name}: true is not supported")
    return lstm(spec)
