"""DeformableConvolution: a convolution whose kernel another part of the network bends."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..autograd import Context
from ..bvlc.convolution import Geometry, kernel_geometry
from ..precision import widened
from .flow import interpolated

__all__ = ["DeformableConvolution"]


class _Context(Context, Protocol):
    layer: DeformableConvolution


class _ForksGradients(torch.autograd.Function):
    """Backward pass of the fork, as far as it stays within its memory."""

    @staticmethod
    def forward(
        ctx: _Context, layer: DeformableConvolution, x: Tensor, moves: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x, moves, weight)
        return layer.combined(layer.taken(x, moves), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, moves, weight = ctx.saved_tensors
        group = ctx.layer.group
        # The kernels always meet the gradient of the first image.
        first = gradient[:1].expand_as(gradient).reshape(len(x), group, -1, x.shape[2] * x.shape[3])
        with torch.enable_grad():
            own, bent = (tensor.detach().requires_grad_() for tensor in (x, moves))
            windows = ctx.layer.taken(own, bent)
        columns = windows.detach().reshape(len(x), group, -1, first.shape[3])
        weights = (first @ columns.transpose(2, 3)).sum(0).reshape(weight.shape)
        to_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[4] else None
        if not ctx.needs_input_grad[1]:
            return None, None, None, weights, to_bias
        kernels = weight.reshape(group, weight.shape[0] // group, -1)
        to_windows = (kernels.transpose(1, 2) @ first).reshape(windows.shape)
        (to_moves,) = torch.autograd.grad(windows, bent, to_windows, retain_graph=True)
        # Of the moves, as many get one as if the kernel were as wide as it is high.
        counted = ctx.layer.parts * 2 * ctx.layer.geometry.kernel[0] ** 2
        to_moves[:, counted:] = 0
        # Of the windows, only as many numbers count as there are channels times kernel elements,
        reached = to_windows.reshape(len(x), -1)
        reached[:, windows.shape[1] * windows.shape[2] :] = 0
        (to_x,) = torch.autograd.grad(windows, own, reached.reshape(windows.shape))
        # and the images' gradients begin as far apart as their moves.
        placed = to_x.new_zeros(to_x.numel())
        for image, part in enumerate(to_x.flatten(1)):
            rest = placed[image * moves[0].numel() :]
            rest[: len(part)] += part[: len(rest)]
        return None, placed.reshape(x.shape), to_moves, weights, to_bias


class DeformableConvolution(Layer):
    """Cross-correlation of maps (N, C, H, W) with ``weight``, plus ``bias``, the places of every kernel moved.

    The second bottom (N, parts x 2 x kernel elements, H, W) has the moves, in cells: for each of ``parts`` groups of
    channels and each element, down and right. Between cells values are bilinear, off the map they are zero, and the
    last column and row go on to the end. ``weight`` is (O, C / group, height, width), ``bias`` (O,).

    The fork's gradients are wrong in several ways, and reproduced: all but that of the bias come from the first image's
    gradient, kernels not square leave moves without one, and the bottom gets it for its first few places alone, at a
    wrong place for all images but the first. What the fork writes behind the end of a blob is lost.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, geometry: Geometry, channels: int, params: Params, gradients: str) -> None:
        super().__init__()
        self.geometry = geometry
        self.group = params.group
        self.parts = params.deformable_group
        self.gradients = gradients
        self.blob("weight", (params.num_output, channels // self.group, *geometry.kernel), params.weight_filler)
        self.bias_blob((params.num_output,), params)

    def infer(self, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        return x.new_empty(x.shape[0], self.weight.shape[0], *x.shape[2:])

    def forward(self, x: Tensor, moves: Tensor) -> Tensor:
        if self.gradients == "true":
            return self.combined(self.taken(x, moves), self.weight, self.bias)
        top: Tensor = _ForksGradients.apply(self, x, moves, self.weight, self.bias)
        return top

    def taken(self, x: Tensor, moves: Tensor) -> Tensor:
        """(N, C, kernel elements, H, W): what each element of the kernel meets."""
        g = self.geometry
        images, channels, height, width = x.shape
        maps = x.reshape(images * self.parts, channels // self.parts, height, width)
        places = widened(moves).reshape(images * self.parts, -1, 2, height, width)
        rows = torch.arange(height, device=x.device)[:, None] - g.pad[0]
        columns = torch.arange(width, device=x.device) - g.pad[1]
        taken = []
        for element in range(places.shape[1]):
            row = rows + element // g.kernel[1] * g.dilation[0] + places[:, element, 0]
            column = columns + element % g.kernel[1] * g.dilation[1] + places[:, element, 1]
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            values = interpolated(maps, torch.where(inside, column, 0), torch.where(inside, row, 0), hold=True)
            taken.append(torch.where(inside[:, None], values, 0).reshape(images, channels, height, width))
        return torch.stack(taken, 2).to(x.dtype)

    def combined(self, windows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The top for :meth:`taken`'s result."""
        images, height, width = windows.shape[0], *windows.shape[3:]
        kernels = weight.reshape(self.group, weight.shape[0] // self.group, -1)
        top = (kernels @ windows.reshape(images, self.group, -1, height * width)).reshape(images, -1, height, width)
        return top if bias is None else top + bias[:, None, None]


# unsky/FPN has a type of this name, too, that does not move anything: it multiplies the bottom itself.
@layer("DeformableConvolution", bottoms=2, tops=1, dialects=("makefile/frcnn",))
def deformable_convolution(spec: LayerSpec) -> Layer:
    params, shape = spec.params("deformable_convolution_param"), spec.images()
    # It chooses between two ways to the same numbers.
    params.ignore("force_nd_im2col")
    geometry = kernel_geometry(spec, params)
    if geometry.axis != 1:
        spec.fail(f"axis {geometry.axis} is not supported; 1, the channels, is")
    channels, outputs, group, parts = shape[1], params.num_output, params.group, params.deformable_group
    if min(outputs, group, parts) < 1 or channels % group or outputs % group or channels % parts:
        spec.fail(
            f"group {group} and deformable_group {parts} must divide the {channels} channels of the bottom, and group "
            f"num_output {outputs}"
        )
    # The fork reads the moves as if they had the size of the top, and demands that they have that of the bottom.
    if geometry.stride != (1, 1) or any(geometry.room(shape[2:])[i] + 1 != shape[2 + i] for i in (0, 1)):
        spec.fail(
            f"kernel {list(geometry.kernel)}, stride {list(geometry.stride)}, pad {list(geometry.pad)} and dilation "
            f"{list(geometry.dilation)} must keep the size of the bottom, {shape[2]} x {shape[3]}"
        )
    moves = parts * 2 * geometry.kernel[0] * geometry.kernel[1]
    spec.shaped(1, f"images = {shape[0]}", f"moves = {moves}", *shape[2:])
    return DeformableConvolution(geometry, channels, params, spec.gradients)
