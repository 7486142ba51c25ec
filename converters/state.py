"""Option ``state``: what becomes of the state that recurrent layers carry from one run to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from torch import Tensor

from caffe_compat.errors import UsageError
from caffe_compat.network.registry import Layer
from caffe_compat.network.running import ProgramNet

__all__ = ["AFTER", "State", "check_state", "set_states", "state_note", "states_of"]

State: TypeAlias = Literal["carry", "inputs", "reset"]
"""``carry``: the file keeps it from run to run, as Caffe does. ``inputs``: it goes in and comes out, by name.
``reset``: every run begins with zeros."""

AFTER = ".next"
"""How the name of a state as an output differs from that as an input: ``lstm1.hidden``, ``lstm1.hidden.next``."""


def states_of(net: ProgramNet) -> dict[str, Tensor]:
    """The state of ``net`` by name (``lstm1.hidden``), in execution order; (streams, values) each."""
    found = {}
    for step in net.program.steps:
        module = net.get_submodule(step.module)
        if isinstance(module, Layer):
            found.update({f"{step.module}.{name}": getattr(module, name) for name in module.carried})
    return found


def set_states(net: ProgramNet, values: Mapping[str, Tensor]) -> None:
    """Make ``values`` the state of ``net``."""
    for name, buffer in states_of(net).items():
        buffer.copy_(values[name])


def check_state(state: str, allowed: Sequence[State]) -> None:
    """Raises UsageError for what is none of ``allowed``."""
    if state not in allowed:
        raise UsageError(f"state {state!r}: one of {', '.join(allowed)} was expected")


def state_note(net: ProgramNet, state: str) -> list[str]:
    """A line that says what becomes of the state; none for a net without any."""
    names = list(states_of(net))
    if not names:
        return []
    listed = ", ".join(names)
    if state == "inputs":
        return [f"recurrent state: {listed} are inputs, and with {AFTER} behind their names outputs, to be given back"]
    if state == "reset":
        return [f"recurrent state: {listed} begin with zeros in every run; state=inputs lets a caller carry them on"]
    return [f"recurrent state: {listed} carry on from run to run"]
