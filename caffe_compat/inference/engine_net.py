"""The inference form of a net that another runtime runs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CaffeCompatError, NetworkError, UsageError, first_line
from ..network.program import Program, Step
from ..network.registry import Shape
from .engines import Engine, Session, find_engine
from .optimization import InferenceNet
from .reduced import FLOAT32

if TYPE_CHECKING:
    from ..network.running import ProgramNet

__all__ = ["EngineNet"]

# How many sessions are kept: the last shapes of inputs, such as those of whole batches and of the last one.
_SESSIONS = 2
_STEP = "_runner"


class EngineNet(InferenceNet):
    """A net whose outputs come from another runtime, on the CPU in single precision.

    It is called and run like the net it was made from. Its weights are those of the net, in the same memory, so its
    state dict is the net's; the runtime has made its own of them when it began, so what becomes of them later changes
    nothing. Recurrent state lies in the layers' own buffers, from where it goes into each run. A pickle holds the net,
    and the runtime begins anew where it is read.
    """

    def __init__(self, net: ProgramNet, engine: Engine, dtype: str = FLOAT32) -> None:
        """
        Args:
            net: a net that is nobody else's, as :meth:`CaffeNet.part` gives one. dtype: what the runtime computes in.

        Raises:
            UsageError: the net is not on the CPU in single precision, or the runtime or the processor has no ``dtype``.
            NetworkError: the runtime cannot run it.
        """
        nn.Module.__init__(self)
        if net.device_and_dtype() != (torch.device("cpu"), torch.float32):
            device, own = net.device_and_dtype()
            raise UsageError(f"engine {engine.name} runs nets on the cpu in float32; this one is {own} on {device}")
        self.randomness, self.files = net.randomness, net.files
        self.warnings, self.notes = list(net.warnings), list(net.notes)
        self.engine = engine.name
        runner = _Runner(net, engine.name, dtype)
        program = net.program
        needed = set(program.needed_inputs)
        values = dict(zip(program.input_names, program.inputs, strict=True))
        # An output that is an input stays what was given.
        made = tuple(v for v in program.outputs if v not in program.inputs)
        step = Step(_STEP, tuple(v for name, v in values.items() if name in needed), made)
        self.program = Program.of(
            program.graph,
            program.shapes,
            [step] if made else [],
            outputs=program.outputs,
            detached=True,
            absence=f"is inside {engine.name}; ask the net that optimize() was called on for it",
        )
        for name, module in net.named_children():
            self.add_module(name, module)
        self.requires_grad_(False)
        self.__dict__[_STEP] = runner
        runner.open({name: tuple(net.shapes[values[name]]) for name in runner.inputs})

    def _apply(self, fn: Any, recurse: bool = True) -> EngineNet:
        """Refuses to be moved or cast."""
        raise UsageError(
            f"a net in {self.engine} runs on the cpu in float32; move or cast the net that optimize() was called on, "
            "and optimize that"
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, engine={self.engine}"


class _Runner:
    """The only step of such a net: bottoms to tensors of the outputs. Sessions are opened as shapes come."""

    def __init__(self, net: ProgramNet, engine: str, dtype: str) -> None:
        self._net, self._engine, self._dtype = net, engine, dtype
        names = net.program.needed_inputs
        self.inputs = tuple(names)
        self.outputs = tuple(net.graph.blobs[v] for v in net.program.outputs if v not in net.program.inputs)
        self._sessions: OrderedDict[object, Session] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_sessions": OrderedDict()}

    def open(self, shapes: Mapping[str, Shape]) -> Session:
        """A session for these inputs and as many threads as torch has now, opened now if it is not."""
        threads = torch.get_num_threads()
        key = (threads, *shapes.values())
        if key in self._sessions:
            self._sessions.move_to_end(key)
            return self._sessions[key]
        try:
            session = find_engine(self._engine).opener(self._dtype)(self._net, shapes, threads)
        except CaffeCompatError:
            raise
        except Exception as error:  # whatever a runtime raises
            raise NetworkError(f"{self._engine} cannot run the net: {first_line(error)}") from error
        self._sessions[key] = session
        while len(self._sessions) > _SESSIONS:
            self._sessions.popitem(last=False)
        return session

    def __call__(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        arrays = {}
        for name, x in zip(self.inputs, bottoms, strict=True):
            if x.device.type != "cpu":
                raise UsageError(f"{self._engine} runs on the cpu, and input {name!r} is on {x.device}")
            arrays[name] = x.detach().to(torch.float32).contiguous().numpy()
        session = self.open({name: tuple(x.shape) for name, x in arrays.items()})
        try:
            found = session(arrays)
        except Exception as error:  # whatever a runtime raises
            shapes = ", ".join(f"{name} {list(x.shape)}" for name, x in arrays.items())
            raise NetworkError(f"{self._engine} fails on inputs {shapes}: {first_line(error)}") from error
        return tuple(torch.from_numpy(np.require(found[name], np.float32, ("C", "W"))) for name in self.outputs)
