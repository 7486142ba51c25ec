"""A plan's groups as modules, which are copies: nothing of the net is changed."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ..layers.bvlc import activation
from ..layers.bvlc.batch_norm import BatchNorm
from ..layers.bvlc.dropout import Dropout
from ..layers.bvlc.elementwise import EltwiseMax, EltwiseProduct, EltwiseSum
from ..layers.bvlc.pooling import Pooling
from ..layers.bvlc.prelu import PReLU
from ..layers.bvlc.scale import Bias, Scale
from ..layers.bvlc.shape import Concat, Slice, Split
from ..layers.forks.nvidia import NvidiaBatchNorm
from ..network.graph import Node
from ..network.parts import copied_layer
from ..network.sharing import make_own, view_owners
from .affine import AffineMap
from .folding import Kernel, folded_tensors, is_kernel
from .fused import Fused
from .plan import Group, Plan

__all__ = ["group_module"]

# These do not care whether an image's channels come first or last in memory. Other layers are given rows of pixels.
_ANY_LAYOUT = (
    *(getattr(activation, name) for name in activation.__all__),
    BatchNorm,
    Bias,
    Concat,
    Dropout,
    EltwiseMax,
    EltwiseProduct,
    EltwiseSum,
    NvidiaBatchNorm,
    PReLU,
    Pooling,
    Scale,
    Slice,
    Split,
)

# These lose no more digits in bfloat16 than their bottoms have lost. Other layers are given single precision.
_ANY_PRECISION = (activation.ReLU, Concat, Dropout, EltwiseMax, EltwiseSum, Pooling, Slice, Split)


def group_module(plan: Plan, group: Group, memo: dict[int, Any]) -> nn.Module:
    """The module that runs ``group``.

    Args:
        memo: what is not copied, as for :func:`copy.deepcopy`; tensors that layers share stay shared.

    Raises:
        LayerError: a layer that cannot be copied.
    """
    made = _copied(plan, group, memo)
    if group.reduced:
        made = made.to(torch.bfloat16)
    if plan.reduced and not group.reduced and type(made) not in _ANY_PRECISION:
        made.register_forward_pre_hook(_in_single_precision)
    if group.packed or group.winograd or group.reduced or group.other is not None or group.slope is not None:
        bottom = plan.net.shapes[group.bottoms[0]]
        how = {"packs": group.packed, "winograd": group.winograd, "reduced": group.reduced}
        return Fused(made, bottom, group.slope, **how)
    if plan.channels_last and type(made) not in _ANY_LAYOUT:
        made.register_forward_pre_hook(_in_rows)
    return made


def _copied(plan: Plan, group: Group, memo: dict[int, Any]) -> nn.Module:
    module, node = plan.module(group), group.nodes[0]
    if is_kernel(module):
        return _copied_kernel(cast(Kernel, module), node, group.affine, memo)
    if group.affine is not None and len(group.nodes) > 1:
        return group.affine.module(*plan.net.device_and_dtype())
    layer = copied_layer(module, node, memo)
    for blob in view_owners(layer):
        make_own(layer, blob)  # whose it was may be another tensor by now, or none
    return layer


def _copied_kernel(kernel: Kernel, node: Node, affine: AffineMap | None, memo: dict[int, Any]) -> nn.Module:
    """A copy of ``kernel`` with ``affine`` folded in. Sharers of its weights are not folded with it."""
    if affine is None:
        return copied_layer(kernel, node, dict(memo))
    weight, bias = folded_tensors(kernel, affine)
    layer = copied_layer(kernel, node, {**memo, id(kernel.weight): weight})
    layer._parameters["bias"] = bias
    return layer


def _in_single_precision(module: nn.Module, bottoms: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.float() if x.dtype == torch.bfloat16 else x for x in bottoms)


def _in_rows(module: nn.Module, bottoms: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.contiguous() for x in bottoms)
