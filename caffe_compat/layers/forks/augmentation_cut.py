"""What FlowNet 2's DataAugmentation does in a net for use: it cuts pictures and subtracts a mean.

Source: lmb-freiburg/flownet2 (commit b92e198b5), ``data_augmentation_layer.cpp`` and ``.cu``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...network.registry import Layer, Shape

__all__ = ["BEYOND", "CutLessMean", "Mean"]

BEYOND = 1.05
"""Places beyond the end of a picture are this much less than its size: there is a pixel behind them to be mixed in."""


@dataclass(frozen=True)
class Mean:
    """What is subtracted.

    Attributes:
        learn: passes in which a mean is learned; 0 for none. per_pixel: whether it is one of each pixel.
        fixed: a mean of each channel, where none is learned.
    """

    learn: int
    per_pixel: bool
    fixed: tuple[float, ...]


class CutLessMean(Layer):
    """The middle of each picture (N, C, H, W), less a mean.

    Where an odd number of pixels is left out, values are those between two pixels. A twentieth of the last column of a
    picture that is not cut is the one before, and so with rows, as in the fork. Without ``cut`` pictures stay whole.

    The mean of the channels, or of each pixel, is learned in the first passes, in both phases: blobs ``passes``
    (1, 1, 1, 1), ``mean_image`` (1, C, h, w) and ``mean`` (1, C, 1, 1), h and w being those of the top. Of a file's
    mean image of another size its mean counts. Passes are counted as long as that matters; the fork counts on.
    What ``torch.export`` traces takes the mean as learned.

    Args:
        shape: of the pictures. cut: width and height of the top.
    """

    any_size = ("mean_image",)
    passes: Tensor
    mean_image: Tensor
    mean: Tensor

    def __init__(self, shape: Shape, cut: tuple[int, int] | None, mean: Mean) -> None:
        super().__init__()
        self.cut = cut
        self.learn, self.per_pixel, self.fixed = mean.learn, mean.per_pixel, mean.fixed
        self.blob("passes", (1, 1, 1, 1), learned=False)
        self.single_precision = ("passes",)  # half precision counts to 2,048
        if mean.learn:
            width, height = cut or (shape[3], shape[2])
            self.blob("mean_image", (1, shape[1], height, width), learned=False)
            self.blob("mean", (1, shape[1], 1, 1), learned=False)

    def resized(self, name: str, values: np.ndarray, shape: Shape) -> np.ndarray:
        means: np.ndarray = values.mean((2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
        return np.broadcast_to(means, shape)

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = bottoms[0]
        return x if self.cut is None else x.new_empty(*x.shape[:2], *self.cut[::-1])

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach()  # the fork has no gradient
        if self.cut is not None:
            x = _middle(_middle(x, 3, self.cut[0]), 2, self.cut[1])
        if not torch.compiler.is_compiling() and self.learns_by_itself():
            self.passes += 1
            self.learn_from(x)
        return self.less_mean(x)

    def learns_by_itself(self) -> bool:
        return self.learn > 0 and int(self.passes) < self.learn

    def learn_from(self, x: Tensor) -> None:
        """Take (N, C, h, w) into the mean, as those of pass number ``passes``."""
        share = 1 / int(self.passes)
        self.mean_image.mul_(1 - share).add_(x.mean(0, keepdim=True).to(self.mean_image.dtype), alpha=share)
        self.mean.copy_(self.mean_image.mean((2, 3), keepdim=True))

    def less_mean(self, x: Tensor) -> Tensor:
        if self.learn:
            return x - (self.mean_image if self.per_pixel else self.mean).to(x.dtype)
        return x - x.new_tensor(self.fixed)[:, None, None] if self.fixed else x


def _middle(x: Tensor, axis: int, size: int) -> Tensor:
    """So many values from the middle of an axis, between two where these do not fall on values."""
    whole = x.shape[axis]
    places = (torch.arange(size) + 0.5 * (whole - size)).clamp(max=whole - BEYOND).clamp_min(0)
    first = places.floor().long()
    share = (places - first).to(x).reshape(-1, *[1] * (3 - axis))
    first = first.to(x.device)
    second = (first + 1).clamp(max=whole - 1)
    return x.index_select(axis, first) * (1 - share) + x.index_select(axis, second) * share
