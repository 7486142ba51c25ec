"""One shard of an extraction: what a process, here or on another machine, computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..inference.preprocess import Preprocess
from ..network.running import ProgramNet
from .images import ImageRows
from .reading import BatchReader, reason_of
from .shards import BadRow, Shard

__all__ = ["Work"]


@dataclass(frozen=True)
class Work:
    """An extraction, in parts that know nothing of one another; it pickles.

    Attributes:
        net: gives the blobs, its outputs, for one input. rows: the images. preprocess: how pixels become input.
        batch: images at once. per_shard: batches that make a shard. dtype: of what is kept.
    """

    net: ProgramNet
    rows: ImageRows
    preprocess: Preprocess
    batch: int
    per_shard: int
    dtype: np.dtype

    @property
    def blobs(self) -> tuple[str, ...]:
        return self.net.output_names

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-len(self.rows) // (self.batch * self.per_shard))

    def batches(self, shard: int) -> list[int]:
        """The numbers of the batches of a shard."""
        last = -(-len(self.rows) // self.batch)
        return list(range(shard * self.per_shard, min(last, (shard + 1) * self.per_shard)))

    def reader(self, batches: list[int]) -> BatchReader:
        """What reads some batches."""
        ((_, shape),) = self.net.input_shapes.items()
        return BatchReader(self.rows, self.preprocess, (self.batch, *shape[1:]), batches)

    def compute(self, shard: int, read: Iterator[Mapping[str, Tensor]]) -> Shard:
        """A shard out of its batches, which ``read`` gives one after the other.

        Raises:
            UsageError: a blob whose first axis is not the batch. LayerError: a layer that fails.
        """
        rows: list[int] = []
        bad: list[BadRow] = []
        found: dict[str, list[np.ndarray]] = {blob: [] for blob in self.blobs}
        device, dtype = self.net.device_and_dtype()
        (name,) = self.net.input_names
        for number in self.batches(shard):
            batch = next(read)
            wrong = batch["reasons"].any(dim=1).tolist()
            first = number * self.batch
            there = range(first, min(first + self.batch, len(self.rows)))
            bad += [
                BadRow(i, self.rows.ids[i], reason_of(batch["reasons"][i - first])) for i in there if wrong[i - first]
            ]
            good = [i - first for i in there if not wrong[i - first]]
            rows += [first + k for k in good]
            self.net.reset_state()
            with torch.no_grad():
                outputs = self.net(**{name: batch["pixels"].to(device, dtype)})
            for blob, values in outputs.items():
                if values.dim() < 1 or values.shape[0] != self.batch:
                    raise UsageError(
                        f"blob {blob!r} has shape {list(values.shape)} for {self.batch} images: it has no row for each"
                    )
                # float32 in between: numpy knows no bfloat16.
                found[blob].append(values[good].float().cpu().numpy().astype(self.dtype))
        return Shard(
            np.array(rows, np.int64), {blob: np.concatenate(pieces) for blob, pieces in found.items()}, tuple(bad)
        )
