"""Inputs that a layer writes over, in formats whose inputs and outputs may not share a name."""

from __future__ import annotations

from caffe_compat.network.running import ProgramNet

__all__ = ["OVERWRITTEN", "overwritten", "overwritten_note"]

OVERWRITTEN = "/after"
"""What is put behind the name of an input for what the input holds in the end: ``data``, ``data/after``."""


def overwritten(net: ProgramNet) -> list[str]:
    """Names of outputs that are inputs too, and hold something else by then: the last layer works in place on them."""
    program, blobs = net.program, net.program.graph.blobs
    return [blobs[v] for v in program.outputs if v not in program.inputs and blobs[v] in program.input_names]


def overwritten_note(net: ProgramNet) -> list[str]:
    """A line for each of those outputs that says how it is called; none where there are none."""
    names = overwritten(net)
    return [f"output {name} writes over the input {name}; the file calls it {name}{OVERWRITTEN}" for name in names]
