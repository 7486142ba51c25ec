"""Any number of items through a net that takes a fixed number of them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UsageError

__all__ = ["count_of", "joined", "pieces"]


def count_of(arrays: Mapping[str, Any]) -> int:
    """How many items the arrays hold."""
    lengths = {name: len(values) for name, values in arrays.items()}
    if not lengths or len(set(lengths.values())) != 1 or 0 in lengths.values():
        found = ", ".join(f"{name} has {n}" for name, n in lengths.items()) or "none were given"
        raise UsageError(f"arrays of one and the same length were expected; {found}")
    return next(iter(lengths.values()))


def joined(batches: Sequence[Mapping[str, np.ndarray]], count: int) -> dict[str, np.ndarray]:
    """The batches one after the other, without what filled up the last; a blob without axes gives a value per batch."""
    out = {}
    for name in batches[0]:
        rows = np.concatenate([np.atleast_1d(batch[name]) for batch in batches])
        per_item = all(batch[name].ndim for batch in batches)
        out[name] = rows[:count] if per_item else rows
    return out


def pieces(arrays: Mapping[str, Any], size: int) -> list[dict[str, Any]]:
    """The arrays in batches of ``size``, the last one filled up with zeros."""
    if not arrays:
        return []
    batches = []
    for at in range(0, count_of(arrays), size):
        batch: dict[str, np.ndarray] = {}
        for name, values in arrays.items():
            rows = np.asarray(values)[at : at + size]
            missing = size - len(rows)
            batch[name] = np.concatenate([rows, np.zeros((missing, *rows.shape[1:]))]) if missing else rows
        batches.append(batch)
    return batches
