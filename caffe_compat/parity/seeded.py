"""A network run on numbers drawn from a seed: to see that it runs, where nothing recorded is at hand."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..network.running import ProgramNet
from .precision import ieee_float32

__all__ = ["run_seeded", "seeded_inputs"]


def seeded_inputs(net: ProgramNet, seed: int = 0) -> dict[str, np.ndarray]:
    """For every input of ``net`` an array of its shape, float32, evenly drawn from -1 to 1."""
    rng = np.random.RandomState(seed)
    return {name: np.asarray(rng.uniform(-1, 1, shape), np.float32) for name, shape in net.input_shapes.items()}


def run_seeded(net: ProgramNet, seed: int = 0) -> dict[str, Tensor]:
    """The outputs of ``net`` for :func:`seeded_inputs`, in IEEE float32; its recurrent state is forgotten."""
    with ieee_float32():
        outputs = net.run(seeded_inputs(net, seed))
    net.reset_state()
    return outputs
