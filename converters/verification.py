"""Whether a file that was just written gives, in its own runtime, what the net gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from caffe_compat.errors import CaffeCompatError, ParityError, first_line
from caffe_compat.network.net import CaffeNet
from caffe_compat.parity.compare import BlobResult, compare
from caffe_compat.parity.report import Report
from caffe_compat.parity.tolerance import LAYER_TOLERANCE, Tolerance

from .calls import Call, calls_of, inputs_for
from .dynamic import Axes, other_shapes
from .layerwise import layer_by_layer
from .overwritten import OVERWRITTEN
from .pixels import Pixels
from .registry import Target
from .state import states_of

__all__ = ["TOLERANCES", "Verification", "verified"]

TOLERANCES = {
    "float32": Tolerance(1e-7, 1e-4),
    "float16": Tolerance(1e-4, 5e-2),
    "bfloat16": Tolerance(1e-3, 1e-1),
}
"""How far the outputs of a file may be off, by the precision of its weights: what rounding adds up to in deep nets."""
_LAYER_TOLERANCES = {**TOLERANCES, "float32": LAYER_TOLERANCE}


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
        apart: the output that is further off, because rounding decides in the net; then everything else tells of its
            layers one by one, each given what the file has (:mod:`.layerwise`). Empty where outputs agree.
    """

    runtime: str
    inputs: str
    runs: int
    blobs: int
    worst_blob: str
    worst_abs: float
    worst_rel: float
    apart: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data for a file's metadata."""
        return asdict(self)


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

    Where an output departs, so may a layer; if none does, rounding has decided something, which is recorded.

    Raises:
        ParityError: it fails or departs; nothing is to be written then.
    """
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
        made = target.run_beside(path, [call.inputs for call in calls], net.state_dict())
    except CaffeCompatError:
        raise
    except Exception as error:  # whatever the runtime raises
        raise ParityError(f"{target.runtime()} cannot run what was written: {first_line(error)}") from error
    results = [r for call, found in zip(calls, made, strict=True) for r in _compared(call, found, tolerance)]
    bad = next((result for result in results if not result.passed), None)
    if bad is not None:
        departs = (
            f"not written: in {target.runtime()}, {bad.name} departs from the net: "
            f"{bad.problem or f'off by {bad.max_rel:.1e} of the largest value'}"
        )
        missing = any(_output(call, found, bad.name) is None for call, found in zip(calls, made, strict=True))
        if as_it_is or missing:  # which no rounding explains
            raise ParityError(departs)
        try:
            results = layer_by_layer(target, net, settings, calls, _LAYER_TOLERANCES[dtype])
        except CaffeCompatError as error:
            raise ParityError(f"{departs}; {error.detail}", layer=error.layer, type=error.type) from error
    worst = max(results, key=lambda result: result.max_rel)
    largest = max(result.max_abs for result in results)
    return Verification(
        target.runtime(),
        origin,
        len(calls),
        len(results),
        worst.name,
        float(largest),
        float(worst.max_rel),
        bad.name if bad is not None else "",
    )


def _compared(call: Call, found: Mapping[str, np.ndarray], tolerance: Tolerance) -> Sequence[BlobResult]:
    return [compare(name, _output(call, found, name), expected, tolerance) for name, expected in call.outputs.items()]


def _output(call: Call, found: Mapping[str, np.ndarray], name: str) -> np.ndarray | None:
    """What a file made of the output ``name``, or of what it calls so because an input has the name."""
    return found.get(name, found.get(name + OVERWRITTEN) if name in call.inputs else None)
