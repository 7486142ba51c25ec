"""Randomness as a function of (seed, iteration, rank, layer): resuming needs numbers, not pickled generators."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch

__all__ = ["Randomness"]


@dataclass
class Randomness:
    """What the random draws of a net depend on. Without a seed, draws come from torch's global generator."""

    seed: int | None = None
    iteration: int = 0
    rank: int = 0

    def generator(self, layer: str, device: torch.device | str) -> torch.Generator | None:
        """A generator for ``layer`` at this iteration on ``device``; None stands for torch's global one.

        Also None on ``meta``, where nothing is drawn and no generator exists.
        """
        if self.seed is None or torch.device(device).type == "meta":
            return None
        words = f"{self.seed}/{self.iteration}/{self.rank}/{layer}".encode()
        # Two different checksums make 63 bits: enough that no two layers or iterations share a stream.
        key = zlib.crc32(words) << 31 | zlib.crc32(words[::-1]) >> 1
        return torch.Generator(device).manual_seed(key)
