"""Layers as one writes them for inference, where the library's own classes are more general or know Caffe's gradients.

Each is carried into a file as it stands here, so it needs nothing but torch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LRN", "MVN", "CaffeLSTM", "ChannelScale", "LRNWithinChannel", "Normalize"]


class Normalize(nn.Module):
    """x divided by its Euclidean norm over the channels (and the positions, if ``across``), times a learned scale."""

    def __init__(self, scale_shape: tuple[int, ...], eps: float, across: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(scale_shape))
        self.eps = eps
        self.across = across

    def forward(self, x: Tensor) -> Tensor:
        axes = tuple(range(1, x.dim())) if self.across else (1,)
        # Caffe adds eps inside of the root; torch's own normalize bounds the norm instead.
        norm = ((x * x).sum(axes, keepdim=True) + self.eps).sqrt()
        scale = self.scale if self.scale.dim() == 0 else self.scale.view(-1, *[1] * (x.dim() - 2))
        return x / norm * scale


class MVN(nn.Module):
    """(x - mean) / (sd + eps) over ``axes`` of (N, C, H, W); without the division unless ``divide``.

    Unlike torch's norms, Caffe adds eps to the deviation, not to the variance.
    """

    def __init__(self, axes: tuple[int, ...], eps: float, divide: bool) -> None:
        super().__init__()
        self.axes = axes
        self.eps = eps
        self.divide = divide

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(x.shape + (1,) * (4 - x.dim()))
        centred = x - x.mean(self.axes, keepdim=True)
        if not self.divide:
            return centred
        return centred / (centred.square().mean(self.axes, keepdim=True).sqrt() + self.eps)


class LRN(nn.Module):
    """x * (k + alpha / size * sum of x^2 over the ``size`` nearest channels)^-beta on (N, C, H, W).

    What nn.LocalResponseNorm computes, in an order of sums that is faster and rounds otherwise.
    """

    def __init__(self, size: int, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        half = min(self.size // 2, channels)  # there is nothing further away
        square = F.pad(x * x, (0, 0, 0, 0, half, half))
        total = square[:, :channels]
        for shift in range(1, 2 * half + 1):
            total = total + square[:, shift : shift + channels]
        return x * (total * (self.alpha / self.size) + self.k).pow(-self.beta)


class LRNWithinChannel(nn.Module):
    """x * (1 + alpha * mean of x^2 over ``size`` x ``size`` pixels)^-beta; pixels outside count as zeros."""

    def __init__(self, size: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        mean = F.avg_pool2d(x * x, self.size, 1, self.size // 2)
        return x * (mean * self.alpha + 1).pow(-self.beta)


class ChannelScale(nn.Module):
    """x * weight + bias, by channel (axis 1).

    The affine part of a BatchNorm in Caffe. It stays by itself, for folded into one it rounds otherwise.
    """

    def __init__(self, channels: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        along = (-1, *[1] * (x.dim() - 2))
        y = x * self.weight.view(along)
        return y if self.bias is None else y + self.bias.view(along)


class CaffeLSTM(nn.Module):
    """Caffe's LSTM: x (steps, streams, ...) and cont (steps, streams) give (steps, streams, size).

    Unlike nn.LSTM it has one bias, gates in the order input, forget, output, candidate, and ``cont``, which is 0 where
    a sequence begins: there, what the stream remembers is forgotten first. It goes on where the last call ended, until
    reset_state().
    """

    hidden: Tensor
    cell: Tensor

    def __init__(self, inputs: int, size: int, streams: int) -> None:
        super().__init__()
        self.weight_x = nn.Parameter(torch.empty(4 * size, inputs))
        self.bias = nn.Parameter(torch.empty(4 * size))
        self.weight_h = nn.Parameter(torch.empty(4 * size, size))
        self.register_buffer("hidden", torch.zeros(streams, size), persistent=False)
        self.register_buffer("cell", torch.zeros(streams, size), persistent=False)

    def reset_state(self) -> None:
        self.hidden.zero_()
        self.cell.zero_()

    def forward(self, x: Tensor, cont: Tensor) -> Tensor:
        streams = x.shape[1]
        if streams > len(self.hidden):  # with more streams than there ever were, all start at zero
            self.hidden = self.hidden.new_zeros(streams, self.hidden.shape[1])
            self.cell = torch.zeros_like(self.hidden)
        h, c = self.hidden[:streams].clone(), self.cell[:streams].clone()
        projected = F.linear(x.flatten(2), self.weight_x, self.bias)
        outputs = []
        for inputs, go_on in zip(projected, cont.unsqueeze(-1), strict=True):
            gates = torch.addmm(inputs, go_on * h, self.weight_h.t())
            enter, forget, leave, candidate = gates.chunk(4, dim=-1)
            c = go_on * torch.sigmoid(forget) * c + torch.sigmoid(enter) * torch.tanh(candidate)
            h = torch.sigmoid(leave) * torch.tanh(c)
            outputs.append(h)
        self.hidden[:streams] = h.detach()
        self.cell[:streams] = c.detach()
        return torch.stack(outputs)
