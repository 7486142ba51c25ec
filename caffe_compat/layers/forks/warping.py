"""Warping of lxx1991/caffe_mpi: a map moved along a flow."""

from __future__ import annotations

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from .flow import interpolated

__all__ = ["Warping"]


class Warping(Layer):
    """The map (N, C, H, W) at each place plus its flow (N, 2, H, W), x before y, in cells; bilinear between cells.

    Cells beyond the edge equal those at the edge. The gradient is the derivative. The fork has the layer for a GPU
    only. Source: ``src/caffe/layers/warping_layer.cu``.
    """

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor, flow: Tensor) -> Tensor:
        height, width = x.shape[2:]
        columns = torch.arange(width, device=x.device, dtype=flow.dtype)
        rows = torch.arange(height, device=x.device, dtype=flow.dtype)[:, None]
        return interpolated(x, columns + flow[:, 0], rows + flow[:, 1], hold=True)


@layer("Warping", bottoms=2, tops=1, dialects=("lxx1991/caffe_mpi",), verified=False)
def warping(spec: LayerSpec) -> Layer:
    images, _, height, width = spec.images(filled=True)
    spec.shaped(1, f"images = {images}", "x and y = 2", f"height = {height}", f"width = {width}")
    return Warping()
