"""Convolution and pooling over time of C3D: bottoms are (N, C, length, height, width).

Those of its first version are of the first generation (``layers { type: CONVOLUTION3D }``) and keep the names of that;
version 1.1 has the same layers under current names, with messages of their own.
"""

from __future__ import annotations

import itertools
import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..autograd import Context

__all__ = ["Convolution3D", "Deconvolution3D", "Pooling3D"]

_FORK = "facebookarchive/C3D"
_NEXT = "facebookarchive/C3D:C3D-v1.1/src/caffe/proto/caffe.proto"
Triple = tuple[int, int, int]


class Convolution3D(Layer):
    """``weight`` is (outputs, C, depth, size, size), ``bias`` (1, 1, 1, 1, outputs).

    Kernel, stride and pad are given for length, height and width. A backward pass of the fork clears what earlier ones
    added to a gradient, those of ``iter_size`` or of a layer that shares the weight; here they add up, as elsewhere.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self, channels: int, outputs: int, kernel: Triple, stride: Triple, pad: Triple, params: Params
    ) -> None:
        super().__init__()
        self.stride = stride
        self.pad = pad
        self.blob("weight", (outputs, channels, *kernel), params.weight_filler)
        self.bias_blob((1, 1, 1, 1, outputs), params)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.flatten()
        return functional.conv3d(x, self.weight, bias, self.stride, self.pad)


@layer("CONVOLUTION3D", bottoms=1, tops=1, dialects=(_FORK,), verified=False)
def convolution_3d(spec: LayerSpec) -> Layer:
    return _convolution(spec, spec.params("convolution_param"))


@layer("Convolution3D", bottoms=1, tops=1, dialects=(_NEXT,))
def convolution_3d_next(spec: LayerSpec) -> Layer:
    return _convolution(spec, spec.params("convolution3d_param"))


class Deconvolution3D(Layer):
    """``weight`` is (C, outputs, depth, size, size), ``bias`` (1, 1, 1, 1, outputs); see :class:`Convolution3D`."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self, channels: int, kernel: Triple, stride: Triple, pad: Triple, params: Params, *, bias: bool
    ) -> None:
        super().__init__()
        self.stride = stride
        self.pad = pad
        self.blob("weight", (channels, params.num_output, *kernel), params.weight_filler)
        if bias:
            self.blob("bias", (1, 1, 1, 1, params.num_output), params.bias_filler)
        else:
            params.ignore("bias_filler")
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.flatten()
        return functional.conv_transpose3d(x, self.weight, bias, self.stride, self.pad)


@layer("DECONVOLUTION3D", bottoms=1, tops=1, dialects=(_FORK,), verified=False)
def deconvolution_3d_first(spec: LayerSpec) -> Layer:
    params = spec.params("convolution_param")
    params.ignore("group", "filter_group")  # which the fork does not read for this type
    return _deconvolution(spec, params, bias=params.bias_term)


@layer("Deconvolution3D", bottoms=1, tops=1, dialects=(_NEXT,))
def deconvolution_3d(spec: LayerSpec) -> Layer:
    params = spec.params("convolution3d_param")
    # Which the fork does not read for this type; whether there is a bias says the parameter of plane convolutions.
    params.ignore("group", "filter_group", "bias_term")
    return _deconvolution(spec, params, bias=spec.params("convolution_param").bias_term)


def _deconvolution(spec: LayerSpec, params: Params, *, bias: bool) -> Layer:
    shape = spec.volumes()
    kernel, stride = _sizes(spec, params)
    around = _one(spec, params, "pad", 0)
    pad = (params.temporal_pad, around, around)
    sizes = [(n - 1) * s + k - 2 * p for n, k, s, p in zip(shape[2:], kernel, stride, pad, strict=True)]
    if params.num_output < 1 or min(sizes) < 1 or min(shape[2:]) < 1:
        spec.fail(f"num_output {params.num_output}, kernel {list(kernel)} and pad {list(pad)} do not fit {list(shape)}")
    return Deconvolution3D(shape[1], kernel, stride, pad, params, bias=bool(bias))


def _convolution(spec: LayerSpec, params: Params) -> Layer:
    shape = spec.volumes()
    # Only how the filters are dealt out for multiplication; each sees all channels.
    if params.filter_group < 1 or params.num_output % params.filter_group:
        spec.fail(f"filter_group {params.filter_group} does not divide num_output {params.num_output}")
    if params.group != 1:
        spec.warn(f"group {params.group} has no effect in the fork, nor here: each filter sees all channels")
    kernel, stride = _sizes(spec, params)
    around = _one(spec, params, "pad", 0)
    pad = (params.temporal_pad, around, around)
    if params.num_output < 1 or any(n + 2 * p < k for n, k, p in zip(shape[2:], kernel, pad, strict=True)):
        spec.fail(f"num_output {params.num_output}, kernel {list(kernel)} and pad {list(pad)} do not fit {list(shape)}")
    return Convolution3D(shape[1], params.num_output, kernel, stride, pad, params)


class _Context(Context, Protocol):
    kernel: Triple
    stride: Triple


class _LargestToAll(torch.autograd.Function):
    """The largest of each window, whose gradient goes to all that are as large."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
        top = functional.max_pool3d(x, kernel, stride, ceil_mode=True)
        ctx.kernel, ctx.stride = kernel, stride
        ctx.save_for_backward(x, top)
        return top

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, top = ctx.saved_tensors
        kernel, stride = ctx.kernel, ctx.stride
        sizes = x.shape[2:]
        # As far as the last windows reach; what is behind the end equals nothing.
        behind = [(n - 1) * s + k for n, s, k in zip(top.shape[2:], stride, kernel, strict=True)]
        over = [max(reach - size, 0) for reach, size in zip(behind, sizes, strict=True)]
        padded = functional.pad(x, (0, over[2], 0, over[1], 0, over[0]), value=float("nan"))
        result = torch.zeros_like(padded)
        for start in itertools.product(*map(range, kernel)):
            spans = [slice(i, i + (n - 1) * s + 1, s) for i, n, s in zip(start, top.shape[2:], stride, strict=True)]
            at = (slice(None), slice(None), *spans)
            result[at] += torch.where(padded[at] == top, gradient, 0)
        return result[:, :, : sizes[0], : sizes[1], : sizes[2]], None, None


class Pooling3D(Layer):
    """Largest or mean value of each window; windows may reach over the end. Only means are padded, in height and width.

    A mean is that over the window as far as the padding reaches, zeros counting. Of several largest values each gets
    all of the gradient, as in the fork; with ``gradients="true"``, the first.
    """

    def __init__(self, kernel: Triple, stride: Triple, pad: int, *, mean: bool, gradients: str) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride
        self.pad = pad
        self.mean = mean
        self.gradients = gradients

    def forward(self, x: Tensor) -> Tensor:
        if self.mean:
            # torch's mean is also over the window as far as its padding reaches.
            return functional.avg_pool3d(x, self.kernel, self.stride, (0, self.pad, self.pad), ceil_mode=True)
        if self.gradients == "true" or not (torch.is_grad_enabled() and x.requires_grad):
            return functional.max_pool3d(x, self.kernel, self.stride, ceil_mode=True)
        largest: Tensor = _LargestToAll.apply(x, self.kernel, self.stride)
        return largest


@layer("POOLING3D", bottoms=1, tops=1, dialects=(_FORK,), verified=False)
def pooling_3d(spec: LayerSpec) -> Layer:
    return _pooling(spec, spec.params("pooling_param"))


@layer("Pooling3D", bottoms=1, tops=1, dialects=(_NEXT,))
def pooling_3d_next(spec: LayerSpec) -> Layer:
    return _pooling(spec, spec.params("pooling3d_param"))


def _pooling(spec: LayerSpec, params: Params) -> Layer:
    shape = spec.volumes()
    kernel, stride = _sizes(spec, params)
    mean = params.pool == "AVE"
    if not mean and (params.pool != "MAX" or params.pad):
        spec.fail(f"pool {params.pool} with pad {params.pad} is not supported; MAX without and AVE with padding are")
    for n, k, s, p in zip(shape[2:], kernel, stride, (0, params.pad, params.pad), strict=True):
        if n + 2 * p < k or p >= k or 2 * p > k:
            spec.fail(f"a kernel of {list(kernel)} with pad {params.pad} does not fit {list(shape)}")
        # torch leaves out a last window that begins in the padding behind the end, or behind it.
        if math.ceil((n + 2 * p - k) / s) * s >= n + p:
            spec.fail(f"with stride {list(stride)}, a window would begin behind the end of a bottom of {list(shape)}")
    return Pooling3D(kernel, stride, params.pad, mean=mean, gradients=spec.gradients)


def _sizes(spec: LayerSpec, params: Params) -> tuple[Triple, Triple]:
    size, step = _one(spec, params, "kernel_size", 0), _one(spec, params, "stride", 1)
    kernel, stride = (params.kernel_depth, size, size), (params.temporal_stride, step, step)
    if min(*kernel, *stride) < 1:
        spec.fail(f"kernel {list(kernel)} and stride {list(stride)} must be at least 1")
    return kernel, stride


def _one(spec: LayerSpec, params: Params, name: str, default: int) -> int:
    """A field that is repeated in current messages, where the fork has one number for height and width."""
    value = getattr(params, name)
    values = value if isinstance(value, tuple) else (value,)
    if len(values) > 1:
        spec.fail(f"{name} {list(values)} must be one number")
    return values[0] if values else default
