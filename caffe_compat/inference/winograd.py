"""3x3 convolutions with a quarter of the multiplications, by Winograd's minimal filtering F(4x4, 3x3).

Each tile of 4x4 results is computed from 6x6 pixels as O (sum over channels of (K w) * (I x)) with constant matrices I,
K and O: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016). The products of all tiles are
36 matrix products, which oneDNN runs as one convolution of 36 groups. Rounding errors are some ten times those of the
plain sum: a few millionths of the largest value.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..network.registry import Shape

__all__ = ["Winograd", "pays"]

TILE = 4  # results along a side
KERNEL = 3
WINDOW = TILE + KERNEL - 1
# Where polynomials are evaluated, besides infinity. The usual 0, 1, -1, 2, -2 round twice as badly.
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)

# Below, moving tiles about costs more than is saved, or the weights, four times as many, take longer to read.
LEAST_CHANNELS = 128
LEAST_PRODUCT = 128 * 256  # of the channels of bottom and top
LEAST_TILES = 128

# For fewer tiles oneDNN wants the weights in another order, and takes a hundred times as long to bring them into it as
# to multiply.
LEAST_TILES_AT_ONCE = 64

POINTS_BYTES = 12 * 2**20  # more at once fall out of the cache, fewer mean reading the weights more often


def pays(weight: Tensor, bottom: Shape, pad: Shape) -> bool:
    """Whether this is faster than the plain way for a 3x3 kernel (O, C, 3, 3) with stride 1 on ``bottom``."""
    tiles = bottom[0] * _tiles(bottom[2] + 2 * pad[0]) * _tiles(bottom[3] + 2 * pad[1])
    outputs, channels = weight.shape[:2]
    enough = min(outputs, channels) >= LEAST_CHANNELS and outputs * channels >= LEAST_PRODUCT
    return enough and tiles >= LEAST_TILES


class Winograd:
    """The convolution of (N, C, H, W) with ``weight`` (O, C, 3, 3), stride 1, plus ``bias``; float32, on the CPU."""

    def __init__(self, weight: Tensor, bias: Tensor | None, pad: Shape) -> None:
        self.bias = bias
        self.pad = pad
        self.outputs, self.channels = weight.shape[:2]
        into, kernel, out_of = _matrices()
        self.into = torch.kron(into, into).float()
        self.out_of = torch.kron(out_of, out_of).float()
        products = torch.einsum("ia,jb,ocab->ijoc", kernel, kernel, weight.detach().double()).float()
        products = products.reshape(WINDOW * WINDOW * self.outputs, self.channels, 1, 1)
        self.packed: Tensor = torch._C._nn.mkldnn_reorder_conv2d_weight(  # type: ignore[call-arg]
            products.to_mkldnn(),
            [0, 0],
            [1, 1],
            [1, 1],
            WINDOW * WINDOW,
            [1, WINDOW * WINDOW * self.channels, LEAST_TILES, 1],
        )

    def __call__(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        height, width = height + 2 * self.pad[0], width + 2 * self.pad[1]
        down, across = _tiles(height), _tiles(width)
        # Channels last throughout: all that is done along them is done at full width.
        below, right = (TILE * n + KERNEL - 1 - size for n, size in ((down, height), (across, width)))
        up, left = self.pad
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, left, left + right, up, up + below))
        windows = padded.unfold(1, WINDOW, TILE).unfold(2, WINDOW, TILE).permute(0, 1, 2, 4, 5, 3)
        y = x.new_empty(batch, down, TILE, across, TILE, self.outputs)
        rows = _rows_at_once(across, max(self.channels, self.outputs))
        for image, top in zip(windows, y, strict=True):
            for start in range(0, down, rows):
                results = self._run_tiles(image[start : start + rows])
                top[start : start + rows] = results.view(-1, across, TILE, TILE, self.outputs).transpose(1, 2)
        y = y.view(batch, down * TILE, across * TILE, self.outputs)
        return y[:, : height - KERNEL + 1, : width - KERNEL + 1].permute(0, 3, 1, 2)

    def _run_tiles(self, windows: Tensor) -> Tensor:
        """Windows (rows, across, 6, 6, C) to results (rows * across, 16, O)."""
        windows = windows.reshape(-1, WINDOW * WINDOW, self.channels)
        wanted = len(windows)
        if wanted < LEAST_TILES_AT_ONCE:
            windows = F.pad(windows, (0, 0, 0, 0, 0, LEAST_TILES_AT_ONCE - wanted))
        count = len(windows)
        points = torch.bmm(self.into.expand(count, -1, -1), windows)
        products = torch.ops.mkldnn._convolution_pointwise(
            points.view(1, count, 1, -1).permute(0, 3, 1, 2),
            self.packed, None, (0, 0), (1, 1), (1, 1), WINDOW * WINDOW, "none", [], "",
        )  # fmt: skip
        products = products.permute(0, 2, 3, 1).reshape(count, WINDOW * WINDOW, self.outputs)
        results = torch.bmm(self.out_of.expand(count, -1, -1), products)
        if self.bias is not None:
            results.add_(self.bias)
        return results[:wanted]


def _rows_at_once(across: int, channels: int) -> int:
    """Rows of tiles whose points stay in the processor's cache until they are multiplied."""
    return max(1, POINTS_BYTES // (4 * WINDOW * WINDOW * channels * across))


def _tiles(size: int) -> int:
    """Tiles along a side of ``size`` pixels, padding included."""
    return -(-(size - KERNEL + 1) // TILE)


def _matrices() -> tuple[Tensor, Tensor, Tensor]:
    """I (6, 6), K (6, 3) and O (4, 6), float64, by the Toom-Cook construction.

    A filter of 3 along 6 values is the transposed product of two polynomials, evaluated at POINTS and infinity,
    multiplied there, and interpolated by Lagrange.
    """
    points = np.array(POINTS)
    into, kernel, out_of = np.zeros((WINDOW, WINDOW)), np.zeros((WINDOW, KERNEL)), np.zeros((TILE, WINDOW))
    for i, point in enumerate(points):
        others = np.delete(points, i)
        into[i, :-1] = np.poly(others)[::-1]
        kernel[i] = point ** np.arange(KERNEL) / np.prod(point - others)
        out_of[:, i] = point ** np.arange(TILE)
    into[-1] = np.poly(points)[::-1]
    kernel[-1, -1] = out_of[-1, -1] = 1
    return torch.from_numpy(into), torch.from_numpy(kernel), torch.from_numpy(out_of)
