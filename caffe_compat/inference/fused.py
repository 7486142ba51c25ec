"""A layer together with what follows it, as one module; its weights packed for oneDNN where that is there."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.bvlc.convolution import Convolution
from ..layers.bvlc.inner_product import InnerProduct
from ..network.registry import Shape
from .processor import has_bfloat16
from .winograd import Winograd

__all__ = ["Fused", "has_fused_kernels"]

# How far two sums in half precision may be apart, relative to the largest, for having been rounded once or twice.
_ROUNDING = 0.03


class Fused(nn.Module):
    """``layer``, then the sum with another blob if one is given, then a ReLU if there is a ``slope``.

    Args:
        layer: makes one top from one bottom, in memory of its own. It belongs to this module from now on.
        bottom: the shape to prepare for; others work.
        slope: the ReLU's for negative values.
        packs: on a CPU with oneDNN's fused kernels, a Convolution of images or InnerProduct (float32, or bfloat16 where
            the processor has that) gives its weight up for a copy in the order that the kernels like best; moved
            elsewhere, or to another precision, it takes it back. Such a convolution returns its top with channels last
            in memory, and so does one in half precision on a GPU, where cuDNN may compute it with the sum and the ReLU.
        winograd: there, the convolution, one of 3x3 with stride 1, is computed as
            :mod:`caffe_compat.inference.winograd` says.
        reduced: bottoms of another precision than the weight's are brought to it.
    """

    packed: Tensor | None

    def __init__(
        self,
        layer: nn.Module,
        bottom: Shape,
        slope: float | None,
        *,
        packs: bool,
        winograd: bool,
        reduced: bool = False,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.bottom = bottom
        self.slope = slope
        self.packs, self.uses_winograd, self.reduced = packs, winograd, reduced
        self.in_cudnn = False
        self.register_buffer("packed", None, persistent=False)
        self.winograd: Winograd | None = None
        if packs and isinstance(layer, InnerProduct) and layer.transpose:
            layer.weight = nn.Parameter(layer.weight.detach().t().contiguous(), requires_grad=False)
            layer.transpose = False
        self._pack()

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        if self.reduced:
            x = x.to(torch.bfloat16)
            other = None if other is None else other.to(torch.bfloat16)
        if self.winograd is not None:
            return self._finish(self.winograd(x), other)
        if self.packed is not None:
            return self._run_packed(x, other)
        if self.in_cudnn and (y := self._run_cudnn(x, other)) is not None:
            return y
        return self._finish(self.layer(x), other)

    def _finish(self, y: Tensor, other: Tensor | None) -> Tensor:
        """The rest, in place in memory that nobody else has seen."""
        if other is not None:
            y.add_(other)
        if self.slope is None:
            return y
        return y.relu_() if self.slope == 0 else F.leaky_relu_(y, self.slope)

    def _run_packed(self, x: Tensor, other: Tensor | None) -> Tensor:
        kernels, layer, slope = torch.ops.mkldnn, self.layer, self.slope
        unary: tuple[str, list[float]] = ("none", [])
        if other is None and slope is not None:
            unary = ("relu", []) if slope == 0 else ("leaky_relu", [slope])
        if isinstance(layer, InnerProduct):
            y = kernels._linear_pointwise(x.flatten(layer.axis), self.packed, layer.bias, *unary, "")
        else:
            assert isinstance(layer, Convolution)
            how = (self.packed, layer.bias, layer.pad, layer.stride, layer.dilation, layer.group)
            if other is not None and slope in (None, 0):
                return kernels._convolution_pointwise.binary(
                    x, other, *how, "add", 1.0, None if slope is None else "relu", [], None
                )
            y = kernels._convolution_pointwise(x, *how, *unary, "")
        return y if other is None else self._finish(y, other)

    def _run_cudnn(self, x: Tensor, other: Tensor | None) -> Tensor | None:
        """All in one kernel, or None where cuDNN has none for these sizes."""
        layer = self.layer
        assert isinstance(layer, Convolution)
        how = (layer.bias, layer.stride, layer.pad, layer.dilation, layer.group)
        try:
            if other is None:
                return torch.cudnn_convolution_relu(x, layer.weight, *how)
            other = other.contiguous(memory_format=torch.channels_last)
            return torch.cudnn_convolution_add_relu(x, layer.weight, other, 1, *how)
        except RuntimeError:
            self.in_cudnn = False
            return None

    def _cudnn_agrees(self) -> bool:
        """Whether cuDNN's fused kernels give what the layer gives on an image as it was prepared for."""
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        # Drawn where it is needed: a batch of large images takes the CPU longer than all the rest.
        generator = torch.Generator(weight.device).manual_seed(0)
        x = torch.randn((1, *self.bottom[1:]), generator=generator, device=weight.device).to(weight.dtype)
        with torch.no_grad():
            y = self.layer(x)
            for other in (None, torch.randn(y.shape, generator=generator, device=y.device).to(y.dtype)):
                found = self._run_cudnn(x, other)
                expected = (y if other is None else y + other).relu()
                if found is None or float((found - expected).abs().max()) > _ROUNDING * float(expected.abs().max()):
                    return False
        return True

    def _pack(self) -> None:
        layer = self.layer
        self.in_cudnn = False
        if type(layer) not in (Convolution, InnerProduct) or not (self.packs or self.uses_winograd):
            return
        assert isinstance(layer, (Convolution, InnerProduct))
        weight = layer.weight.detach()
        if self.packs and weight.is_cuda and weight.dim() == 4 and weight.dtype in (torch.float16, torch.bfloat16):
            # The layout in which tensor cores take images; the tops of a convolution follow its weight.
            layer.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
            self.in_cudnn = type(layer) is Convolution and layer.direct and self.slope == 0
            self.in_cudnn = self.in_cudnn and self._cudnn_agrees()
        if weight.device.type != "cpu" or not _can_be_packed(weight.dtype):
            return
        packed = None
        # Where a kernel does not take these sizes, the layer runs as it is.
        with contextlib.suppress(RuntimeError):
            if self.uses_winograd and weight.dtype == torch.float32:
                assert isinstance(layer, Convolution)
                self.winograd = Winograd(weight, layer.bias, layer.pad)
            elif isinstance(layer, InnerProduct):
                if layer.axis > 0:
                    rows = torch.Size(self.bottom[: layer.axis]).numel()
                    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
            elif layer.direct and weight.dim() == 4:
                how = (layer.pad, layer.stride, layer.dilation, layer.group)
                packed = _reorder_convolution_weight(weight, *how, self.bottom)
        if packed is not None:
            self.packed = packed
            layer._parameters["weight"] = None

    def _unpacked(self) -> nn.Module:
        """The layer with its weight."""
        if self.packed is None:
            return self.layer
        layer = copy.copy(self.layer)
        weight = nn.Parameter(self.packed.to_dense(), requires_grad=False)
        layer._parameters = {**layer._parameters, "weight": weight}
        return layer

    def __reduce__(self) -> tuple[object, ...]:
        """For copies and pickles, neither of which packed weights allow.

        The weight goes as an array: a tensor made for the pickle alone would be gone, with the memory that it shares,
        before a spawned process takes it.
        """
        weight = None
        if self.packed is not None:
            plain = self.packed.to_dense()
            weight = (plain.view(torch.int16) if plain.dtype == torch.bfloat16 else plain).numpy()
        how = {"packs": self.packs, "winograd": self.uses_winograd, "reduced": self.reduced}
        return _repacked, (self.layer, weight, self.bottom, self.slope, how)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Fused:
        """Every move and cast of a module goes through here, and packed weights allow neither."""
        self.layer, self.packed, self.winograd = self._unpacked(), None, None
        super()._apply(fn, recurse)
        self._pack()
        return self

    def extra_repr(self) -> str:
        return f"slope={self.slope}, packed={self.packed is not None}, winograd={self.winograd is not None}"


def _repacked(
    layer: nn.Module, weight: np.ndarray | None, bottom: Shape, slope: float | None, how: Mapping[str, bool]
) -> Fused:
    if weight is not None:
        plain = torch.from_numpy(weight)
        # NumPy has no bfloat16.
        plain = plain.view(torch.bfloat16) if plain.dtype == torch.int16 else plain
        layer._parameters["weight"] = nn.Parameter(plain, requires_grad=False)
    return Fused(layer, bottom, slope, **how)


def _can_be_packed(dtype: torch.dtype) -> bool:
    if dtype == torch.bfloat16:
        return has_bfloat16(torch.device("cpu")) and has_fused_kernels()
    return dtype == torch.float32 and has_fused_kernels()


def _reorder_convolution_weight(
    weight: Tensor, pad: Shape, stride: Shape, dilation: Shape, group: int, bottom: Shape
) -> Tensor:
    functions: Any = torch._C._nn  # whose type stubs lack the last argument
    packed: Tensor = functions.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), pad, stride, dilation, group, bottom)
    return packed


@functools.cache
def has_fused_kernels() -> bool:
    """Whether this torch has oneDNN's fused kernels, called as they are here, and they compute what they should.

    They are what torch's own compiler calls, not a documented interface, so a tiny run of each decides.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    kernels: Any = torch.ops.mkldnn
    x, weight, bias, other = draw(2, 3, 5, 7), draw(4, 3, 3, 3), draw(4), draw(2, 4, 5, 7)
    matrix, rows = draw(4, 6), draw(2, 6)
    how = ((1, 1), (1, 1), (1, 1), 1)
    try:
        packed = _reorder_convolution_weight(weight, *how, tuple(x.shape))
        packed_matrix = kernels._reorder_linear_weight(matrix, 2)
        found = (
            kernels._convolution_pointwise(x, packed, bias, *how, "leaky_relu", [0.5], ""),
            kernels._convolution_pointwise.binary(x, other, packed, None, *how, "add", 1.0, "relu", [], None),
            kernels._linear_pointwise(rows, packed_matrix, bias, "relu", [], ""),
            packed.to_dense(),
            packed_matrix.to_dense(),
        )
    except (AttributeError, RuntimeError, TypeError):
        return False
    expected = (
        F.leaky_relu(F.conv2d(x, weight, bias, padding=1), 0.5),
        F.relu(F.conv2d(x, weight, padding=1) + other),
        F.relu(F.linear(rows, matrix, bias)),
        weight,
        matrix,
    )
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(found, expected, strict=True))
