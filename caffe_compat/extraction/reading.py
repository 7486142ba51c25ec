"""Images as batches of a net's input, for the loader, whose processes read them ahead."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..errors import CaffeCompatError
from ..formats.images import opencv
from ..inference.preprocess import Preprocess
from ..network.registry import Shape
from ..training.data.source import Empty, Source, Values
from .images import ImageRows

__all__ = ["BatchReader", "reason_of"]

_REASON = 400  # bytes of what is wrong with an image


class BatchReader(Source):
    """Batch ``k`` of those that are asked for: pixels, and for each row what is wrong with it.

    A batch is always as large as the others: rows that cannot be read, and those beyond the last, are zeros. So what a
    net computes for a row does not depend on what became of others, nor on where a run was interrupted.

    Args:
        rows: the images. preprocess: how pixels become input. shape: of the net's input, (N, C, H, W); N is the size of
            a batch. batches: the numbers of those that are read, in order.
    """

    tops = ("pixels", "reasons")

    def __init__(self, rows: ImageRows, preprocess: Preprocess, shape: Shape, batches: Sequence[int]) -> None:
        self.rows, self.preprocess, self.shape, self.batches = rows, preprocess, shape, batches
        self.name, self.type, self.notes, self.seed = "images", "images", list[str](), 0
        self.max_workers = rows.max_readers
        # Bytes are a quarter of what travels between processes; the mean and the scale are left to the net's side.
        self._as_bytes = rows.bytes and preprocess.mean_image is None
        self.byte_tops = ("pixels", "reasons") if self._as_bytes else ("reasons",)

    @property
    def random(self) -> bool:
        """Nothing is drawn."""
        return False

    def shapes(self) -> dict[str, Shape]:
        """Of both tops."""
        return {"pixels": self.shape, "reasons": (self.shape[0], _REASON)}

    def read(self, index: int, empty: Empty) -> dict[str, Values]:
        """The batch at place ``index`` of those that are asked for."""
        size = self.shape[0]
        pixels = empty(self.shape, torch.uint8 if self._as_bytes else torch.float32)
        reasons = empty((size, _REASON), torch.uint8)
        reasons.zero_()
        first = self.batches[index] * size
        there = min(size, len(self.rows) - first)
        pixels[there:].zero_()
        planes = pixels.numpy()
        for k in range(there):
            try:
                self._put(first + k, planes[k])
            except CaffeCompatError as error:
                pixels[k].zero_()
                text = (getattr(error, "detail", "") or str(error)).encode()[:_REASON]
                reasons[k, : len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        if not self._as_bytes:
            return {"pixels": Values(pixels), "reasons": Values(reasons)}
        mean = tuple(self.preprocess.mean or ())
        mean = mean * self.shape[1] if len(mean) == 1 else mean
        return {"pixels": Values(pixels, mean, self.preprocess.scale), "reasons": Values(reasons)}

    def _put(self, i: int, out: np.ndarray) -> None:
        """Put row ``i`` into ``out``, (C, H, W). Raises CaffeCompatError: it cannot be read, or does not fit."""
        image = self.rows.pixels(i, self.preprocess.channel_order)
        cut = self.preprocess.geometry(image) if self._as_bytes else self.preprocess.apply(image).transpose(1, 2, 0)
        height, width, channels = cut.shape
        if (channels, height, width) != out.shape:
            raise CaffeCompatError(f"becomes {[channels, height, width]}, the net takes {list(out.shape)}")
        if self._as_bytes and cut.strides[2] > 0:
            opencv().split(cut, list(out))  # faster than numpy's transposed copy
        else:
            out[:] = cut.transpose(2, 0, 1)


def reason_of(row: torch.Tensor) -> str:
    """What is wrong with an image, out of its row of ``reasons``; empty if nothing is."""
    return bytes(row.to(torch.uint8).tolist()).rstrip(b"\0").decode("utf-8", "replace")
