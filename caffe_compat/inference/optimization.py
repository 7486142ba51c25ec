"""The inference form of a net: the same outputs from fewer and faster steps.

What is done to the net is a list of passes (:mod:`caffe_compat.inference.passes`), which can be chosen by name:

>>> import caffe_compat
>>> net = caffe_compat.load("reference_outputs/formats/v1net.prototxt", seed=1)
>>> print(*net.optimize().passes, sep=", ")
drop-idle (1), fold-affine (0), join-sum (0), join-relu (1), pack-weights (3), winograd (0)
>>> print(*net.optimize(["fold-affine", "drop-idle"]).passes, sep=", ")
drop-idle (1), fold-affine (0)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ..errors import UsageError
from ..network.running import ProgramNet
from .choice import Choice
from .engines import TORCH
from .modules import group_module
from .passes import PASSES, Pass, PassRun, rewrite
from .plan import Plan

__all__ = ["FusedNet", "InferenceNet", "check_optimizable", "optimize"]

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

    It is called and run like the net it was made from, and gives the same outputs. Blobs that were folded away cannot
    be asked for. It cannot be saved: ``save_checkpoint(net, path, optimized=True)`` stores the net it was made from and
    the wish to optimize. To compile or export, take the net it was made from.

    Attributes:
        passes: what was done to the net, in order; nothing where another runtime does it.
        engine: the runtime that runs it. choice: what was measured, if it was chosen for being the fastest.
    """

    passes: tuple[PassRun, ...] = ()
    engine: str = TORCH
    choice: Choice | None = None

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

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> NoReturn:
        _refuse("takes no state_dict")


class FusedNet(InferenceNet):
    """The form that torch runs: layers folded and fused, on any device and in any precision; it can be moved and cast.

    Its weights are no longer those of the layers, so they cannot be listed by layer. No gradient passes, unless all
    that was done is portable.
    """

    def __init__(self, net: ProgramNet, passes: Sequence[Pass]) -> None:
        super().__init__()
        self.randomness, self.files = net.randomness, net.files
        self.warnings, self.notes = list(net.warnings), list(net.notes)
        plan = Plan(net)
        self.passes: tuple[PassRun, ...] = rewrite(plan, passes)
        self.program = plan.program()
        # One memo for all: tensors that layers share stay shared. What a net draws from and writes to is not copied.
        memo: dict[int, object] = {id(net.randomness): net.randomness, id(net.files): net.files}
        for group in plan.groups:
            self.add_module(group.nodes[0].module_name, group_module(plan, group, memo))
        self.requires_grad_(False)
        self.train(False)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, passes: {', '.join(map(str, self.passes))}"

    def state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse("has no state_dict: its weights could be taken for the layers' own")


def optimize(net: ProgramNet, passes: Sequence[Pass] = PASSES) -> FusedNet:
    """The inference form of ``net``, for the device and precision that it has (moving it later works too).

    Args:
        passes: what is done. After those of :data:`~caffe_compat.inference.passes.PORTABLE`, which exporters use, every
            module is a layer or a plain scaling, and gradients pass to the inputs.

    Raises:
        UsageError: a net of phase TRAIN or in training mode, or without weights. LayerError: a layer that cannot be
            copied.
    """
    check_optimizable(net)
    return FusedNet(net, passes)


def check_optimizable(net: ProgramNet) -> None:
    """Raises UsageError for a net of phase TRAIN or in training mode, or without weights."""
    if net.graph.state.phase != "TEST":
        raise UsageError("only a net of phase TEST has an inference form; load it with phase='test'")
    if net.training:
        raise UsageError("the net is in training mode, in which layers compute something else; call net.eval() first")
    if any(tensor.is_meta for tensor in (*net.parameters(), *net.buffers())):
        raise UsageError("the net has no weights yet; load them, or call net.materialize() first")


def _refuse(what: str) -> NoReturn:
    raise UsageError(f"the inference form of a net {what}; {_USE}")
