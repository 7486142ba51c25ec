"""HDF5Output: the only layer of BVLC's Caffe that writes a file."""

from __future__ import annotations

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ...training.data.hdf5 import HDF5Output as Writer
from ..compiling import outside_graphs

__all__ = ["HDF5Output"]


class HDF5Output(Layer):
    """Writes its bottoms, row by row, into the data sets ``data`` and ``label`` of a file.

    Where writing is not allowed, ``files.written`` has the number of rows in place of a text.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._writer: Writer | None = None
        self._rows = 0

    def reset_state(self) -> None:
        """Start the file anew."""
        if self._writer is not None:
            self._writer.close()
        self._writer, self._rows = None, 0

    def forward(self, data: Tensor, label: Tensor) -> tuple[()]:
        self._write(data, label)
        return ()

    def infer(self, *bottoms: Tensor) -> tuple[()]:
        return ()

    @outside_graphs
    def _write(self, data: Tensor, label: Tensor) -> None:
        if torch.compiler.is_compiling():
            return  # torch.export is tracing: a graph of tensor operations writes no files
        place = self.files.place_to_write(self.path, self.layer_name)
        self._rows += len(data)
        if place is None:
            self.files.written[self.path] = f"{self._rows} rows"
            return
        if self._writer is None:
            self._writer = Writer(place)
        self._writer.write(data, label)


@layer("HDF5Output", bottoms=2, tops=0)
def hdf5_output(spec: LayerSpec) -> Layer:
    path = spec.params("hdf5_output_param").file_name
    if not path:
        spec.fail("hdf5_output_param.file_name is empty")
    return HDF5Output(path)
