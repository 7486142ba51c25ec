"""Randomness as a function of (seed, iteration, rank, layer): resuming needs numbers, not pickled generators."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["Randomness"]


@dataclass
class Randomness:
    """What the random draws of a net depend on. Without a seed, draws come from torch's global generator.

    Attributes:
        stream: where it is set, what layers draw as numpy does comes from it, one after the other: programs whose
            layers share numpy's own stream are repeated so, draw by draw.
        training: the solver's iteration and the one it stops at, for layers that change as training goes on; None where
            no solver trains the net. ``iteration`` counts passes, of which an iteration may have several.
    """

    seed: int | None = None
    iteration: int = 0
    rank: int = 0
    stream: np.random.RandomState | None = None
    training: tuple[int, int] | None = None

    def generator(self, layer: str, device: torch.device | str) -> torch.Generator | None:
        """A generator for ``layer`` at this iteration on ``device``; None stands for torch's global one.

        Also None on ``meta``, where nothing is drawn and no generator exists.
        """
        if self.seed is None or torch.device(device).type == "meta":
            return None
        return torch.Generator(device).manual_seed(self._key(layer))

    def numpy(self, layer: str) -> np.random.RandomState:
        """What ``layer`` draws from at this iteration where its original draws from numpy."""
        if self.stream is not None:
            return self.stream
        key = int(torch.randint(2**62, ())) if self.seed is None else self._key(layer)
        return np.random.RandomState([key & 0xFFFFFFFF, key >> 32])

    def _key(self, layer: str) -> int:
        words = f"{self.seed}/{self.iteration}/{self.rank}/{layer}".encode()
        # Two different checksums make 63 bits: enough that no two layers or iterations share a stream.
        return zlib.crc32(words) << 31 | zlib.crc32(words[::-1]) >> 1
