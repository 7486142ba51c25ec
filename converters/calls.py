"""What a file is given in its own runtime, and what the net gives for the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from caffe_compat.network.net import CaffeNet
from caffe_compat.network.registry import Shape
from caffe_compat.parity.precision import ieee_float32
from caffe_compat.parity.reference import recorded_inputs
from caffe_compat.parity.reference_files import open_recorded, pick_group
from caffe_compat.parity.report import Report

from .pixels import Pixels
from .samples import sample_inputs
from .state import AFTER, set_states, states_of

__all__ = ["Call", "calls_of", "inputs_for"]


@dataclass(frozen=True)
class Call:
    """What is given to a file, and what has to come out, by name.

    Attributes:
        fed: what the net was given for ``inputs``: the same, but for pixels, which are preprocessed by now.
        state: what the net's recurrent state was before.
    """

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    fed: Mapping[str, Any]
    state: Mapping[str, torch.Tensor]


def inputs_for(
    net: CaffeNet, report: Report | None, shapes: Mapping[str, Shape] | None = None
) -> tuple[dict[str, np.ndarray], str]:
    """What to try ``net`` on, and what that is: the inputs of the reference it was compared with, else seeded ones.

    Args:
        shapes: of the inputs; by default those the net was built for, and those of a reference only if they are that.
    """
    if report is not None and report.reference and shapes is None:
        with open_recorded(report.reference) as file:
            found = recorded_inputs(net, pick_group(file, report.group))
        if found is not None and all(x.shape == net.input_shapes[name] for name, x in found.items()):
            return found, f"the inputs of {report.reference.rpartition('/')[2]}"
    return sample_inputs(net, shapes), "seeded inputs"


def calls_of(net: CaffeNet, given: Mapping[str, np.ndarray], *, pixels: Pixels | None, state: str) -> list[Call]:
    """What a file of ``net`` has to reproduce: two runs where there is state that goes on, else one.

    Args:
        given: inputs of the net. pixels, state: as the file was asked for.
    """
    inputs = dict(given)
    fed: dict[str, Any] = dict(given)
    if pixels is not None:
        height, width = pixels.size or (2 * (pixels.resize or (1, 1))[0], 3 * (pixels.resize or (1, 1))[1])
        shape = (len(given[pixels.blob]), height, width, pixels.channels)
        inputs[pixels.blob] = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
        fed[pixels.blob] = pixels.apply(torch.from_numpy(inputs[pixels.blob]))
    net.reset_state()
    calls = []
    with ieee_float32(), torch.no_grad():
        for _ in range(2 if states_of(net) and state != "reset" else 1):
            drawn = {}
            if state == "reset":
                net.reset_state()
            elif state == "inputs":
                drawn = {name: _drawn(x, name) for name, x in states_of(net).items()}
                set_states(net, drawn)
            before = {name: x.clone() for name, x in states_of(net).items()}
            outputs = {name: x.float().cpu().numpy() for name, x in net.run(fed).items()}
            if state == "inputs":
                outputs |= {name + AFTER: x.float().cpu().numpy().copy() for name, x in states_of(net).items()}
            given_state = {name: x.cpu().numpy() for name, x in drawn.items()}
            calls.append(Call({**inputs, **given_state}, outputs, dict(fed), before))
    net.reset_state()
    return calls


def _drawn(state: torch.Tensor, name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(name))
    return torch.rand(state.shape, generator=generator).to(state) - 0.5
