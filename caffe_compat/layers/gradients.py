"""Gradients that are stated instead of derived: a backward pass of Caffe need not be the derivative of the forward."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .autograd import Context

__all__ = ["with_fixed_gradient", "with_slopes", "without_gradient"]


class _StatedSlopes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, value: Tensor, *terms: Tensor) -> Tensor:
        ctx.save_for_backward(*terms[1::2])
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        found: list[Tensor | None] = [None]
        for i, slope in enumerate(ctx.saved_tensors):
            found += [gradient * slope if ctx.needs_input_grad[1 + 2 * i] else None, None]
        return tuple(found)


def with_slopes(value: Tensor, *terms: tuple[Tensor, Tensor]) -> Tensor:
    """``value``, whose gradient goes to every x of ``terms``, pairs (x, slope), times its slope; and nowhere else.

    All are of one shape.
    """
    if not (torch.is_grad_enabled() and any(x.requires_grad for x, _ in terms)):
        return value.detach()
    flat = [tensor for x, slope in terms for tensor in (x, slope.detach())]
    result: Tensor = _StatedSlopes.apply(value.detach(), *flat)
    return result


class _Shaped(Context, Protocol):
    x: Tensor


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Shaped, value: Tensor, x: Tensor) -> Tensor:
        ctx.x = x.new_zeros(()).expand(x.shape)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: _Shaped, gradient: Tensor) -> tuple[None, Tensor]:
        return None, ctx.x


def without_gradient(value: Tensor, x: Tensor) -> Tensor:
    """``value``, whose gradient by ``x`` is 0: unlike with ``detach``, what comes before still takes part."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return value.detach()
    result: Tensor = _NoGradient.apply(value.detach(), x)
    return result


class _FixedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, value: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, arriving: Tensor) -> tuple[None, Tensor, None]:
        return None, ctx.saved_tensors[0], None


def with_fixed_gradient(value: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
    """``value``, whose gradient by ``x`` is ``gradient`` whatever arrives: of layers that forget to multiply by it."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return value.detach()
    result: Tensor = _FixedGradient.apply(value.detach(), x, gradient.detach())
    return result
