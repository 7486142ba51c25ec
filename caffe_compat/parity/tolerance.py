"""What counts as equal."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import UsageError

__all__ = ["LAYER_TOLERANCE", "NET_TOLERANCE", "Tolerance"]


@dataclass(frozen=True)
class Tolerance:
    """An array agrees if max |ours - reference| <= absolute + relative * max |reference|."""

    absolute: float
    relative: float

    @classmethod
    def of(cls, value: Tolerance | float) -> Tolerance:
        """A number is the relative part, with a tenth of it for the absolute one.

        Raises:
            UsageError: it is negative, infinite or no number.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise UsageError(f"tolerance {value!r}; a number from 0 was expected")
        return cls(value / 10, float(value))


LAYER_TOLERANCE = Tolerance(1e-6, 1e-5)
NET_TOLERANCE = Tolerance(1e-5, 1e-4)
