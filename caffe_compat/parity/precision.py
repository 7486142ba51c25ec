"""Plain float32 arithmetic, whatever torch is set to: what numbers are compared in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["ieee_float32", "precision_settings"]


@contextlib.contextmanager
def ieee_float32() -> Iterator[None]:
    """Plain float32 arithmetic within: no TF32, no reduced-precision reductions, no autocast. Settings come back."""
    switches = _precision_switches()
    before = [getattr(owner, name) for owner, name, _ in switches]
    for owner, name, plain in switches:
        setattr(owner, name, plain)
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        for (owner, name, _), value in zip(switches, before, strict=True):
            setattr(owner, name, value)


def precision_settings() -> tuple[object, ...]:
    """How torch is set to trade precision for speed: equal where results are."""
    return tuple(getattr(owner, name) for owner, name, _ in _precision_switches())


def _precision_switches() -> list[tuple[Any, str, Any]]:
    """Each setting of torch that trades precision for speed: where it is, its name, and its value for none of that."""
    backends: Any = torch.backends
    matmul, cudnn, mkldnn = backends.cuda.matmul, backends.cudnn, backends.mkldnn
    switches = [
        (matmul, "allow_fp16_reduced_precision_reduction", False),
        (matmul, "allow_bf16_reduced_precision_reduction", False),
        (cudnn, "benchmark", False),
    ]
    if hasattr(backends, "fp32_precision"):
        # From 2.9 on each kind of operation has its own; reading the older ones fails once somebody has set these.
        kinds = (matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn)
        return switches + [(kind, "fp32_precision", "ieee") for kind in kinds]
    return [*switches, (matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]
