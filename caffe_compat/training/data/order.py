"""Which sample comes when: every order and every draw is a function of a seed and a position, never of a history.

The bits come from Philox, a counter-based generator whose raw output numpy keeps stable, so a run repeats exactly under
another version of numpy too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

__all__ = ["Cursor", "draw", "permutation", "stream"]


def stream(*words: object) -> int:
    """The 128-bit key of an independent stream of random bits, named by ``words``."""
    text = "/".join(f"{len(str(word))}:{word}" for word in words)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def draw(key: int, position: int) -> list[int]:
    """Four random 64-bit numbers, a function of ``key`` and ``position``."""
    return [int(bits) for bits in np.random.Philox(key=key, counter=position).random_raw(4)]


@lru_cache(maxsize=4)
def permutation(key: int, size: int) -> np.ndarray:
    """A random order of ``range(size)``, a function of ``key``. The last few are kept; do not write into them."""
    return np.argsort(np.random.Philox(key=key).random_raw(size), kind="stable")


@dataclass(frozen=True)
class Cursor:
    """Walks a list of ``size`` samples in batches, over and over.

    Attributes:
        start: samples skipped at the very beginning (Caffe's rand_skip).
        shuffle: key of the epochs' orders; None keeps the list's order.
        jump: key of the batches' first samples where each batch starts anywhere; None goes on where the last one ended.
        rank, world_size: of this process among those that train together.
        interleaved: ranks take turns sample by sample (Caffe's Data and HDF5Data) rather than batch by batch, which
            keeps the sequences of a batch whole.
    """

    size: int
    batch_size: int
    start: int = 0
    shuffle: int | None = None
    jump: int | None = None
    rank: int = 0
    world_size: int = 1
    interleaved: bool = False

    def positions(self, index: int) -> np.ndarray:
        """How many samples all ranks together took before each sample of this rank's batch ``index``: (batch_size,)."""
        return self._positions(index, self.batch_size)

    def _positions(self, index: int, count: int) -> np.ndarray:
        own = np.arange(count, dtype=np.int64)
        if self.interleaved:
            return (index * self.batch_size + own) * self.world_size + self.rank
        return (index * self.world_size + self.rank) * self.batch_size + own

    def samples(self, index: int) -> np.ndarray:
        """Which samples make up this rank's batch ``index``: (batch_size,) of indices into the list."""
        return self._samples(index, self.batch_size)

    def first(self) -> int:
        """The sample that this rank's first batch begins with."""
        return int(self._samples(0, 1)[0])

    def _samples(self, index: int, count: int) -> np.ndarray:
        positions = self._positions(index, count)
        if self.jump is None:
            walk = self.start + positions
        else:
            # Only Caffe's own history would tell how often the list has wrapped; the count of samples stands in for it.
            epoch = int(positions[0]) // self.size
            first = draw(self.jump, int(positions[0]))[0] % self.size
            walk = epoch * self.size + first + np.arange(count, dtype=np.int64)
        within = walk % self.size
        if self.shuffle is None:
            return within
        epochs = walk // self.size
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            own = epochs == epoch
            within[own] = permutation(stream(self.shuffle, epoch), self.size)[within[own]]
        return within
