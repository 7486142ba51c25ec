"""The inference form of a net: the same outputs from fewer and faster steps.

What is done to the net is a list of passes (:mod:`caffe_compat.inference.passes`), which can be chosen by name:

>>> import caffe_compat
>>> net = caffe_compat.load("reference_outputs/formats/v1net.prototxt", seed=1)
>>> print(*net.optimize().passes, sep=", ")
drop-idle (1), fold-affine (0), join-sum (0), join-relu (1), pack-weights (3), winograd (0), record (6)
>>> print(*net.optimize(["fold-affine", "drop-idle"]).passes, sep=", ")
drop-idle (1), fold-affine (0)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..errors import UsageError
from ..network.running import ProgramNet
from .choice import Choice
from .engines import TORCH
from .modules import group_module
from .passes import BFLOAT16, PASSES, Pass, PassRun, rewrite
from .plan import Plan
from .processor import has_bfloat16, processor
from .recording import Recordings
from .reduced import Reduced

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
        reduced: the precision that it computes in where that is not the net's own, and what that costs.
    """

    passes: tuple[PassRun, ...] = ()
    engine: str = TORCH
    choice: Choice | None = None
    reduced: Reduced | None = None

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
    that was done is portable. On a GPU it plays back what it recorded (:mod:`caffe_compat.inference.recording`), for
    which the first run with inputs of other shapes takes longer; hooks that are put on its modules later do not run.
    """

    def __init__(self, net: ProgramNet, passes: Sequence[Pass]) -> None:
        super().__init__()
        self.randomness, self.files = net.randomness, net.files
        self.warnings, self.notes = list(net.warnings), list(net.notes)
        plan = Plan(net)
        self.passes: tuple[PassRun, ...] = rewrite(plan, passes)
        self.program = plan.program()
        self._recordings = Recordings() if self.program.detached and any(g.recorded for g in plan.groups) else None
        # What it takes and gives, whatever it computes in.
        self._given = net.device_and_dtype()[1] if plan.reduced else None
        # One memo for all: tensors that layers share stay shared. What a net draws from and writes to is not copied.
        memo: dict[int, object] = {id(net.randomness): net.randomness, id(net.files): net.files}
        for group in plan.groups:
            self.add_module(group.nodes[0].module_name, group_module(plan, group, memo))
        self.requires_grad_(False)
        self.train(False)

    @property
    def recorded(self) -> list[str]:
        """The steps that runs so far have recorded as CUDA graphs, as the first and the last of each recording."""
        return [] if self._recordings is None else self._recordings.there

    def device_and_dtype(self) -> tuple[torch.device, torch.dtype]:
        device, dtype = super().device_and_dtype()
        return device, self._given or dtype

    def _execute(self, values: list[Tensor | None], *, keep: bool) -> list[Tensor | None]:
        recordings, device = self._recordings, self.device_and_dtype()[0]
        if recordings is None or keep or not _can_record(device, [values[v] for v in self.program.inputs]):
            values = super()._execute(values, keep=keep)
        else:
            values = recordings.execute(self.program, self, values, device)
            self.notes += recordings.refused
            recordings.refused.clear()
        if self._given is None:
            return values
        return [x.to(self._given) if x is not None and x.dtype == torch.bfloat16 else x for x in values]

    def _apply(self, fn: Any, recurse: bool = True) -> FusedNet:
        """Refuses to be cast where it computes in two precisions."""
        if self._given is not None and fn(torch.zeros((), dtype=torch.float32)).dtype != torch.float32:
            raise UsageError("a net with bfloat16 inside cannot be cast; cast the net that optimize() was called on")
        super()._apply(fn, recurse)
        if self._recordings is not None:
            self._recordings = Recordings()  # what was recorded reads the weights where they were
        return self

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, passes: {', '.join(map(str, self.passes))}"

    def state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse("has no state_dict: its weights could be taken for the layers' own")


def _can_record(device: torch.device, inputs: Sequence[Tensor | None]) -> bool:
    """Whether a run is one of CUDA alone, that nobody else traces, records or casts."""
    return (
        device.type == "cuda"
        and all(x is None or x.device == device for x in inputs)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cuda")
        and not torch.cuda.is_current_stream_capturing()
    )


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


def reduce(net: ProgramNet) -> FusedNet:
    """As :func:`optimize`, with convolutions and inner products in bfloat16; what it gives is float32.

    Raises:
        UsageError: the processor has no bfloat16, or the net is not in single precision.
    """
    device, dtype = net.device_and_dtype()
    if dtype != torch.float32:
        raise UsageError(f"dtype bfloat16 is for nets in float32; this one is {dtype}")
    if not has_bfloat16(device):
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
        raise UsageError(
            f"dtype bfloat16: this processor ({where}) does not compute in it, and would be slower; leave dtype out"
        )
    return optimize(net, (*PASSES, BFLOAT16))


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
