"""``caffe.NCCL``: not here; it says what to use."""

from __future__ import annotations

from typing import Any, NoReturn

from ..errors import UsageError

__all__ = ["NCCL", "has_nccl"]

_INSTEAD = (
    "caffe.NCCL is not available: train on several GPUs with "
    "`torchrun --nproc-per-node N -m caffe_compat train --solver solver.prototxt`, which averages gradients as it does"
)


class NCCL:
    """Stands for Caffe's class of several processes; making one fails.

    Raises:
        UsageError: always, naming the command that trains on several GPUs.
    """

    def __init__(self, *arguments: Any) -> None:
        raise UsageError(_INSTEAD)

    @staticmethod
    def new_uid() -> NoReturn:
        """Raises UsageError."""
        raise UsageError(_INSTEAD)


def has_nccl() -> bool:
    """False."""
    return False
