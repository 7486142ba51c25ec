"""Whether a file that was just written gives, in its own runtime, what the net gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from caffe_compat.errors import CaffeCompatError, ParityError, first_line
from caffe_compat.network.net import CaffeNet
from caffe_compat.network.registry import Shape
from caffe_compat.parity.compare import BlobResult, compare
from caffe_compat.parity.precision import ieee_float32
from caffe_compat.parity.reference import recorded_inputs
from caffe_compat.parity.reference_files import open_recorded, pick_group
from caffe_compat.parity.report import Report
from caffe_compat.parity.tolerance import Tolerance

from .dynamic import Axes, other_shapes
from .pixels import Pixels
from .registry import Target
from .samples import sample_inputs
from .state import AFTER, set_states, states_of

__all__ = ["TOLERANCES", "Call", "Verification", "calls_of", "inputs_for", "verified"]

TOLERANCES = {
    "float32": Tolerance(1e-7, 1e-4),
    "float16": Tolerance(1e-4, 5e-2),
    "bfloat16": Tolerance(1e-3, 1e-1),
}
"""How far the outputs of a file may be off, by the precision of its weights: what rounding adds up to in deep nets."""


@dataclass(frozen=True)
class Call:
    """What is given to a file, and what has to come out, by name."""

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Verification:
    """What a file was compared with in its own runtime.

    >>> from converters import Verification
    >>> Verification("onnxruntime 1.32.0", "seeded inputs", 1, 2, "prob", 1e-8, 1e-7).to_json()["runtime"]
    'onnxruntime 1.32.0'

    Attributes:
        runtime: and its version. inputs: what the net and the file were given.
        runs, blobs: how many times it ran, and how many arrays were compared, all within tolerance.
        worst_blob, worst_abs, worst_rel: the array with the largest relative error, and the largest absolute error.
    """

    runtime: str
    inputs: str
    runs: int
    blobs: int
    worst_blob: str
    worst_abs: float
    worst_rel: float

    def to_json(self) -> dict[str, Any]:
        """Plain data for a file's metadata."""
        return asdict(self)


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
    """What a file of ``net`` has to reproduce: two runs where there is state, else one.

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
        for _ in range(2 if states_of(net) else 1):
            before = {}
            if state == "reset":
                net.reset_state()
            elif state == "inputs":
                before = {name: _drawn(x, name) for name, x in states_of(net).items()}
                set_states(net, before)
            outputs = {name: x.float().cpu().numpy() for name, x in net.run(fed).items()}
            if state == "inputs":
                outputs |= {name + AFTER: x.float().cpu().numpy().copy() for name, x in states_of(net).items()}
            calls.append(Call({**inputs, **{name: x.cpu().numpy() for name, x in before.items()}}, outputs))
    net.reset_state()
    return calls


def _drawn(state: torch.Tensor, name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(name))
    return torch.rand(state.shape, generator=generator).to(state) - 0.5


def verified(
    target: Target,
    net: CaffeNet,
    path: str,
    settings: Mapping[str, Any],
    *,
    axes: Axes,
    pixels: Pixels | None,
    report: Report | None,
) -> Verification:
    """Run the file at ``path`` and compare it with ``net``; where sizes are dynamic, with a larger input, too.

    Raises:
        ParityError: it fails or departs; nothing is to be written then.
    """
    assert target.run is not None
    state = settings.get("state", "carry")
    given, origin = inputs_for(net, report)
    calls = calls_of(net, given, pixels=pixels, state=state)
    if axes:
        larger, _ = inputs_for(net, None, other_shapes(net, axes, 2))
        if states_of(net):
            calls = []  # the state of a net is of one number of streams
        calls += calls_of(net, larger, pixels=pixels, state=state)
    dtype = settings.get("dtype", "float32")
    as_it_is = target.exact and dtype == "float32" and net.device_and_dtype()[0].type == "cpu"
    tolerance = Tolerance(0.0, 0.0) if as_it_is else TOLERANCES[dtype]
    try:
        made = target.run(path, [call.inputs for call in calls])
    except CaffeCompatError:
        raise
    except Exception as error:  # whatever the runtime raises
        raise ParityError(f"{target.runtime()} cannot run what was written: {first_line(error)}") from error
    results = [r for call, found in zip(calls, made, strict=True) for r in _compared(call, found, tolerance)]
    bad = next((result for result in results if not result.passed), None)
    if bad is not None:
        raise ParityError(
            f"not written: in {target.runtime()}, {bad.name} departs from the net: "
            f"{bad.problem or f'off by {bad.max_rel:.1e} of the largest value'}"
        )
    worst = max(results, key=lambda result: result.max_rel)
    largest = max(result.max_abs for result in results)
    return Verification(
        target.runtime(), origin, len(calls), len(results), worst.name, float(largest), float(worst.max_rel)
    )


def _compared(call: Call, found: Mapping[str, np.ndarray], tolerance: Tolerance) -> Sequence[BlobResult]:
    return [compare(name, found.get(name), expected, tolerance) for name, expected in call.outputs.items()]
