"""Initial values of blobs, as ``FillerParameter`` describes them. Formulas: BVLC Caffe, include/caffe/filler.hpp."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import UsageError
from ..schema.messages import FillerParameter
from ..schema.params import Params

__all__ = ["FILLER_TYPES", "check_filler", "fill"]

FILLER_TYPES = (
    *("bilinear", "constant", "gaussian", "gaussian_unitball", "msra", "positive_unitball", "uniform", "xavier"),
)
_FIELDS = ("type", "value", "min", "max", "mean", "std", "sparse", "variance_norm")


def check_filler(filler: Params) -> None:
    """Refuse what cannot be filled with, and count the fields as read.

    A field that the type does not use is no error, as in Caffe: ``type: "xavier" std: 0.1`` is common.

    Raises:
        UsageError: an unknown type, or values that make no sense for it.
    """
    filler.ignore(*_FIELDS)
    kind, sparse = filler.type, filler.sparse
    if kind not in FILLER_TYPES:
        raise UsageError(f"no filler type {kind!r}; there are {', '.join(FILLER_TYPES)}")
    for descriptor, _ in filler.message.ListFields():
        if descriptor.name not in _FIELDS:
            raise UsageError(f"filler {kind!r}: field {descriptor.name} is not supported")
    if sparse < -1 or (sparse != -1 and kind != "gaussian"):
        raise UsageError(f"filler {kind!r}: sparse is {sparse}; only gaussian takes it, and -1 turns it off")
    if kind == "gaussian" and not filler.std > 0:
        raise UsageError(f"filler 'gaussian': std is {filler.std:g}; it must be positive")
    if kind == "uniform" and not filler.min <= filler.max:
        raise UsageError(f"filler 'uniform': min {filler.min:g} is greater than max {filler.max:g}")


@torch.no_grad()
def fill(tensor: Tensor, filler: Params | FillerParameter, generator: torch.Generator | None = None) -> Tensor:
    """Fill ``tensor`` in place, and return it. A tensor without values is left as it is.

    Args:
        tensor: a blob, on any device.
        filler: a ``FillerParameter``, as :class:`Params` or as the message itself.
        generator: of random draws, on the tensor's device; None stands for torch's global one.

    Raises:
        UsageError: an unknown type, values that make no sense, or a shape that the type cannot fill.
    """
    p = filler if isinstance(filler, Params) else Params(filler, "filler")
    check_filler(p)
    if tensor.numel() == 0:
        return tensor
    kind = p.type
    if kind == "constant":
        return tensor.fill_(p.value)
    if kind == "uniform":
        return tensor.uniform_(p.min, p.max, generator=generator)
    if kind == "gaussian":
        return _gaussian(tensor, p, generator)
    if kind == "positive_unitball":
        return _positive_unitball(tensor, generator)
    if kind == "gaussian_unitball":
        return _gaussian_unitball(tensor, generator)
    if kind == "bilinear":
        return _bilinear(tensor)
    if kind == "xavier":
        limit = math.sqrt(3 / _fan(tensor, p))
        return tensor.uniform_(-limit, limit, generator=generator)
    return tensor.normal_(0, math.sqrt(2 / _fan(tensor, p)), generator=generator)  # msra


def _gaussian(tensor: Tensor, p: Params, generator: torch.Generator | None) -> Tensor:
    """Normal values; with ``sparse``, each output (first axis) keeps about that many of a column's values."""
    tensor.normal_(p.mean, p.std, generator=generator)
    if p.sparse == -1:
        return tensor
    if tensor.dim() == 0 or p.sparse > tensor.shape[0]:
        raise UsageError(f"filler 'gaussian': sparse {p.sparse} exceeds the first axis of shape {list(tensor.shape)}")
    return tensor.mul_(torch.empty_like(tensor).bernoulli_(p.sparse / tensor.shape[0], generator=generator))


def _positive_unitball(tensor: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform positive values, divided so that those of each item (first axis) add up to 1."""
    if tensor.dim() == 0:
        raise UsageError("filler 'positive_unitball' needs a first axis; the blob has no axes")
    tensor.uniform_(0, 1, generator=generator)
    sums = tensor.reshape(tensor.shape[0], -1).sum(1)
    return tensor.div_(sums.reshape(-1, *[1] * (tensor.dim() - 1)))


def _gaussian_unitball(tensor: Tensor, generator: torch.Generator | None) -> Tensor:
    """Rows of length 1, in directions that are all as likely. Source: happynear/caffe-windows, ``filler.hpp``."""
    if not tensor.dim():
        raise UsageError("filler 'gaussian_unitball' needs a first axis; the blob has no axes")
    rows = tensor.normal_(0, 1, generator=generator).view(tensor.shape[0], -1)
    rows /= (rows.square().sum(1, keepdim=True) + 1e-12).sqrt()
    return tensor


def _bilinear(tensor: Tensor) -> Tensor:
    """The kernel that interpolates linearly in both directions, for a Deconvolution that enlarges."""
    if tensor.dim() != 4 or tensor.shape[2] != tensor.shape[3]:
        raise UsageError(f"filler 'bilinear' needs 4 axes and a square kernel, not shape {list(tensor.shape)}")
    size = tensor.shape[3]
    factor = math.ceil(size / 2)
    centre = (size - 1) / (2 * factor)
    line = 1 - (torch.arange(size, device=tensor.device) / factor - centre).abs()
    return tensor.copy_(line[:, None] * line)


def _fan(tensor: Tensor, p: Params) -> float:
    """Fan-in (the size of all axes but the first), fan-out (of all but the second), or their mean."""
    if tensor.dim() == 0:
        raise UsageError(f"filler {p.type!r} needs a first axis; the blob has no axes")
    fan_in = tensor.numel() // tensor.shape[0]
    fan_out = tensor.numel() // tensor.shape[1] if tensor.dim() > 1 else tensor.numel()
    if p.variance_norm == "FAN_OUT":
        return fan_out
    return (fan_in + fan_out) / 2 if p.variance_norm == "AVERAGE" else fan_in
