"""What another runtime gives for a reference's inputs, against the reference's blobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..errors import CaffeCompatError, ParityError, UsageError, first_line
from ..formats.hdf5 import Group, is_dataset, members, path_of
from .compare import CaseResult, compare
from .reference import batches_of
from .reference_files import blobs_below, whole_array, whole_or_fingerprint
from .tolerance import Tolerance

__all__ = ["Runner", "ran", "verify_outputs"]

Inputs: TypeAlias = Mapping[str, np.ndarray]
Runner: TypeAlias = Callable[[Sequence[Inputs]], Sequence[Mapping[str, np.ndarray]]]
"""Several runs one after the other: inputs by blob name -> outputs by blob name."""


def verify_outputs(
    run: Runner, reference: Group, inputs: Inputs, tolerance: Tolerance, names: Sequence[str] = ()
) -> list[CaseResult]:
    """Run a file on the inputs of every batch of ``reference`` and compare each output that the reference has.

    Args:
        inputs: arrays by blob name, for references that do not hold them whole; they serve every batch.
        names: of the inputs, if they are known: then they are also looked for among the blobs.

    Raises:
        UsageError: the reference lists no inputs. ParityError: the runtime fails.
    """
    batches = batches_of(reference)
    given = [_inputs(group, inputs, names) for _, group in batches]
    results = []
    for (name, group), found in zip(batches, ran(run, given), strict=True):
        stored = {**blobs_below(group, "blob"), **blobs_below(group, "top")}
        result = CaseResult(name)
        for blob, ours in found.items():
            if blob in stored:
                result.blobs.append(compare(blob, ours, whole_or_fingerprint(stored[blob], blob), tolerance))
            else:
                result.skipped.append(f"{blob}: not in the reference")
        results.append(result)
    return results


def _inputs(group: Group, inputs: Inputs, names: Sequence[str]) -> dict[str, np.ndarray]:
    entries: dict[str, Any] = {name: entry for name, entry in blobs_below(group, "blob").items() if name in names}
    # "input" stands for the only input there is, whatever its name.
    beside = {name: entry for name, entry in members(group).items() if is_dataset(entry)}
    only = beside.pop("input", None) if "input" not in names else None
    entries |= beside | ({names[0]: only} if only is not None and len(names) == 1 else {})
    entries |= blobs_below(group, "bottom")
    recorded = {name: whole_array(entry) for name, entry in entries.items() if not names or name in names}
    given = {name: array for name, array in {**recorded, **inputs}.items() if array is not None}
    if not given:
        raise UsageError(f"{path_of(group)} lists no inputs in bottom/; pass them with --input BLOB=FILE.npy")
    return given


def ran(run: Runner, runs: Sequence[Inputs]) -> Sequence[Mapping[str, np.ndarray]]:
    """What ``run`` gives. Raises ParityError, whatever the runtime raises."""
    try:
        return run(runs)
    except CaffeCompatError:
        raise
    except Exception as error:
        raise ParityError(f"the file cannot be run: {first_line(error)}") from error
