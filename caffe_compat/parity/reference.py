"""References: what a whole model gave in real Caffe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..formats.hdf5 import Group, attribute, is_group, members
from ..network.net import CaffeNet
from ..network.running import ProgramNet
from .cases import blob_of_layer
from .compare import BlobResult, CaseResult, compare
from .precision import ieee_float32
from .reference_files import (
    blobs_below,
    name_of,
    params_below,
    whole_array,
    whole_or_fingerprint,
)
from .tolerance import NET_TOLERANCE, Tolerance

__all__ = ["batches_of", "recorded_inputs", "verify_net"]

# Copies that Caffe makes of a blob with several readers.
_SPLIT = re.compile(r"_split_\d+$")
# Weights are read, not computed.
_OF_WEIGHTS = Tolerance(0.0, 1e-6)


def verify_net(
    net: ProgramNet,
    reference: Group,
    inputs: Mapping[str, np.ndarray] | None = None,
    tolerance: Tolerance = NET_TOLERANCE,
) -> list[CaseResult]:
    """Run ``net`` on the inputs of ``reference`` and compare every blob that both have.

    A reference is a group with ``blob/<name>`` (arrays or fingerprints), or one such group ``batch_<k>`` per batch;
    batches run one after the other with recurrent state carried. Inputs are looked for in ``bottom/``, beside ``blob/``
    and in it. An inference form has folded blobs away and its weights are no longer the file's: neither is compared.

    Args:
        inputs: by name, for references that do not hold them whole; they serve every batch.

    Raises:
        UsageError: no blobs, or an input that is nowhere to be found.
    """
    groups = batches_of(reference)
    was_training = net.training
    net.reset_state()
    try:
        with ieee_float32():
            return [_verify_batch(net, name, group, inputs or {}, tolerance) for name, group in groups]
    finally:
        net.reset_state()
        net.train(was_training)


def recorded_inputs(net: CaffeNet, reference: Group) -> dict[str, np.ndarray] | None:
    """The inputs of the first batch of ``reference``, by blob name; None if it does not hold those needed whole."""
    _, group = batches_of(reference)[0]
    if any(_find_input(net, name, group, {}) is None for name in net.program.needed_inputs):
        return None
    return {name: _input(net, name, group, {}) for name in net.program.needed_inputs}


def batches_of(reference: Group) -> list[tuple[str, Group]]:
    """The groups ``batch_<k>`` in their order, or the one that ``reference`` is."""
    batches = [
        (int(key[6:]), key, entry)
        for key, entry in members(reference).items()
        if re.fullmatch(r"batch_[0-9]{1,9}", key) and is_group(entry)
    ]
    whole = (name_of(reference, str(reference.name).strip("/") or "reference"), reference)
    return [(key, entry) for _, key, entry in sorted(batches, key=lambda batch: batch[0])] or [whole]


def _verify_batch(
    net: ProgramNet, name: str, group: Group, inputs: Mapping[str, np.ndarray], tolerance: Tolerance
) -> CaseResult:
    result = CaseResult(name)
    if isinstance(net, CaffeNet):
        of_weights = _OF_WEIGHTS if net.device_and_dtype()[1] == torch.float32 else tolerance
        for (layer, i), stored in reversed(params_below(group, "param").items()):
            result.blobs.append(_compare_any(f"param/{layer}/{i}", blob_of_layer(net, layer, i), stored, of_weights))
    given = {i: _input(net, i, group, inputs) for i in net.input_names if _is_needed(net, i, group, inputs)}
    values = net.run(given, blobs="all" if len(given) == len(net.input_names) else _computed(net, given))
    stored_blobs = {**blobs_below(group, "blob"), **blobs_below(group, "top")}
    if not stored_blobs:
        stored_blobs = {k: v for k, v in blobs_below(group, "").items() if k not in ("bottom", "param")}
    _compare_blobs(net, values, stored_blobs, result, tolerance)
    return result


def _compare_blobs(
    net: ProgramNet, values: Mapping[str, Tensor], stored: Mapping[str, Any], result: CaseResult, tolerance: Tolerance
) -> None:
    for name, ours in values.items():
        if name in stored:
            result.blobs.append(_compare_any(name, ours, stored[name], tolerance))
        elif name not in net.input_names:
            result.skipped.append(f"{name}: not in the reference")
    for name in stored:
        if name not in values:
            if _SPLIT.search(name):
                continue
            if not isinstance(net, CaffeNet):
                result.skipped.append(f"{name}: folded into another layer")
                continue
            result.blobs.append(BlobResult(name, 0, (), float("inf"), float("inf"), False, "we have no such blob"))


def _compare_any(name: str, ours: Tensor, stored: Any, tolerance: Tolerance) -> BlobResult:
    return compare(name, ours, whole_or_fingerprint(stored, name), tolerance)


def _is_needed(net: ProgramNet, name: str, group: Group, inputs: Mapping[str, np.ndarray]) -> bool:
    return name in net.program.needed_inputs or _find_input(net, name, group, inputs) is not None


def _computed(net: ProgramNet, given: Mapping[str, Any]) -> list[str]:
    left_out = set(net.input_names) - set(given)
    return [name for name in dict.fromkeys(net.graph.blobs) if name not in left_out]


def _input(net: ProgramNet, name: str, group: Group, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    found = _find_input(net, name, group, inputs)
    if found is None:
        raise UsageError(
            f"the reference does not hold input {name!r} whole"
            + (f" (it says: {hint!s})" if (hint := attribute(group, "input")) is not None else "")
            + f"; pass it with --input {name}=FILE.npy"
        )
    shape = net.input_shapes[name]
    per_item = int(np.prod(shape[1:]))
    # Axes of length 1 are often dropped when arrays are recorded.
    fits = found.ndim != len(shape) and shape and per_item and found.size % per_item == 0
    return found.reshape(-1, *shape[1:]) if fits else found


def _find_input(net: ProgramNet, name: str, group: Group, inputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
    if name in inputs:
        return np.asarray(inputs[name], np.float32)
    blobs = blobs_below(group, "blob")
    beside = members(group)
    candidates = [blobs_below(group, "bottom").get(name), beside.get(name), blobs.get(name)]
    if len(net.input_names) == 1:
        candidates.append(beside.get("input"))
    return next((array for entry in candidates if (array := whole_array(entry)) is not None), None)
