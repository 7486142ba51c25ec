"""What it costs to compute with fewer digits, as it was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["BFLOAT16", "FLOAT32", "Reduced"]

FLOAT32, BFLOAT16 = "float32", "bfloat16"


@dataclass(frozen=True)
class Reduced:
    """The precision that an inference form computes in, and how far its outputs are off.

    Attributes:
        dtype: ``"bfloat16"``. off: by output, the largest difference from the net on seeded inputs, relative to the
            largest value of the output; infinite where it has another shape (other boxes were found, say).
    """

    dtype: str
    off: Mapping[str, float]

    def __str__(self) -> str:
        told = (
            f"{name} {off:.1e}" if math.isfinite(off) else f"{name} of another shape" for name, off in self.off.items()
        )
        return f"{self.dtype}, off by (of the largest value): {', '.join(told)}"

    def to_record(self) -> dict[str, Any]:
        """Plain data, as a ``.pt`` has it."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Any) -> Reduced:
        """What :meth:`to_record` gave. Raises TypeError or ValueError for anything else."""
        reduced = cls(**record)
        if reduced.dtype != BFLOAT16:
            raise ValueError(f"dtype {reduced.dtype!r}")
        if not isinstance(reduced.off, dict) or not all(isinstance(name, str) for name in reduced.off):
            raise TypeError("differences by output were expected")
        if not all(isinstance(off, float) and off >= 0 for off in reduced.off.values()):
            raise TypeError("differences that are numbers were expected")
        return reduced
