"""``torch.export`` as docs/using.md has it, with every version of torch that is supported."""

from __future__ import annotations

import torch
from torch import nn
from torch.export import Dim

__all__ = ["FOLLOWS_STRICTLY", "KEEPS_LOOPS", "export", "size"]

FOLLOWS_STRICTLY = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 7)
"""Whether ``torch.export`` can follow a net with ``strict=True``; where not, that is its default."""
KEEPS_LOOPS = FOLLOWS_STRICTLY
"""Whether a program can have a loop, as suppression of boxes is one."""


def export(module: nn.Module, *arguments: object, **options: object) -> torch.export.ExportedProgram:
    """``torch.export.export``, told to be ``strict=False`` only where it has to be told."""
    if not FOLLOWS_STRICTLY:
        options.setdefault("strict", False)
    return torch.export.export(module, *arguments, **options)  # type: ignore[arg-type]


def size(name: str) -> Dim:
    """A dynamic size, with bounds only where it has to have them."""
    return Dim(name) if FOLLOWS_STRICTLY else Dim(name, max=4096)
