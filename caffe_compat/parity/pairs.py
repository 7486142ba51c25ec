"""Two models of one's own against each other, where nothing was recorded: before and after a change, two formats."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from ..errors import UsageError
from ..network.running import ProgramNet
from .compare import CaseResult, compare
from .outputs import Runner, ran
from .precision import ieee_float32
from .report import Report
from .seeded import seeded_inputs
from .tolerance import Tolerance

__all__ = ["compare_models"]


def compare_models(
    first: ProgramNet,
    second: ProgramNet | Runner,
    tolerance: Tolerance,
    inputs: Mapping[str, np.ndarray] | None = None,
) -> Report:
    """Run both on the same inputs and compare every blob that both have, in the execution order of ``first``.

    ``first`` takes the place of the reference. Both forget their recurrent state.

    Args:
        second: a net, or what runs a file in another runtime, which gives its outputs alone.
        inputs: arrays by blob name; what is not given is drawn from a seed, evenly from -1 to 1.

    Raises:
        UsageError: inputs that the first has not, or no blob that both have.
    """
    found: Mapping[str, Tensor | np.ndarray]
    given = {**seeded_inputs(first), **(inputs or {})}
    with ieee_float32():
        first.reset_state()
        expected = first.run(given, blobs="all")
        first.reset_state()
        if isinstance(second, ProgramNet):
            second.reset_state()
            found = second.run({name: given[name] for name in second.input_names if name in given}, blobs="all")
            second.reset_state()
        else:
            (found,) = ran(second, [given])
    result = CaseResult("both models")
    for name, blob in expected.items():
        if name in found:
            if name not in given:
                result.blobs.append(compare(name, found[name], blob.float().cpu().numpy(), tolerance))
        elif name in first.output_names:
            result.skipped.append(f"{name}: only the first model has it")
    result.skipped += [f"{name}: only the second model has it" for name in found if name not in expected]
    if not result.blobs:
        raise UsageError(
            f"the models have no blob in common: {', '.join(first.output_names)}; and {', '.join(list(found)[:10])}"
        )
    return Report((result,), device=str(first.device_and_dtype()[0]))
