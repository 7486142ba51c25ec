"""The inference form of a net: the same outputs from fewer and faster steps.

BatchNorm, Scale and Bias are folded into the layer before them, where they alone read what it makes; a ReLU behind it,
and the sum with another blob, run as part of it (:mod:`caffe_compat.inference.fused`); Dropout and Split, which do
nothing in testing, are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..layers.bvlc import activation
from ..layers.bvlc.activation import Power, ReLU
from ..layers.bvlc.batch_norm import BatchNorm
from ..layers.bvlc.convolution import Convolution, Deconvolution
from ..layers.bvlc.dropout import Dropout
from ..layers.bvlc.elementwise import EltwiseMax, EltwiseProduct, EltwiseSum
from ..layers.bvlc.inner_product import InnerProduct
from ..layers.bvlc.pooling import Pooling
from ..layers.bvlc.prelu import PReLU
from ..layers.bvlc.scale import Bias, Scale
from ..layers.bvlc.shape import Concat, Slice, Split
from ..layers.forks.nvidia import NvidiaBatchNorm
from ..network.graph import Node
from ..network.parts import copied_layer
from ..network.program import Program, Step
from ..network.running import ProgramNet
from ..network.sharing import make_own, view_owners
from .fused import Affine, Fused

__all__ = ["InferenceNet", "optimize"]

Kernel: TypeAlias = Convolution | InnerProduct

# Layers are recognised by their exact class: one that a user wrote, or derived, may compute something else.
_KERNELS = (Convolution, Deconvolution, InnerProduct)

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
)


_USE = "use the net that optimize() was called on"
# What a net can do by which its layers can be told apart.
_OF_SINGLE_LAYERS = frozenset(
    (
        *("assign_blob", "blobs_of", "loss", "loss_weights", "materialize", "nodes_with_blobs", "param_groups"),
        *("param_specs", "part"),
    )
)


class RefusedError(UsageError, AttributeError):
    """An attribute that a net has and its inference form has not."""


class InferenceNet(ProgramNet):
    """What :meth:`caffe_compat.CaffeNet.optimize` returns: a copy of a net that can only be run.

    It is called, run, moved and cast like the net it was made from, and gives the same outputs. Blobs that were folded
    away cannot be asked for. Its weights are no longer those of the layers, so they can neither be listed by layer nor
    saved: ``save_checkpoint(net, path, optimized=True)`` stores the net it was made from and the wish to optimize. No
    gradient passes. To compile or export, take the net it was made from.
    """

    def __init__(self, net: ProgramNet) -> None:
        super().__init__()
        self.randomness, self.files = net.randomness, net.files
        self.warnings, self.notes = list(net.warnings), list(net.notes)
        plan = _Plan(net)
        self.program = plan.program()
        # One memo for all: tensors that layers share stay shared. What a net draws from and writes to is not copied.
        memo: dict[int, Any] = {id(net.randomness): net.randomness, id(net.files): net.files}
        for group in plan.groups:
            self.add_module(group.nodes[0].module_name, _built(group, net, memo))
        self.requires_grad_(False)
        self.train(False)

    def optimize(self) -> InferenceNet:
        """Itself: nothing is left to do."""
        return self

    def train(self, mode: bool = True) -> InferenceNet:
        """Refuses to go into training mode."""
        if mode:
            _refuse("cannot be trained")
        super().train(False)
        return self

    def __getattr__(self, name: str) -> Any:
        if name in _OF_SINGLE_LAYERS:
            raise RefusedError(f"the inference form of a net has no {name}; {_USE}")
        return super().__getattr__(name)

    def state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse("has no state_dict: its weights could be taken for the layers' own")

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> NoReturn:
        _refuse("takes no state_dict")


def optimize(net: ProgramNet) -> InferenceNet:
    """The inference form of ``net``, for the device and precision that it has (moving it later works too).

    Raises:
        UsageError: a net of phase TRAIN or in training mode, or without weights. LayerError: a layer that cannot be
            copied.
    """
    if net.graph.state.phase != "TEST":
        raise UsageError("only a net of phase TEST has an inference form; load it with phase='test'")
    if net.training:
        raise UsageError("the net is in training mode, in which layers compute something else; call net.eval() first")
    if any(tensor.is_meta for tensor in (*net.parameters(), *net.buffers())):
        raise UsageError("the net has no weights yet; load them, or call net.materialize() first")
    return InferenceNet(net)


def _refuse(what: str) -> NoReturn:
    raise UsageError(f"the inference form of a net {what}; {_USE}")


# Which layers run together


@dataclass
class _Affine:
    """scale * x + shift: float64, on the CPU, with the axes of x, of size 1 where they do not vary."""

    scale: Tensor
    shift: Tensor

    def then(self, other: _Affine) -> _Affine:
        return _Affine(self.scale * other.scale, self.shift * other.scale + other.shift)


@dataclass
class _Group:
    """A layer and those that it takes along.

    Attributes:
        bottoms, tops: value ids.
        last: the place of its last layer, where all that it reads has been made.
        affine: what is folded in, or all that is computed if the group begins with such a layer.
        other: the value that is added then. slope: of the ReLU behind that. None if there is none.
    """

    nodes: list[Node]
    bottoms: tuple[int, ...]
    tops: tuple[int, ...]
    last: int
    affine: _Affine | None = None
    other: int | None = None
    slope: float | None = None

    @property
    def reads(self) -> tuple[int, ...]:
        return self.bottoms if self.other is None else (*self.bottoms, self.other)


class _Plan:
    """The layers of a net in groups, in execution order; ``aliases`` maps tops that repeat a value to that value."""

    def __init__(self, net: ProgramNet) -> None:
        self.net = net
        self.aliases: dict[int, int] = {}
        self.nodes: list[Node] = []
        for node in net.graph.nodes:
            if node in net.graph.sources:
                continue
            if _does_nothing(_module(net, node)):
                self.aliases.update(dict.fromkeys(node.tops, self._resolved(node.bottoms[0])))
            else:
                self.nodes.append(node)
        self.outputs = {self._resolved(v) for v in net.program.outputs}
        self.bottoms = [tuple(self._resolved(v) for v in node.bottoms) for node in self.nodes]
        self.reads = Counter(v for bottoms in self.bottoms for v in bottoms)
        self.reader = {v: i for i, bottoms in enumerate(self.bottoms) for v in bottoms}
        groups: list[_Group] = []
        taken: set[int] = set()
        for i in range(len(self.nodes)):
            if i not in taken:
                groups.append(self._group(i, taken))
        self.groups = sorted(groups, key=lambda group: group.last)

    def program(self) -> Program:
        """The groups as steps to run."""
        steps = [Step(group.nodes[0].module_name, group.reads, group.tops) for group in self.groups]
        return Program.of(
            self.net.graph,
            self.net.shapes,
            steps,
            outputs=self.net.program.outputs,
            aliases=self.aliases,
            detached=True,
            absence="is folded away; ask the net that optimize() was called on for it",
        )

    def _resolved(self, value: int) -> int:
        return self.aliases.get(value, value)

    def _group(self, i: int, taken: set[int]) -> _Group:
        """The group that begins with layer ``i``: it takes along the only reader of its top, then of that one's top."""
        node, bottoms = self.nodes[i], self.bottoms[i]
        group = _Group([node], bottoms, node.tops, i)
        module = _module(self.net, node)
        if len(bottoms) != 1 or len(node.tops) != 1:
            return group
        if type(module) not in _KERNELS:
            group.affine = _affine_of(module, len(self.net.shapes[node.tops[0]]))
            if group.affine is None:
                return group
        while self.reads[group.tops[0]] == 1 and group.tops[0] not in self.outputs and group.slope is None:
            j = self.reader[group.tops[0]]
            if j in taken or not self._take(group, j):
                break
            taken.add(j)
            group.nodes.append(self.nodes[j])
            group.tops, group.last = self.nodes[j].tops, j
        return group

    def _take(self, group: _Group, j: int) -> bool:
        """Make layer ``j``, which reads the top of ``group``, part of it if that is possible."""
        module, bottoms, top = _module(self.net, self.nodes[j]), self.bottoms[j], group.tops[0]
        if type(module) is ReLU:
            group.slope = module.negative_slope
            return True
        if group.other is not None:
            return False
        if type(module) is EltwiseSum and module.coefficients == (1, 1):
            group.other = bottoms[0] if bottoms[1] == top else bottoms[1]
            return True
        shape = self.net.shapes[top]
        affine = _affine_of(module, len(shape)) if len(bottoms) == 1 else None
        if affine is None:
            return False
        if group.affine is not None:
            affine = group.affine.then(affine)
        first = _module(self.net, group.nodes[0])
        if isinstance(first, Kernel) and not _can_fold(first, affine, len(shape)):
            return False
        group.affine = affine
        return True


def _module(net: ProgramNet, node: Node) -> nn.Module:
    return net.get_submodule(node.module_name)


def _does_nothing(module: nn.Module) -> bool:
    return type(module) is Split or (type(module) is Dropout and module.scale_train)


def _affine_of(module: nn.Module, rank: int) -> _Affine | None:
    """What ``module`` does to its only bottom, of ``rank`` axes; None if that is no scaling and shifting."""

    def along(blob: Tensor, trailing: int) -> Tensor:
        return _exact(blob).reshape((1,) * (rank - blob.dim() - trailing) + tuple(blob.shape) + (1,) * trailing)

    if (type(module) is BatchNorm or type(module) is NvidiaBatchNorm) and module.use_global_stats is not False:
        factor = _exact(module.divisor())
        factor = torch.where(factor == 0, factor, 1 / factor)
        scale = (_exact(module.variance) * factor + module.eps).rsqrt()
        affine = _Affine(along(scale, rank - 2), along(-_exact(module.mean) * factor * scale, rank - 2))
        if module.weight is None or module.bias is None:
            return affine
        return affine.then(_Affine(along(module.weight, rank - 2), along(module.bias, rank - 2)))
    if type(module) is Scale:
        scale = along(module.weight, module.trailing)
        return _Affine(scale, torch.zeros_like(scale) if module.bias is None else along(module.bias, module.trailing))
    if type(module) is Bias:
        shift = along(module.bias, module.trailing)
        return _Affine(torch.ones_like(shift), shift)
    if type(module) is Power and module.power == 1 and module.scale != 0:
        return _Affine(along(torch.tensor(module.scale), 0), along(torch.tensor(module.shift), 0))
    if type(module) is Dropout:
        return _Affine(along(torch.tensor(1 - module.ratio), 0), along(torch.tensor(0.0), 0))
    return None


def _exact(blob: Tensor) -> Tensor:
    return blob.detach().to("cpu", torch.float64)


# Folding


def _can_fold(kernel: Kernel, affine: _Affine, rank: int) -> bool:
    """Whether ``affine`` lies along the channels of the top, of ``rank`` axes, and folding costs no precision.

    No channel's largest weight, and no bias, may leave the range in which its dtype has all its digits, so what is
    infinite or no number does not fit either.
    """
    axis = kernel.geometry.axis if isinstance(kernel, Convolution) else rank - 1
    if any(size != 1 for x in (affine.scale, affine.shift) for i, size in enumerate(x.shape) if i != axis):
        return False
    bounds = torch.finfo(kernel.weight.dtype)
    peaks = _channel_peaks(kernel) * affine.scale.flatten().abs()
    full = (peaks == 0) | ((peaks >= bounds.tiny) & (peaks <= bounds.max))
    return bool(full.all()) and bool((_folded_bias(kernel, affine).abs() <= bounds.max).all())


def _channel_peaks(kernel: Kernel) -> Tensor:
    """The largest absolute weight of each output channel (O,), float64."""
    weight = kernel.weight.detach().abs()
    if isinstance(kernel, Deconvolution):
        peaks = weight.reshape(kernel.group, -1, weight.shape[1], weight[0, 0].numel()).amax((1, 3))
    elif isinstance(kernel, Convolution):
        peaks = weight.flatten(1).amax(1)
    else:
        peaks = weight.amax(0 if kernel.transpose else 1)
    return _exact(peaks).flatten()


def _folded_weight(kernel: Kernel, affine: _Affine) -> Tensor:
    """weight * scale of its output channel, float64."""
    weight = _exact(kernel.weight)
    channels = affine.scale.flatten().expand(_outputs(kernel))
    if isinstance(kernel, Deconvolution):
        # (C, O / group, ...): the bottom's channels are in groups one behind the other, and so are the top's.
        spread = channels.reshape(kernel.group, -1).repeat_interleave(weight.shape[0] // kernel.group, 0)
        return weight * spread.reshape(weight.shape[:2] + (1,) * (weight.dim() - 2))
    if isinstance(kernel, InnerProduct) and kernel.transpose:
        return weight * channels
    return weight * channels.reshape(-1, *[1] * (weight.dim() - 1))


def _folded_bias(kernel: Kernel, affine: _Affine) -> Tensor:
    """bias * scale + shift, float64 (O,)."""
    scale, shift = affine.scale.flatten(), affine.shift.flatten()
    return (shift if kernel.bias is None else _exact(kernel.bias) * scale + shift).expand(_outputs(kernel))


def _outputs(kernel: Kernel) -> int:
    if isinstance(kernel, Deconvolution):
        return kernel.weight.shape[1] * kernel.group
    return kernel.weight.shape[1 if isinstance(kernel, InnerProduct) and kernel.transpose else 0]


# Modules


def _built(group: _Group, net: ProgramNet, memo: dict[int, Any]) -> nn.Module:
    """The module that runs ``group``; its tensors are copies."""
    node = group.nodes[0]
    module = _module(net, node)
    bottom = net.shapes[group.bottoms[0]] if group.bottoms else ()
    if isinstance(module, Kernel) and type(module) in _KERNELS and len(group.bottoms) == 1:
        return Fused(_copied_kernel(module, node, group.affine, memo), bottom, group.slope)
    if group.affine is not None and len(group.nodes) > 1:
        device, dtype = net.device_and_dtype()
        affine = Affine(group.affine.scale.to(dtype).to(device), group.affine.shift.to(dtype).to(device))
        return Fused(affine, bottom, group.slope)
    layer = copied_layer(module, node, memo)
    for blob in view_owners(layer):
        make_own(layer, blob)  # whose it was may be another tensor by now, or none
    if type(module) not in _ANY_LAYOUT:
        layer.register_forward_pre_hook(_in_rows)
    return layer


def _in_rows(module: nn.Module, bottoms: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.contiguous() for x in bottoms)


def _copied_kernel(kernel: Kernel, node: Node, affine: _Affine | None, memo: dict[int, Any]) -> nn.Module:
    """A copy of ``kernel`` with ``affine`` folded in, rounded once. Sharers of its weights are not folded with it."""
    own = dict(memo)

    def like_weight(tensor: Tensor) -> nn.Parameter:
        return nn.Parameter(tensor.to(kernel.weight.dtype).to(kernel.weight.device), requires_grad=False)

    if affine is not None:
        own[id(kernel.weight)] = like_weight(_folded_weight(kernel, affine))
    layer = copied_layer(kernel, node, own)
    if affine is not None:
        layer._parameters["bias"] = like_weight(_folded_bias(kernel, affine))
    return layer
