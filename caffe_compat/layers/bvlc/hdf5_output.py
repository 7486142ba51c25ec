"""HDF5Output: the only layer of BVLC's Caffe that writes a file."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ..compiling import outside_graphs

if TYPE_CHECKING:
    from ...formats.hdf5_writing import RowFile

__all__ = ["HDF5Output"]


class HDF5Output(Layer):
    """Writes its bottoms, row by row, into the data sets ``data`` and ``label`` of a file, each (N, C, H, W) float32.

    Real Caffe makes the file anew when the net is built and fails at the second forward pass; here later passes append
    their rows.

    Where writing is not allowed, ``files.written`` has the number of rows in place of a text.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._writer: RowFile | None = None
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
            from ...formats.hdf5_writing import RowFile

            self._writer = RowFile(place)
            weakref.finalize(self, self._writer.close)  # a net that is let go leaves no file open
        arrays = {"data": data, "label": label}
        self._writer.write({name: x.detach().to("cpu", torch.float32).numpy() for name, x in arrays.items()})


@layer("HDF5Output", bottoms=2, tops=0)
def hdf5_output(spec: LayerSpec) -> Layer:
    path = spec.params("hdf5_output_param").file_name
    if not path:
        spec.fail("hdf5_output_param.file_name is empty")
    return HDF5Output(path)
