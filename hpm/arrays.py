"""Arrays of either kind, numpy's or torch's, without asking for torch: who holds no tensor need not wait for it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from typing_extensions import TypeIs

__all__ = ["as_float64", "is_tensor"]


def is_tensor(value: Any) -> TypeIs[torch.Tensor]:
    """Whether ``value`` is a tensor. There is none before torch is imported."""
    module = sys.modules.get("torch")
    return module is not None and isinstance(value, module.Tensor)


def as_float64(values: np.ndarray | torch.Tensor) -> np.ndarray:
    """A numpy array in double precision, of the same shape."""
    return np.asarray(values.detach().cpu().numpy() if is_tensor(values) else values, np.float64)
