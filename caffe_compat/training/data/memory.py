"""MemoryData: arrays that the caller sets."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from ...errors import UsageError
from ...network.registry import Shape
from .source import Empty, Setup, Source, Values

__all__ = ["MemoryData"]


class MemoryData(Source):
    """Batches of the arrays given to :meth:`set`, over and over, untransformed as in Caffe's Reset().

    They are read in the process that set them.
    """

    max_workers = 0

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        params = setup.params("memory_data_param")
        setup.check_tops(2, 2)
        self.batch_size = setup.batch_size(params)
        self.row_shape = (params.channels, params.height, params.width)
        if min(self.row_shape) < 1:
            setup.fail("batch_size, channels, height and width must all be given and positive")
        if setup.message.HasField("transform_param"):
            setup.note("arrays are not transformed, as in Caffe")
        self._rank, self._world_size = setup.rank, setup.world_size
        self._data: Tensor | None = None
        self._labels: Tensor | None = None

    def set(self, data: np.ndarray | Tensor, labels: np.ndarray | Tensor) -> None:
        """Use (n, channels, height, width) data and n labels; n must be a multiple of the batch size.

        Raises:
            UsageError: they do not fit the layer.
        """
        data, labels = (torch.as_tensor(x).detach().to("cpu", torch.float32) for x in (data, labels))
        if tuple(data.shape[1:]) != self.row_shape or data.shape[0] % self.batch_size or not data.shape[0]:
            wanted = f"[n, {', '.join(map(str, self.row_shape))}] with n a multiple of {self.batch_size}"
            raise UsageError(
                f"takes data of shape {wanted}, found {list(data.shape)}", layer=self.name, type="MemoryData"
            )
        if labels.numel() != data.shape[0]:
            self._refuse(f"{labels.numel()} labels, {data.shape[0]} rows")
        self._data, self._labels = data, labels.reshape(-1)

    def shapes(self) -> dict[str, Shape]:
        return dict(zip(self.tops, ((self.batch_size, *self.row_shape), (self.batch_size,)), strict=True))

    def read(self, index: int, empty: Empty) -> dict[str, Values]:
        if self._data is None or self._labels is None:
            self._refuse("has no data yet; give it some with set(data, labels)")
        at = (index * self._world_size + self._rank) * self.batch_size % self._data.shape[0]
        arrays = zip(self.tops, (self._data, self._labels), strict=True)
        return {top: Values(array[at : at + self.batch_size]) for top, array in arrays}

    def _refuse(self, detail: str) -> NoReturn:
        raise UsageError(detail, layer=self.name, type="MemoryData")
