"""Half precision: what does not fit into it is computed, or kept, in single precision."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["HALF_PRECISION", "widened"]

HALF_PRECISION = (torch.float16, torch.bfloat16)


def widened(x: Tensor) -> Tensor:
    """``x`` in single precision if it has less.

    Logarithms, thresholds, squares and long sums do not fit half precision: float16 ends at 65504, which the square of
    256 exceeds.
    """
    return x.float() if x.dtype in HALF_PRECISION else x
