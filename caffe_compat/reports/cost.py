"""What one forward pass costs, in multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from ..layers.bvlc.convolution import Convolution, Deconvolution
from ..layers.bvlc.inner_product import InnerProduct
from ..layers.bvlc.recurrent import LSTM, RNN
from ..network.registry import Shape

__all__ = ["multiply_accumulates"]


def multiply_accumulates(module: nn.Module, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    """Multiplications by a weight in one forward pass of a layer; 0 for layers without matrices.

    At every position where a weight array is applied, each of its numbers is multiplied once, so the count is
    positions * numbers. Positions are, per bottom, those of the output for a Convolution (N * spatial'), those of the
    input for a Deconvolution (N * spatial), the vectors for an InnerProduct (the axes before ``axis``), steps * streams
    (T * N) for an LSTM or RNN, and streams (N) for the weight of its static input. Biases, and products of activations
    with each other, are not counted.
    """
    if isinstance(module, Deconvolution):
        positions = sum(math.prod(shape) for shape in bottoms) // max(module.weight.shape[0], 1)
        return positions * module.weight.numel()
    if isinstance(module, Convolution):
        positions = sum(math.prod(shape) for shape in tops) // max(module.weight.shape[0], 1)
        return positions * module.weight.numel()
    if isinstance(module, InnerProduct):
        return math.prod(bottoms[0][: module.axis]) * module.weight.numel()
    if isinstance(module, (LSTM, RNN)):
        steps, streams = bottoms[0][:2]
        matrices = {n: p.numel() for n, p in module.named_parameters() if n.startswith("weight_")}
        static = matrices.pop("weight_static", 0)
        return streams * (steps * sum(matrices.values()) + static)
    return 0
