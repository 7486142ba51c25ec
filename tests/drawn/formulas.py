"""What Caffe's layers compute, written plainly: loops where torch has no function that says the same."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

__all__ = ["batch_norm", "lrn_across", "lrn_within", "mvn", "pooled", "pooled_size"]

Pair = tuple[int, int]


def pooled_size(size: int, kernel: int, stride: int, pad: int, padded: bool) -> int:
    """How many windows: rounded up, without a last one that would start beyond the padding (pooling_layer.cpp)."""
    count = -(-(size + 2 * pad - kernel) // stride) + 1
    if padded and (count - 1) * stride >= size + pad:
        count -= 1
    return count


def pooled(x: Tensor, method: str, kernel: Pair, stride: Pair, pad: Pair) -> Tensor:
    """MAX over what of a window lies in the image, or its sum over what of it lies in the padded image."""
    height, width = x.shape[2:]
    rows, columns = (
        pooled_size(size, k, s, p, any(pad)) for size, k, s, p in zip(x.shape[2:], kernel, stride, pad, strict=True)
    )
    found = x.new_zeros(*x.shape[:2], rows, columns)
    for i, j in itertools.product(range(rows), range(columns)):
        top, left = i * stride[0] - pad[0], j * stride[1] - pad[1]
        bottom, right = min(top + kernel[0], height + pad[0]), min(left + kernel[1], width + pad[1])
        area = (bottom - top) * (right - left)
        window = x[:, :, max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)].flatten(2)
        found[:, :, i, j] = window.amax(2) if method == "MAX" else window.sum(2) / area
    return found


def lrn_across(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """Divided by (k + alpha / size * the sum of squares of ``size`` channels about it)^beta."""
    channels, half = x.shape[1], size // 2
    sums = [(x[:, max(c - half, 0) : min(c + half + 1, channels)] ** 2).sum(1, keepdim=True) for c in range(channels)]
    return x / (k + alpha / size * torch.cat(sums, 1)) ** beta


def lrn_within(x: Tensor, size: int, alpha: float, beta: float) -> Tensor:
    """Divided by (1 + alpha * the average of squares of a window about it)^beta."""
    average = pooled(x**2, "AVE", (size, size), (1, 1), (size // 2, size // 2))
    return x / (1 + alpha * average) ** beta


def mvn(x: Tensor, across: bool, variance: bool, eps: float) -> Tensor:
    """Less its mean, over its standard deviation + eps, within each channel or item."""
    axes = (1, 2, 3) if across else (2, 3)
    centred = x - x.mean(axes, keepdim=True)
    return centred / ((centred**2).mean(axes, keepdim=True).sqrt() + eps) if variance else centred


def batch_norm(x: Tensor, mean: Tensor, variance: Tensor, factor: Tensor, batch: bool, eps: float) -> Tensor:
    """Normalised by stored sums over their factor, or by what the batch itself has."""
    shape = (1, -1, *(1 for _ in x.shape[2:]))
    if batch:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        mean, variance = x.mean(axes), x.var(axes, unbiased=False)
    else:
        mean, variance = mean / factor, variance / factor
    return (x - mean.view(shape)) / (variance.view(shape) + eps).sqrt()
